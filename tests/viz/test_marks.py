"""Antialiased marks, by the pixel."""

import warnings

import numpy as np
import pytest

from vidscenic.viz import marks

WHITE = np.array([255, 255, 255], np.uint8)
FAR = [[np.nan, 4], [np.inf, 4], [-1e30, 1e30], [1e6, 3], [-40, -40]]


def draw(add, height=9, width=15):
  """What `add` draws in white on black: uint8[height, width]."""
  layer = marks.Layer(height, width)
  add(layer)
  frame = np.zeros((height, width, 3), np.uint8)
  layer.paint(frame)
  assert (frame == frame[..., :1]).all()
  return frame[..., 0]


def test_dot_sits_on_the_pixel_whose_centre_it_is():
  got = draw(lambda layer: layer.dots([[10.5, 4.5]], 1.0, WHITE))
  want = np.zeros((9, 15))
  want[4, 10] = 255
  # One pixel away the centre lies on the edge: half covered.
  want[4, [9, 11]] = want[[3, 5], 10] = 127.5
  # Diagonally sqrt(2) away: 1 + 0.5 - 1.414.
  want[np.ix_([3, 5], [9, 11])] = 255 * (1.5 - np.sqrt(2))
  np.testing.assert_allclose(got, want, atol=1)


def test_dot_on_a_corner_covers_four_pixels_alike():
  got = draw(lambda layer: layer.dots([[10.0, 4.0]], 0.9, WHITE))
  np.testing.assert_array_equal(
    np.argwhere(got), [[3, 9], [3, 10], [4, 9], [4, 10]]
  )
  assert len({*got[got > 0]}) == 1


@pytest.mark.parametrize('radius', [1.6, 2.3, 6.0, 20.0])
def test_area_is_that_of_the_shape(radius):
  def area(add):
    return draw(add, 64, 64).sum(dtype=float) / 255

  centre = [[31.7, 32.2]]
  # The pixels' share is a ramp along the edge, good to some percent.
  assert area(lambda a: a.dots(centre, radius, WHITE)) == pytest.approx(
    np.pi * radius**2, rel=0.08
  )
  assert area(
    lambda a: a.rings(centre, radius + 2, WHITE, width=2.0)
  ) == pytest.approx(np.pi * ((radius + 2) ** 2 - radius**2), rel=0.05)
  assert area(lambda a: a.diamonds(centre, radius + 2, WHITE)) == pytest.approx(
    2 * (radius + 2) ** 2, rel=0.08
  )


def test_ring_is_hollow():
  got = draw(lambda layer: layer.rings([[7.5, 4.5]], 4.0, WHITE, width=1.0))
  assert got[4, 7] == 0
  # The line is 1 wide, its middle at a radius of 3.5, between two pixels.
  np.testing.assert_allclose(got[4, 7:12], [0, 0, 0, 127, 127], atol=1)


def test_level_line_fills_its_row_between_the_ends():
  got = draw(lambda a: a.lines([[2.5, 4.5]], [[11.5, 4.5]], 1.0, WHITE))
  want = np.zeros((9, 15))
  want[4, 2:12] = 255
  np.testing.assert_array_equal(got, want)


def test_line_in_pieces_equals_its_distance_field():
  start, stop, width = np.array([3.3, 2.1]), np.array([57.9, 40.4]), 3.0
  got = draw(lambda a: a.lines([start], [stop], width, WHITE), 48, 64)
  y, x = np.mgrid[:48, :64] + 0.5
  way = stop - start
  along = ((x - start[0]) * way[0] + (y - start[1]) * way[1]) / (way @ way)
  along = np.clip(along, 0, 1)
  far = np.hypot(x - start[0] - along * way[0], y - start[1] - along * way[1])
  want = 255 * np.clip(width / 2 + 0.5 - far, 0, 1)
  np.testing.assert_allclose(got, want, atol=1)


