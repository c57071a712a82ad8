"""Examples with point tracks: cropping, resizing, flipping, labels."""

import numpy as np
import pytest

from tests.data.datasets import kubric_room as room
from vidscenic.data.datasets import point_tracks

SIZE = (48, 80)


def example(seed=0, **kwargs):
  kwargs = {'size': SIZE, 'num_tracks': 60} | kwargs
  transform = point_tracks.KubricTracks(**kwargs)
  rng = np.random.default_rng(seed)
  return transform.augment(transform.sample(room.record(), rng), rng)


@pytest.fixture
def box(monkeypatch):
  """Crops are (10, 20, 60, 80)."""
  box = (10, 20, 60, 80)
  monkeypatch.setattr(point_tracks, 'distorted_box', lambda *a, **k: box)
  return box


def closed_form(got, box, size):
  """Tracks of the example's queries, in its pixels."""
  top, left, height, width = box
  scale = np.array([size[1] / width, size[0] / height])
  t, y, x = got['query_points'].T.astype(np.float64)
  x, y = (np.stack([x, y], -1) / scale + (left, top)).T
  xy, _ = room.project(room.follow(t.astype(int), x, y))
  return (xy - (left, top)) * scale


def test_tracks_are_in_pixels_of_the_output(box):
  got = example()
  np.testing.assert_allclose(
    got['target_points'], closed_form(got, box, SIZE), atol=2e-3
  )
  y, x = got['query_points'][:, 1:].T
  assert (y > 0).all() and (y < SIZE[0]).all()
  assert (x > 0).all() and (x < SIZE[1]).all()


def test_the_picture_is_cut_where_the_tracks_are(box):
  video = example()['video']
  assert video.shape == (room.FRAMES, *SIZE, 3)
  # Blue is twice the column, counted from 0 at the centre of the first pixel.
  column = 20 + (np.arange(SIZE[1]) + 0.5) * 80 / SIZE[1] - 0.5
  blue = video[3, 5, :, 2].astype(float)
  assert np.abs(blue - 2 * column).max() <= 1.01


def test_points_outside_the_crop_are_occluded(box):
  got = example()
  x, y = np.moveaxis(got['target_points'], -1, 0)
  outside = (x < 0) | (y < 0) | (x > SIZE[1]) | (y > SIZE[0])
  assert outside.any()
  assert got['occluded'][outside].all()
  assert not got['occluded'].all(1).any()


def test_the_older_reader_puts_corners_on_pixel_centres(box):
  video = example(corner_aligned=True)['video']
  column = 20 + np.arange(SIZE[1]) * 80 / (SIZE[1] - 1)
  blue = video[3, 5, :, 2].astype(float)
  assert np.abs(blue - 2 * column).max() <= 0.51


def test_the_older_reader_blackens_the_border_of_whole_pictures():
  video = example(corner_aligned=True, train=False)['video']
  assert not video[:, -1].any() and not video[:, :, -1].any()
  assert video[:, :-1, :-1].any(-1).all()


def test_evaluation_takes_the_whole_picture():
  got = example(train=False, size=())
  assert got['video'].shape == (room.FRAMES, room.HEIGHT, room.WIDTH, 3)
  want = closed_form(
    got, (0, 0, room.HEIGHT, room.WIDTH), got['video'].shape[1:3]
  )
  np.testing.assert_allclose(got['target_points'], want, atol=1e-3)


def test_a_part_of_the_frames_begins_anywhere():
  starts = set()
  for seed in range(10):
    got = example(seed, num_frames=3, size=(), train=True)
    green = int(got['video'][0, 0, 0, 1])
    start = (green - 5) // 10
    starts.add(start)
    np.testing.assert_array_equal(
      got['video'][:, 0, 0, 1], 10 * (start + np.arange(3)) + 5
    )
    assert got['target_points'].shape == (60, 3, 2)
    assert set(got['query_points'][:, 0]) <= {0, 1, 2}
  assert len(starts) > 2
  green = example(num_frames=3, train=False)['video'][0, 0, 0, 1]
  assert green == 5  # evaluation begins with the first


def test_tracks_of_a_part_are_those_of_its_frames(monkeypatch):
  whole = (0, 0, room.HEIGHT, room.WIDTH)
  monkeypatch.setattr(point_tracks, 'distorted_box', lambda *a, **k: whole)
  got = example(3, num_frames=4, size=())
  start = (int(got['video'][0, 0, 0, 1]) - 5) // 10
  assert start > 0
  shifted = got['query_points'] + [start, 0, 0]
  want = closed_form({'query_points': shifted}, whole, whole[2:])
  np.testing.assert_allclose(
    got['target_points'], want[:, start : start + 4], atol=1e-3
  )


