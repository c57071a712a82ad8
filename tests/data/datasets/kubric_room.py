"""A small scene whose renderer is a few lines, stored as MOVi stores scenes.

A camera flies over a ground plane on which one box turns and slides, a thin
plate turns, and a pillar stands; rays find the nearest surface in closed form.
Rotations come from SciPy, so that the order of quaternions is not ours.
"""

import functools
import io

import numpy as np
from PIL import Image
from scipy.spatial import transform

from tests.data import test_png16

FRAMES, HEIGHT, WIDTH = 8, 96, 128
FOCAL, SENSOR = 35.0, 32.0
# Sizes along three different lengths: a wrong order of corners shows.
SIZES = np.array([[1.6, 1.0, 0.8], [0.9, 0.02, 1.1], [0.4, 0.4, 1.8]])
_TIME = np.linspace(0, 1, FRAMES)


def _camera():
  centre = np.stack([-1 + 2 * _TIME, -5 + _TIME, 4.5 + 0.5 * _TIME], -1)
  back = centre - [0, 0, 0.3]
  back /= np.linalg.norm(back, axis=-1, keepdims=True)
  right = np.cross([0.0, 0.0, 1.0], back)
  right /= np.linalg.norm(right, axis=-1, keepdims=True)
  return centre, np.stack([right, np.cross(back, right), back], axis=-1)


def _boxes():
  """Centres [K, T, 3] and rotations [K, T]."""
  still = np.zeros(FRAMES)
  centres = np.array(
    [
      np.stack([-0.9 + 0.8 * _TIME, 0.3 * _TIME, 0.4 + still], -1),
      np.stack([1.2 + still, 0.2 + still, 0.6 + still], -1),
      np.stack([0.3 + still, -0.9 + still, 0.9 + still], -1),
    ]
  )
  angles = [
    np.stack([0.2 * _TIME, 0.1 * _TIME, 0.3 + 2.6 * _TIME], -1),
    np.stack([still, still, 0.2 + 3.0 * _TIME], -1),  # shows its other side
    np.stack([still, still, still], -1),
  ]
  turns = [transform.Rotation.from_euler('xyz', a) for a in angles]
  return centres, turns


CENTRE, AXES = _camera()
CENTRES, TURNS = _boxes()
MATRICES = np.stack([turn.as_matrix() for turn in TURNS])


def rays(t, x, y):
  """Unit directions in the world through raster positions of frames t."""
  focal = FOCAL / SENSOR * WIDTH  # pixels, in both directions
  local = np.stack(
    [(x - WIDTH / 2) / focal, -(y - HEIGHT / 2) / focal, -np.ones_like(x)], -1
  )
  ray = np.einsum('...ij,...j->...i', AXES[t], local)
  return ray / np.linalg.norm(ray, axis=-1, keepdims=True)


def cast(t, x, y):
  """(distance, segment, position in the box [..., 3], normal) at positions."""
  t, x, y = np.broadcast_arrays(t, x, y)
  ray = rays(t, x.astype(float), y.astype(float))
  origin = CENTRE[t]
  distance = -origin[..., 2] / ray[..., 2]  # the ground, z = 0
  segment = np.zeros(distance.shape, int)
  inside = np.zeros(ray.shape)
  normal = np.broadcast_to([0.0, 0.0, 1.0], ray.shape).copy()
  for k in range(len(SIZES)):
    turn = MATRICES[k][t]
    o = np.einsum('...ji,...j->...i', turn, origin - CENTRES[k][t]) / SIZES[k]
    d = np.einsum('...ji,...j->...i', turn, ray) / SIZES[k]
    near = ((-0.5 * np.sign(d)) - o) / d
    far = ((0.5 * np.sign(d)) - o) / d
    enter, leave = near.max(-1), far.min(-1)
    hit = (enter < leave) & (enter > 0) & (enter < distance)
    distance = np.where(hit, enter, distance)
    segment = np.where(hit, k + 1, segment)
    inside = np.where(hit[..., None], o + enter[..., None] * d, inside)
    axis = np.eye(3)[near.argmax(-1)] * -np.sign(d)
    out = np.einsum('...ij,...j->...i', turn, axis)
    normal = np.where(hit[..., None], out, normal)
  return distance, segment, inside, normal


def project(points):
  """World points [N, T, 3] -> (x, y) raster positions and distances."""
  relative = points - CENTRE
  local = np.einsum('tji,ntj->nti', AXES, relative)
  focal = FOCAL / SENSOR * WIDTH
  depth = -local[..., 2]
  x = WIDTH / 2 + focal * local[..., 0] / depth
  y = HEIGHT / 2 - focal * local[..., 1] / depth
  return np.stack([x, y], -1), np.linalg.norm(relative, axis=-1)


