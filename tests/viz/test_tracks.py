"""Tracks: where dots, rings and trails lie, and drawing part by part."""

import warnings

import numpy as np
import pytest

from vidscenic.viz import colors as colors_lib
from vidscenic.viz import tracks

RED = np.array([[255, 0, 0]], np.uint8)


def black(num_frames, height=48, width=64):
  return np.zeros((num_frames, height, width, 3), np.uint8)


def walk(num_tracks=6, num_frames=11, seed=0):
  rng = np.random.default_rng(seed)
  steps = rng.normal(size=(num_tracks, num_frames, 2)) * 3
  points = np.cumsum(steps, axis=1) + rng.uniform(10, 40, (num_tracks, 1, 2))
  return points.astype(np.float32), rng.random((num_tracks, num_frames)) < 0.3


def test_visible_point_is_a_dot_centred_in_raster_pixels():
  points = np.array([[[10.5, 4.5]]], np.float32)
  got = tracks.draw_tracks(
    black(1), points, np.zeros((1, 1), bool), colors=RED, radius=2.0
  )[0]
  assert got[4, 10].tolist() == [255, 0, 0]
  ys, xs = np.nonzero(got[..., 0])
  assert (ys.mean(), xs.mean()) == (4, 10)
  assert ys.max() - ys.min() == xs.max() - xs.min() == 4


def test_occluded_point_is_a_ring():
  points = np.array([[[10.5, 14.5]]], np.float32)
  got = tracks.draw_tracks(
    black(1), points, np.ones((1, 1), bool), colors=RED, radius=4.0
  )[0]
  assert not got[14, 10].any()
  assert got[14, 13, 0] > 200 and got[11, 10, 0] > 200


def test_trail_follows_the_last_frames_and_fades():
  x = np.arange(6) * 8 + 4.5
  points = np.stack([x, np.full(6, 20.5)], axis=-1)[None]
  got = tracks.draw_tracks(
    black(6), points, np.zeros((1, 6), bool), trail=3, colors=RED, radius=2.0
  )[5, 20, :, 0].astype(int)
  # Middles of the segments, the newest on the right: 3/4, 2/4 and 1/4.
  np.testing.assert_allclose(
    got[[40, 32, 24, 16, 8]], [191, 128, 64, 0, 0], atol=1
  )


def test_trail_is_left_out_next_to_occlusion():
  x = np.arange(5) * 10 + 4.5
  points = np.stack([x, np.full(5, 20.5)], axis=-1)[None]
  occluded = np.array([[False, False, True, False, False]])
  got = tracks.draw_tracks(
    black(5), points, occluded, trail=8, colors=RED, radius=2.0
  )[4, 20, :, 0]
  assert got[10] and got[40]
  assert not got[20] and not got[30]


def test_no_trail_on_request():
  points, occluded = walk()
  got = tracks.draw_tracks(black(11), points, occluded, trail=0)
  alone = tracks.draw_tracks(
    black(1),
    points[:, 5:6],
    occluded[:, 5:6],
    colors=tracks.track_colors(points[:, 0]),
  )
  np.testing.assert_array_equal(got[5], alone[0])


@pytest.mark.parametrize('parts', [(11,), (1,) * 11, (3, 1, 5, 2)])
@pytest.mark.parametrize('trail', [0, 2, 8])
def test_part_by_part_equals_all_at_once(parts, trail):
  points, occluded = walk()
  frames = np.random.default_rng(1).integers(0, 255, (11, 48, 64, 3), np.uint8)
  whole = tracks.draw_tracks(frames, points, occluded, trail=trail)
  painter = tracks.TrackPainter(trail=trail)
  start = 0
  for length in parts:
    part = slice(start, start + length)
    got = painter.draw(frames[part], points[:, part], occluded[:, part])
    np.testing.assert_array_equal(got, whole[part])
    got = tracks.draw_tracks(
      frames[part], points, occluded, trail=trail, first=start
    )
    np.testing.assert_array_equal(got, whole[part])
    start += length


def test_painter_keeps_no_more_than_the_trail():
  painter = tracks.TrackPainter(trail=3)
  points, occluded = walk()
  for t in range(11):
    painter.draw(black(1), points[:, t : t + 1], occluded[:, t : t + 1])
  assert painter._points.shape == (6, 3, 2)


