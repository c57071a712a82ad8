"""Online tracking: what a robot's program relies on."""

import jax
import numpy as np
import pytest

from projects.tapir import ship, tracker
from tests.projects import tapir_models
from vidscenic.data import synthetic
from vidscenic.ops import video as video_ops
from vidscenic.train import inspect

T = 6
POINTS = np.array([[5, 6], [20.5, 10], [39, 31], [0, 0]], np.float32)


@pytest.fixture(scope='module')
def live():
  return tracker.Tracker(
    *tapir_models.make_params(causal=True), tapir_models.SIZE
  )


@pytest.fixture(scope='module')
def video():
  return tapir_models.make_video(T)


def follow(live, video, state, begin=0):
  """(points [N, T, 2], visible [N, T], state behind the last frame)."""
  steps = []
  for frame in video[begin:]:
    tracks, state = live.step(frame, state)
    steps.append(tracks)
  points = np.stack([t.points for t in steps], 1)
  return points, np.stack([t.visible for t in steps], 1), state


def test_frame_by_frame_is_the_whole_clip(live, video):
  state = live.start(video[0], POINTS)
  points, visible, _ = follow(live, video, state)
  again, _ = live.step(video[0], state)  # states stay what they were
  np.testing.assert_array_equal(again.points, points[:, 0])
  queries = np.zeros((1, len(POINTS), 3), np.float32)
  queries[0, :, 1:] = POINTS[:, ::-1]

  def stages(model, video):
    grids = model.feature_grids(video)
    features = model.query_features(grids, queries)
    return model.trajectories(grids, features)[0]

  tracks = jax.jit(
    lambda p, v: live.model.apply({'params': p}, v, method=stages),
    compiler_options=tapir_models.FAST,
  )(live.params, video_ops.normalize(video[None]))
  last = tracks.final(live.model.num_pips_iter)
  np.testing.assert_allclose(points, last.points[0], atol=1e-3)
  assert visible.shape == (len(POINTS), T)


def test_positions_are_pixels_of_the_users_frame(live, video):
  """Frames of twice the size give twice the positions."""
  large = video.repeat(2, axis=1).repeat(2, axis=2)
  small, _, _ = follow(live, video, live.start(video[0], POINTS))
  found, _, _ = follow(live, large, live.start(large[0], 2 * POINTS))
  # Shrinking with antialiasing does not quite give the small frames back.
  assert np.median(np.abs(found / 2 - small)) < 1


def test_points_come_and_go_without_compiling(live, video):
  state = live.start(video[0], POINTS[:3])
  _, state = live.step(video[0], state)
  counter = inspect.CompileCounter()
  state = live.drop(state, [1])
  tracks, state = live.step(video[1], state)
  assert tracks.ids.tolist() == [0, 2]
  state = live.add(video[2], state, POINTS[1:])
  tracks, state = live.step(video[2], state)
  assert tracks.ids.tolist() == [0, 2, 3, 4, 5]
  other = live.start(video[3], POINTS[:1])
  tracks, _ = live.step(video[3], other)
  assert tracks.ids.tolist() == [0]
  counter.close()
  assert counter.count == 0


def test_a_new_point_in_an_old_slot_starts_afresh(live, video):
  state = live.start(video[0], POINTS[:3])
  _, _, state = follow(live, video[:3], state)
  state = live.add(video[3], live.drop(state, [1]), POINTS[3:])
  points, _, _ = follow(live, video, state, begin=3)
  fresh, _, _ = follow(live, video, live.start(video[3], POINTS[3:]), begin=3)
  np.testing.assert_allclose(points[2:], fresh, atol=1e-3)


def test_more_points_than_slots_keep_their_tracks(live, video):
  many = np.random.default_rng(0).random((20, 2)) * (40, 32)
  points, _, _ = follow(live, video[:4], live.start(video[0], POINTS))
  state = live.start(video[0], POINTS)
  _, _, state = follow(live, video[:2], state)
  state = live.add(video[2], state, many)
  tracks, state = live.step(video[2], state)
  assert len(tracks.ids) == 24
  np.testing.assert_allclose(tracks.points[:4], points[:, 2], atol=1e-3)


@pytest.mark.parametrize(
  ('points', 'message'),
  [
    (np.zeros((0, 2)), 'points is empty'),
    ([[5, np.nan]], r'points\[0\] = \(5, nan\) is not finite'),
    ([[5, 6], [41, 6]], r'points\[1\] = \(41, 6\) is outside .* \[0, 40\]'),
    ([[5, 6, 7]], r'points must be \[N, 2\]'),
  ],
)
def test_impossible_points_are_refused(live, video, points, message):
  with pytest.raises(ValueError, match=message):
    live.start(video[0], points)


def test_frames_must_be_alike(live, video):
  state = live.start(video[0], POINTS)
  with pytest.raises(ValueError, match='30x40 pixels, the first one had 32x40'):
    live.step(video[0][:30], state)
  with pytest.raises(ValueError, match=r'uint8\[height, width, 3\]'):
    live.step(video[0].astype(np.float32), state)


def test_unknown_numbers_are_refused(live, video):
  with pytest.raises(ValueError, match='ids: 7 is not tracked'):
    live.drop(live.start(video[0], POINTS), [7])


def test_a_model_that_is_not_causal_is_refused():
  with pytest.raises(ValueError, match='use_causal_conv=False'):
    tracker.Tracker(*tapir_models.make_params())


def test_a_resolution_that_is_no_multiple_of_8_is_refused():
  model, params = tapir_models.make_params(causal=True)
  with pytest.raises(ValueError, match=r'resolution=\(30, 40\): want'):
    tracker.Tracker(model, params, (30, 40))


def test_a_shipped_file_loads_and_tracks(live, video, tmp_path):
  ship.write(tmp_path / 'own.npz', live.model, live.params)
  other = tracker.Tracker.load(tmp_path / 'own.npz')
  assert other.resolution == tapir_models.SIZE
  assert other.model.use_causal_conv
  rounded = jax.tree.map(
    lambda x: x.astype(np.float16).astype(np.float32), live.params
  )
  same = tracker.Tracker(live.model, rounded, tapir_models.SIZE)
  frame = video[0]
  got, _ = other.step(frame, other.start(frame, POINTS))
  want, _ = same.step(frame, same.start(frame, POINTS))
  np.testing.assert_allclose(got.points, want.points, atol=1e-3)


def test_own_weights_follow_points_of_synthetic_videos():
  source = synthetic.SyntheticVideos(
    split='test', num_frames=8, height=128, width=128, difficulty='easy',
    num_tracks=32, queries='first',
  )  # fmt: skip
  live = tracker.Tracker.load()
  assert live.model.use_causal_conv
  moved, missed = [], []
  for i in range(4):
    example = source[i]
    video, target = example['video'], example['target_points']
    state = live.start(video[0], target[:, 0])
    points, _, _ = follow(live, video, state)
    seen = ~example['occluded']
    missed.append(np.linalg.norm(points - target, axis=-1)[seen])
    moved.append(np.linalg.norm(target[:, :1] - target, axis=-1)[seen])
  missed, moved = np.concatenate(missed), np.concatenate(moved)
  assert np.median(missed) < 0.5 * np.median(moved)