def follow(t, x, y):
  """World points [N, T, 3] of what is seen at positions of frames t."""
  distance, segment, inside, _ = cast(t, x, y)
  seen = CENTRE[t] + rays(t, x, y) * distance[:, None]
  points = np.repeat(seen[:, None], FRAMES, axis=1)
  for k in range(len(SIZES)):
    own = segment == k + 1
    points[own] = CENTRES[k] + np.einsum(
      'tij,nj->nti', MATRICES[k], inside[own] * SIZES[k]
    )
  return points


@functools.cache
def record():
  """The scene as fields of a MOVi record; not to be changed."""
  grid = np.ix_(range(FRAMES), np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5)
  t, y, x = np.broadcast_arrays(*grid)
  t = t.astype(int)
  distance, segment, inside, normal = cast(t, x, y)
  low, high = distance.min(), distance.max()
  depth = np.round((distance - low) / (high - low) * 65535)
  video = np.stack([60 * segment + 20, 10 * t + 5, (2 * x - 1).astype(int)], -1)
  signs = np.array(
    [(a, b, c) for a in (-0.5, 0.5) for b in (-0.5, 0.5) for c in (-0.5, 0.5)]
  )
  corners = CENTRES[:, :, None] + np.einsum(
    'ktij,kcj->ktci', MATRICES, signs * SIZES[:, None]
  )
  out = {
    'metadata/video_name': b'room',
    'metadata/num_frames': np.int32(FRAMES),
    'metadata/height': np.int32(HEIGHT),
    'metadata/width': np.int32(WIDTH),
    'metadata/depth_range': np.array([low, high], np.float32),
    'video': [_png(Image.fromarray(f.astype(np.uint8))) for f in video],
    'segmentations': [
      _png(Image.fromarray(f.astype(np.uint8))) for f in segment
    ],
    'depth': _png16(depth[..., None]),
    'object_coordinates': _png16(np.round((inside + 0.5) * 65535)),
    'normal': _png16(np.floor((normal + 1) * 65535 / 2)),
    'camera/focal_length': np.float32(FOCAL),
    'camera/sensor_width': np.float32(SENSOR),
    'camera/positions': CENTRE,
    'camera/quaternions': _wxyz(transform.Rotation.from_matrix(AXES)),
    # Stored flat, as an example without declared shapes gives it.
    'instances/bboxes_3d': corners.ravel(),
    'instances/quaternions': np.stack([_wxyz(turn) for turn in TURNS]),
  }
  out.update(_flow(t, x, y))
  out.update(_instance_boxes(segment))
  return out


def _png(image):
  data = io.BytesIO()
  image.save(data, 'PNG')
  return data.getvalue()


def _png16(frames):
  return [test_png16.encode(frame.astype(np.uint16)) for frame in frames]


def _wxyz(rotation):
  x, y, z, w = rotation.as_quat().T
  return np.stack([w, x, y, z], -1)


def _flow(t, x, y):
  """Forward and backward flow as uint16 (rows, columns) with their limits."""
  points = follow(t.ravel(), x.ravel(), y.ravel())
  xy, _ = project(points)
  out = {}
  for name, step in (('forward_flow', 1), ('backward_flow', -1)):
    target = np.clip(t.ravel() + step, 0, FRAMES - 1)
    moved = xy[np.arange(len(xy)), target] - np.stack(
      [x.ravel(), y.ravel()], -1
    )
    moved = moved[:, ::-1].reshape(FRAMES, HEIGHT, WIDTH, 2)
    low, high = moved.min(), moved.max()
    stored = np.round((moved - low) / (high - low) * 65535)
    out[name] = stored.astype(np.int64).ravel()
    out[f'metadata/{name}_range'] = np.array([low, high])
  return out


def _instance_boxes(segment):
  boxes, frames = [], []
  for k in range(1, len(SIZES) + 1):
    own = [t for t in range(FRAMES) if (segment[t] == k).any()]
    extents = []
    for t in own:
      rows, columns = np.nonzero(segment[t] == k)
      extents.append(
        [
          rows.min() / HEIGHT,
          columns.min() / WIDTH,
          (rows.max() + 1) / HEIGHT,
          (columns.max() + 1) / WIDTH,
        ]
      )
    boxes.append(np.array(extents, np.float32))
    frames.append(np.array(own))
  return {'instances/bboxes': boxes, 'instances/bbox_frames': frames}
