"""ArrayRecord files as a source: splits, fields, and errors that help."""

import io
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.data import tfds_folders
from vidscenic.data import array_records, clips, decode

ROOT = pathlib.Path(__file__).resolve().parents[2]
SPLITS = {'train': [[0, 1, 2], [], [3, 4, 5, 6]], 'test': [[7, 8]]}


@pytest.fixture
def folder(tmp_path):
  return tfds_folders.write_folder(tmp_path / 'toy' / '1.0.0', SPLITS)


def ids(path, *args, **kwargs):
  source = array_records.ArrayRecords(str(path), *args, **kwargs)
  return [int(source[i]['id'][2:]) for i in range(len(source))]


def test_record_holds_what_was_stored(folder):
  source = array_records.ArrayRecords(str(folder), 'train')
  assert source[4] == {
    'frames': [b'frame 0 of 4', b'frame 1 of 4'],
    'id': 'id4',
    'label': 0,
  }
  assert source[-1]['id'] == 'id6'
  assert source.class_names == ('clap', 'jump')
  for index in (7, -8):
    with pytest.raises(IndexError):
      source[index]


@pytest.mark.parametrize(
  ('split', 'want'),
  [
    ('train', [0, 1, 2, 3, 4, 5, 6]),
    ('train[:50%]', [0, 1, 2, 3]),
    ('train[50%:]', [4, 5, 6]),
    ('train[2:4]', [2, 3]),
    ('train[-1:]+test[:1]', [6, 7]),
    ('all', [0, 1, 2, 3, 4, 5, 6, 7, 8]),
  ],
)
def test_splits_are_written_as_for_tfds(folder, split, want):
  assert ids(folder, split) == want


@pytest.mark.parametrize(
  ('split', 'message'),
  [
    ('trian', "'trian' is unknown; did you mean 'train'"),
    ('', 'has the splits test, train'),
    ('train[', 'Unrecognized split format'),
    ('train[5:9]', 'incompatible with 7 examples'),
    ('train[3:3]', 'empty'),
  ],
)
def test_wrong_split_names_the_argument(folder, split, message):
  with pytest.raises(ValueError, match='source_kwargs.*split=') as error:
    array_records.ArrayRecords(str(folder), split)
  assert message in str(error.value)


def test_only_split_needs_no_name(tmp_path):
  folder = tfds_folders.write_folder(tmp_path, {'test': [[1, 2]]})
  assert ids(folder) == [1, 2]


def test_fields_are_chosen_and_renamed(folder):
  fields = {'video': 'frames', 'label': 'label'}
  source = array_records.ArrayRecords(
    str(folder), 'test', fields=fields, fps=12
  )
  record = source[1]
  assert record == {
    'video': [b'frame 0 of 8', b'frame 1 of 8'],
    'label': 0,
    'fps': 12,
    'path': f'{folder}/toy-test.array_record-00000-of-00001[1]',
  }
  assert source.class_names == ('clap', 'jump')


def test_unknown_field_names_the_nearest(folder):
  with pytest.raises(
    ValueError, match="source_kwargs.fields.video='frame'.*mean 'frames'"
  ):
    array_records.ArrayRecords(str(folder), 'test', fields={'video': 'frame'})


def test_single_picture_is_a_video_of_one_frame(tmp_path):
  features = {**tfds_folders.FEATURES, 'id': {'image': {}}}
  folder = tfds_folders.write_folder(
    tmp_path, {'train': [[1]]}, features=features
  )
  source = array_records.ArrayRecords(str(folder), fields={'video': 'id'})
  assert source[0]['video'] == [b'id1']


def test_folder_shard_pattern_and_sequence_of_shards(folder, tmp_path):
  shards = sorted(folder.glob('*array_record*'))
  (tmp_path / 'plain').mkdir()
  for shard in shards:
    shard.rename(tmp_path / 'plain' / shard.name)
  plain = tmp_path / 'plain'
  assert ids(plain) == [7, 8, 0, 1, 2, 3, 4, 5, 6]  # by name of the file
  assert ids(plain / '*-train*') == [0, 1, 2, 3, 4, 5, 6]
  one = plain / 'toy-test.array_record-00000-of-00001'
  assert ids(one) == [7, 8]
  assert len(array_records.ArrayRecords([str(one), str(one)])) == 4
  with pytest.raises(ValueError, match="split='train': only a folder that"):
    array_records.ArrayRecords(str(plain), 'train')


