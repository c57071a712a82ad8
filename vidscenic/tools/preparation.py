"""What a prepared folder of videos says about itself.

A journal, in which every finished video gets a line at once, and the manifest
that is made of it at the end.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vidscenic.data import sources

JOURNAL = '.prepare_videos.jsonl'


class Row(NamedTuple):
  """One line of a manifest.

  Attributes:
    path: relative to the folder.
    label: class id, None without labels.
    split: '' without splits.
    facts: num_frames, fps, height, width, audio_rate?, sha256.
  """

  path: str
  label: int | None
  split: str
  facts: Mapping[str, Any]


class Journal:
  """What is finished in a folder; a context manager.

  Every line is written by one call, so that after kill -9 only the last one
  may be cut short. It is dropped, and its video done once more.

  Args:
    folder: made if it does not exist.
    settings: JSON values that say how videos are prepared.

  Raises:
    ValueError: the folder holds other files, was prepared with other settings,
      or another process prepares it right now.
    OSError: the folder cannot be written.
  """

  def __init__(self, folder: str, settings: Mapping[str, Any]):
    self._folder = folder
    self._entries = {}
    path = os.path.join(folder, JOURNAL)
    os.makedirs(folder, exist_ok=True)
    if not os.path.exists(path) and os.listdir(folder):
      raise ValueError(
        f'--output={folder} holds files that are not of this tool: name a new '
        'or an empty folder'
      )
    self._file = open(path, 'a+b')
    try:
      self._lock()
      self._read(path, dict(settings))
    except BaseException:
      self._file.close()
      raise

  def has(self, path: str, source: str) -> bool:
    """Whether `path` is the result of `source` as both are now."""
    entry = self._entries.get(path)
    target = os.path.join(self._folder, path)
    return (
      entry is not None
      and os.path.isfile(source)
      and os.path.isfile(target)
      and entry['source'] == _state(source)
      and entry['bytes'] == os.path.getsize(target)
    )

  def add(self, path: str, source: str, facts: Mapping[str, Any]) -> None:
    """Notes that `path` is done."""
    entry = {
      'path': path,
      'source': _state(source),
      'bytes': os.path.getsize(os.path.join(self._folder, path)),
      'facts': dict(facts),
    }
    self._entries[path] = entry
    self._append(entry)

  def facts(self, path: str) -> Mapping[str, Any]:
    """What `add` was told."""
    return self._entries[path]['facts']

  def close(self) -> None:
    """Lets others prepare the folder."""
    self._file.close()

  def __enter__(self) -> 'Journal':
    return self

  def __exit__(self, *unused_exception) -> None:
    self.close()

  def _lock(self):
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      raise ValueError(
        f'--output={self._folder}: another process is preparing it'
      ) from e

  def _read(self, path, settings):
    self._file.seek(0)
    data = self._file.read()
    whole = data[: data.rfind(b'\n') + 1]
    if len(whole) < len(data):
      self._file.truncate(len(whole))
    lines = whole.splitlines()
    if not lines:
      self._append({'settings': settings})
      return
    for number, line in enumerate(lines, 1):
      try:
        entry = json.loads(line)
        if number == 1:
          self._compare(entry['settings'], settings)
        else:
          self._entries[entry['path']] = entry
      except (json.JSONDecodeError, KeyError, TypeError) as e:
        raise ValueError(
          f'{path}, line {number} is damaged; remove that line to prepare its '
          'video again'
        ) from e

  def _compare(self, old, new):
    names = [n for n in {**old, **new} if old.get(n) != new.get(n)]
    if names:
      changes = ', '.join(f'{n} {old.get(n)} -> {new.get(n)}' for n in names)
      raise ValueError(
        f'--output={self._folder} was prepared with other settings '
        f'({changes}): name another folder, or delete it'
      )

  def _append(self, entry):
    self._file.write(json.dumps(entry).encode() + b'\n')
    self._file.flush()


def write_manifest(
  folder: str,
  rows: Iterable[Row],
  *,
  class_names: Sequence[str],
  settings: Mapping[str, Any],
) -> None:
  """Writes `manifest.jsonl`, which `sources.VideoFolder` reads.

  The header holds a hash of all other lines; these hold hashes of the files, so
  equal hashes mean equal data sets. Labels are names where names alone give the
  same ids, else the ids: readers number the names that they find, and of some
  class there may be no video left.

  Args:
    folder: that the paths of rows are relative to.
    rows: in any order.
    class_names: in the order of their ids, () without names.
    settings: how the videos were made, for the header.

  Raises:
    OSError: the file cannot be written.
  """
  rows = sorted(rows, key=lambda row: (row.path, row.split))
  named = {row.label for row in rows} == set(range(len(class_names))) and list(
    class_names
  ) == sorted(class_names)
  lines = []
  for row in rows:
    line = {'path': row.path, **row.facts}
    if row.label is not None:
      line['label'] = class_names[row.label] if named else row.label
    if row.split:
      line['split'] = row.split
    lines.append(json.dumps(line) + '\n')
  content = hashlib.sha256(''.join(lines).encode()).hexdigest()
  header = {
    'videos': len(lines),
    'content_hash': content,
    'settings': dict(settings),
    'class_names': list(class_names),
  }
  lines.insert(0, json.dumps(header) + '\n')
  write(os.path.join(folder, sources.MANIFEST), lines)


def content_hash(manifest: str) -> str:
  """The hash in the header of a manifest."""
  with open(manifest, encoding='utf-8') as f:
    return json.loads(f.readline())['content_hash']


def write(path: str, lines: Sequence[str]) -> None:
  """Writes a whole text file or none; without lines there is no file.

  Raises:
    OSError: the file cannot be written.
  """
  if not lines:
    if os.path.exists(path):
      os.remove(path)
    return
  part = f'{path}.part'
  with open(part, 'w', encoding='utf-8', errors='surrogateescape') as f:
    f.writelines(lines)
  os.replace(part, path)


# --- private ---


def _state(path):
  """Tells whether a file is the same as before: [bytes, ns of its change]."""
  stat = os.stat(path)
  return [stat.st_size, stat.st_mtime_ns]
