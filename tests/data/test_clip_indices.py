"""Frame numbers of each protocol, computed by hand from its source."""

import itertools

import numpy as np
import pytest

from vidscenic.data import clip_indices


class Fixed:
  """A generator whose draws are given; checks what is asked of it."""

  def __init__(self, *draws):
    self.draws = list(draws)
    self.asked = []

  def integers(self, high, size=None):
    self.asked.append(high)
    draw = self.draws.pop(0)
    return np.full(size, draw) if size else draw

  def uniform(self, low, high, size):
    self.asked.append((low, high))
    return np.full(size, self.draws.pop(0))


def indices(length, n, s=1, rng=None, **kwargs):
  return clip_indices.sample_indices(
    length, num_frames=n, stride=s, rng=rng, **kwargs
  ).tolist()


def test_dmvr_evaluation():
  # (20 - 4 * 2) // 2 = 6.
  assert indices(20, 4, 2) == [[6, 8, 10, 12]]
  # 7 - 8 < 0: from 0, and the seventh frame is followed by the first.
  assert indices(7, 4, 2) == [[0, 2, 4, 6]]
  assert indices(3, 4, 2) == [[0, 2, 1, 0]]
  assert indices(3, 4, 2, pad='hold') == [[0, 2, 2, 2]]
  # int(linspace(0, 20 - 8, 3)) = 0, 6, 12.
  assert indices(20, 4, 2, num_views=3) == [
    [0, 2, 4, 6],
    [6, 8, 10, 12],
    [12, 14, 16, 18],
  ]
  # int(linspace(0, 5, 4)) = 0, 1, 3, 5.
  starts = [row[0] for row in indices(9, 4, 1, num_views=4)]
  assert starts == [0, 1, 3, 5]


def test_dmvr_training_bound_is_one_stride_wider():
  rng = Fixed(13)
  # max(20 - 3 * 2, 1) = 14, exclusive: 13 is the last offset.
  assert indices(20, 4, 2, rng) == [[13, 15, 17, 19]]
  assert rng.asked == [14]
  rng = Fixed(0)
  assert indices(3, 4, 2, rng) == [[0, 2, 1, 0]]
  assert rng.asked == [1]


def test_dmvr_at_another_frame_rate_takes_the_nearest_frames():
  # 30 -> 12 fps: every 2.5 frames, halves round up.
  assert indices(40, 5, fps=12, file_fps=30, rng=Fixed(0)) == [[0, 3, 5, 8, 10]]
  # 29.97 -> 30 must not show a frame twice.
  assert indices(40, 8, fps=30, file_fps=30000 / 1001, rng=Fixed(3)) == [
    list(range(3, 11))
  ]
  # 25 -> 50 fps shows each frame twice.
  assert indices(40, 4, fps=50, file_fps=25, rng=Fixed(0)) == [[0, 1, 1, 2]]


@pytest.mark.parametrize('protocol', clip_indices.PROTOCOLS)
def test_unknown_rate_of_the_file_is_an_error_with_fps(protocol):
  with pytest.raises(ValueError, match='fps=12 needs the frame rate'):
    indices(40, 3, 2, fps=12, protocol=protocol)


def test_slowfast_evaluation():
  # span 8, room 12, start 12 * i / 3; linspace(start, start + 7, 4).
  assert indices(20, 4, 2, protocol='slowfast', num_views=3) == [
    [0, 2, 4, 7],
    [4, 6, 8, 11],
    [8, 10, 12, 15],
  ]
  # Its use_offset: i * floor(12 / 2).
  assert indices(
    20, 4, 2, protocol='slowfast', num_views=3, spread_ends=True
  ) == [[0, 2, 4, 7], [6, 8, 10, 13], [12, 14, 16, 19]]
  assert indices(21, 4, 2, protocol='slowfast', spread_ends=True) == [
    [6, 8, 10, 13]
  ]
  # 5 frames: linspace(0, 7, 4) = 0, 2.33, 4.67, 7 held at 4.
  assert indices(5, 4, 2, protocol='slowfast') == [[0, 2, 4, 4]]
  assert indices(5, 4, 2, protocol='slowfast', pad='loop') == [[0, 2, 4, 2]]


def test_slowfast_training_starts_between_frames():
  rng = Fixed(5.6)
  # linspace(5.6, 12.6, 4) = 5.6, 7.93, 10.27, 12.6.
  assert indices(20, 4, 2, rng, protocol='slowfast') == [[5, 7, 10, 12]]
  assert rng.asked == [(0, 12)]
  rng = Fixed(0.0)
  # 60 fps to 30: span 16.
  got = indices(20, 4, 2, rng, protocol='slowfast', fps=30, file_fps=60)
  assert got == [[0, 5, 10, 15]]
  assert rng.asked == [(0, 4)]


def test_vjepa():
  # Parts of 20 // 2 = 10 > 8: linspace(0, 8, 4) = 0, 2.67, 5.33, 8 -> 7.
  assert indices(20, 4, 2, protocol='vjepa', num_views=2) == [
    [0, 2, 5, 7],
    [10, 12, 15, 17],
  ]
  rng = Fixed(1)
  assert indices(20, 4, 2, rng, protocol='vjepa') == [[1, 3, 6, 8]]
  assert rng.asked == [12]  # the place at 12 itself is never drawn
  # A part of 6 <= 8: linspace(0, 6, 3) -> 0, 3, 5, and 5 again.
  assert indices(12, 4, 2, protocol='vjepa', num_views=2) == [
    [0, 3, 5, 5],
    [6, 9, 11, 11],
  ]
  assert indices(8, 4, 2, protocol='vjepa') == [[0, 2, 5, 7]]
  # Fewer frames than the stride, fewer than clips.
  assert indices(1, 3, 2, protocol='vjepa') == [[0, 0, 0]]
  assert indices(2, 2, protocol='vjepa', num_views=3) == [
    [0, 0],
    [1, 1],
    [1, 1],
  ]


def test_vjepa_at_a_frame_rate_replaces_the_stride():
  # ceil(29.97) // 4 = 7: linspace(0, 21, 3) -> 0, 10, 20.
  got = indices(90, 3, 99, protocol='vjepa', fps=4, file_fps=30000 / 1001)
  assert got == [[0, 10, 20]]
  # 10 // 30 would be 0.
  got = indices(90, 3, 99, protocol='vjepa', fps=30, file_fps=10.0)
  assert got == [[0, 1, 2]]


@pytest.mark.parametrize('protocol', clip_indices.PROTOCOLS)
def test_indices_are_always_inside(protocol):
  rng = np.random.default_rng(0)
  choices = itertools.product(
    (1, 2, 5, 33), (1, 4), (1, 3), ('', 'loop', 'hold'), (1, 3), (0, 7.5, 60)
  )
  for length, n, s, pad, views, fps in choices:
    for generator in (None, rng):
      got = clip_indices.sample_indices(
        length,
        num_frames=n,
        stride=s,
        protocol=protocol,
        pad=pad,
        num_views=views,
        fps=fps,
        file_fps=25.0,
        rng=generator,
      )
      assert got.shape == (views, n) and got.dtype == np.int64
      assert got.min() >= 0 and got.max() < length


def test_training_offsets_are_uniform():
  rng = np.random.default_rng(0)
  starts = [indices(11, 4, 2, rng)[0][0] for _ in range(2000)]
  counts = np.bincount(starts, minlength=5)
  assert len(counts) == 5
  assert counts.min() > 320  # expected 400
