"""Records of ArrayRecord files: TFDS folders and plain shards.

Random access, read without TensorFlow. A folder that `tfds` prepared, one made
of it by `tools/tfrecord_to_array_record` and the shards of
`tools/prepare_videos` are all the same thing: tf.train.Example records beside
`dataset_info.json` and `features.json`.
"""

import collections
import dataclasses
import glob
import os
import re
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np
from absl import logging

from vidscenic import config_checks as checks
from vidscenic.data import containers, tf_examples
from vidscenic.data.datasets import tables

DATASET_INFO = 'dataset_info.json'

_NUMBERED = re.compile(r'(?P<stem>.*)-(?P<number>\d+)-of-(?P<total>\d+)')


class ArrayRecords:
  """Examples in ArrayRecord files as a random-access source.

    source='vidscenic.data.array_records:ArrayRecords',
    source_kwargs={
      'path': '/data/davis/480p/2.1.0',
      'split': 'train[:90%]',
      'fields': {'video': 'video/frames', 'masks': 'video/segmentations'},
      'fps': 24.0,
    }

  Media stay bytes, so that only the frames of a clip are decoded; see
  `tf_examples.Parser` for the other values. A single picture that becomes the
  field video is a list of one. Records that hold neither path nor id get a
  path, FILE[number], by which errors name them. Instances pickle; files are
  opened when they are first read.

  Args:
    path: folder that TFDS prepared (DATASET/CONFIG/VERSION, the one that holds
      dataset_info.json), folder of shards, a shard, a pattern such as
      'x-*.array_record', or a sequence of shards or patterns.
    split: of a TFDS folder, as TFDS writes it: 'train', 'train[:50%]',
      'train[100:]+validation'; '' if there is only one.
    fields: {our name: stored name}, nested names with '/'; only these are
      returned. None: all of them by their stored names.
    fps: frame rate of videos that are pictures, if the records do not tell.

  Attributes:
    class_names: tuple of the names of the field label, () if unknown.

  Raises:
    ValueError: unknown split or field, TFRecord files, missing shards; names
      the argument and the nearest valid value.
    FileNotFoundError: nothing is there.
  """

  def __init__(
    self,
    path: str | Sequence[str],
    split: str = '',
    *,
    fields: Mapping[str, str] | None = None,
    fps: float = 0.0,
  ):
    # Imports no jax, unlike the same class in grain.
    from array_record.python import array_record_data_source

    self._path, self._split, self._fps = path, split, fps
    shards = _find_shards(path, split)
    self._shards = [shard for shard in shards if shard.take]
    if not self._shards:
      raise ValueError(f'source_kwargs.path={path!r}, split={split!r}: empty')
    self._starts = np.cumsum([0] + [shard.take for shard in self._shards])
    self._data = array_record_data_source.ArrayRecordDataSource(self._shards)
    folder = os.path.dirname(self._shards[0].filename)
    features = {}
    if os.path.isfile(os.path.join(folder, tf_examples.FEATURES)):
      features = tf_examples.read_features(
        os.path.join(folder, tf_examples.FEATURES)
      )
    names = dict(fields or {})
    try:
      self._parse = tf_examples.Parser(features, names)
    except ValueError as e:
      raise ValueError(f'source_kwargs.{e}') from e
    self.class_names = _class_names(folder, names.get('label', 'label'))
    video = features.get(names.get('video', 'video'))
    self._one_picture = bool(video and video.is_image and not video.sequences)
    logging.info('%d records from %s', len(self), path)

  def __len__(self) -> int:
    return int(self._starts[-1])

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One record.

    Raises:
      IndexError: index outside [-len, len).
      VideoError: the file is damaged there.
      ValueError: the record is no tf.train.Example, or a field is missing or
        not what was declared.
    """
    if not -len(self) <= index < len(self):
      raise IndexError(f'record {index} of {len(self)}')
    index %= len(self)
    name = self._name(index)
    try:
      serialized = self._data[index]
    except RuntimeError as e:  # array_record raises nothing else
      raise containers.VideoError(name, containers.describe(e)) from e
    try:
      record = self._parse(serialized)
    except ValueError as e:
      raise ValueError(f'{name}: {e}') from e
    if self._one_picture and 'video' in record:
      record['video'] = [record['video']]
    if self._fps:
      record.setdefault('fps', self._fps)
    if 'id' not in record:
      record.setdefault('path', name)
    return record

  def __repr__(self):
    split = f', {self._split!r}' if self._split else ''
    return f'ArrayRecords({self._path!r}{split}, {len(self)} records)'

  def _name(self, index):
    """FILE[number]: where a record lies."""
    part = int(np.searchsorted(self._starts, index, side='right')) - 1
    shard = self._shards[part]
    number = index - int(self._starts[part]) + shard.skip
    return f'{shard.filename}[{number}]'


def read_splits(folder: str, file_format: str):
  """Reads the splits of a folder that TFDS prepared.

  Args:
    folder: with dataset_info.json.
    file_format: 'array_record' or 'tfrecord', for the names of the shards.

  Returns:
    `tfds.core.SplitDict`: lengths and paths of the shards of every split.

  Raises:
    FileNotFoundError: no dataset_info.json.
    ValueError: it has no splits, or is not what TFDS writes.
  """
  import tensorflow_datasets as tfds  # for this it needs no TensorFlow

  path = os.path.join(folder, DATASET_INFO)
  info = tables.read_json(path, 'TFDS writes it beside the records')
  try:
    splits = tfds.core.SplitDict(
      tfds.core.SplitInfo(
        name=entry['name'],
        shard_lengths=[int(count) for count in entry['shardLengths']],
        num_bytes=int(entry.get('numBytes', 0)),
        filename_template=tfds.core.ShardedFileTemplate(
          data_dir=os.path.abspath(folder),
          dataset_name=info['name'],
          filetype_suffix=file_format,
          template=entry.get('filepathTemplate', ''),
        ),
      )
      for entry in info.get('splits', ())
    )
  except (KeyError, TypeError, ValueError, AttributeError) as e:
    raise ValueError(f'{path}: {type(e).__name__} {e}') from e
  if not splits:
    raise ValueError(f'{path} names no splits: was the data set prepared?')
  return splits


# --- private ---


@dataclasses.dataclass(frozen=True)
class _Shard:
  """A stretch of a file, with the names that array_record reads."""

  filename: str
  skip: int
  take: int
  examples_in_shard: int


def _find_shards(path, split):
  if not path:
    raise ValueError("source_kwargs.path='' is empty: name a folder or shards")
  if isinstance(path, str) and os.path.isdir(path):
    if os.path.isfile(os.path.join(path, DATASET_INFO)):
      return _shards_of_split(path, split)
    patterns = [os.path.join(glob.escape(path), '*array_record*')]
  else:
    patterns = [path] if isinstance(path, str) else list(path)
  if split:
    raise ValueError(
      f'source_kwargs.split={split!r}: only a folder that TFDS prepared has '
      f'splits; {path!r} has no {DATASET_INFO}'
    )
  files = []
  for pattern in patterns:
    found = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern))
    if not found:
      raise _nothing(path, pattern)
    files += [os.path.abspath(file) for file in found]
  for file in files:
    if '.tfrecord' in os.path.basename(file):
      raise _tfrecords(file, os.path.dirname(file))
  _check_complete(files)
  with futures.ThreadPoolExecutor(16) as pool:
    return list(pool.map(_whole_file, files))


def _nothing(path, pattern):
  """The error for no shards; looks at what else there is."""
  if not os.path.isdir(path if isinstance(path, str) else ''):
    return FileNotFoundError(f'source_kwargs.path={path!r}: no file {pattern}')
  if glob.glob(os.path.join(glob.escape(path), '*.tfrecord*')):
    return _tfrecords(path, path)
  below = []
  for depth in ('*', '*/*', '*/*/*'):
    below += glob.glob(os.path.join(glob.escape(path), depth, DATASET_INFO))
  if below:
    folders = ', '.join(sorted(os.path.dirname(file) for file in below)[:10])
    return ValueError(
      f'source_kwargs.path={path!r}: name the folder that holds '
      f'{DATASET_INFO}, such as {folders}'
    )
  return FileNotFoundError(
    f'source_kwargs.path={path!r}: no ArrayRecord file in the folder'
  )


def _tfrecords(path, folder):
  return ValueError(
    f'source_kwargs.path={path!r} holds TFRecord files, which cannot be read '
    'at random; convert them with python -m '
    f'vidscenic.tools.tfrecord_to_array_record --input={folder} --output=...'
  )


def _check_complete(files):
  """Refuses gaps among x-00000-of-00004, x-00001-of-00004, ..."""
  there = collections.defaultdict(set)
  for file in files:
    match = _NUMBERED.fullmatch(file)
    if match:
      key = match['stem'], match['total']
      there[key].add(match['number'])
  for (stem, total), numbers in there.items():
    wanted = [f'{i:0{len(total)}}' for i in range(int(total))]
    missing = [f'{stem}-{i}-of-{total}' for i in wanted if i not in numbers]
    if missing:
      raise _missing(missing, int(total))


def _missing(files, total):
  more = f' and {len(files) - 3} more' if len(files) > 3 else ''
  return FileNotFoundError(
    f'{len(files)} of {total} shards are missing: {", ".join(files[:3])}{more}'
  )


def _whole_file(file):
  from array_record.python import array_record_module

  try:
    reader = array_record_module.ArrayRecordReader(
      file, 'readahead_buffer_size:0'
    )
    count = reader.num_records()
    reader.close()
  except RuntimeError as e:
    raise ValueError(f'{file} is no complete ArrayRecord file: {e}') from e
  return _Shard(file, 0, count, count)


def _shards_of_split(folder, split):
  """The shards of a split, as dataset_info.json tells; opens none."""
  splits = read_splits(folder, 'array_record')
  shards = [
    _Shard(str(part.filename), part.skip, part.take, part.examples_in_shard)
    for part in _instructions(splits, split, folder)
  ]
  missing = [s.filename for s in shards if not os.path.isfile(s.filename)]
  if missing:
    if glob.glob(os.path.join(glob.escape(folder), '*.tfrecord*')):
      raise _tfrecords(folder, folder)
    raise _missing(missing, len(shards))
  return shards


def _instructions(splits, split, folder):
  names = sorted(splits)
  if not split:
    if len(names) > 1:
      raise ValueError(
        f"source_kwargs.split='' is empty: {folder} has the splits "
        + ', '.join(names)
      )
    split = names[0]
  for part in split.split('+'):
    name = part.partition('[')[0].strip()
    if name not in (*names, 'all'):
      raise ValueError(
        checks.unknown(f'source_kwargs.split={split!r}: {name!r}', name, names)
      )
  try:
    return splits[split].file_instructions
  except ValueError as e:
    # TFDS explains itself in several lines.
    raise ValueError(
      f'source_kwargs.split={split!r}: {str(e).splitlines()[-1]}'
    ) from e


def _class_names(folder, label):
  """Names of a ClassLabel, as TFDS lists them beside the records."""
  path = os.path.join(folder, f'{label.replace("/", "-")}.labels.txt')
  if not os.path.isfile(path):
    return ()
  return tuple(line for _, line in tables.read_lines(path, 'class names'))
