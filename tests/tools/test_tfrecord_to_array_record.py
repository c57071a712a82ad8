"""TFRecord folders, written byte by byte, become ArrayRecord folders."""

import gzip
import json
import struct
import sys

import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from tests.data import tfds_folders
from vidscenic.data import array_records
from vidscenic.tools import tfrecord_to_array_record as converter

SPLITS = {'train': [[0, 1, 2], [3, 4]], 'test': [[5]]}
# CRC-32C of '123456789', the check value of RFC 3720.
CHECK = 0xE3069283


@pytest.fixture
def source(tmp_path):
  return tfds_folders.write_folder(
    tmp_path / 'in' / '1.0.0', SPLITS, file_format='tfrecord'
  )


def run(source, target, *flags):
  """Exit status of the command line, in this process."""
  return converter.main(
    [f'--input={source}', f'--output={target}', '--num_processes=1', *flags]
  )


def ids(folder, split):
  return [r['id'] for r in array_records.ArrayRecords(str(folder), split)]


def shard(folder, number=0):
  return folder / f'toy-train.tfrecord-{number:05}-of-00002'


def test_records_and_metadata_are_those_of_the_input(source, tmp_path, capsys):
  target = tmp_path / 'out' / '1.0.0'
  assert run(source, target, '--verify') == 0
  assert capsys.readouterr().out == f'6 records are in {target}\n'
  assert ids(target, 'train') == ['id0', 'id1', 'id2', 'id3', 'id4']
  assert ids(target, 'test') == ['id5']
  assert array_records.ArrayRecords(str(target), 'test').class_names == (
    'clap',
    'jump',
  )
  assert {path.name for path in target.iterdir()} == {
    'toy-train.array_record-00000-of-00002',
    'toy-train.array_record-00001-of-00002',
    'toy-test.array_record-00000-of-00001',
    'dataset_info.json',
    'features.json',
    'label.labels.txt',
  }
  first = target / 'toy-train.array_record-00000-of-00002'
  reader = array_record_module.ArrayRecordReader(str(first))
  assert reader.read_all() == [tfds_folders.record(n) for n in (0, 1, 2)]
  assert 'group_size:1,' in reader.writer_options_string()


def test_tfds_reads_the_result(tmp_path):
  features = {
    name: {
      'pythonClassName': f'tensorflow_datasets.core.features.{module}',
      **content,
    }
    for name, module, content in [
      ('id', 'text_feature.Text', {'text': {}}),
      (
        'label',
        'class_label_feature.ClassLabel',
        {'classLabel': {'numClasses': '2'}},
      ),
    ]
  }
  source = tfds_folders.write_folder(
    tmp_path / 'in', SPLITS, features=features, file_format='tfrecord'
  )
  declared = json.loads((source / 'features.json').read_text())
  declared['pythonClassName'] = (
    'tensorflow_datasets.core.features.features_dict.FeaturesDict'
  )
  (source / 'features.json').write_text(json.dumps(declared))
  assert run(source, tmp_path / 'out') == 0
  builder = tfds.builder_from_directory(str(tmp_path / 'out'))
  data = builder.as_data_source('train[1:]')
  assert [example['id'] for example in data] == [b'id1', b'id2', b'id3', b'id4']
  assert builder.info.features['label'].names == ['clap', 'jump']
  assert 'tensorflow' not in sys.modules


def test_finished_shards_are_kept(source, tmp_path):
  """As after kill -9: no dataset_info.json, a shard and a piece of one."""
  target = tmp_path / 'out'
  target.mkdir()
  part = target / 'toy-train.array_record-00001-of-00002.part'
  part.write_bytes(b'half')
  one, two = converter._list_shards(str(source), str(target), False)[:2]
  converter.convert_shard(one)
  with pytest.raises(FileNotFoundError):
    array_records.ArrayRecords(str(target / '*array_record-0000?-of-00002'))
  shard(source, 0).write_bytes(b'')  # would be an error if it were read
  assert run(source, target) == 0
  assert ids(target, 'train') == ['id0', 'id1', 'id2', 'id3', 'id4']
  assert not list(target.glob('*.part'))
  assert two.target == str(part.with_suffix(''))


