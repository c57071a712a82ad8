"""Lists of videos: three layouts, and errors that say where to look."""

import json
import os
import pickle

import numpy as np
import pytest

from vidscenic.data import sources


def touch(root, *names):
  """Makes empty files: a source must not open them."""
  for name in names:
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb'):
      pass


def paths(source):
  return [source[i]['path'] for i in range(len(source))]


def labels(source):
  return [int(source[i]['label']) for i in range(len(source))]


# --- folders ---


def test_class_subfolders(tmp_path):
  touch(
    tmp_path,
    'jump high/b.mp4',
    'jump high/a.MP4',
    'clap/v_#;(1).avi',
    'clap/deep/c.webm',
    'clap/notes.txt',
    'clap/.hidden.mp4',
    '.cache/x.mp4',
    'readme.md',
  )
  os.makedirs(tmp_path / 'empty class')
  source = sources.VideoFolder(str(tmp_path))
  assert paths(source) == [
    'clap/deep/c.webm',
    'clap/v_#;(1).avi',
    'jump high/a.MP4',
    'jump high/b.mp4',
  ]
  assert source.class_names == ('clap', 'empty class', 'jump high')
  assert labels(source) == [0, 0, 2, 2]
  record = source[0]
  assert record['label'].dtype == np.int32
  assert isinstance(record['video'], sources.VideoFile)
  assert record['video'].file == str(tmp_path / 'clap/deep/c.webm')


def test_flat_folder_has_no_labels(tmp_path):
  touch(tmp_path, 'b.mp4', 'a.mp4', 'sub/c.mp4')
  source = sources.VideoFolder(str(tmp_path))
  assert paths(source) == ['a.mp4', 'b.mp4', 'sub/c.mp4']
  assert set(source[0]) == {'video', 'path'}
  assert source.class_names == ()


def test_labels_can_be_declined(tmp_path):
  touch(tmp_path, 'shard0/b.mp4', 'shard1/a.mp4')
  source = sources.VideoFolder(str(tmp_path), labels='none')
  assert 'label' not in source[0]


def test_split_is_a_subfolder(tmp_path):
  touch(tmp_path, 'train/x/1.mp4', 'val/x/2.mp4', 'val/y/3.mp4')
  source = sources.VideoFolder(str(tmp_path), split='val')
  assert paths(source) == ['x/2.mp4', 'y/3.mp4']
  assert labels(source) == [0, 1]
  with pytest.raises(FileNotFoundError, match="source_kwargs.split='test'"):
    sources.VideoFolder(str(tmp_path), split='test')


def test_class_names_fix_the_ids(tmp_path):
  touch(tmp_path, 'b/1.mp4')
  names = ('a', 'b', 'c')
  source = sources.VideoFolder(str(tmp_path), class_names=names)
  assert labels(source) == [1]
  assert source.class_names == names
  with pytest.raises(ValueError, match="class_names lacks 'b'"):
    sources.VideoFolder(str(tmp_path), class_names=('a',))


def test_links_are_followed_but_not_for_ever(tmp_path):
  touch(tmp_path / 'store', 'a.mp4')
  touch(tmp_path / 'data', 'own/b.mp4')
  os.symlink(tmp_path / 'store', tmp_path / 'data' / 'linked')
  os.symlink(tmp_path / 'data', tmp_path / 'data' / 'own' / 'loop')
  source = sources.VideoFolder(str(tmp_path / 'data'))
  assert paths(source) == ['linked/a.mp4', 'own/b.mp4']


def test_folder_linked_twice_is_listed_twice(tmp_path):
  touch(tmp_path / 'store', 'a.mp4', 'deep/b.mp4')
  for name in ('first', 'second'):
    touch(tmp_path / 'data', f'{name}/own.mp4')
    os.symlink(tmp_path / 'store', tmp_path / 'data' / name / 'linked')
  source = sources.VideoFolder(str(tmp_path / 'data'))
  files = ['linked/a.mp4', 'linked/deep/b.mp4', 'own.mp4']
  assert paths(source) == [
    f'{name}/{file}' for name in ('first', 'second') for file in files
  ]


def test_other_extensions(tmp_path):
  touch(tmp_path, 'a.dat', 'b.mp4')
  assert paths(sources.VideoFolder(str(tmp_path), extensions='dat')) == [
    'a.dat'
  ]


