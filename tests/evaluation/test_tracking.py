"""Chunks of points, scores of whole videos and their table."""

import numpy as np
import pytest

from vidscenic.evaluation import tracking
from vidscenic.ops import tracking as tracking_ops


def queries(count, seed=0):
  return np.random.default_rng(seed).random((count, 3)).astype(np.float32)


@pytest.mark.parametrize(
  ('count', 'calls'), [(1, [4]), (4, [4]), (5, [8]), (19, [8, 8, 4])]
)
def test_any_number_of_points_in_a_few_sizes(count, calls):
  seen = []

  def track(points):
    seen.append(len(points))
    tracks = np.repeat(points[:, None, 1:], 3, axis=1)
    return tracks, tracks[..., 0] > 0.5

  given = queries(count)
  points, occluded = tracking.track_in_chunks(given, track, sizes=(4, 8))
  assert seen == calls
  np.testing.assert_array_equal(points, np.stack([given[:, 1:]] * 3, axis=1))
  np.testing.assert_array_equal(occluded, points[..., 0] > 0.5)


def test_padding_repeats_a_query_of_the_chunk():
  given = queries(6)
  seen = []

  def track(points):
    seen.append(points)
    return np.zeros((len(points), 2, 2)), np.zeros((len(points), 2))

  tracking.track_in_chunks(given, track, sizes=(4,))
  np.testing.assert_array_equal(seen[1], given[[4, 5, 4, 4]])


def test_unusable_arguments_are_named():
  with pytest.raises(ValueError, match='ascending'):
    tracking.track_in_chunks(queries(2), None, sizes=(8, 4))
  with pytest.raises(ValueError, match='N > 0'):
    tracking.track_in_chunks(queries(0), None)
  with pytest.raises(ValueError, match='no videos'):
    tracking.mean_scores({})


def video(count, frames, seed=0):
  rng = np.random.default_rng(seed)
  targets = rng.uniform(0, 256, (count, frames, 2))
  given = queries(count)
  given[:, 0] = rng.integers(0, frames - 1, count)
  return dict(
    query_points=given,
    target_points=targets,
    target_occluded=rng.random((count, frames)) < 0.3,
    points=targets + 3 * rng.normal(size=targets.shape),
    occluded=rng.random((count, frames)) < 0.3,
  )


@pytest.mark.parametrize('shape', [(3, 7), (16, 64)])
def test_scores_of_a_video_are_those_without_padding(shape):
  given = video(*shape)
  got = tracking.video_scores(**given, mode='strided')
  batch = {name: value[None] for name, value in given.items()}
  want = tracking_ops.tap_vid(**batch, mode='strided')
  want = {name: float(value[0]) for name, value in want.items()}
  assert got == pytest.approx(want, rel=1e-6)  # sums in another order


def test_mean_is_over_videos_that_have_a_score():
  videos = {
    'a': {'x': 0.5, 'y': np.nan, 'z': np.nan},
    'b': {'x': 1.0, 'y': 0.25, 'z': np.nan},
  }
  means = tracking.mean_scores(videos)
  assert (means['x'], means['y']) == (0.75, 0.25)
  assert np.isnan(means['z'])


def test_table_is_in_percent_and_aligned():
  names = [
    'average_jaccard',
    'average_pts_within_thresh',
    'occlusion_accuracy',
    *(f'jaccard_{t}' for t in tracking_ops.THRESHOLDS),
  ]
  videos = {
    'bear': dict.fromkeys(names, 0.5),
    'breakdance': dict.fromkeys(names, 0.25),
  }
  lines = tracking.table(videos).splitlines()
  assert len({len(line) for line in lines}) == 1
  assert lines[0].split()[:4] == ['AJ', 'delta_avg', 'OA', 'J1']
  assert lines[1].split()[:2] == ['bear', '50.0']
  assert lines[-1].split()[:2] == ['mean', '37.5']
