"""Pictures and all labels move together through crops, resizes and flips."""

import numpy as np
import pytest

from vidscenic.data import augment, resize, windows

T, H, W = 3, 48, 64

# Windows of every kind: (name, window of a 48x64 picture).
WINDOWS = {
  'crop': windows.part((H, W), top=5, left=9, height=33, width=40),
  'enlarge': windows.whole((H, W), (96, 160)),
  'shrink': windows.whole((H, W), (31, 37)),
  'flip': windows.whole((H, W), flip=True),
  'crop, resize': windows.Window(
    (H, W), (4, 6, 36, 50), (60, 70), (0, 0), (60, 70)
  ),
  'resize, crop, flip': windows.Window(
    (H, W), (0, 0, H, W), (72, 80), (11, 7), (50, 60), True
  ),
  'all': windows.Window(
    (H, W), (3, 5, 40, 44), (66, 58), (4, 8), (55, 41), True
  ),
  'pad': windows.part((H, W), top=-6, left=-3, height=60, width=80),
  'pad, flip': windows.Window(
    (H, W), (2, 2, 40, 60), (50, 50), (-4, 10), (70, 66), True
  ),
}


@pytest.fixture(params=WINDOWS, ids=lambda name: name.replace(', ', '-'))
def window(request):
  return WINDOWS[request.param]


def apply(clip, window, method='bilinear'):
  return augment.apply(clip, window, method=method)


def blobs(points):
  """uint8[T, H, W, 3] with a soft spot at each frame's (x, y)."""
  y, x = np.mgrid[:H, :W] + 0.5
  frames = [
    240 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 2.5**2))
    for px, py in points
  ]
  return np.repeat(np.stack(frames)[..., None], 3, -1).astype(np.uint8)


def centroids(video):
  """(x, y) of each frame's spot, raster coordinates."""
  weight = video[..., 0].astype(float)
  y, x = np.mgrid[: video.shape[1], : video.shape[2]] + 0.5
  total = weight.sum((1, 2))
  return np.stack(
    [(weight * x).sum((1, 2)) / total, (weight * y).sum((1, 2)) / total], -1
  )


@pytest.mark.parametrize('method', resize.METHODS)
def test_points_stay_on_the_spot(window, method):
  points = np.array([[30.2, 24.7], [27.5, 22.1], [33.0, 26.5]])
  clip = {
    'video': blobs(points),
    'target_points': points[None].astype(np.float32),
    'occluded': np.zeros((1, T), bool),
    'query_points': np.array([[1, 22.1, 27.5]], np.float32),
  }
  out = apply(clip, window, method)
  assert out['video'].shape == (T, *window.size, 3)
  found = centroids(out['video'])
  # A spot of 2.5 pixels measured on 8 bits; nearest moves it by half a pixel.
  error = np.abs(found - out['target_points'][0]).max()
  scale = max(window.scale)
  assert error < (0.6 * scale if method == 'nearest' else 0.2 * scale)
  t, y, x = out['query_points'][0]
  np.testing.assert_allclose([x, y], out['target_points'][0, 1], atol=1e-4)
  assert t == 1 and not out['occluded'].any()


def test_points_that_leave_become_occluded(window):
  rng = np.random.default_rng(0)
  points = rng.uniform(0, (W, H), (40, T, 2)).astype(np.float32)
  occluded = rng.random((40, T)) < 0.2
  clip = {'target_points': points, 'occluded': occluded}
  out = augment.move_labels(clip, window)
  top, left, height, width = window.box
  x, y = out['target_points'][..., 0], out['target_points'][..., 1]
  outside = (x < 0) | (y < 0) | (x > window.size[1]) | (y > window.size[0])
  # What was cut away does not show up in the padding.
  x, y = points[..., 0], points[..., 1]
  outside |= (x < left) | (y < top) | (x > left + width) | (y > top + height)
  np.testing.assert_array_equal(out['occluded'], occluded | outside)
  np.testing.assert_array_equal(clip['occluded'], occluded)  # not in place


