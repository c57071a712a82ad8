"""Tracking forward and back, on a picture that moves by whole pixels."""

import numpy as np

from projects.tapir import baselines, cycle

STARTS = np.float32([[12.5, 9.5], [20.5, 16.5], [9.5, 20.5]])


def moving(steps=4, shift=2):
  """uint8[T, 32, 40, 3]: noise that moves right by `shift` per frame."""
  picture = np.random.default_rng(0).integers(0, 256, (32, 60, 3), np.uint8)
  first = shift * steps
  starts = [first - shift * t for t in range(steps)]
  return np.stack([picture[:, x : x + 40] for x in starts])


def test_a_tracker_that_follows_comes_back():
  track = cycle._baseline(baselines.patch_correlation)
  assert cycle.measure(track, moving(), STARTS) == (1.0, 6.0, 0.0, 1.0)


def test_points_at_rest_come_back_without_having_moved():
  track = cycle._baseline(baselines.at_rest)
  assert cycle.measure(track, moving(), STARTS) == (1.0, 0.0, 0.0, 1.0)


def test_points_that_are_hidden_at_the_end_do_not_count():
  def track(frames, queries):
    visible = np.ones((3, len(frames)), bool)
    visible[1:, -1] = False
    points = np.repeat(queries[:, None, :0:-1], len(frames), 1)
    # Forward a pixel to the right, back another one.
    return points + np.float32([1, 0]), visible

  got = cycle.measure(track, moving(), STARTS)
  np.testing.assert_allclose(got, (1 / 3, 1.0, 2.0, 1.0))


def test_nothing_visible_gives_no_distance():
  def track(frames, queries):
    points = np.repeat(queries[:, None, :0:-1], len(frames), 1)
    return points, np.zeros((3, len(frames)), bool)

  visible, *others = cycle.measure(track, moving(), STARTS)
  assert visible == 0 and np.isnan(others).all()
