"""TAP-Vid scores against stored ones, by hand, and with padding."""

import pathlib

import jax
import numpy as np
import pytest

from vidscenic.ops import grids, metrics, tracking

# One compilation per shape instead of one per operation.
tap_vid = jax.jit(
  tracking.tap_vid, static_argnames=('mode', 'thresholds', 'per')
)


FOLDER = pathlib.Path(__file__).parents[1] / 'golden'


def below(name, prefix):
  """The stored arrays whose names begin with `prefix`, without it."""
  with np.load(FOLDER / f'{name}.npz') as file:
    return {
      path.removeprefix(prefix): file[path]
      for path in file.files
      if path.startswith(prefix)
    }


def assert_stored(scores, stored):
  """All scores that are stored, and no others; float32 counts are exact."""
  assert scores.keys() == stored.keys()
  for name, want in stored.items():
    np.testing.assert_allclose(scores[name], want, rtol=1e-6, err_msg=name)


def scene(rows=2, points=5, frames=7, seed=0):
  """Random tracks, near their targets now and then."""
  rng = np.random.default_rng(seed)
  shape = (rows, points, frames)
  targets = rng.uniform(0, 256, (*shape, 2)).astype(np.float32)
  error = rng.normal(size=(*shape, 2)) * rng.choice([0.5, 3, 10], (*shape, 1))
  return dict(
    query_points=rng.integers(0, frames, (rows, points, 3)).astype(np.float32),
    target_points=targets,
    target_occluded=rng.random(shape) < 0.3,
    points=(targets + error).astype(np.float32),
    occluded=rng.random(shape) < 0.3,
  )


@pytest.mark.parametrize('per', tracking.PER)
@pytest.mark.parametrize('mode', tracking.MODES)
def test_scores_are_the_stored_ones(mode, per):
  given = below('tapir_metrics', 'inputs/metrics/')
  scores = tap_vid(
    query_points=given['query_points'],
    target_points=given['gt_tracks'],
    target_occluded=given['gt_occluded'],
    points=given['pred_tracks'],
    occluded=given['pred_occluded'],
    mode=mode,
    per=per,
  )
  stored = below('tapir_metrics', f'outputs/metrics/{mode}/per_{per}/')
  assert_stored(scores, stored)


@pytest.mark.parametrize('rule', ['demo', 'model'])
def test_scores_in_the_pixels_of_a_wide_video_are_the_stored_ones(rule):
  given = below('trajan_metrics', 'inputs/')
  stored = below('trajan_metrics', f'outputs/{rule}/')
  visible, certain = given['visible_logits'], given['certain_logits']
  if rule == 'demo':
    # The published demo: a rule for logits of the opposite meaning.
    occluded = ~tracking.predicted_occluded(visible, certain)
  else:
    occluded = tracking.predicted_occluded(-visible, -certain)
  size = dict(size=(180, 320), order='xy')
  kwargs = dict(
    query_points=np.zeros((2, 40, 3)),
    target_points=grids.unit_to_pixels(given['target_tracks'], **size),
    target_occluded=given['target_tracks_visible'][..., 0] == 0,
    points=grids.unit_to_pixels(given['pred_tracks'], **size),
    occluded=occluded[..., 0],
    mode='strided',
    # 22 frames, padded to 30.
    mask=np.broadcast_to(np.arange(30) < 22, (2, 40, 30)),
  )
  tracks = stored.pop('trackwise_average_jaccard', None)
  assert_stored(tap_vid(**kwargs), stored)
  if tracks is not None:
    got = tap_vid(**kwargs, per='track')['average_jaccard']
    want = np.where(tracks == -1, np.nan, tracks)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_visibility_from_logits_is_the_stored_one():
  given = below('tapir_metrics', 'inputs/loss/')
  occluded = tracking.predicted_occluded(
    given['occlusion_logits'], given['expected_dist_logits']
  )
  stored = below('tapir_metrics', 'outputs/visible_from_logits')['']
  np.testing.assert_array_equal(~occluded, stored)
  alone = tracking.predicted_occluded(np.array([-0.1, 0.1]))
  assert alone.tolist() == [False, True]


