"""Lists, tables and JSON files that data sets are annotated with.

Every reader of a data set parses its text files here, so that all of them
accept the same (blank lines, Windows and old Mac line ends, a byte order mark,
bytes that are not UTF-8 in file names) and name file and line of what they
refuse. A `hint` says in a few words what a file is and where it comes from,
such as 'the test list, from https://...'; errors about a missing or an empty
file end with it. `where` is 'FILE, line N', the beginning of a message.
"""

import csv
import difflib
import json
import math
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any


def missing(path: str | os.PathLike, hint: str) -> FileNotFoundError:
  """The error for a file or folder that is not there; to be raised."""
  return FileNotFoundError(f'{os.fspath(path)} is missing: {hint}')


def require_file(path: str | os.PathLike, hint: str) -> str:
  """The path, if a file is there.

  Raises:
    FileNotFoundError: names the path and the hint.
  """
  if not os.path.isfile(path):
    raise missing(path, hint)
  return os.fspath(path)


def require_folder(path: str | os.PathLike, hint: str) -> str:
  """The path, if a folder is there.

  Raises:
    FileNotFoundError: names the path and the hint.
  """
  if not os.path.isdir(path):
    raise missing(path, hint)
  return os.fspath(path)


def read_lines(
  path: str | os.PathLike,
  hint: str,
  *,
  comment: str = '',
  may_be_empty: bool = False,
) -> Iterator[tuple[str, str]]:
  """Yields (where, stripped line) of a text file.

  Args:
    path: text file.
    hint: see the module.
    comment: lines that begin so are skipped, as blank lines are.
    may_be_empty: no line at all is right too.

  Raises:
    FileNotFoundError: no such file.
    ValueError: no line is left; raised at the end.
  """
  empty = True
  with _open(path, hint) as f:
    for number, line in enumerate(f, 1):
      line = line.strip()
      if line and not (comment and line.startswith(comment)):
        empty = False
        yield f'{path}, line {number}', line
  if empty and not may_be_empty:
    raise ValueError(f'{path} has no entries: {hint}')


def read_columns(
  path: str | os.PathLike,
  columns: Sequence[str],
  hint: str,
  *,
  optional: int = 0,
) -> Iterator[tuple[str, list[str]]]:
  """Yields (where, fields) of lines whose fields are parted by white space.

  Args:
    path: text file.
    columns: name of every field, for messages.
    hint: see the module.
    optional: how many of the last fields may be absent.

  Raises:
    FileNotFoundError: no such file.
    ValueError: a line has another number of fields, or the file is empty.
  """
  for where, line in read_lines(path, hint):
    fields = line.split()
    if not len(columns) - optional <= len(fields) <= len(columns):
      raise ValueError(
        f'{where}: expected {len(columns)} fields ({" ".join(columns)}), got '
        f'{len(fields)}: {line[:80]!r}'
      )
    yield where, fields


def read_csv(
  path: str | os.PathLike,
  columns: Sequence[str],
  hint: str,
  *,
  header: bool = True,
  comment: str = '',
) -> Iterator[tuple[str, dict[str, str]]]:
  """Yields (where, {column: stripped field}) of a comma-separated table.

  Args:
    path: csv file; fields with commas are quoted, also after a space.
    columns: names that are needed. With a header others may stand beside them,
      in any order; without, the file has exactly these.
    hint: see the module.
    header: the first row holds the names.
    comment: lines that begin so are skipped.

  Raises:
    FileNotFoundError: no such file.
    ValueError: the header lacks a column or names one twice, a row has another
      number of fields, a quote is left open, or there are no rows.
  """
  rows = read_rows(path, hint, comment=comment)
  names = list(columns)
  if header:
    where, names = next(rows)
    lacking = [name for name in columns if name not in names]
    if lacking or len(set(names)) < len(names):
      raise ValueError(
        f'{where}: expected a header with the columns {",".join(columns)}, got '
        f'{",".join(names)[:120]!r}'
      )
  empty = True
  for where, row in rows:
    if len(row) != len(names):
      raise ValueError(
        f'{where}: expected {len(names)} fields ({",".join(names)}), got '
        f'{len(row)}: {",".join(row)[:120]!r}'
      )
    empty = False
    yield where, dict(zip(names, row, strict=True))
  if empty:
    raise ValueError(f'{path} has no entries: {hint}')


