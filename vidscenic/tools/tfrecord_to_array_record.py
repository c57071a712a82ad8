r"""Turns a TFDS data set of TFRecord files into one with random access.

  python -m vidscenic.tools.tfrecord_to_array_record \
    --input=/data/movi_e/256x256/1.0.0 --output=/fast/movi_e/256x256/1.0.0

The input is a folder with dataset_info.json, as `tfds` prepares and downloads
it. Records are copied as they are; TensorFlow is not needed. The output is a
TFDS folder of file format array_record, for `ArrayRecords` and for
`tfds.builder_from_directory(...).as_data_source()`.

dataset_info.json is written last: without it a folder is not complete. A run
that was interrupted goes on where it was when it is started again.
"""

import argparse
import json
import os
import shutil
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vidscenic.data import array_records
from vidscenic.data.datasets import tables
from vidscenic.tools import preparation, progress, workers


class Shard(NamedTuple):
  """One file to convert.

  Attributes:
    source, target: paths.
    count: records that it should hold.
    verify: whether to check the sums of the contents.
  """

  source: str
  target: str
  count: int
  verify: bool


def convert(
  source: str, target: str, *, verify: bool = False, num_processes: int = 0
) -> int:
  """Converts a folder.

  Args:
    source: folder with dataset_info.json and TFRecord files.
    target: another folder; made if it does not exist.
    verify: check the sum (CRC-32C) of every record's content too, some 8 MB/s
      per process. Sums of lengths and numbers of records always are.
    num_processes: 0: one per core, 1: this one.

  Returns:
    Number of records in all splits.

  Raises:
    FileNotFoundError: no dataset_info.json, or shards are missing.
    ValueError: a file is damaged (names file and byte) or has another number of
      records than dataset_info.json says; or `target` is another data set.
    OSError: `target` cannot be written, or a process died.
  """
  if os.path.realpath(source) == os.path.realpath(target):
    raise ValueError(f'--output={target} is --input: name another folder')
  info_file = os.path.join(source, array_records.DATASET_INFO)
  info = tables.read_json(
    info_file, 'name the folder of one version, such as movi_e/256x256/1.0.0'
  )
  info['fileFormat'] = 'array_record'
  info.pop('alternativeFileFormats', None)
  _check_target(target, info)
  shards = _list_shards(source, target, verify)
  os.makedirs(target, exist_ok=True)
  todo = [shard for shard in shards if not os.path.isfile(shard.target)]
  done = len(shards) - len(todo)
  with progress.Progress(
    len(shards), 'shards', done=done, every=30.0
  ) as display:
    for shard, result in workers.run(
      convert_shard, todo, num_processes=num_processes
    ):
      if isinstance(result, workers.Died):
        raise OSError(f'{shard.source}: {result}')
      display.advance()
  missing = [s.target for s in shards if not os.path.isfile(s.target)]
  if missing:
    raise OSError(
      f'{len(missing)} of {len(shards)} files were not written: '
      f'{", ".join(missing[:3])}; the same command goes on from here'
    )
  copied = {os.path.basename(shard.source) for shard in shards}
  copied.add(array_records.DATASET_INFO)
  for entry in os.scandir(source):
    if entry.is_file() and entry.name not in copied:
      shutil.copyfile(entry.path, os.path.join(target, entry.name))
  preparation.write(
    os.path.join(target, array_records.DATASET_INFO),
    [json.dumps(info, indent=2) + '\n'],
  )
  return sum(shard.count for shard in shards)


def convert_shard(shard: Shard) -> None:
  """Converts one file; under the final name it is complete or not there.

  Raises:
    ValueError: the file is damaged or has another number of records.
    OSError: the result cannot be written.
  """
  from array_record.python import array_record_module

  part = f'{shard.target}.part'
  os.makedirs(os.path.dirname(part), exist_ok=True)
  count = 0
  try:
    writer = array_record_module.ArrayRecordWriter(part, 'group_size:1')
    for record in read_tfrecord(shard.source, verify=shard.verify):
      writer.write(record)
      count += 1
    writer.close()
  except RuntimeError as e:  # array_record raises nothing else
    raise OSError(f'{part}: {e}') from e
  if count != shard.count:
    raise ValueError(
      f'{shard.source} holds {count} records, {array_records.DATASET_INFO} '
      f'says {shard.count}: download it again'
    )
  os.replace(part, shard.target)


