"""Data sets that are a folder of videos and a list with a label for each."""

import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from vidscenic.data import sources, video_lists
from vidscenic.data.datasets import tables


class Listed(NamedTuple):
  """One entry of a list of videos.

  Attributes:
    where: file and line, for messages.
    name: what identifies the video, for messages; no two entries share it.
    path: relative to the data set's folder, None if there is no such file.
    label: class id, or several if videos have them; None if not known.
  """

  where: str
  name: str
  path: str | None
  label: Any = None


class ListedVideos:
  """Random-access source of the listed videos that are there.

  Videos keep the order of the list. What is wrong with single entries (no such
  file, listed before) is an error if `strict`; else the entry is left out, and
  how many were and the first of them are logged. Instances pickle; no video is
  opened.

  Args:
    root: the data set's folder.
    listed: entries.
    hint: what the videos are and where they come from, for errors.
    strict: see above.
    class_names: by id.

  Attributes:
    class_names: tuple of names, by id.
    flip_allowed: False if mirrored videos belong to another class; `flip` of
      `clips.ClipTransform` must then be 0.
    num_missing: how many listed videos are not there.

  Raises:
    FileNotFoundError: none of the videos is there, or, if strict, one is not.
    ValueError: if strict, a video is listed twice.
  """

  flip_allowed = True

  def __init__(
    self,
    root: str,
    listed: Iterable[Listed],
    *,
    hint: str,
    strict: bool,
    class_names: Sequence[str],
  ):
    self._root = os.path.abspath(root)
    self.class_names = tuple(class_names)
    unique = tables.Unique('the file')
    missing, repeated, paths, labels = [], [], [], []
    for entry in listed:
      complaint = unique.repeats(entry.name, entry.where)
      if complaint:
        if strict:
          raise ValueError(complaint)
        repeated.append(complaint)
      elif entry.path is None:
        complaint = f'{entry.where}: no file {entry.name} below {self._root}'
        if strict:
          raise FileNotFoundError(f'{complaint}: {hint}')
        missing.append(complaint)
      else:
        paths.append(entry.path)
        labels.append(entry.label)
    if not paths:
      raise FileNotFoundError(
        f'none of {len(missing)} listed files is there, the first: {missing[0]}'
        f': {hint}'
        if missing
        else f'{self._root} holds nothing: {hint}'
      )
    self.num_missing = len(missing)
    self._paths = paths
    # Held-out test sets have no labels.
    self._labels = None if None in labels else labels
    for what, complaints in (('missing', missing), ('repeated', repeated)):
      if complaints:
        logging.warning(
          '%s: %d of %d listed files are %s and left out, such as: %s',
          self,
          len(complaints),
          len(paths) + len(missing) + len(repeated),
          what,
          complaints[0],
        )
    logging.info('%s, %d classes', self, len(self.class_names))

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> Mapping[str, Any]:
    """One record.

    Returns:
      dict(video=VideoFile, path=str relative to the data set's folder, and
      label=np.int32 if labels are known).

    Raises:
      IndexError: index outside [-len, len).
    """
    path = self._paths[index]
    record = {'video': self._video(path), 'path': path}
    if self._labels is not None:
      record['label'] = self._label(self._labels[index])
    return record

  def _video(self, path):
    return sources.VideoFile(os.path.join(self._root, path))

  def _label(self, label):
    return np.int32(label)

  def __repr__(self):
    return f'{type(self).__name__}({self._root!r}, {len(self)} videos)'


def require_root(root: str, hint: str) -> str:
  """The data set's folder.

  Raises:
    ValueError: the path is empty.
    FileNotFoundError: no such folder.
  """
  if not root:
    raise ValueError(
      f"source_kwargs.root='' is empty: name the folder of {hint}"
    )
  return tables.require_folder(root, hint)


def require_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
  """Raises a ValueError that names the field unless it is one of them."""
  choices = tuple(choices)
  if value not in choices:
    raise ValueError(
      f'source_kwargs.{name} must be one of {choices}, got {value!r}'
    )


def find_annotation(
  root: str,
  annotations: str,
  names: Sequence[str],
  hint: str,
  *,
  folders: Sequence[str] = (),
  is_file: bool = False,
) -> str:
  """Path of the first annotation file that is there.

  Args:
    root: the data set's folder.
    annotations: the folder it lies in as the user says, relative to `root` or
      absolute; '' looks into `folders`, `root` and its folder 'annotations'.
    names: what the file may be called, the official name first.
    hint: what the file is and where it comes from, for errors.
    folders: the official folders, relative to `root`.
    is_file: `annotations` may also be the file itself.

  Raises:
    FileNotFoundError: none is there.
  """
  if annotations:
    given = os.path.join(root, annotations)
    if is_file and os.path.isfile(given):
      return given
    places = [tables.require_folder(given, hint)]
  else:
    places = [os.path.join(root, f) for f in (*folders, '', 'annotations')]
  for place in places:
    for name in names:
      path = os.path.join(place, name)
      if os.path.isfile(path):
        return path
  raise tables.missing(
    os.path.join(places[0], names[0]),
    f'{hint} (looked for {", ".join(names)} in {", ".join(places)}; '
    'source_kwargs.annotations names another place)',
  )


def find_videos(
  root: str,
  key: Callable[[str], Hashable | None],
  *,
  folders: Sequence[str] = (),
  extensions: Sequence[str] = sources.EXTENSIONS,
) -> dict[Hashable, str]:
  """Lists a folder once, which is much faster than asking for every file.

  Args:
    root: the data set's folder.
    key: identifies a video by its path relative to `root` without extension
      ('/' separated); None for files that are something else.
    folders: only these below `root`, and files of the first ones win; () is
      all of `root`.
    extensions: lower case, with dots.

  Returns:
    Path relative to `root` of the file with each key; of several the first of
    the first folder, in sorted order.
  """
  found = {}
  for folder in folders or ('',):
    entries, _ = video_lists.scan_folder(
      os.path.join(root, folder), extensions, with_labels=False
    )
    for name in sorted(entry.path for entry in entries):
      path = f'{folder}/{name}' if folder else name
      what = key(os.path.splitext(path)[0])
      if what is not None:
        found.setdefault(what, path)
  return found