def test_one_video_is_a_source(tmp_path):
  touch(tmp_path, 'only one.mp4', 'other.mp4')
  source = sources.VideoFolder(str(tmp_path / 'only one.mp4'))
  assert paths(source) == ['only one.mp4']
  assert source[0]['video'].path == str(tmp_path / 'only one.mp4')


def test_missing_folders_name_the_field(tmp_path):
  with pytest.raises(ValueError, match="source_kwargs.path='' is empty"):
    sources.VideoFolder()
  gone = str(tmp_path / 'gone')
  with pytest.raises(FileNotFoundError, match=f"source_kwargs.path='{gone}'"):
    sources.VideoFolder(gone)
  touch(tmp_path, 'a.txt')
  with pytest.raises(FileNotFoundError, match=r'looked for \.mp4, \.webm, '):
    sources.VideoFolder(str(tmp_path))
  with pytest.raises(FileNotFoundError, match='source_kwargs.list_file'):
    sources.VideoFolder(str(tmp_path), 'val.txt')
  with pytest.raises(ValueError, match='min_frames=3 needs a manifest'):
    sources.VideoFolder(str(tmp_path), min_frames=3)
  with pytest.raises(ValueError, match='source_kwargs.labels'):
    sources.VideoFolder(str(tmp_path), labels='yes')


# --- lists ---


def write(path, text, newline=None):
  with open(path, 'w', encoding='utf-8', newline=newline) as f:
    f.write(text)
  return str(path)


def test_list_of_paths_and_labels(tmp_path):
  text = (
    '\ufeff# comment\r\n'
    'b/clip two.mp4 12\r\n'
    '\r\n'
    'c.mp4\t3\r\n'
    'my video::7\r\n'
    '#20_clap.avi 5\r\n'
    '"quoted name.mp4" 1\r\n'
    'c.mp4 4\r\n'
    '/abs/a.mp4 0'
  )
  write(tmp_path / 'val.txt', text, newline='')
  source = sources.VideoFolder(str(tmp_path), 'val.txt')
  got = list(zip(paths(source), labels(source), strict=True))
  assert got == [
    ('#20_clap.avi', 5),
    ('/abs/a.mp4', 0),
    ('b/clip two.mp4', 12),
    ('c.mp4', 3),
    ('c.mp4', 4),
    ('my video', 7),
    ('quoted name.mp4', 1),
  ]
  assert source[1]['video'].path == '/abs/a.mp4'
  assert source[2]['video'].path == str(tmp_path / 'b/clip two.mp4')


def test_list_with_a_prefix_and_as_the_path(tmp_path):
  name = write(tmp_path / 'val.csv', 'a.mp4 1\n')
  source = sources.VideoFolder(name, prefix='videos')
  assert source[0]['video'].path == str(tmp_path / 'videos' / 'a.mp4')
  source = sources.VideoFolder(name, prefix='/elsewhere')
  assert source[0]['video'].path == '/elsewhere/a.mp4'


def test_list_without_labels(tmp_path):
  name = write(tmp_path / 'all.txt', 'a b 3.mp4\nc.mp4\n')
  source = sources.VideoFolder(name, labels='none')
  assert paths(source) == ['a b 3.mp4', 'c.mp4']
  assert 'label' not in source[0]


@pytest.mark.parametrize('line', ['a.mp4', 'a.mp4 x', 'a.mp4 1.5', ' 3', '::3'])
def test_bad_lines_are_named(tmp_path, line):
  name = write(tmp_path / 'val.txt', f'# list\n\nok.mp4 1\n{line}\nb.mp4 2\n')
  with pytest.raises(ValueError, match=r'val\.txt, line 4: expected "path'):
    sources.VideoFolder(name)


def test_lists_without_videos_are_errors(tmp_path):
  name = write(tmp_path / 'val.txt', '# nothing\n')
  with pytest.raises(FileNotFoundError, match='no video in .*val.txt'):
    sources.VideoFolder(name)
  name = write(tmp_path / 'other.txt', 'a.mp4 1')
  with pytest.raises(ValueError, match="split='val': the list .* no splits"):
    sources.VideoFolder(name, split='val')


# --- manifests ---


def manifest(path, rows, header=True):
  lines = [json.dumps({'content_hash': 'abc'})] if header else []
  lines += [row if isinstance(row, str) else json.dumps(row) for row in rows]
  return write(path, '\n'.join(lines) + '\n')