def test_nan_and_points_outside_draw_nothing_and_raise_nothing():
  points = np.full((4, 5, 2), np.nan, np.float32)
  points[1] = -1e9
  points[2] = [70, 20]
  points[3] = np.inf
  for occluded in (np.zeros((4, 5), bool), np.ones((4, 5), bool)):
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      got = tracks.draw_tracks(black(5), points, occluded)
      errors = tracks.draw_errors(black(5), points, occluded, points, occluded)
    assert not got.any() and not errors.any()


def test_input_is_not_modified_and_no_tracks_change_nothing():
  frames = np.random.default_rng(0).integers(0, 255, (11, 48, 64, 3), np.uint8)
  before, (points, occluded) = frames.copy(), walk()
  assert (tracks.draw_tracks(frames, points, occluded) != before).any()
  np.testing.assert_array_equal(frames, before)
  got = tracks.draw_tracks(frames, points[:0], occluded[:0])
  np.testing.assert_array_equal(got, before)


def test_default_radius_grows_with_the_picture():
  points = np.array([[[200.0, 200.0]]])
  small, large = (
    np.count_nonzero(
      tracks.draw_tracks(black(1, size, size), points, points[..., 0] < 0)
    )
    for size in (400, 1600)
  )
  assert 10 < large / small < 16


def test_error_is_a_line_from_prediction_to_visible_truth():
  points = np.array([[[10.5, 20.5]], [[10.5, 40.5]]])
  truth = points + [30, 0]
  hidden = np.array([[False], [True]])
  got = tracks.draw_errors(
    black(1),
    points,
    np.zeros((2, 1), bool),
    truth,
    hidden,
    colors=np.repeat(RED, 2, axis=0),
    radius=3.0,
  )[0, ..., 0]
  assert got[20, 10] == got[20, 25] == got[20, 40] == 255
  # A diamond: its corners lie on the axes.
  assert got[20, 43] and not got[17, 37]
  # The second truth is occluded.
  assert got[40, 10] == 255 and not got[40, 25] and not got[40, 40]


def test_colors_are_a_rainbow_from_top_to_bottom():
  positions = np.array([[5.0, 30.0], [9.0, 1.0], [7.0, 12.0], [2.0, 12.0]])
  got = tracks.track_colors(positions)
  np.testing.assert_array_equal(got[[1, 3, 2, 0]], colors_lib.rainbow(4))


def test_colors_belong_to_positions_not_to_their_order():
  positions = np.random.default_rng(0).uniform(size=(20, 2))
  positions[7] = np.nan
  order = np.random.default_rng(1).permutation(20)
  got = tracks.track_colors(positions)
  np.testing.assert_array_equal(
    tracks.track_colors(positions[order]), got[order]
  )
  np.testing.assert_array_equal(got[7], colors_lib.rainbow(20)[-1])
  assert len(np.unique(got, axis=0)) == 20


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'points': np.zeros((2, 3, 3))}, r'points must be float\[N, T, 2\]'),
    ({'occluded': np.zeros((2, 4), bool)}, r'must be bool\[2, 3\]'),
    ({'occluded': np.zeros((2, 3))}, r'must be bool\[2, 3\], got float64'),
    ({'frames': black(4)}, 'too few for 4'),
    ({'first': 1}, 'too few for 3 from first=1'),
    ({'colors': np.zeros((3, 3), np.uint8)}, r'colors must be uint8\[2, 3\]'),
    ({'frames': black(3).astype(float)}, r'expected uint8\[T, H, W, 3\]'),
  ],
)
def test_shapes_that_do_not_fit_are_told(change, message):
  good = {
    'frames': black(3),
    'points': np.zeros((2, 3, 2)),
    'occluded': np.zeros((2, 3), bool),
  }
  with pytest.raises(ValueError, match=message):
    tracks.draw_tracks(**good | change)


def test_painter_refuses_another_number_of_tracks():
  points, occluded = walk()
  painter = tracks.TrackPainter()
  painter.draw(black(2), points[:, :2], occluded[:, :2])
  with pytest.raises(ValueError, match='got 5 points after 6'):
    painter.draw(black(2), points[:5, 2:4], occluded[:5, 2:4])


def test_painter_refuses_more_positions_than_frames():
  points, occluded = walk()
  with pytest.raises(ValueError, match='11 positions for 2 frames'):
    tracks.TrackPainter().draw(black(2), points, occluded)