def damage(path, position, value=b'\xff'):
  with open(path, 'r+b') as f:
    f.seek(position)
    f.write(value)


@pytest.mark.parametrize(
  ('position', 'message'),
  [
    (0, 'byte 0: damaged, or no TFRecord file'),
    (9, 'byte 0: damaged, or no TFRecord file'),
    (-4, None),  # a sum of contents: only --verify looks
  ],
)
def test_damage_is_found_and_leaves_no_file(
  position, message, source, tmp_path, capsys
):
  size = shard(source).stat().st_size
  damage(shard(source), position % size)
  target = tmp_path / 'out'
  flags = [] if message else ['--verify']
  assert run(source, target, *flags) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert str(shard(source)) in error
  assert (message or 'content of this record is damaged') in error
  assert not (target / 'toy-train.array_record-00000-of-00002').exists()
  assert not (target / 'dataset_info.json').exists()


def test_sums_of_contents_are_not_needed(source, tmp_path):
  damage(shard(source), shard(source).stat().st_size - 1)
  assert run(source, tmp_path / 'out') == 0


@pytest.mark.parametrize('missing', [1, 6, 30])
def test_cut_off_file(missing, source, tmp_path, capsys):
  whole = shard(source).read_bytes()
  shard(source).write_bytes(whole[:-missing])
  assert run(source, tmp_path / 'out') == 2
  assert 'the file is cut off' in capsys.readouterr().err


def test_number_of_records_is_checked(source, tmp_path, capsys):
  tfds_folders.write_tfrecord(shard(source), [tfds_folders.record(0)])
  assert run(source, tmp_path / 'out') == 2
  assert 'holds 1 records, dataset_info.json says 3' in capsys.readouterr().err


def test_sums_are_masked_crc_32c(tmp_path):
  rotated = (CHECK >> 15 | CHECK << 17) & 0xFFFFFFFF
  masked = (rotated + 0xA282EAD8) & 0xFFFFFFFF
  path = tmp_path / 'x'
  tfds_folders.write_tfrecord(path, [b'123456789'])
  content = path.read_bytes()
  assert content[-4:] == struct.pack('<I', masked)
  assert list(converter.read_tfrecord(str(path), verify=True)) == [b'123456789']
  damage(path, len(content) - 5)
  with pytest.raises(ValueError, match='content of this record is damaged'):
    list(converter.read_tfrecord(str(path), verify=True))


def test_compressed_file_is_told(tmp_path):
  path = tmp_path / 'x.tfrecord.gz'
  path.write_bytes(gzip.compress(b'records'))
  with pytest.raises(ValueError, match='gz is compressed'):
    list(converter.read_tfrecord(str(path)))


def test_mistakes_are_told_in_one_line(source, tmp_path, capsys):
  shard(source, 1).rename(tmp_path / 'elsewhere')
  other = tfds_folders.write_folder(tmp_path / 'other', {'test': [[1]]})
  for arguments, message in [
    ((source, tmp_path / 'out'), '1 of 3 TFRecord files'),
    ((source, source), 'is --input: name another folder'),
    ((source.parent, tmp_path / 'out'), 'dataset_info.json is missing: name'),
    ((source, other), 'holds another data set'),
  ]:
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_folder_without_all_shards_never_looks_complete(
  source, tmp_path, monkeypatch, capsys
):
  target = tmp_path / 'out'
  run_all = converter.workers.run
  with monkeypatch.context() as patch:
    patch.setattr(
      converter.workers,
      'run',
      lambda function, jobs, **options: run_all(function, jobs[1:], **options),
    )
    assert run(source, target) == 2
  assert '1 of 3 files were not written: ' in capsys.readouterr().err
  assert not (target / 'dataset_info.json').exists()
  assert run(source, target) == 0
  assert len(ids(target, 'train')) == 5
