"""Tracks through a Kubric scene, from what its renderer knew.

Points of objects follow the box of their object, points of the background stay
where they are; depth, segments and normals tell what hides them. Follows the
point tracking challenge of Kubric (arXiv 2211.03726); unlike its code, focal
lengths are right for pictures that are not square, and `snap_to_occluder` looks
up the depth in the query's own row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vidscenic.data.datasets import kubric_scene

# Queries are drawn from every 4th pixel and frame, at most a tenth of these per
# segment.
_STRIDE = 4
_MAX_FRACTION = 0.1
# The renderer's depth may be this much less than a visible point's own.
_DEPTH_TOLERANCE = 0.99
# A neighbour nearer than this share of a pixel's depth is an occluder's.
_OCCLUDER = 0.95
# Normals differ by more than this: rough, so from a normal map, not the mesh.
_ROUGH = 0.05
_DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))
# The corners of a box as MOVi lists them: last axis fastest.
_CORNERS = np.array(
  [(x, y, z, 1) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]
)


class Layers(NamedTuple):
  """What the tracks of n frames and K instances are made of.

  Attributes:
    camera: in each frame.
    distance: float32[n, H, W], to the camera's centre.
    segments: uint8[n, H, W], instance index + 1, 0 is the background.
    coordinates: uint16[n, H, W, 3], position in the instance's box.
    normals: uint16[n, H, W, 3], in the world.
    corners: float64[K, n, 8, 3], of the instances' boxes in the world.
    turns: float64[K, n, 3, 3], rotation of the instances.
  """

  camera: kubric_scene.Camera
  distance: np.ndarray
  segments: np.ndarray
  coordinates: np.ndarray
  normals: np.ndarray
  corners: np.ndarray
  turns: np.ndarray


class Tracks(NamedTuple):
  """N tracks in raster pixels of the whole picture.

  Attributes:
    query_points: float32[N, 3], (t, y, x), at pixel centres.
    target_points: float32[N, n, 2], (x, y).
    occluded: bool[N, n], True also outside the crop.
  """

  query_points: np.ndarray
  target_points: np.ndarray
  occluded: np.ndarray


def read_layers(scene: kubric_scene.Scene, frames: Sequence[int]) -> Layers:
  """Decodes what tracks need; raises as `kubric_scene.Scene`."""
  chosen = list(frames)
  shape = (-1, scene.num_frames)
  corners = scene.numbers('instances/bboxes_3d', (*shape, 8, 3))
  quaternions = scene.numbers('instances/quaternions', (*shape, 4))
  segments = scene.segments(frames)
  if segments.max() > min(len(corners), len(quaternions)):
    raise ValueError(
      f'{scene.name}: segment {segments.max()} has no instance, there are '
      f'{len(corners)} bboxes_3d and {len(quaternions)} quaternions'
    )
  return Layers(
    camera=scene.camera(frames),
    distance=scene.distance(frames),
    segments=segments,
    coordinates=scene.images16('object_coordinates', frames, channels=3),
    normals=scene.images16('normal', frames, channels=3),
    corners=corners[:, chosen],
    turns=kubric_scene.rotations(quaternions[:, chosen]),
  )


def sample_tracks(
  layers: Layers,
  rng: np.random.Generator,
  *,
  box: tuple[int, int, int, int],
  num_tracks: int = 256,
  first: bool = False,
  snap_to_occluder: bool = False,
) -> Tracks:
  """Draws queries, more on small segments, and follows them.

  Args:
    layers: of a scene.
    rng: numpy generator.
    box: (top, left, height, width) of the crop that queries lie in; outside it
      points count as occluded.
    num_tracks: N. If the scene gives fewer, the last but one is repeated.
    first: queries in frame 0 only.
    snap_to_occluder: never draw queries that touch the edge of something
      nearer, and move half of those that touch something farther onto that,
      while their track stays on the nearer surface.

  Raises:
    ValueError: no query can be drawn.
  """
  if snap_to_occluder:
    near_edge = _touches_occluder(layers.distance)
    segments = np.where(near_edge, -1, layers.segments.astype(np.int16))
    layers = layers._replace(segments=segments)
  pixels = _draw_pixels(layers.segments, rng, box, num_tracks, first)
  points = _follow(layers, pixels)
  xy, z = layers.camera.project(points)
  occluded = (
    (z < 0)
    | _hidden(layers, pixels, points, xy)
    | _outside(xy, box)
    | _faces_away(layers, pixels, points)
  )
  if snap_to_occluder:
    pixels = _snap(layers.distance, pixels, rng, box)
  query_points = (pixels + [0, 0.5, 0.5]).astype(np.float32)
  rows = np.arange(num_tracks)
  rows[len(pixels) :] = max(len(pixels) - 2, 0)
  return Tracks(query_points[rows], xy.astype(np.float32)[rows], occluded[rows])


def share_out(counts: Sequence[int], total: int) -> list[int]:
  """How many queries each segment gets.

  From the smallest segment to the largest, each gets an equal share of what is
  left, but at most a tenth of its candidates.

  Args:
    counts: candidates of each segment.
    total: queries.
  """
  shares, left = [0] * len(counts), total
  order = np.argsort(counts, kind='stable')
  for done, segment in enumerate(order):
    wanted = round(left / (len(counts) - done))
    shares[segment] = min(wanted, round(_MAX_FRACTION * int(counts[segment])))
    left -= shares[segment]
  return shares


# --- private ---


def _draw_pixels(segments, rng, box, num_tracks, first):
  """int64[N, 3]: (t, row, column) of the queries, segment by segment."""
  top, left, height, width = box
  phase = rng.integers(np.minimum(_STRIDE, (len(segments), height, width)))
  grid = np.ix_(
    [0] if first else np.arange(phase[0], len(segments), _STRIDE),
    np.arange(top + phase[1], top + height, _STRIDE),
    np.arange(left + phase[2], left + width, _STRIDE),
  )
  candidates = np.stack(np.broadcast_arrays(*grid), axis=-1).reshape(-1, 3)
  found = segments[grid].ravel()
  drawn = []
  counts = np.bincount(found[found >= 0])
  for segment, count in enumerate(share_out(counts, num_tracks)):
    if count:
      own = np.flatnonzero(found == segment)
      drawn.append(candidates[own[rng.integers(len(own), size=count)]])
  if not drawn:
    raise ValueError(
      f'no query in {len(found)} candidates: too few pixels of every segment '
      f'in the box {box}'
    )
  return np.concatenate(drawn)


def _follow(layers, pixels):
  """float64[N, n, 3]: world positions of the points under pixels."""
  t, row, column = pixels.T
  camera = layers.camera
  segment = layers.segments[t, row, column]
  rays = camera.rays(column + 0.5, row + 0.5)
  rays = np.einsum('nij,nj->ni', camera.rotation[t], rays)
  distance = layers.distance[t, row, column].astype(np.float64)
  still = camera.position[t] + rays * distance[:, None]
  points = np.repeat(still[:, None], len(layers.distance), axis=1)
  # Per instance and frame the affine map of the unit box onto the corners.
  maps = np.linalg.pinv(_CORNERS) @ layers.corners
  inside = layers.coordinates[t, row, column] / 65535 - 0.5
  inside = np.concatenate([inside, np.ones((len(t), 1))], axis=-1)
  moving = segment > 0
  points[moving] = np.einsum(
    'ni,ntij->ntj', inside[moving], maps[segment[moving] - 1]
  )
  return points


def _hidden(layers, pixels, points, xy):
  """By depth and segments of the four pixels around each projection."""
  _, height, width = layers.distance.shape
  # Far outside, any pixel of the border does.
  x, y = (
    np.floor(np.clip(values - 0.5, -2, side + 1)).astype(np.int64)
    for values, side in zip(
      (xy[..., 0], xy[..., 1]), (width, height), strict=True
    )
  )
  frame = np.arange(len(layers.distance))
  own = layers.segments[tuple(pixels.T)][:, None]
  farthest, other = -np.inf, True
  for dy in (0, 1):
    for dx in (0, 1):
      row = np.clip(y + dy, 0, height - 1)
      column = np.clip(x + dx, 0, width - 1)
      farthest = np.maximum(farthest, layers.distance[frame, row, column])
      other = other & (layers.segments[frame, row, column] != own)
  distance = np.linalg.norm(points - layers.camera.position, axis=-1)
  return (farthest < _DEPTH_TOLERANCE * distance) | other


def _outside(xy, box):
  top, left, height, width = box
  x, y = xy[..., 0], xy[..., 1]
  return (y < top) | (x < left) | (y > top + height) | (x > left + width)


def _faces_away(layers, pixels, points):
  """Where the surface has turned its back since the query.

  Not for the background, not where normals are rough, and not if it seems to
  face away in the query's own frame, which is a fault of the mesh.
  """
  t, row, column = pixels.T
  segment = layers.segments[t, row, column]
  away = np.zeros(points.shape[:2], bool)
  moving = np.flatnonzero((segment > 0) & _smooth(layers.normals, pixels))
  turns = layers.turns[segment[moving] - 1]
  normals = layers.normals[t, row, column][moving] / 65535 * 2 - 1
  turned = np.einsum(
    'ntij,nkj,nk->nti', turns, turns[np.arange(len(moving)), t[moving]], normals
  )
  sight = points[moving] - layers.camera.position
  found = (turned * sight).sum(-1) > 0
  found &= ~found[np.arange(len(moving)), t[moving], None]
  away[moving] = found
  return away


def _smooth(normals, pixels):
  """bool[N]: at most two diagonal neighbours have another normal."""
  t, row, column = pixels.T
  _, height, width, _ = normals.shape
  own = normals[t, row, column] / 65535 * 2 - 1
  different = np.zeros(len(t), np.int64)
  for dy, dx in _DIAGONAL:
    y, x = row + dy, column + dx
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    other = normals[t, y % height, x % width] / 65535 * 2 - 1
    other = np.where(inside[:, None], other, 0)
    different += ((other - own) ** 2).sum(-1) > _ROUGH**2
  return different <= 2


def _touches_occluder(distance):
  """bool[n, H, W]: one of the 8 neighbours is much nearer."""
  _, height, width = distance.shape
  padded = np.pad(distance, ((0, 0), (1, 1), (1, 1)), mode='edge')
  nearest = distance
  for dy in range(3):
    for dx in range(3):
      nearest = np.minimum(
        nearest, padded[:, dy : dy + height, dx : dx + width]
      )
  return nearest < _OCCLUDER * distance


def _snap(distance, pixels, rng, box):
  """Moves half of the queries that touch something farther onto it."""
  top, left, height, width = box
  moved = pixels.copy()
  moved[:, 1:] += rng.integers(-1, 2, size=(len(pixels), 2))
  low, high = (top, left), (top + height - 1, left + width - 1)
  moved[:, 1:] = np.clip(moved[:, 1:], low, high)
  own, other = distance[tuple(pixels.T)], distance[tuple(moved.T)]
  swap = (own < _OCCLUDER * other) & (rng.random(len(pixels)) < 0.5)
  return np.where(swap[:, None], moved, pixels)