def read_rows(
  path: str | os.PathLike, hint: str, *, comment: str = ''
) -> Iterator[tuple[str, list[str]]]:
  """Yields (where, stripped fields) of a comma-separated table of any width.

  Args:
    path: csv file; a row that spans lines is named by its first.
    hint: see the module.
    comment: lines that begin so are skipped, as blank lines are.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a csv file, or no rows.
  """
  line, empty = 0, True
  with _open(path, hint, newline='') as f:
    reader = csv.reader(f, skipinitialspace=True, strict=True)
    while True:
      line = reader.line_num + 1
      where = f'{path}, line {line}'
      try:
        row = next(reader, None)
      except csv.Error as error:
        raise ValueError(f'{where}: not a csv row ({error})') from error
      if row is None:
        break
      fields = [field.strip() for field in row]
      if fields in ([], ['']) or (comment and fields[0].startswith(comment)):
        continue
      empty = False
      yield where, fields
  if empty:
    raise ValueError(f'{path} has no entries: {hint}')


def read_json(path: str | os.PathLike, hint: str) -> Any:
  """The content of a JSON file.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not JSON (names the line), or an object has a key twice.
  """
  with _open(path, hint) as f:
    try:
      return json.load(f, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
      raise ValueError(
        f'{path}, line {error.lineno}: not JSON ({error.msg})'
      ) from error
    except (ValueError, RecursionError) as error:
      raise ValueError(f'{path}: {error}') from error


def number(text: str, where: str, name: str) -> float:
  """A finite number.

  Raises:
    ValueError: names `where` and the field.
  """
  try:
    value = float(text)
  except ValueError:
    value = math.nan  # refused below, with the other values that are no use
  if not math.isfinite(value):
    raise ValueError(f'{where}: {name} must be a number, got {text!r}')
  return value


def integer(text: str, where: str, name: str) -> int:
  """A whole number; '12.0' counts as one, as some copies of tables have it.

  Raises:
    ValueError: names `where` and the field.
  """
  value = number(text, where, name)
  if value != int(value):
    raise ValueError(f'{where}: {name} must be a whole number, got {text!r}')
  return int(value)


class Unique:
  """Refuses what a list has twice.

  Args:
    what: what the keys are, for messages, such as 'video'.
  """

  def __init__(self, what: str):
    self._what = what
    self._seen: dict[Hashable, str] = {}

  def add(self, key: Hashable, where: str) -> None:
    """Notes a key.

    Raises:
      ValueError: it has been there; names both places.
    """
    complaint = self.repeats(key, where)
    if complaint:
      raise ValueError(complaint)

  def repeats(self, key: Hashable, where: str) -> str:
    """Notes a key; says what is wrong if it has been there, else ''."""
    first = self._seen.setdefault(key, where)
    if first is where:
      return ''
    return f'{where}: {self._what} {key!r} is listed twice, first in {first}'


def class_id(ids: Mapping[str, int], name: str, where: str) -> int:
  """The number of a class.

  Raises:
    ValueError: an unknown name; names `where` and a similar class.
  """
  if name not in ids:
    near = difflib.get_close_matches(name, ids, n=1)
    raise ValueError(
      f'{where}: unknown class {name!r}'
      + (f'; is it {near[0]!r}?' if near else f' (of {len(ids)} classes)')
    )
  return ids[name]


def _open(path, hint, newline=None):
  require_file(path, hint)
  return open(
    path, encoding='utf-8-sig', errors='surrogateescape', newline=newline
  )


def _object(pairs):
  values = dict(pairs)
  if len(values) < len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise ValueError(f'the key {twice!r} is there twice')
  return values