def test_boxes_follow_drawn_rectangles(window):
  rectangles = [(10, 12, 30, 40), (0, 0, 20, 9), (40, 50, 48, 64)]
  video = np.zeros((T, H, W, 3), np.uint8)
  boxes = np.zeros((T, 2, 4), np.float32)
  for t, (top, left, bottom, right) in enumerate(rectangles):
    video[t, top:bottom, left:right] = 255
    boxes[t, 0] = np.array([top, left, bottom, right]) / [H, W, H, W]
  mask = np.array([[True, False]] * T)
  clip = {
    'video': video,
    'boxes': boxes,
    'boxes_mask': mask,
    'box_pixels': np.full((T, 2), 9, np.int32),
  }
  out = apply(clip, window, 'nearest')
  height, width = window.size
  for t in range(T):
    rows, columns = np.nonzero(out['video'][t, :, :, 0])
    if not len(rows):
      got = out['boxes'][t, 0] * [height, width, height, width]
      # Nothing is drawn: the box is gone, or thinner than a pixel.
      assert min(got[2] - got[0], got[3] - got[1]) < 1
      continue
    want = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
    got = out['boxes'][t, 0] * [height, width, height, width]
    # Pixels are counted by their centres.
    assert np.abs(got - want).max() <= 0.501
    assert out['boxes_mask'][t, 0]
  assert not out['boxes_mask'][:, 1].any()
  assert not out['boxes'][:, 1].any() and not out['box_pixels'][:, 1].any()


def test_boxes_outside_are_masked():
  boxes = np.array([[[0.0, 0.0, 0.2, 0.2], [0.0, 0.0, 0.6, 0.6]]], np.float32)
  clip = {'video': np.zeros((1, 10, 10, 3), np.uint8), 'boxes': boxes}
  window = windows.part((10, 10), top=3, left=3, height=7, width=7)
  out = apply(clip, window, 'nearest')
  np.testing.assert_array_equal(out['boxes_mask'], [[False, True]])
  np.testing.assert_allclose(
    out['boxes'][0, 1], [0, 0, 3 / 7, 3 / 7], rtol=1e-6
  )
  assert not out['boxes'][0, 0].any()


def test_dense_labels_take_the_nearest_pixel(window):
  values = np.arange(T * H * W, dtype=np.float32).reshape(T, H, W, 1)
  clip = {
    'depth': values,
    'segmentations': (values % 251).astype(np.uint8),
    'flow_mask': values[..., 0] % 3 == 0,
  }
  out = augment.move_labels(clip, window)
  rows, columns, inside = slow_pixels(window)
  want = values[:, rows, columns] * inside[..., None]
  np.testing.assert_array_equal(out['depth'], want)
  want = clip['segmentations'][:, rows, columns] * inside[..., None]
  np.testing.assert_array_equal(out['segmentations'], want)
  assert out['segmentations'].dtype == np.uint8
  if inside.all():
    assert 'depth_mask' not in out
  else:
    want = np.broadcast_to(inside[..., None], out['depth'].shape)
    np.testing.assert_array_equal(out['depth_mask'], want)


def slow_pixels(window):
  """Source pixel of each output pixel, one at a time, from the definition."""
  height, width = window.size
  rows = np.zeros((height, width), int)
  columns = np.zeros((height, width), int)
  inside = np.zeros((height, width), bool)
  top, left, box_h, box_w = window.box
  for i in range(height):
    for j in range(width):
      jj = width - 1 - j if window.flip else j
      y = (i + 0.5 + window.offset[0]) * box_h / window.scaled[0]
      x = (jj + 0.5 + window.offset[1]) * box_w / window.scaled[1]
      inside[i, j] = 0 < y < box_h and 0 < x < box_w
      # 1e-9: a centre on the seam of two pixels belongs to the later one.
      rows[i, j] = top + np.clip(np.floor(y + 1e-9), 0, box_h - 1)
      columns[i, j] = left + np.clip(np.floor(x + 1e-9), 0, box_w - 1)
  return rows, columns, inside


def test_nearest_video_and_labels_agree(window):
  rng = np.random.default_rng(0)
  video = rng.integers(1, 255, (T, H, W, 3), dtype=np.uint8)
  clip = {'video': video, 'segmentations': video[..., :1]}
  out = apply(clip, window, 'nearest')
  np.testing.assert_array_equal(out['video'][..., :1], out['segmentations'])


def test_flow_leads_to_where_the_point_goes(window):
  # A zoom and a shift: the point at p goes to a p + b.
  a, b = np.array([1.05, 0.97]), np.array([-1.5, 2.0])
  y, x = np.mgrid[:H, :W] + 0.5
  flow = np.stack([x * (a[0] - 1) + b[0], y * (a[1] - 1) + b[1]], -1)
  flow = np.repeat(flow[None], T, 0).astype(np.float32)
  clip = {
    'forward_flow': flow,
    'backward_flow': -flow,
    'flow_mask': np.ones((T, H, W), bool),
  }
  out = augment.move_labels(clip, window)
  rows, columns, inside = slow_pixels(window)
  x, y = columns + 0.5, rows + 0.5
  goes_x, goes_y = a[0] * x + b[0], a[1] * y + b[1]
  want_x = window.map_x(goes_x) - window.map_x(x)
  want_y = window.map_y(goes_y) - window.map_y(y)
  got = out['forward_flow'][0]
  np.testing.assert_allclose(got[inside, 0], want_x[inside], atol=1e-4)
  np.testing.assert_allclose(got[inside, 1], want_y[inside], atol=1e-4)
  np.testing.assert_allclose(out['backward_flow'], -out['forward_flow'])
  assert not got[~inside].any()
  # What leaves the picture has no visible target.
  j, i = np.meshgrid(np.arange(window.size[1]), np.arange(window.size[0]))
  end_x, end_y = j + 0.5 + got[..., 0], i + 0.5 + got[..., 1]
  top, left, bottom, right = window.content
  seen = (end_x >= left) & (end_x <= right) & inside
  seen &= (end_y >= top) & (end_y <= bottom)
  np.testing.assert_array_equal(out['flow_mask'][0], seen)