def test_first_frame_queries():
  assert not example(queries='first')['query_points'][:, 0].any()


def test_a_vertical_flip_moves_y_to_height_minus_y():
  plain, flipped = example(2), example(2, vertical_flip=True)
  np.testing.assert_array_equal(flipped['video'], plain['video'][:, ::-1])
  x, y = plain['target_points'][0, 0]
  np.testing.assert_allclose(flipped['target_points'][0, 0], [x, SIZE[0] - y])
  t, y, x = plain['query_points'][0]
  np.testing.assert_allclose(
    flipped['query_points'][0], [t, SIZE[0] - y, x], rtol=1e-6
  )


def test_labels_are_cut_with_the_picture(box):
  labels = ('depth', 'segmentations', 'boxes', 'forward_flow', 'camera')
  got = example(labels=labels, max_boxes=4, size=(60, 80))
  assert got['depth'].shape == (room.FRAMES, 60, 80, 1)
  assert got['boxes'].shape == (room.FRAMES, 4, 4)
  # Red is 60 times the segment.
  np.testing.assert_array_equal(
    got['segmentations'][..., 0], (got['video'][..., 0] - 20) // 60
  )
  assert got['flow_mask'][:-1].any()
  assert not got['flow_mask'][-1].any()
  # The pose and the intrinsics of the crop put a track where it is.
  point = np.array([*room.CENTRES[2, 0], 1])  # the pillar's centre
  x, y, z, _ = (got['cam_from_world'] @ point).T
  fx, fy, cx, cy = got['intrinsics']
  want, _ = room.project(np.broadcast_to(point[:3], (1, room.FRAMES, 3)))
  np.testing.assert_allclose(
    (fx * x / z + cx) * 80, want[0, :, 0] - 20, rtol=1e-4
  )
  np.testing.assert_allclose(
    (fy * y / z + cy) * 60, want[0, :, 1] - 10, rtol=1e-4
  )


def test_a_clip_can_be_augmented_again():
  transform = point_tracks.KubricTracks(size=SIZE, num_tracks=30)
  clip = transform.sample(room.record(), np.random.default_rng(0))
  one, two, other = (
    transform.augment(clip, np.random.default_rng(seed)) for seed in (1, 1, 2)
  )
  for name in one:
    np.testing.assert_array_equal(one[name], two[name])
    assert one[name].shape == other[name].shape
  assert (one['query_points'] != other['query_points']).any()
  assert one['query_mask'].all() and one['query_mask'].shape == (30,)


def test_fields_can_be_chosen():
  got = example(keep=('video', 'query_points'))
  assert sorted(got) == ['query_points', 'video']
  with pytest.raises(ValueError, match=r"keep names \['depth'\]"):
    example(keep=('depth',))


@pytest.mark.parametrize(
  ('kwargs', 'reason'),
  [
    (dict(num_frames=-1), 'num_frames must be >= 0'),
    (dict(num_frames=9), 'num_frames=9, but room has 8'),
    (dict(num_tracks=0), 'num_tracks must be >= 1'),
    (dict(size=(0, 4)), 'size must be'),
    (dict(queries='last'), 'queries must be one of'),
    (dict(labels=('x',)), 'labels must be among'),
    (dict(area=(0.5, 0.3)), 'area must be 0 < low <= high'),
    (dict(vertical_flip=True, labels=('depth',)), 'vertical_flip moves no'),
  ],
)
def test_wrong_arguments_are_named(kwargs, reason):
  with pytest.raises(ValueError, match=reason):
    example(**kwargs)


def test_crops_keep_their_area_and_aspect():
  rng = np.random.default_rng(0)
  boxes = np.array(
    [
      point_tracks.distorted_box(
        rng, (256, 256), area=(0.3, 1.0), aspect=(0.5, 2.0)
      )
      for _ in range(500)
    ]
  )
  top, left, height, width = boxes.T
  assert (top >= 0).all() and (top + height <= 256).all()
  assert (left >= 0).all() and (left + width <= 256).all()
  share = height * width / 256**2
  assert share.min() >= 0.3 and share.max() > 0.85
  ratio = width / height
  assert 0.49 < ratio.min() < 0.6 and 1.7 < ratio.max() < 2.02
  # Uniform in the ratio, not in its logarithm: wide boxes are the rule.
  assert (ratio > 1).mean() > 0.55


def test_an_impossible_crop_is_the_whole_picture():
  rng = np.random.default_rng(0)
  box = point_tracks.distorted_box(
    rng, (20, 200), area=(0.9, 1.0), aspect=(0.5, 2.0)
  )
  assert box == (0, 0, 20, 200)
