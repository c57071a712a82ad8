"""A folder of odd videos becomes one that trains fast, whatever happens."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.data import make_odd_videos
from vidscenic.data import array_records, clips, decode, sources, writer
from vidscenic.tools import prepare_videos

ROOT = pathlib.Path(__file__).resolve().parents[2]


def video(path, first=0, num_frames=4, fps=8):
  """Writes frames whose bar codes count from `first`."""
  path.parent.mkdir(parents=True, exist_ok=True)
  frames = [make_odd_videos.draw(first + i) for i in range(num_frames)]
  writer.write_video(path, frames, fps)


def run(source, output, *flags):
  """Exit status of the command line, in this process."""
  return prepare_videos.main(
    [f'--input={source}', f'--output={output}', '--num_processes=1', *flags]
  )


def read(source):
  """{path: (label, bar codes)} of a source."""
  found = {}
  for record in source:
    index = record['video'].index()
    frames = decode.read_frames(
      record['video'].file, np.arange(index.num_frames), index
    )
    codes = [make_odd_videos.read_code(frame) for frame in frames]
    label = record.get('label')
    found[record['path']] = (None if label is None else int(label), codes)
  return found


def manifest(folder):
  """(header, rows)."""
  text = (folder / 'manifest.jsonl').read_text()
  header, *rows = map(json.loads, text.splitlines())
  return header, rows


@pytest.fixture
def classes(tmp_path):
  root = tmp_path / 'in'
  video(root / 'clap' / 'a.mp4', 10)
  video(root / 'clap' / 'b.mp4', 20, num_frames=70)
  make_odd_videos.encode(
    str(root / 'clap' / 'c.webm'), 'libvpx-vp9', num_frames=5
  )
  video(root / 'jump' / 'deep' / 'a.mp4', 30, fps=25)
  return root


def test_folder_of_classes_comes_back_as_it_was(classes, tmp_path):
  out = tmp_path / 'out'
  assert run(classes, out) == 0
  source = sources.VideoFolder(str(out))
  assert source.class_names == ('clap', 'jump')
  assert read(source) == {
    'clap/a.mp4': (0, [10, 11, 12, 13]),
    'clap/b.mp4': (0, list(range(20, 90))),
    'clap/c.mp4': (0, [0, 1, 2, 3, 4]),
    'jump/deep/a.mp4': (1, [30, 31, 32, 33]),
  }
  header, rows = manifest(out)
  assert header['videos'] == 4 and header['settings']['crf'] == 23
  assert [row['num_frames'] for row in rows] == [4, 70, 5, 4]
  assert [row['fps'] for row in rows] == [8, 8, 25, 25]
  assert rows[0]['height'] == 64 and rows[0]['label'] == 'clap'
  index = decode.index_video(str(out / 'clap' / 'b.mp4'))
  assert np.diff(np.searchsorted(index.pts, index.key_pts)).max() <= 32


def test_equal_folders_have_equal_hashes(classes, tmp_path):
  hashes = []
  for name in ('one', 'two'):
    run(classes, tmp_path / name)
    hashes.append(manifest(tmp_path / name)[0]['content_hash'])
  video(classes / 'clap' / 'a.mp4', 11)
  run(classes, tmp_path / 'two')
  hashes.append(manifest(tmp_path / 'two')[0]['content_hash'])
  assert hashes[0] == hashes[1] != hashes[2]


def test_class_without_a_video_left_keeps_the_ids(tmp_path):
  video(tmp_path / 'in' / 'b' / '1.mp4', 1)
  (tmp_path / 'in' / 'a').mkdir()
  (tmp_path / 'in' / 'a' / 'bad.mp4').write_bytes(b'no video')
  assert run(tmp_path / 'in', tmp_path / 'out') == 1
  source = sources.VideoFolder(str(tmp_path / 'out'))
  assert [int(record['label']) for record in source] == [1]
  assert manifest(tmp_path / 'out')[0]['class_names'] == ['a', 'b']


def test_splits_of_folders(tmp_path, capsys):
  root, out = tmp_path / 'in', tmp_path / 'out'
  video(root / 'train' / 'a' / '1.mp4', 1)
  video(root / 'val' / 'a' / '1.mp4', 2)
  assert run(root, out) == 2
  assert 'look like splits: pass --splits=train,val' in capsys.readouterr().err
  assert run(root, out, '--splits=train,val') == 0
  for split, code in (('train', 1), ('val', 2)):
    source = sources.VideoFolder(str(out), split=split)
    assert source.class_names == ('a',)
    (found,) = read(source).items()
    assert found == (f'{split}/a/1.mp4', (0, list(range(code, code + 4))))
  assert run(root, tmp_path / 'classes', '--splits=.') == 0
  source = sources.VideoFolder(str(tmp_path / 'classes'))
  assert source.class_names == ('train', 'val')
  video(root / 'val' / 'b' / '1.mp4')
  assert run(root, tmp_path / 'x', '--splits=train,val') == 2
  assert 'same class folders, empty ones' in capsys.readouterr().err


def test_manifest_with_splits_and_labels_goes_through(classes, tmp_path):
  first, second = tmp_path / 'first', tmp_path / 'second'
  run(classes, first)
  lines = (first / 'manifest.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines[1:]]
  for row, split in zip(rows, ['test', 'train', 'train', 'test'], strict=True):
    row['split'] = split
  (first / 'manifest.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  assert run(first, second) == 0
  for split in ('train', 'test'):
    one, two = (
      sources.VideoFolder(str(folder), split=split)
      for folder in (first, second)
    )
    assert read(one) == read(two)
    assert two.class_names == ('clap', 'jump')


def test_list_with_paths_from_elsewhere(tmp_path):
  video(tmp_path / 'x' / 'a.mp4', 1)
  video(tmp_path / 'y' / 'a.mp4', 2)
  (tmp_path / 'lists').mkdir()
  listed = tmp_path / 'lists' / 'train.txt'
  listed.write_text(f'{tmp_path}/x/a.mp4 7\n../y/a.mp4 3\n')
  assert run(listed, tmp_path / 'out') == 0
  assert read(sources.VideoFolder(str(tmp_path / 'out'))) == {
    'x/a.mp4': (7, [1, 2, 3, 4]),
    'y/a.mp4': (3, [2, 3, 4, 5]),
  }


def test_names_that_differ_in_the_ending_do_not_collide(tmp_path):
  video(tmp_path / 'in' / 'a.mp4', 1)
  make_odd_videos.encode(str(tmp_path / 'in' / 'a.avi'), 'mpeg4', num_frames=3)
  assert run(tmp_path / 'in', tmp_path / 'out') == 0
  assert read(sources.VideoFolder(str(tmp_path / 'out'))) == {
    'a.mp4': (None, [1, 2, 3, 4]),
    'a.avi.mp4': (None, [0, 1, 2]),
  }


def test_bad_files_are_listed_and_tried_again(classes, tmp_path, capsys):
  out = tmp_path / 'out'
  bad = classes / 'clap' / 'bad.mp4'
  bad.write_bytes((classes / 'clap' / 'a.mp4').read_bytes()[:500])
  assert run(classes, out) == 1
  assert '1 could not be read' in capsys.readouterr().err
  path, reason = (out / 'failed.txt').read_text().strip().split('\t')
  assert path == str(bad) and 'InvalidData' in reason
  assert 'clap/bad.mp4' not in read(sources.VideoFolder(str(out)))
  video(bad, 50)
  assert run(classes, out) == 0
  assert not (out / 'failed.txt').exists()
  assert read(sources.VideoFolder(str(out)))['clap/bad.mp4'][1][0] == 50


def test_videos_without_an_answer_are_listed_and_tried_again(
  tmp_path, monkeypatch, capsys
):
  source, out = tmp_path / 'in', tmp_path / 'out'
  for name in ('a', 'b'):
    video(source / f'{name}.mp4')
  run_all = prepare_videos.workers.run
  with monkeypatch.context() as patch:
    patch.setattr(
      prepare_videos.workers,
      'run',
      lambda function, jobs, **options: run_all(function, jobs[1:], **options),
    )
    assert run(source, out, '--labels=none') == 1
  assert '1 could not be read' in capsys.readouterr().err
  listed = (out / 'failed.txt').read_text()
  assert listed == f'{source}/a.mp4\tno process answered; try again\n'
  assert set(read(sources.VideoFolder(str(out)))) == {'b.mp4'}
  assert run(source, out, '--labels=none') == 0
  assert set(read(sources.VideoFolder(str(out)))) == {'a.mp4', 'b.mp4'}


def test_finished_files_are_not_done_again(classes, tmp_path):
  out = tmp_path / 'out'
  run(classes, out)
  names = ('clap/a.mp4', 'clap/b.mp4', 'jump/deep/a.mp4')
  before = [os.stat(out / name).st_mtime_ns for name in names]
  first = (out / 'manifest.jsonl').read_bytes()
  assert run(classes, out) == 0
  assert [os.stat(out / n).st_mtime_ns for n in names] == before
  assert (out / 'manifest.jsonl').read_bytes() == first
  # Done again: a source that changed, a result that was deleted.
  video(classes / 'clap' / 'a.mp4', 40)
  (out / 'clap' / 'b.mp4').unlink()
  assert run(classes, out) == 0
  after = [os.stat(out / name).st_mtime_ns for name in names]
  assert [a != b for a, b in zip(after, before, strict=True)] == [
    True,
    True,
    False,
  ]
  assert read(sources.VideoFolder(str(out)))['clap/a.mp4'][1][0] == 40


def test_killed_run_goes_on(classes, tmp_path):
  """kill -9 while the second line of the journal is being written."""
  out = tmp_path / 'out'
  program = f"""