ROWS = [
  dict(path='b.mp4', num_frames=30, fps=25.0, height=4, width=6, label='run'),
  dict(path='a.mp4', num_frames=90, fps=29.97, height=4, width=6, label='clap'),
  dict(path='c.mp4', num_frames=60, fps=25, height=4, width=6, label='fall'),
]
SPLITS = ('train', 'val', 'val')
WITH_SPLITS = [row | {'split': s} for row, s in zip(ROWS, SPLITS, strict=True)]


@pytest.mark.parametrize('header', [True, False])
def test_manifest_is_found_in_its_folder(tmp_path, header):
  manifest(tmp_path / 'manifest.jsonl', ROWS, header)
  touch(tmp_path, 'not listed.mp4')
  source = sources.VideoFolder(str(tmp_path))
  assert paths(source) == ['a.mp4', 'b.mp4', 'c.mp4']
  assert source.class_names == ('clap', 'fall', 'run')
  assert labels(source) == [0, 2, 1]
  assert source[0]['video'].path == str(tmp_path / 'a.mp4')


def test_manifest_filters_keep_the_ids(tmp_path):
  name = manifest(tmp_path / 'all.jsonl', WITH_SPLITS)
  source = sources.VideoFolder(name, split='val')
  assert paths(source) == ['a.mp4', 'c.mp4']
  assert labels(source) == [0, 1]
  assert source.class_names == ('clap', 'fall', 'run')
  assert paths(sources.VideoFolder(name, min_frames=60)) == ['a.mp4', 'c.mp4']
  assert len(sources.VideoFolder(name, split='val', min_frames=61)) == 1
  with pytest.raises(FileNotFoundError, match='min_frames=99'):
    sources.VideoFolder(name, min_frames=99)
  with pytest.raises(ValueError, match=r"has the splits \['train', 'val'\]"):
    sources.VideoFolder(name, split='test')


def test_manifest_with_numbers_or_without_labels(tmp_path):
  rows = [{'path': 'x.mp4', 'label': 4}, {'path': 'a.mp4', 'label': 2}]
  source = sources.VideoFolder(manifest(tmp_path / 'a.jsonl', rows))
  assert labels(source) == [2, 4] and source.class_names == ()
  name = manifest(tmp_path / 'b.jsonl', [{'path': 'x.mp4'}])
  assert 'label' not in sources.VideoFolder(name)[0]
  name = manifest(tmp_path / 'c.jsonl', ROWS)
  assert 'label' not in sources.VideoFolder(name, labels='none')[0]


@pytest.mark.parametrize(
  'row, match',
  [
    ('{"path": ', 'not JSON'),
    ('[1]', 'expected an object'),
    ({'label': 'run'}, 'field "path" is missing'),
    ({'path': '', 'label': 'run'}, '"path" must be a string'),
    ({'path': 'x.mp4', 'label': 3}, 'labels must be all'),
    ({'path': 'x.mp4'}, 'labels must be all'),
    ({'path': 'x.mp4', 'label': 'run', 'num_frames': 'many'}, 'many'),
  ],
)
def test_bad_manifest_lines_are_named(tmp_path, row, match):
  name = manifest(tmp_path / 'bad.jsonl', [*ROWS, row])
  with pytest.raises(ValueError, match=rf'bad\.jsonl, line 5: .*{match}'):
    sources.VideoFolder(name)


def test_manifest_names_outside_class_names_are_errors(tmp_path):
  name = manifest(tmp_path / 'all.jsonl', ROWS)
  with pytest.raises(ValueError, match="line 3: class_names lacks .*'clap'"):
    sources.VideoFolder(name, class_names=('fall', 'run'))


# --- access ---


def test_random_access_and_pickling(tmp_path):
  touch(tmp_path, *(f'{c}/{i}.mp4' for c in 'ab' for i in range(3)))
  source = sources.VideoFolder(str(tmp_path))
  again = pickle.loads(pickle.dumps(source))
  assert paths(again) == paths(source) and labels(again) == labels(source)
  assert again.class_names == ('a', 'b')
  assert source[-1]['path'] == 'b/2.mp4'
  assert source[np.int64(2)]['path'] == 'a/2.mp4'
  with pytest.raises(IndexError):
    source[6]


def test_large_bytes_stay_out_of_the_repr():
  video = sources.VideoFile('record 3', data=b'x' * 10_000)
  assert len(repr(video)) < 200
  assert video.file == b'x' * 10_000