def read_tfrecord(path: str, *, verify: bool = False) -> Iterator[bytes]:
  """Yields the records of a TFRecord file.

  A record is its length (uint64), the sum of these 8 bytes, the content and the
  sum of that, all little endian. Sums are CRC-32C, rotated and shifted.

  Args:
    path: of the file.
    verify: check the sums of contents, too.

  Raises:
    ValueError: cut off, compressed, or a sum is wrong; names the byte.
  """
  # The only table of CRC-32C that we install; without TensorFlow.
  from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

  masked_crc = pywrap_tensorflow.masked_crc32c
  size = os.path.getsize(path)
  with open(path, 'rb') as f:
    position = 0
    while position < size:
      where = f'{path}, byte {position}'
      header = f.read(12)
      if position == 0 and header.startswith(b'\x1f\x8b'):
        raise ValueError(f'{path} is compressed: unpack it with gunzip first')
      if len(header) < 12:
        raise ValueError(f'{where}: the file is cut off')
      length, length_crc = struct.unpack('<QI', header)
      if masked_crc(header[:8]) != length_crc:
        raise ValueError(f'{where}: damaged, or no TFRecord file')
      if position + 16 + length > size:
        raise ValueError(f'{where}: the file is cut off')
      record = f.read(length)
      (crc,) = struct.unpack('<I', f.read(4))
      if verify and masked_crc(record) != crc:
        raise ValueError(f'{where}: the content of this record is damaged')
      yield record
      position += 16 + length


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog='python -m vidscenic.tools.tfrecord_to_array_record',
    description=__doc__.partition('\n\n')[0],
    epilog=__doc__.partition('\n\n')[2],
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('--input', required=True, help='folder with dataset_info.json')
  add('--output', required=True, help='folder for the result')
  add(
    '--verify',
    action='store_true',
    help='check the sums of all contents, some 8 MB/s per process',
  )
  add(
    '--num_processes',
    type=int,
    default=0,
    help='files at a time (default: one per core)',
  )
  args = parser.parse_args(argv)
  try:
    count = convert(
      args.input,
      args.output,
      verify=args.verify,
      num_processes=args.num_processes,
    )
  except (ValueError, OSError) as e:
    print(f'{parser.prog}: {e}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('\nstopped; the same command goes on from here', file=sys.stderr)
    return 130
  print(f'{count} records are in {args.output}')
  return 0


# --- private ---


def _check_target(target, info):
  """A finished folder must be of this very data set."""
  path = os.path.join(target, array_records.DATASET_INFO)
  if os.path.isfile(path) and tables.read_json(path, '') != info:
    raise ValueError(
      f'--output={target} holds another data set: name a new folder'
    )


def _list_shards(source, target, verify):
  splits = array_records.read_splits(source, 'tfrecord')
  renamed = array_records.read_splits(source, 'array_record')
  shards = []
  for name, split in splits.items():
    for old, new, count in zip(
      split.filepaths, renamed[name].filepaths, split.shard_lengths, strict=True
    ):
      place = os.path.relpath(new, os.path.abspath(source))
      shards.append(
        Shard(os.fspath(old), os.path.join(target, place), count, verify)
      )
  missing = [s.source for s in shards if not os.path.isfile(s.source)]
  if missing:
    raise FileNotFoundError(
      f'{len(missing)} of {len(shards)} TFRecord files that '
      f'{array_records.DATASET_INFO} names are missing: '
      f'{", ".join(missing[:3])}'
    )
  return shards


if __name__ == '__main__':
  sys.exit(main())
