"""Event files, JSON lines, pictures: what is written can be read back."""

import errno
import io
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from tests.train import written
from vidscenic.train import media, writers

_ROOT = pathlib.Path(__file__).resolve().parents[2]


# Event files.


def test_tensorboard_reads_scalars(tmp_path):
  writer = writers.TensorBoardWriter(tmp_path)
  for step in (1, 2):
    writer.scalars(step, 'train', {'loss': np.float32(step / 3), 'n': step})
  writer.scalars(3, 'train', {'loss': math.nan, 'n': 1e300})
  writer.close()
  shown = written.shown(tmp_path, 'train/loss')
  assert shown[:2] == [(1, np.float32(1 / 3)), (2, np.float32(2 / 3))]
  assert math.isnan(shown[2][1])
  assert written.shown(tmp_path, 'train/n') == [(1, 1), (2, 2), (3, math.inf)]


def test_tensorboard_reads_text(tmp_path):
  writer = writers.TensorBoardWriter(tmp_path)
  writer.text(0, 'run', {'config': 'lr = 1e-3  # µ'})
  writer.close()
  assert written.shown(tmp_path, 'run/config') == [
    (0, 'lr = 1e-3  # µ'.encode())
  ]


def test_tensorboard_gets_images_and_playing_videos(tmp_path):
  video = written.video()
  writer = writers.TensorBoardWriter(tmp_path)
  pictures = {'frame': media.png(video[0]), 'clip': media.gif(video, fps=5)}
  writer.pictures(7, 'eval', pictures)
  writer.close()
  values = [v for e in written.events(tmp_path) for v in e.summary.value]
  frame, clip = (value.image for value in values)
  assert [v.tag for v in values] == ['eval/frame', 'eval/clip']
  assert (frame.height, frame.width, frame.colorspace) == (12, 20, 3)
  decoded = Image.open(io.BytesIO(frame.encoded_image_string))
  np.testing.assert_array_equal(np.asarray(decoded), video[0])
  decoded = Image.open(io.BytesIO(clip.encoded_image_string))
  assert (decoded.format, decoded.n_frames) == ('GIF', 5)
  assert decoded.info['duration'] == 200


def test_restored_run_hides_later_events(tmp_path):
  first = writers.TensorBoardWriter(tmp_path)
  for step in range(1, 6):
    first.scalars(step, 'train', {'loss': step})
  first.close()
  # Restored at step 3: rows 4 and 5 are stale, also before 4 comes again.
  second = writers.TensorBoardWriter(tmp_path)
  second.purge(4)
  assert [s for s, _ in written.shown(tmp_path, 'train/loss')] == [1, 2, 3]
  second.scalars(4, 'train', {'loss': 40})
  second.close()
  assert written.shown(tmp_path, 'train/loss')[2:] == [(3, 3.0), (4, 40.0)]


def test_closed_event_file_is_continued_in_a_later_one(tmp_path):
  writer = writers.TensorBoardWriter(tmp_path)
  for step in range(12):
    writer.scalars(step, 'train', {'loss': step})
    writer.close()
  assert len(list(tmp_path.iterdir())) == 12
  assert [s for s, _ in written.shown(tmp_path, 'train/loss')] == list(
    range(12)
  )


# JSON lines.