@pytest.mark.parametrize('pattern', [False, True])
def test_missing_shard_is_named(folder, pattern):
  lost = folder / 'toy-train.array_record-00002-of-00003'
  lost.unlink()
  arguments = (str(folder / '*'),) if pattern else (str(folder), 'train')
  if pattern:
    for name in ('dataset_info.json', 'features.json', 'label.labels.txt'):
      (folder / name).unlink()
  with pytest.raises(
    FileNotFoundError, match='1 of . shards are missing: '
  ) as e:
    array_records.ArrayRecords(*arguments)
  assert str(lost) in str(e.value)


def test_tfrecord_files_name_the_converter(tmp_path):
  folder = tfds_folders.write_folder(tmp_path, SPLITS, file_format='tfrecord')
  for arguments in [(folder, 'train'), (folder / '*tfrecord*',)]:
    with pytest.raises(ValueError, match='tools.tfrecord_to_array_record'):
      array_records.ArrayRecords(*map(str, arguments))


def test_folder_above_names_the_right_one(folder):
  with pytest.raises(ValueError, match='such as .*toy/1.0.0$'):
    array_records.ArrayRecords(str(folder.parents[1]))


def test_nothing_there(tmp_path):
  with pytest.raises(FileNotFoundError, match='no ArrayRecord file'):
    array_records.ArrayRecords(str(tmp_path))
  with pytest.raises(FileNotFoundError, match='no file .*x-\\*'):
    array_records.ArrayRecords(str(tmp_path / 'x-*'))
  with pytest.raises(ValueError, match="source_kwargs.path='' is empty"):
    array_records.ArrayRecords('')


def test_truncated_shard_is_named(folder):
  shard = folder / 'toy-test.array_record-00000-of-00001'
  shard.write_bytes(shard.read_bytes()[:70_000])
  with pytest.raises(ValueError, match=f'{shard.name} is no complete'):
    array_records.ArrayRecords(str(shard))


def test_damaged_record_is_an_unreadable_video(folder):
  """So that training takes the next one, and evaluation stops."""
  source = array_records.ArrayRecords(str(folder), 'test')
  shard = folder / 'toy-test.array_record-00000-of-00001'
  shard.write_bytes(shard.read_bytes()[:70_000])
  with pytest.raises(decode.VideoError, match=r'00000-of-00001\[1\]: '):
    source[1]


def test_other_messages_are_told_apart(tmp_path):
  tfds_folders.write_array_record(tmp_path / 'x.array_record', [b'\xff\xff'])
  source = array_records.ArrayRecords(str(tmp_path / 'x.array_record'))
  with pytest.raises(ValueError, match=r'x.array_record\[0\]: no tf.train'):
    source[0]


def test_source_pickles_before_and_after_reading(folder):
  source = array_records.ArrayRecords(str(folder), 'train')
  for _ in range(2):
    copy = pickle.loads(pickle.dumps(source))
    assert copy[3] == source[3]
    assert len(copy) == len(source)


def test_clip_decodes_only_its_frames(tmp_path):
  """Of 6 pictures 4 are no pictures; the middle two are wanted."""
  example = tfds_folders.tf_example_pb2.Example()
  pictures = [b'broken'] * 6
  for i in (2, 3):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(buffer, 'PNG')
    pictures[i] = buffer.getvalue()
  example.features.feature['video'].bytes_list.value.extend(pictures)
  path = tmp_path / 'x.array_record'
  tfds_folders.write_array_record(path, [example.SerializeToString()])
  source = array_records.ArrayRecords(str(path), fps=12)
  transform = clips.ClipTransform(num_frames=2, train=False, size=(8, 8))
  clip = transform.sample(source[0], np.random.default_rng(0))
  assert clip['video'][:, 0, 0, 0].tolist() == [20, 30]


def test_reading_imports_neither_tensorflow_nor_jax(folder):
  program = f"""
import sys
from vidscenic.data import array_records
source = array_records.ArrayRecords({str(folder)!r}, 'train[:50%]')
print(source[1]['id'], sorted({{'tensorflow', 'jax'}} & set(sys.modules)))
"""
  got = subprocess.run(
    [sys.executable, '-c', program],
    capture_output=True,
    text=True,
    timeout=60,
    cwd=ROOT,
    check=False,
  )
  assert got.returncode == 0, got.stderr
  assert got.stdout.split() == ['id1', '[]']