def test_line_to_far_away_is_cut_at_the_picture():
  near = draw(lambda a: a.lines([[2.5, 4.5]], [[40.5, 4.5]], 1.0, WHITE))
  far = draw(lambda a: a.lines([[2.5, 4.5]], [[1e12, 4.5]], 1.0, WHITE))
  np.testing.assert_array_equal(near, far)
  across = draw(lambda a: a.lines([[-1e9, 4.5]], [[1e9, 4.5]], 1.0, WHITE))
  assert (across[4] == 255).all() and across.sum() == 15 * 255


@pytest.mark.parametrize('kind', ['dots', 'rings', 'diamonds', 'lines'])
def test_nothing_is_drawn_and_raised_outside_or_at_nan(kind):
  def add(layer):
    if kind == 'lines':
      layer.lines(FAR[:2], [[3, 3], [3, 3]], 2.0, WHITE)
      layer.lines([[-9, -9], [30, 0]], [[-5, 40], [31, 9]], 2.0, WHITE)
      layer.lines([[np.nan, 1]], [[1, 1]], 2.0, WHITE)
      layer.lines([[np.inf, 1]], [[np.inf, 1]], 2.0, WHITE)
    elif kind == 'rings':
      layer.rings(FAR, 3.0, WHITE, width=1.0)
    else:
      getattr(layer, kind)(FAR, 3.0, WHITE)

  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert not draw(add).any()


def test_marks_at_the_border_are_cut_without_wrapping():
  whole = draw(lambda a: a.dots([[12.0, 12.0]], 5.0, WHITE), 24, 24)
  for x, y in ((0, 0), (12, 0), (0, 12), (12, 12)):
    corner = draw(lambda a, x=x, y=y: a.dots([[x, y]], 5.0, WHITE), 12, 12)
    np.testing.assert_array_equal(
      corner, whole[12 - y : 24 - y, 12 - x : 24 - x]
    )


def test_of_equal_marks_the_last_is_seen_and_layers_start_empty():
  layer = marks.Layer(9, 9)
  colors = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)
  layer.dots([[4.5, 4.5], [4.5, 4.5]], 2.0, colors)
  layer.dots([[0.5, 0.5]], 2.0, WHITE, alpha=0.2)
  frame = np.zeros((9, 9, 3), np.uint8)
  layer.paint(frame)
  assert frame[4, 4].tolist() == [0, 255, 0]
  assert frame[0, 0].tolist() == [51, 51, 51]
  again = np.zeros((9, 9, 3), np.uint8)
  layer.paint(again)
  assert not again.any()


def test_frame_that_would_be_copied_is_refused():
  layer = marks.Layer(9, 15)
  with pytest.raises(ValueError, match='contiguous'):
    layer.paint(np.zeros((9, 30, 3), np.uint8)[:, ::2])
  with pytest.raises(ValueError, match=r'uint8\[9, 15, 3\], got \[9, 14, 3\]'):
    layer.paint(np.zeros((9, 14, 3), np.uint8))


def test_crossing_faded_lines_do_not_add_up():
  def add(layer):
    layer.lines(
      [[2.5, 4.5], [7.5, 0.5]],
      [[12.5, 4.5], [7.5, 8.5]],
      1.0,
      WHITE,
      [0.4, 0.4],
    )

  got = draw(add)
  assert got[4, 7] == got[4, 3] == got[1, 7] == 102


def test_many_marks_are_the_same_in_blocks(monkeypatch):
  rng = np.random.default_rng(0)
  centres, colors = rng.uniform(0, 40, (50, 2)), rng.integers(0, 255, (50, 3))
  frames = []
  for block in (1 << 19, 100):
    monkeypatch.setattr(marks, '_BLOCK', block)
    layer = marks.Layer(40, 40)
    layer.dots(centres, 3.0, colors.astype(np.uint8))
    frames.append(np.zeros((40, 40, 3), np.uint8))
    layer.paint(frames[-1])
  assert frames[0].any()
  np.testing.assert_array_equal(*frames)