def test_rows_have_every_digit_and_are_valid_json(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  writer = writers.JsonlWriter(path)
  values = [0.1, np.float32(0.1), 1 / 3, 5e-324, np.int64(2**53 + 1), True]
  writer.scalars(1, 'a', {str(i): value for i, value in enumerate(values)})
  special = {'nan': math.nan, 'up': math.inf, 'down': np.float32(-math.inf)}
  writer.scalars(2, '', special)
  writer.close()

  def refuse(word):
    raise AssertionError(f'{word} is no JSON')

  first, second = (
    json.loads(line, parse_constant=refuse) for line in path.open()
  )
  assert first.pop('step') == 1
  assert list(first) == [f'a/{i}' for i in range(6)]
  assert list(first.values()) == [
    float(v) if i < 4 else v for i, v in enumerate(values)
  ]
  assert second['step'] == 2
  assert math.isnan(float(second['nan']))
  assert float(second['up']) == -float(second['down']) == math.inf


def test_restart_drops_rows_beyond_the_restored_step(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  writer = writers.JsonlWriter(path)
  for step in (2, 4, 6):
    writer.scalars(step, 'train', {'loss': step})
    writer.scalars(step, 'eval', {'loss': step})
  writer.close()
  writer = writers.JsonlWriter(path)
  writer.rewind(4)
  writer.scalars(5, 'train', {'loss': 50})
  writer.close()
  assert [row['step'] for row in written.rows(path)] == [2, 2, 4, 4, 5]
  assert [p.name for p in tmp_path.iterdir()] == ['metrics.jsonl']


def test_unfinished_rewrite_leaves_the_old_rows(tmp_path, monkeypatch):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"step": 2}\n')

  def stop(*unused):
    raise OSError(errno.ENOSPC, 'No space left on device')

  writer = writers.JsonlWriter(path)
  with monkeypatch.context() as patch:
    patch.setattr(os, 'replace', stop)
    with pytest.raises(OSError, match='metrics.jsonl.*Free some space'):
      writer.rewind(1)
  assert [row['step'] for row in written.rows(path)] == [1, 2]
  assert len(list(tmp_path.iterdir())) == 1


def test_row_torn_anywhere_is_dropped_and_the_rest_kept(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  whole = b'{"step": 1, "a": 0.5}\n'
  last = b'{"step": 2, "a": "NaN"}\n'
  for length in range(len(last) + 1):
    path.write_bytes(whole + last[:length])
    writer = writers.JsonlWriter(path)
    writer.scalars(3, '', {'a': 1})
    writer.close()
    # Without its newline alone the row is still complete.
    complete = length >= len(last) - 1
    want = [1, 2, 3] if complete else [1, 3]
    assert [row['step'] for row in written.rows(path)] == want, last[:length]


def test_killed_process_leaves_readable_rows(tmp_path):
  program = textwrap.dedent("""
    import itertools, sys
    from vidscenic.train import writers
    writer = writers.JsonlWriter(sys.argv[1])
    for step in itertools.count(1):
      writer.scalars(step, 'train', {f'metric_{i}': i / 3 for i in range(50)})
      print(step, flush=True)
  """)
  path = tmp_path / 'metrics.jsonl'
  with subprocess.Popen(
    [sys.executable, '-c', program, str(path)],
    stdout=subprocess.PIPE,
    cwd=_ROOT,
  ) as process:
    for line in process.stdout:
      if int(line) >= 100:
        break
    process.send_signal(signal.SIGKILL)
    process.stdout.read()
  writers.JsonlWriter(path).close()
  rows = written.rows(path)
  assert [row['step'] for row in rows] == list(range(1, len(rows) + 1))
  assert len(rows) >= 100
  assert all(len(row) == 51 for row in rows)


def test_values_that_are_no_single_number_are_named(tmp_path):
  writer = writers.JsonlWriter(tmp_path / 'metrics.jsonl')
  with pytest.raises(ValueError, match=r"'train/loss' has shape \(2,\)"):
    writer.scalars(1, 'train', {'loss': np.zeros(2)})
  writer.close()


# Pictures.


@pytest.mark.parametrize('fps, milliseconds', [(10, 100), (30, 30), (200, 20)])
def test_gif_keeps_frames_size_and_speed(fps, milliseconds):
  video = written.video(frames=7)
  picture = media.gif(video, fps=fps)
  decoded = Image.open(io.BytesIO(picture.data))
  assert decoded.n_frames == 7
  assert decoded.size == (picture.width, picture.height) == (20, 12)
  assert decoded.info['duration'] == milliseconds
  assert decoded.info['loop'] == 0
  for index in range(7):
    decoded.seek(index)
    frame = np.asarray(decoded.convert('RGB')).astype(int)
    # 240 random colours nearly fit into a palette of 256.
    np.testing.assert_allclose(frame, video[index], atol=8)


def test_gif_plays_equal_frames_as_long_as_different_ones():
  video = written.video(frames=4)
  video[1:3] = video[0]
  decoded = Image.open(io.BytesIO(media.gif(video, fps=10).data))
  durations = []
  for index in range(decoded.n_frames):
    decoded.seek(index)
    durations.append(decoded.info['duration'])
  assert durations == [300, 100]


@pytest.mark.parametrize('shape', [(1, 1, 1, 3), (2, 1, 90_000, 3)])
def test_gif_of_extreme_sizes(shape):
  pixels = np.zeros(shape, np.uint8)
  if shape[2] > 65_535:  # more than the format has bits for
    pixels = pixels[:, :, :60_000]
  assert Image.open(io.BytesIO(media.gif(pixels).data)).size[1] == 1