import os, signal
from vidscenic.tools import preparation, prepare_videos
def append(self, entry, whole=preparation.Journal._append):
  if entry.get('path') == 'clap/b.mp4':
    self._file.write(b'{{"path": "clap/b.mp4", "sou')
    self._file.flush()
    open({str(out / 'clap' / '.c.mp4.part')!r}, 'wb').write(b'half')
    os.kill(os.getpid(), signal.SIGKILL)
  whole(self, entry)
preparation.Journal._append = append
prepare_videos.main(['--input', {str(classes)!r}, '--output', {str(out)!r},
                     '--num_processes=1'])
"""
  got = subprocess.run(
    [sys.executable, '-c', program], timeout=60, cwd=ROOT, check=False
  )
  assert got.returncode == -signal.SIGKILL
  assert not (out / 'manifest.jsonl').exists()
  before = os.stat(out / 'clap' / 'a.mp4').st_mtime_ns
  assert run(classes, out) == 0
  assert os.stat(out / 'clap' / 'a.mp4').st_mtime_ns == before
  assert len(read(sources.VideoFolder(str(out)))) == 4
  assert not list(out.rglob('*.part'))


def test_other_settings_are_refused(classes, tmp_path, capsys):
  run(classes, tmp_path / 'out')
  assert run(classes, tmp_path / 'out', '--crf=30', '--no_sound') == 2
  message = capsys.readouterr().err
  assert 'other settings (crf 23 -> 30, sound True -> False)' in message


def test_two_runs_at_once_are_refused(classes, tmp_path, capsys):
  from vidscenic.tools import preparation

  settings = prepare_videos.transcode.Settings()._asdict()
  with preparation.Journal(str(tmp_path / 'out'), settings):
    assert run(classes, tmp_path / 'out') == 2
  assert 'another process is preparing it' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('source', 'output', 'message'),
  [
    ('in', 'in/out', '--output=.*in/out lies in --input='),
    ('in', 'other', 'other holds files that are not of this tool'),
    ('none', 'out', "--input='.*none' does not exist"),
    ('other', 'out', 'no video in'),
    ('in', 'out --crf=99', r'crf must be in \[0, 51\], got 99'),
  ],
)
def test_mistakes_are_told_in_one_line(
  source, output, message, classes, tmp_path, capsys
):
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'thesis.txt').write_text('mine')
  output, *flags = output.split()
  assert run(tmp_path / source, tmp_path / output, *flags) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1
  assert re.search(message, lines[0])


def test_processes_give_the_same_as_one(classes, tmp_path):
  run(classes, tmp_path / 'one')
  assert run(classes, tmp_path / 'two', '--num_processes=2') == 0
  one, two = (tmp_path / n / 'manifest.jsonl' for n in ('one', 'two'))
  assert one.read_bytes() == two.read_bytes()


def test_shards_hold_the_same_videos(classes, tmp_path, capsys):
  out = tmp_path / 'out'
  assert run(classes, out, '--array_record') == 0
  folder = capsys.readouterr().out.splitlines()[-1].rpartition(' ')[2]
  assert folder == str(out / 'array_record' / 'videos' / '1.0.0')
  shards = array_records.ArrayRecords(folder, 'train')
  assert shards.class_names == ('clap', 'jump')
  files = {record['path']: record for record in sources.VideoFolder(str(out))}
  transform = clips.ClipTransform(num_frames=3, train=False, size=(32, 32))
  rng = np.random.default_rng(0)
  for record in shards:
    file = files.pop(record['id'])
    assert record['label'] == file['label']
    assert record['video'] == pathlib.Path(file['video'].path).read_bytes()
    np.testing.assert_array_equal(
      transform.sample(record, rng)['video'],
      transform.sample(file, rng)['video'],
    )
  assert not files
  # Packed again only if something changed.
  info = pathlib.Path(folder) / 'dataset_info.json'
  before = info.stat().st_mtime_ns
  assert run(classes, out, '--array_record') == 0
  assert info.stat().st_mtime_ns == before
  video(classes / 'jump' / 'new.mp4', 60)
  assert run(classes, out, '--array_record') == 0
  assert len(array_records.ArrayRecords(folder)) == 5
