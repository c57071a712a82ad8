"""Parsing of the three ways to say which videos there are."""

import json
import os
from collections.abc import Sequence
from typing import NamedTuple

from vidscenic.data.datasets import tables

_HINT = 'a list or manifest of videos'


class Entry(NamedTuple):
  """One listed video; num_frames 0 and split '' stand for unknown."""

  path: str  # relative to the source's root, or absolute; '/' separated
  label: int | None = None
  num_frames: int = 0
  split: str = ''


def scan_folder(
  root: str,
  extensions: Sequence[str],
  *,
  with_labels: bool,
  class_names: Sequence[str] = (),
) -> tuple[list[Entry], tuple[str, ...]]:
  """Finds videos below a folder.

  Args:
    root: folder.
    extensions: lower case, with dots.
    with_labels: classes are the subfolders of `root`, if no video lies beside
      them.
    class_names: fixed names and order of the classes.

  Returns:
    (entries, class names); labels are None and names () without classes.

  Raises:
    ValueError: a subfolder with videos is not among class_names.
  """
  paths = []
  above = {root: ()}  # the real folders that lead to a folder
  for folder, folders, files in os.walk(root, followlinks=True):
    # Data sets are often linked together, one folder perhaps twice; only a link
    # to a folder that it lies in would loop.
    chain = above.pop(folder)
    real = os.path.realpath(folder)
    if real in chain:
      folders.clear()
      continue
    folders[:] = sorted(name for name in folders if not name.startswith('.'))
    for name in folders:
      above[os.path.join(folder, name)] = (*chain, real)
    for name in files:
      if not name.startswith('.') and name.lower().endswith(tuple(extensions)):
        relative = os.path.relpath(os.path.join(folder, name), root)
        paths.append(relative.replace(os.sep, '/'))
  if not with_labels or any('/' not in path for path in paths):
    return [Entry(path) for path in paths], ()
  names = tuple(class_names) or tuple(
    sorted(
      entry.name
      for entry in os.scandir(root)
      if entry.is_dir() and not entry.name.startswith('.')
    )
  )
  ids = {name: number for number, name in enumerate(names)}
  entries = []
  for path in paths:
    name = path.split('/')[0]
    if name not in ids:
      raise ValueError(
        f'source_kwargs.class_names lacks {name!r}, a subfolder of {root}'
      )
    entries.append(Entry(path, ids[name]))
  return entries, names


def read_list(
  list_file: str, *, with_labels: bool, extensions: Sequence[str]
) -> list[Entry]:
  """Reads `path label` lines (PySlowFast, V-JEPA).

  Args:
    list_file: text file, UTF-8, any line ends.
    with_labels: False: each line is a path and nothing else.
    extensions: tell a comment from a video whose name begins with '#'.

  Returns:
    Entries in file order.

  Raises:
    ValueError: names the file and line that cannot be read.
  """
  entries = []
  for where, line in tables.read_lines(list_file, _HINT, may_be_empty=True):
    path, label = line, None
    if with_labels:
      path, label = _split_label(line)
    path = path.strip()
    if len(path) > 1 and path[0] == path[-1] == '"':
      path = path[1:-1]
    if line.startswith('#') and not path.lower().endswith(tuple(extensions)):
      continue
    if not path or (with_labels and label is None):
      raise ValueError(
        f'{where}: expected "path label" or "path::label" '
        f"with an integer label (without labels: labels='none'), got {line!r}"
      )
    entries.append(Entry(path, label))
  return entries


def read_manifest(
  list_file: str, *, with_labels: bool, class_names: Sequence[str] = ()
) -> tuple[list[Entry], tuple[str, ...]]:
  """Reads a JSON-lines manifest.

  Args:
    list_file: one JSON object per line; a first object without `path` is a
      header.
    with_labels: False: labels are dropped.
    class_names: fixed names and order of named classes.

  Returns:
    (entries in file order, class names or () if labels are numbers or absent).

  Raises:
    ValueError: names the file and line that cannot be used.
  """
  rows = []
  lines = tables.read_lines(list_file, _HINT, may_be_empty=True)
  for position, (where, line) in enumerate(lines):
    try:
      row = json.loads(line)
    except ValueError as error:
      raise ValueError(f'{where}: not JSON ({error}): {line[:80]!r}') from error
    if not isinstance(row, dict):
      raise ValueError(f'{where}: expected an object, got {line[:80]!r}')
    if 'path' not in row:
      if position == 0:
        continue
      raise ValueError(f'{where}: field "path" is missing')
    rows.append((where, row))
  names = ()
  if with_labels:
    names = _class_names(rows, class_names)
  ids = {name: number for number, name in enumerate(names)}
  entries = [_entry(where, row, with_labels, ids) for where, row in rows]
  return entries, names


def _split_label(line):
  """(path, label); the label is None if neither separator gives an integer."""
  parts = line.rsplit(None, 1)
  if len(parts) < 2 or not _is_integer(parts[1]):
    parts = line.rsplit('::', 1)
  if len(parts) < 2 or not _is_integer(parts[1]):
    return line, None
  return parts[0], int(parts[1])


def _is_integer(text):
  text = text.strip()
  return text.removeprefix('-').isascii() and text.removeprefix('-').isdigit()


def _class_names(rows, class_names):
  """Sorted names of all splits, so that train and test agree on ids."""
  labels = [(where, row.get('label')) for where, row in rows]
  kinds = {type(label) for _, label in labels}
  if len(kinds) > 1 or not kinds <= {int, str, type(None)}:
    first = type(labels[0][1])
    where, odd = next(
      (w, label)
      for w, label in labels
      if type(label) is not first or first not in (int, str, type(None))
    )
    raise ValueError(
      f'{where}: labels must be all integers, all names or all absent, got '
      f'{odd!r}'
    )
  if kinds != {str}:
    return tuple(class_names)
  return tuple(class_names) or tuple(sorted({label for _, label in labels}))


def _entry(where, row, with_labels, ids):
  label = row.get('label') if with_labels else None
  if isinstance(label, str):
    if label not in ids:
      raise ValueError(f'{where}: class_names lacks the label {label!r}')
    label = ids[label]
  path = row['path']
  if not isinstance(path, str) or not path:
    raise ValueError(f'{where}: "path" must be a string, got {path!r}')
  try:
    return Entry(
      path=path,
      label=label,
      num_frames=int(row.get('num_frames') or 0),
      split=str(row.get('split') or ''),
    )
  except (TypeError, ValueError) as error:
    raise ValueError(f'{where}: {error}') from error
