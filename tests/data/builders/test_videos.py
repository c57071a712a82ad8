"""One's own folder as a TFDS data set, without TensorFlow."""

import pathlib
import subprocess
import sys

import pytest

from vidscenic.data import array_records, sources
from vidscenic.data.builders import videos

ROOT = pathlib.Path(__file__).resolve().parents[3]


def folder(root, *names):
  """Files that need not be videos: they go in as they are."""
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f'content of {name}'.encode())
  return root


def by_id(path, split):
  source = array_records.ArrayRecords(path, split)
  return {record['id']: record for record in source}


def test_files_labels_and_splits_come_back(tmp_path):
  root = folder(
    tmp_path / 'in', 'train/a/1.mp4', 'train/b/2.mp4', 'val/b/3.mp4'
  )
  (root / 'val' / 'a').mkdir()
  splits = {
    s: sources.VideoFolder(str(root), split=s) for s in ('train', 'val')
  }
  path = videos.prepare(splits, str(tmp_path / 'tfds'))
  assert path == str(tmp_path / 'tfds' / 'videos' / '1.0.0')
  train = by_id(path, 'train')
  assert sorted(train) == ['a/1.mp4', 'b/2.mp4']
  assert train['b/2.mp4']['video'] == b'content of train/b/2.mp4'
  assert [train[name]['label'] for name in sorted(train)] == [0, 1]
  assert by_id(path, 'val')['b/3.mp4']['label'] == 1
  assert array_records.ArrayRecords(path, 'val').class_names == ('a', 'b')


def test_part_of_a_split_holds_all_classes(tmp_path):
  names = [f'{c}/{i}.mp4' for c in 'abcd' for i in range(25)]
  root = folder(tmp_path / 'in', *names)
  source = sources.VideoFolder(str(root))
  path = videos.prepare({'train': source}, str(tmp_path / 'tfds'))
  part = array_records.ArrayRecords(path, 'train[:20%]')
  assert {int(record['label']) for record in part} == {0, 1, 2, 3}


def test_labels_without_names_and_no_labels(tmp_path):
  root = folder(tmp_path / 'in', 'a.mp4', 'b.mp4')
  (root / 'list.txt').write_text('a.mp4 7\nb.mp4 2\n')
  source = sources.VideoFolder(str(root), 'list.txt')
  path = videos.prepare({'train': source}, str(tmp_path / 'numbers'))
  assert {k: r['label'] for k, r in by_id(path, 'train').items()} == {
    'a.mp4': 7,
    'b.mp4': 2,
  }
  source = sources.VideoFolder(str(root), labels='none')
  path = videos.prepare({'train': source}, str(tmp_path / 'none'))
  assert set(by_id(path, 'train')['a.mp4']) == {'id', 'video'}


def test_equal_content_is_kept_and_other_content_replaced(tmp_path):
  root, data_dir = folder(tmp_path / 'in', 'a.mp4'), str(tmp_path / 'tfds')

  def prepare(content):
    source = sources.VideoFolder(str(root), labels='none')
    path = videos.prepare({'train': source}, data_dir, content=content)
    return path, sorted(by_id(path, 'train'))

  path, names = prepare('one')
  assert names == ['a.mp4']
  folder(root, 'b.mp4')
  assert prepare('one') == (path, ['a.mp4'])
  left_over = pathlib.Path(path).with_name('incomplete.ABC_1.0.0')
  left_over.mkdir()  # as of a process that was killed
  assert prepare('two') == (path, ['a.mp4', 'b.mp4'])
  assert not left_over.exists()


def test_splits_must_agree_on_classes(tmp_path):
  one = folder(tmp_path / 'one', 'a/1.mp4')
  two = folder(tmp_path / 'two', 'b/1.mp4')
  splits = {n: sources.VideoFolder(str(r)) for n, r in [('x', one), ('y', two)]}
  with pytest.raises(ValueError, match=r"\['x', 'y'\] do not have the same"):
    videos.prepare(splits, str(tmp_path / 'tfds'))


def test_neither_writing_nor_reading_imports_tensorflow(tmp_path):
  folder(tmp_path / 'in', 'a/1.mp4', 'b/2.mp4')
  program = f"""
import sys
import tensorflow_datasets as tfds
from vidscenic.data import array_records, sources
from vidscenic.data.builders import videos
source = sources.VideoFolder({str(tmp_path / 'in')!r})
path = videos.prepare({{'train': source}}, {str(tmp_path / 'tfds')!r})
ours = array_records.ArrayRecords(path, 'train')
theirs = tfds.builder_from_directory(path).as_data_source('train')
assert [r['video'] for r in ours] == [r['video'] for r in theirs]
assert 'tensorflow' not in sys.modules
print(len(ours))
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
  assert got.stdout.splitlines()[-1] == '2'
