"""Folders as TFDS prepares them, written by hand, for tests."""

import json
import struct

from array_record.python import array_record_module
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorflow_datasets.proto import tf_example_pb2

FEATURES = {
  'frames': {'sequence': {'feature': {'image': {}}, 'length': '-1'}},
  'id': {'text': {}},
  'label': {'classLabel': {'numClasses': '2'}},
}


def record(number, num_frames=2):
  """Serialized example `number` with the fields of FEATURES."""
  example = tf_example_pb2.Example()
  feature = example.features.feature
  frames = [b'frame %d of %d' % (i, number) for i in range(num_frames)]
  feature['frames'].bytes_list.value.extend(frames)
  feature['id'].bytes_list.value.append(b'id%d' % number)
  feature['label'].int64_list.value.append(number % 2)
  return example.SerializeToString()


def write_array_record(path, records):
  writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
  for serialized in records:
    writer.write(serialized)
  writer.close()


def write_tfrecord(path, records):
  crc = pywrap_tensorflow.masked_crc32c
  with open(path, 'wb') as f:
    for serialized in records:
      length = struct.pack('<Q', len(serialized))
      f.write(length + struct.pack('<I', crc(length)))
      f.write(serialized + struct.pack('<I', crc(serialized)))


def write_folder(folder, splits, *, features=None, file_format='array_record'):
  """Writes {split: [[numbers of a shard], ...]} of `record`."""
  folder.mkdir(parents=True, exist_ok=True)
  write = {'array_record': write_array_record, 'tfrecord': write_tfrecord}
  entries = []
  for split, shards in splits.items():
    for i, numbers in enumerate(shards):
      name = f'toy-{split}.{file_format}-{i:05}-of-{len(shards):05}'
      write[file_format](folder / name, [record(n) for n in numbers])
    entries.append(
      {
        'name': split,
        'shardLengths': [str(len(numbers)) for numbers in shards],
        'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
        'numBytes': '1',
      }
    )
  info = {'name': 'toy', 'version': '1.0.0', 'splits': entries}
  if file_format != 'tfrecord':  # the default is not written
    info['fileFormat'] = file_format
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  declared = {'featuresDict': {'features': features or FEATURES}}
  (folder / 'features.json').write_text(json.dumps(declared))
  (folder / 'label.labels.txt').write_text('clap\njump\n')
  return folder