def by_hand(mode):
  """One track of 4 frames with its query in frame 1."""
  return tap_vid(
    query_points=np.array([[[1.2, 0, 0]]]),
    target_points=np.zeros((1, 1, 4, 2)),
    target_occluded=np.array([[[False, False, False, True]]]),
    points=np.array([[[[0.5, 0], [99, 99], [2, 0], [0, 0]]]]),
    occluded=np.array([[[False, True, False, False]]]),
    mode=mode,
  )


def test_by_hand_behind_the_query():
  scores = {k: float(v[0]) for k, v in by_hand('first').items()}
  # Frame 2: visible, 2 pixels off, which is not nearer than 2. Frame 3: a
  # point is claimed where none is visible.
  assert scores['occlusion_accuracy'] == 0.5
  assert [scores[f'pts_within_{t}'] for t in (1, 2, 4)] == [0, 0, 1]
  # Frame 2 is false positive twice over below 4 pixels: 1 visible + 2 false.
  assert [scores[f'jaccard_{t}'] for t in (1, 2, 4)] == [0, 0, 0.5]
  assert scores['average_jaccard'] == pytest.approx(0.3)
  assert scores['average_pts_within_thresh'] == pytest.approx(0.6)


def test_by_hand_all_but_the_query_frame():
  scores = {k: float(v[0]) for k, v in by_hand('strided').items()}
  assert scores['occlusion_accuracy'] == pytest.approx(2 / 3)
  assert scores['pts_within_1'] == 0.5
  assert scores['jaccard_1'] == pytest.approx(1 / 4)
  assert scores['jaccard_4'] == pytest.approx(2 / 3)


def test_perfect_tracks_score_one():
  given = scene()
  given |= {
    'points': given['target_points'],
    'occluded': given['target_occluded'],
  }
  scores = tap_vid(**given, mode='strided')
  assert all(np.all(value == 1) for value in scores.values())


@pytest.mark.parametrize('per', tracking.PER)
def test_padding_changes_nothing(per):
  given = scene()
  want = tap_vid(**given, mode='first', per=per)
  rng = np.random.default_rng(1)
  padded = {}
  for name, value in given.items():
    widths = [(0, 1), (0, 3), (0, 2), (0, 0)][: value.ndim]
    if name == 'query_points':
      widths[2] = (0, 0)
    padded[name] = np.pad(value, widths)
    padded[name][2:] = rng.integers(0, 2, padded[name][2:].shape)
  mask = np.zeros((3, 8, 9), bool)
  mask[:2, :5, :7] = True
  got = tap_vid(**padded, mode='first', per=per, mask=mask)
  for name, value in want.items():
    value = np.asarray(value)
    part = np.asarray(got[name])[tuple(slice(n) for n in value.shape)]
    np.testing.assert_array_equal(part, value, err_msg=name)
    assert np.all(np.isnan(np.asarray(got[name])[2]))


def test_points_that_are_not_a_number_are_wrong():
  given = scene()
  given['points'] = np.full_like(given['points'], np.nan)
  scores = tap_vid(**given, mode='strided')
  assert np.all(scores['average_jaccard'] == 0)
  assert np.all(scores['average_pts_within_thresh'] == 0)


def test_mean_over_videos_leaves_out_those_without_a_score():
  given = scene()
  given['target_occluded'][1] = True
  scores = tap_vid(**given, mode='strided')
  assert np.isnan(scores['average_pts_within_thresh'][1])
  total, count = metrics.mean_of_known(scores['average_pts_within_thresh'])
  assert (float(total), float(count)) == (
    float(scores['average_pts_within_thresh'][0]),
    1,
  )


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'mode': 'all'}, 'mode must be'),
    ({'per': 'point'}, 'per must be'),
    ({'thresholds': ()}, 'thresholds is empty'),
    ({'occluded': np.zeros((2, 5), bool)}, r'occluded has shape \(2, 5\)'),
    ({'mask': np.ones(5, bool)}, 'mask of shape'),
  ],
)
def test_unusable_arguments_are_named(changes, words):
  with pytest.raises(ValueError, match=words):
    tracking.tap_vid(**{**scene(), 'mode': 'first', **changes})