def rotation(rng):
  q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
  return q * np.sign(np.linalg.det(q))


def project(intrinsics, pose, points, size):
  """(x, y) raster pixels of world points [N, 3], and their depths."""
  camera = points @ pose[:3, :3].T + pose[:3, 3]
  fx, fy, cx, cy = intrinsics
  return np.stack(
    [
      (fx * camera[:, 0] / camera[:, 2] + cx) * size[1],
      (fy * camera[:, 1] / camera[:, 2] + cy) * size[0],
    ],
    -1,
  ), camera[:, 2]


def test_cameras_project_onto_the_moved_pixels(window):
  rng = np.random.default_rng(0)
  poses = np.tile(np.eye(4), (T, 1, 1))
  for t in range(T):
    poses[t, :3, :3] = rotation(rng)
    poses[t, :3, 3] = rng.normal(size=3)
  intrinsics = np.array([1.1, 0.9, 0.45, 0.52])
  clip = {
    'intrinsics': intrinsics.astype(np.float32),
    'cam_from_world': poses.astype(np.float32),
  }
  out = augment.move_labels(clip, window)
  assert (out['intrinsics'][:2] > 0).all()
  for t in range(T):
    camera = rng.uniform((-1, -1, 2), (1, 1, 5), (20, 3))
    world = (camera - poses[t, :3, 3]) @ poses[t, :3, :3]
    pixels, depth = project(intrinsics, poses[t], world, (H, W))
    mirrored = world * [-1, 1, 1] if window.flip else world
    got, new_depth = project(
      out['intrinsics'], out['cam_from_world'][t], mirrored, window.size
    )
    want = np.stack(
      [window.map_x(pixels[:, 0]), window.map_y(pixels[:, 1])], -1
    )
    np.testing.assert_allclose(got, want, atol=2e-3)  # float32, 100 pixels
    np.testing.assert_allclose(new_depth, depth, rtol=1e-5)
    new = out['cam_from_world'][t, :3, :3]
    np.testing.assert_allclose(new @ new.T, np.eye(3), atol=1e-5)
    assert np.linalg.det(new) == pytest.approx(1, abs=1e-5)


def test_intrinsics_per_frame_move_alike():
  one = np.array([1.1, 0.9, 0.45, 0.52], np.float32)
  clip = {'intrinsics': np.tile(one, (T, 1))}
  out = augment.move_labels(clip, WINDOWS['all'])
  single = augment.move_labels({'intrinsics': one}, WINDOWS['all'])
  np.testing.assert_array_equal(
    out['intrinsics'], np.tile(single['intrinsics'], (T, 1))
  )


def everything():
  rng = np.random.default_rng(0)
  return {
    'video': rng.integers(0, 255, (T, H, W, 3), dtype=np.uint8),
    'target_points': rng.uniform(0, 48, (5, T, 2)).astype(np.float32),
    'occluded': rng.random((5, T)) < 0.3,
    'query_points': rng.uniform(0, 48, (5, 3)).astype(np.float32),
    'boxes': np.sort(rng.random((T, 4, 2, 2)), 2)
    .reshape(T, 4, 4)
    .astype(np.float32),
    'boxes_mask': np.ones((T, 4), bool),
    'depth': rng.random((T, H, W, 1)).astype(np.float32),
    'depth_mask': rng.random((T, H, W, 1)) < 0.9,
    'segmentations': rng.integers(0, 9, (T, H, W, 1), dtype=np.uint8),
    'forward_flow': rng.normal(size=(T, H, W, 2)).astype(np.float32),
    'flow_mask': np.zeros((T, H, W), bool),
    'intrinsics': np.array([1.1, 0.9, 0.45, 0.52], np.float32),
    'cam_from_world': rng.normal(size=(T, 4, 4)).astype(np.float32),
    'label': np.int32(3),
  }


