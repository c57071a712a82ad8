"""Files that are written have the frames, times and sound that they were given.

What is heard is tested in test_audio.
"""

import fractions
import itertools

import av
import numpy as np
import pytest

from tests.data import make_odd_videos
from vidscenic.data import decode, writer


def read(path):
  index = decode.index_video(path)
  frames = decode.read_frames(path, range(index.num_frames), index)
  return index, [make_odd_videos.read_code(f) for f in frames]


@pytest.mark.parametrize('preset', ['medium', 'veryfast'])
def test_variable_rate_is_kept_exactly(tmp_path, preset):
  unit = fractions.Fraction(1001, 90_000)
  stamps = [0, 3, 4, 11, 12, 13, 40, 90, 91, 95]
  path = tmp_path / 'a.mp4'
  output = writer.VideoWriter(path, 12.0, time_base=unit, preset=preset)
  for number, stamp in enumerate(stamps):
    output.write(make_odd_videos.draw(number), stamp)
  output.close(duration=5)
  index, codes = read(path)
  assert codes == list(range(10))
  ticks = fractions.Fraction(index.time_base).limit_denominator(10**6)
  assert [int(p) * ticks for p in index.pts] == [s * unit for s in stamps]
  with av.open(str(path)) as container:
    assert 95 * unit < container.duration / 1e6 <= 100 * unit


@pytest.mark.parametrize('num_frames', [1, 2, 37])
def test_a_constant_rate_lasts_as_long_as_its_frames(tmp_path, num_frames):
  path = tmp_path / 'a.mp4'
  frames = (make_odd_videos.draw(i) for i in range(num_frames))
  writer.write_video(path, frames, 30000 / 1001)
  index, codes = read(path)
  assert codes == list(range(num_frames))
  with av.open(str(path)) as container:
    duration = container.duration / 1e6
  assert duration == pytest.approx(num_frames * 1001 / 30000, abs=2e-3)


def test_sound_lies_between_the_pictures_of_its_time(tmp_path):
  path = tmp_path / 'a.mp4'
  frames = (make_odd_videos.draw(i % 64) for i in range(75))
  writer.write_video(path, frames, 25, np.zeros(48_000 * 3))
  with av.open(str(path)) as container:
    packets = [(p.pos, p.stream.type) for p in container.demux() if p.size]
  kinds = [kind for _, kind in sorted(packets)]
  runs = [len(list(run)) for kind, run in itertools.groupby(kinds)]
  assert max(runs) < 50  # a second has 47 packets of sound


def test_odd_rows_and_columns_are_cropped(tmp_path):
  frame = np.full((17, 33, 3), 90, np.uint8)
  frame[16], frame[:, 32] = 255, 255
  writer.write_video(tmp_path / 'a.mp4', [frame], 25)
  (got,) = decode.read_frames(tmp_path / 'a.mp4', [0])
  assert got.shape == (16, 32, 3)
  assert abs(int(got.max()) - 90) < 4


@pytest.mark.parametrize(
  ('frames', 'message'),
  [
    ([(0, (8, 8)), (0, (8, 8))], 'frame 1 has time stamp 0, the one before 0'),
    ([(1, (8, 8))], 'frame 0 has time stamp 1'),
    ([(0, (8, 8)), (1, (8, 10))], r'frame 1 has size \(8, 10\), expected \(8'),
    ([(0, (1, 8))], r'at least 2x2, got \(1, 8\)'),
    ([], 'frames is empty'),
  ],
)
def test_wrong_frames_are_refused(tmp_path, frames, message):
  with pytest.raises(ValueError, match=message):
    with writer.VideoWriter(tmp_path / 'a.mp4', 25) as output:
      for stamp, size in frames:
        output.write(np.zeros((*size, 3), np.uint8), stamp)


def test_frames_are_not_gathered(tmp_path):
  """Packets are written as they come, not at the end."""
  path = tmp_path / 'a.mp4'
  rng = np.random.default_rng(0)
  with writer.VideoWriter(path, 25, preset='veryfast') as output:
    for _ in range(120):
      output.write(rng.integers(0, 256, (64, 64, 3), np.uint8))
    size = path.stat().st_size
  assert size > 0.5 * path.stat().st_size
