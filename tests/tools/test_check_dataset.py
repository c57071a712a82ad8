"""The checker reads what training would read, and says what is wrong."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.data import make_odd_videos, tfds_folders
from vidscenic.data import writer
from vidscenic.tools import check_dataset

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
  """Class folders with six videos of four frames, 8 per second."""
  for i in range(6):
    path = tmp_path / ('clap', 'jump')[i % 2] / f'{i}.mp4'
    path.parent.mkdir(exist_ok=True)
    frames = [make_odd_videos.draw(i + t) for t in range(4)]
    writer.write_video(path, frames, 8)
  return tmp_path


def run(name, root, *flags):
  return check_dataset.main([f'--name={name}', f'--root={root}', *flags])


def test_prints_classes_fields_and_decoded_frames(folder, capsys):
  assert run('video_folder', folder) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith(f'video_folder in {folder}, listed in')
  assert '  6 examples' in lines
  assert '  2 classes: clap, jump' in lines
  assert [line for line in lines if line.startswith('example')] == [
    'example 0',
    'example 3',
    'example 5',
  ]
  assert lines.count("  path: 'clap/0.mp4'") == 1
  assert sum('4 frames of 64 x 96, 8 per second' in line for line in lines) == 3
  assert lines.count('  class: jump') == 2
  assert lines[-1] == 'TensorFlow was not imported'


def test_other_examples_and_options(folder, capsys):
  flags = ['--examples=6', '--set', 'labels=none', '--split=jump']
  assert run('video_folder', folder, *flags) == 0
  out = capsys.readouterr().out
  assert '3 examples' in out and out.count('\nexample ') == 3
  assert 'class' not in out


def test_array_records(tmp_path, capsys):
  root = tfds_folders.write_folder(tmp_path, {'train': [[1, 2]], 'test': [[3]]})
  assert run('array_records', root, '--split=train') == 0
  out = capsys.readouterr().out
  assert '2 examples' in out
  assert "id: 'id2'" in out and 'frames: 2 x bytes' in out
  assert 'class: jump' in out


def test_damaged_video_fails_but_the_others_are_read(folder, capsys):
  whole = (folder / 'clap' / '0.mp4').read_bytes()
  (folder / 'clap' / '0.mp4').write_bytes(whole[:300])
  assert run('video_folder', folder) == 1
  captured = capsys.readouterr()
  assert 'clap/0.mp4: InvalidDataError' in captured.err
  assert '1 examples cannot be used' in captured.err
  assert captured.out.count('4 frames of') == 2


@pytest.mark.parametrize(
  ('name', 'root', 'flags', 'message'),
  [
    ('davs', '', [], "--name=davs is unknown; did you mean 'davis'?"),
    ('davis', '', [], 'ImageSets/2017/val.txt is missing: '),
    ('video_folder', 'nowhere', [], "--root='.*nowhere' does not exist"),
    ('video_folder', '', ['--set=min_frame=1'], "did you mean 'min_frames'"),
    ('video_folder', '', ['--set=labels'], '--set labels: want NAME=VALUE'),
    ('tapvid_csv', '', [], r"needs arguments \['annotations'\]"),
  ],
)
def test_mistakes_are_told_in_one_line(
  name, root, flags, message, folder, capsys
):
  assert run(name, folder / root, *flags) == 2
  captured = capsys.readouterr()
  (line,) = captured.err.splitlines()
  assert not captured.out
  assert re.search(message, line)


class Source:
  """Two examples whose fields are given."""

  def __init__(self, record, class_names=()):
    self._record, self.class_names = record, class_names

  def __len__(self):
    return 2

  def __getitem__(self, index):
    return self._record


def describe(record, class_names=()):
  return check_dataset.describe_example(
    Source(record, class_names), 0, check_dataset.random.Random(0)
  )


def test_values_are_summed_up():
  lines = describe(
    {
      'depth': np.array([[1.5, np.nan], [4, 2]], np.float32),
      'mask': np.array([True, False, False, False]),
      'label': np.array([0, 1, 1], np.float32),
      'points': np.zeros((0, 2)),
    },
    ('dog', 'rain', 'speech'),
  )
  assert lines == [
    'depth: float32[2, 2] from 1.5 to 4, 1 not finite',
    'label: float32[3] from 0 to 1',
    'mask: bool[4], 25 % True',
    'points: float64[0, 2]',
    'class: rain, speech',
  ]


def test_label_that_is_no_class():
  with pytest.raises(ValueError, match='label 3 is none of 2 classes'):
    describe({'label': np.int32(3)}, ('a', 'b'))


def test_labels_must_have_the_frames_of_the_video():
  record = {
    'video': np.zeros((4, 8, 8, 3), np.uint8),
    'depth': np.zeros((3, 8, 8, 1), np.float32),
  }
  with pytest.raises(ValueError, match='depth has 3 frames, the video 4'):
    describe(record)


def test_command_line(folder):
  got = subprocess.run(
    [
      sys.executable,
      '-m',
      'vidscenic.tools.check_dataset',
      '--name=video_folder',
      f'--root={folder}',
    ],
    capture_output=True,
    text=True,
    timeout=60,
    cwd=ROOT,
    check=False,
  )
  assert got.returncode == 0, got.stderr
  assert '6 examples' in got.stdout