def test_flipping_twice_is_the_identity():
  clip = everything()
  clip['audio'] = np.random.default_rng(1).random((9, 2)).astype(np.float32)
  mirror = windows.whole((H, W), flip=True)
  out = apply(apply(clip, mirror, 'nearest'), mirror, 'nearest')
  assert out.keys() == clip.keys()
  for name in clip:
    np.testing.assert_allclose(out[name], clip[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize('channels', [1, 2])
def test_flip_swaps_the_ears(channels):
  sound = np.random.default_rng(0).random((9, channels)).astype(np.float32)
  for flip in (False, True):
    window = windows.whole((H, W), flip=flip)
    out = augment.move_labels({'audio': sound}, window)
    want = sound[:, ::-1] if flip else sound
    np.testing.assert_array_equal(out['audio'], want)


def test_padding_and_cropping_back_is_the_identity():
  clip = everything()
  size = (H + 8, W + 9)
  pad = windows.part((H, W), top=-3, left=-7, height=size[0], width=size[1])
  padded = apply(clip, pad, 'nearest')
  assert padded['video'].shape == (T, *size, 3)
  assert not padded['depth_mask'][:, :3].any()
  cut = windows.part(size, top=3, left=7, height=H, width=W)
  out = apply(padded, cut, 'nearest')
  for name in clip:
    np.testing.assert_allclose(out[name], clip[name], atol=1e-4, err_msg=name)


def test_steps_compose_like_one_window():
  clip = {k: v for k, v in everything().items() if k != 'occluded'}
  one = augment.apply(clip, WINDOWS['all'], method='area')
  steps = clip
  for window in (
    windows.part((H, W), top=3, left=5, height=40, width=44),
    windows.whole((40, 44), (66, 58)),
    windows.part((66, 58), top=4, left=8, height=55, width=41),
    windows.whole((55, 41), flip=True),
  ):
    steps = augment.apply(steps, window, method='area')
  for name in clip:
    np.testing.assert_allclose(one[name], steps[name], atol=1e-4, err_msg=name)


def test_dtypes_stay():
  clip = everything()
  out = augment.apply(clip, WINDOWS['pad, flip'], method='bilinear')
  for name, value in clip.items():
    assert out[name].dtype == value.dtype, name


def test_pictures_of_another_size_are_refused():
  clip = everything()
  wrong = windows.whole((W, H), (8, 8))
  with pytest.raises(ValueError, match='depth has pictures'):
    augment.apply(clip, wrong, method='nearest')
  with pytest.raises(ValueError, match='video has pictures'):
    augment.apply({'video': clip['video']}, wrong, method='nearest')
  with pytest.raises(ValueError, match='no pictures'):
    augment.picture_size({'label': 3})


# --- queries ---


def test_lost_queries_move_to_visible_points():
  points = np.zeros((4, T, 2), np.float32)
  points[:, :, 0] = 10 + np.arange(T)
  points[:, :, 1] = 20
  points[1, :, 0] = [-5, 70, 12]  # inside in the last frame only
  points[2] = -1
  occluded = np.zeros((4, T), bool)
  occluded[1, :2] = True
  occluded[2] = True
  clip = {
    'video': np.zeros((T, H, W, 3), np.uint8),
    'target_points': points,
    'occluded': occluded,
    'query_points': np.array(
      [[1, 20, 11], [0, 20, -5], [0, -1, -1], [np.nan, 20, 10]], np.float32
    ),
  }
  frames = set()
  for seed in range(20):
    out = augment.redraw_queries(clip, np.random.default_rng(seed))
    queries = out['query_points']
    np.testing.assert_array_equal(queries[0], [1, 20, 11])
    np.testing.assert_array_equal(queries[1], [2, 20, 12])
    np.testing.assert_array_equal(queries[2], [0, 0, 0])
    np.testing.assert_array_equal(queries[3, 1:], [20, 10 + queries[3, 0]])
    frames.add(int(queries[3, 0]))
    np.testing.assert_array_equal(out['query_mask'], [True, True, False, True])
  assert frames == {0, 1, 2}
  again = augment.redraw_queries(out, np.random.default_rng(0))
  np.testing.assert_array_equal(again['query_mask'], out['query_mask'])


def test_queries_without_tracks_are_masked_only():
  clip = {
    'video': np.zeros((T, H, W, 3), np.uint8),
    'query_points': np.array([[0, 5, 5], [0, 5, 99]], np.float32),
  }
  out = augment.redraw_queries(clip, np.random.default_rng(0))
  np.testing.assert_array_equal(out['query_mask'], [True, False])
  np.testing.assert_array_equal(out['query_points'][1], [0, 5, W])
