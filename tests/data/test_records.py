"""Labels follow the frames that a clip is made of."""

import numpy as np
import pytest

from vidscenic.data import clips


def take(record, seed=0, **kwargs):
  """One example without any spatial change."""
  kwargs = {
    'num_frames': 4,
    'size': (64, 96),
    'crop': 'none',
    'train': False,
    'flip': 0.0,
    **kwargs,
  }
  transform = clips.ClipTransform(**kwargs)
  rng = np.random.default_rng(seed)
  return transform.augment(transform.sample(record, rng), rng)


def labelled(length=12, tracks=5):
  """A record whose labels all say which frame they belong to."""
  t = np.arange(length)
  points = np.zeros((tracks, length, 2), np.float32)
  points[..., 0] = 10 + t
  points[..., 1] = 20 + np.arange(tracks)[:, None]
  occluded = np.zeros((tracks, length), bool)
  queries = np.zeros((tracks, 3), np.float32)
  queries[:, 0] = np.arange(tracks) * 2
  queries[:, 1] = points[:, 0, 1]
  queries[:, 2] = 10 + queries[:, 0]

  def maps(*shape):
    return np.broadcast_to(
      t.reshape(-1, *(1 for _ in shape)), (length, *shape)
    ).astype(np.float32)

  return {
    'video': maps(64, 96, 3).astype(np.uint8),
    'target_points': points,
    'occluded': occluded,
    'query_points': queries,
    'boxes': maps(2, 4) / 100 + np.array([0, 0, 0.5, 0.5], np.float32),
    'boxes_mask': maps(2) % 2 == 0,
    'depth': maps(64, 96, 1),
    'segmentations': maps(64, 96, 1).astype(np.uint8),
    'cam_from_world': maps(4, 4),
    'intrinsics': np.array([1, 1, 0.5, 0.5], np.float32),
    'forward_flow': maps(64, 96, 2) / 10,
    'flow_mask': np.ones((length, 64, 96), bool),
    'backward_flow': maps(64, 96, 2) / 10,
    'label': np.int32(7),
  }


def test_every_label_follows_its_frames():
  record = labelled()
  out = take(record, stride=2)
  want = [2, 4, 6, 8]
  np.testing.assert_array_equal(out['video'][:, 0, 0, 0], want)
  np.testing.assert_array_equal(
    out['target_points'][0, :, 0], 10 + np.array(want)
  )
  np.testing.assert_array_equal(out['depth'][:, 9, 9, 0], want)
  np.testing.assert_array_equal(out['segmentations'][:, 9, 9, 0], want)
  np.testing.assert_array_equal(out['cam_from_world'][:, 0, 0], want)
  np.testing.assert_allclose(out['boxes'][:, 1, 0], np.array(want) / 100)
  assert out['boxes_mask'].all()
  assert out['intrinsics'].shape == (4,)
  assert out['label'] == 7


def test_queries_follow_their_frames_or_move_along_their_track():
  record = labelled()
  record['occluded'][0, [2, 4, 6]] = True  # of the clip only frame 8 is left
  record['occluded'][1, :] = True
  record['occluded'][1, 2] = False
  record['occluded'][4, :8] = True
  out = take(record, stride=2)
  # Clip frames are 2, 4, 6, 8; queries were in frames 0, 2, 4, 6, 8.
  np.testing.assert_array_equal(out['query_points'][1:, 0], [0, 1, 2, 3])
  np.testing.assert_array_equal(out['query_points'][1:, 2], [12, 14, 16, 18])
  np.testing.assert_array_equal(out['query_points'][0], [3, 20, 18])
  assert out['query_mask'].all()


def test_tracks_never_seen_in_the_clip_are_masked():
  record = labelled()
  record['occluded'][0, 1:] = True  # seen in frame 0 only
  out = take(record, stride=2)
  np.testing.assert_array_equal(out['query_mask'], [False] + [True] * 4)
  assert out['occluded'][0].all()
  assert np.isfinite(out['query_points']).all()


def test_redrawn_queries_lie_on_their_tracks():
  record = labelled(length=24, tracks=5)
  record['occluded'] = np.random.default_rng(0).random((5, 24)) < 0.5
  frames = set()
  for seed in range(30):
    out = take(record, seed, train=True, stride=3)
    t = out['query_points'][:, 0].astype(int)
    frames.update(t.tolist())
    rows = np.arange(5)[out['query_mask']]
    points = out['target_points'][rows, t[rows]]
    np.testing.assert_allclose(out['query_points'][rows][:, [2, 1]], points)
  assert frames == {0, 1, 2, 3}


def test_flow_joins_neighbours_only():
  record = labelled()
  out = take(record)  # frames 4, 5, 6, 7
  np.testing.assert_allclose(
    out['forward_flow'][:, 9, 9, 0], [0.4, 0.5, 0.6, 0.0]
  )
  np.testing.assert_array_equal(
    out['flow_mask'][:, 9, 9], [True, True, True, False]
  )
  np.testing.assert_allclose(
    out['backward_flow'][:, 9, 9, 0], [0.0, 0.5, 0.6, 0.7]
  )
  np.testing.assert_array_equal(
    out['backward_flow_mask'][:, 9, 9], [False, True, True, True]
  )
  # A short video starts again: no flow over the seam.
  out = take(labelled(length=3, tracks=1), num_frames=5)
  np.testing.assert_array_equal(
    out['flow_mask'][:, 9, 9], [True, True, False, True, False]
  )
  record['fps'] = 10.0
  for kwargs in ({'stride': 2}, {'fps': 5.0}):
    dropped = take(record, **kwargs)
    assert not any('flow' in name for name in dropped)


def test_labels_of_views_are_stacked():
  out = take(labelled(), num_views=3, stride=2)
  np.testing.assert_array_equal(
    out['depth'][:, :, 0, 0, 0], [[0, 2, 4, 6], [2, 4, 6, 8], [4, 6, 8, 10]]
  )
  assert out['query_points'].shape == (3, 5, 3)
  assert out['query_mask'].shape == (3, 5)
  assert out['intrinsics'].shape == (3, 4)
  assert out['label'].shape == ()


def test_labels_of_another_length_are_refused():
  record = labelled()
  record['occluded'] = record['occluded'][:, :-1]
  with pytest.raises(ValueError, match='occluded has 11 frames, the video 12'):
    take(record)
