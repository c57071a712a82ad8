"""Ground truth of the synthetic videos: tracks, flow, boxes and sound.

Tracks are exact: a query is a ray cast at its very position, its material
point is projected into every frame, and visibility is decided analytically
there. Flow does the same from every pixel centre, in float32.
"""

import math
from typing import NamedTuple

import numpy as np

from vidscenic.data.synthetic import scene as scene_lib
from vidscenic.data.synthetic import surfaces

FRAME_RATE = 12  # frames per second, as in MOVi; only the sound has a clock
SAMPLE_RATE = 16000
_MIN_PIXELS = 4  # a segment needs as many to be queried
_BLOCK_PIXELS = 1 << 15  # per block of frames; keeps temporaries in the cache


class Tracks(NamedTuple):
  """Trajectories of N points.

  Attributes:
    queries: float32[N, 3], (t, y, x), t in frames, the rest in raster pixels.
    points: float32[N, T, 2], (x, y) in raster pixels.
    visible: bool[N, T].
    surface: int64[N], 0 the room, k object k - 1.
  """

  queries: np.ndarray
  points: np.ndarray
  visible: np.ndarray
  surface: np.ndarray


def draw_queries(rng, surface, *, count: int, first: bool) -> np.ndarray:
  """Draws query positions, each segment equally likely.

  Args:
    rng: numpy Generator; only its `random` method is used.
    surface: uint8[T, H, W], a rendered segmentation.
    count: number of queries N.
    first: all in frame 0 instead of any frame.

  Returns:
    float32[N, 3]: (t, y, x), uniform over the pixels of a segment and within
    the pixel.
  """
  numbers = rng.random((count, 4))
  _, height, width = surface.shape
  flat = surface[: 1 if first else None].reshape(-1)
  sizes = np.bincount(flat)
  segments = np.flatnonzero(sizes >= min(_MIN_PIXELS, sizes.max()))
  chosen = segments[(numbers[:, 0] * len(segments)).astype(np.int64)]
  pixels = np.empty(count, np.int64)
  for k in np.unique(chosen):
    of_k = chosen == k
    rank = (numbers[of_k, 1] * sizes[k]).astype(np.int64)
    pixels[of_k] = np.flatnonzero(flat == k)[rank]
  # A margin keeps the position inside its pixel after rounding to float32.
  jitter = 0.001 + 0.998 * numbers[:, 2:]
  row = pixels // width
  y, x = row % height + jitter[:, 0], pixels % width + jitter[:, 1]
  return np.stack([row // height, y, x], axis=-1).astype(np.float32)


def track(world, queries) -> Tracks:
  """Follows the surface points seen at the queries.

  Args:
    world: `World` in float64.
    queries: float32[N, 3], (t, y, x) with whole t, inside the image.

  Returns:
    `Tracks`. Points behind the camera get finite positions off the mark; they
    are not visible.
  """
  count, num_frames = len(queries), world.num_frames
  when, y, x = queries.astype(np.float64).T
  hit = world.cast(when.astype(np.int64), x, y)
  frames = np.arange(num_frames)
  camera = np.zeros((3, count, num_frames))
  facing = np.ones((count, num_frames), bool)
  for k in np.unique(hit.surface):
    index = np.flatnonzero(hit.surface == k)
    material = hit.material[:, index, None]
    *position, seen = _project(world.surface(k), frames, material)
    camera[:, index] = position
    facing[index] = seen
  x, y = world.raster(*camera)
  visible = world.visible(frames, x, y, camera[2], hit.surface[:, None], facing)
  points = np.stack([x, y], axis=-1).astype(np.float32)
  return Tracks(queries, points, visible, hit.surface)


def flow(world, frames, *, step: int):
  """Displacement of every pixel centre to a neighbouring frame.

  Args:
    world: `World` in float32.
    frames: `render.Frames` with material coordinates.
    step: 1 to the next frame, -1 to the previous.

  Returns:
    float32[T, H, W, 2], (dx, dy) in pixels, zero where there is no such frame,
    and bool[T, H, W], True where the target is visible there.
  """
  shape = frames.surface.shape
  result = np.zeros((*shape, 2), np.float32)
  valid = np.zeros(shape, bool)
  low, high = max(-step, 0), shape[0] - max(step, 0)
  block = max(1, _BLOCK_PIXELS // (shape[1] * shape[2]))
  for start in range(low, high, block):
    stop = min(start + block, high)
    result[start:stop], valid[start:stop] = _flow_block(
      world, frames, np.arange(start, stop), step
    )
  return result, valid


def boxes(surface):
  """Bounds of the visible part of every object.

  Args:
    surface: uint8[T, H, W], a rendered segmentation.

  Returns:
    float32[T, 9, 4], (ymin, xmin, ymax, xmax) in [0, 1], zero where nothing is
    seen; bool[T, 9], True where something is; int32[T, 9], visible pixels.
    Object k is segment k + 1; rows beyond the objects are masked.
  """
  num_frames, height, width = surface.shape
  bounds = np.zeros((num_frames, scene_lib.MAX_OBJECTS, 4), np.float32)
  areas = np.zeros((num_frames, scene_lib.MAX_OBJECTS), np.int32)
  for k in range(int(surface.max(initial=0))):
    inside = surface == k + 1
    areas[:, k] = np.count_nonzero(inside, axis=(1, 2))
    for axis, size in ((0, height), (1, width)):
      used = inside.any(axis=2 - axis)
      bounds[:, k, axis] = used.argmax(1) / size
      bounds[:, k, 2 + axis] = 1 - used[:, ::-1].argmax(1) / size
  bounds[areas == 0] = 0
  return bounds, areas > 0, areas


def sound(scene, world, rng) -> np.ndarray:
  """A tone per object: pitch from its shape, loud when near or fast.

  Args:
    scene: for the objects' shapes.
    world: `World` in float64.
    rng: numpy Generator; only its `random` method is used.

  Returns:
    float32[S, 2] in [-0.8, 0.8], left and right at 16 kHz; S covers the frames
    at 12 per second.
  """
  num_frames = world.num_frames
  samples = num_frames * SAMPLE_RATE // FRAME_RATE
  time = np.arange(samples) / SAMPLE_RATE
  middles = np.arange(num_frames) + 0.5  # of the frames
  # Noise of standard deviation 0.01.
  audio = (rng.random((2, samples)) - 0.5) * (0.01 * math.sqrt(12))
  if num_frames > 1:
    paths = [np.gradient(thing.position, axis=0) for thing in world.objects]
  else:
    paths = [np.zeros((1, 3)) for _ in world.objects]
  speeds = [np.sqrt((path**2).sum(-1)) for path in paths]
  fastest = max(max(speed.max() for speed in speeds), 1e-6)
  for thing, speed in zip(world.objects, speeds, strict=True):
    x, y, z = thing.position.T
    loudness = np.minimum(2.5 / np.maximum(z, 0.1), 3)
    loudness *= 0.3 + 0.7 * speed / fastest
    place = np.clip(world.raster(x, y, z)[0] / world.width, 0, 1)
    pitch = 220 * 2 ** (scene_lib.SHAPES.index(thing.look.shape) / 3)
    turn = ((pitch * time) % 1).astype(np.float32) * np.float32(2 * math.pi)
    sin, cos = np.sin(turn), np.cos(turn)
    # sin a + sin 2a / 2 + sin 3a / 3
    tone = sin * (1 + cos + 1 - sin * sin * np.float32(4 / 3))
    for channel, share in ((0, 1 - place), (1, place)):
      level = loudness * np.sqrt(share)
      audio[channel] += tone * np.interp(time * FRAME_RATE, middles, level)
  return (audio * (0.8 / np.abs(audio).max())).T.astype(np.float32)


def _project(surface, frames, material):
  """Camera coordinates and visibility; cards have two coordinates."""
  if isinstance(surface, surfaces.Card):
    material = material[:2]
  return surface.project(frames, material)


def _flow_block(world, frames, times, step):
  """Flow and its validity for frames `times`."""
  _, height, width = frames.surface.shape
  surface = frames.surface[times[0] : times[-1] + 1]
  depth = frames.depth[times[0] : times[-1] + 1]
  target = (times + step)[:, None, None]
  # The room needs no material coordinates: its points do not move.
  back = world.rotation[times + step].swapaxes(1, 2)
  turn = scene_lib.matmul(back, world.rotation[times]).astype(np.float32)
  shift = world.centre[times] - world.centre[times + step]
  shift = (back * shift[:, None]).sum(-1).astype(np.float32)
  column = np.arange(width, dtype=np.float32) + np.float32(0.5)
  row = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)
  index = np.arange(len(times))[:, None, None]
  rays = surfaces.apply_rays(turn, index, *world.directions(column, row))
  camera = [depth * d + shift[:, i, None, None] for i, d in enumerate(rays)]
  facing = np.ones(surface.shape, bool)
  pixels = height * width
  for k, thing in enumerate(world.objects, 1):
    own = np.flatnonzero(surface == k)
    material = frames.material[:, times[0] * pixels + own]
    *position, seen = _project(thing, times[0] + step + own // pixels, material)
    for plane, values in zip(camera, position, strict=True):
      plane.reshape(-1)[own] = values
    facing.reshape(-1)[own] = seen
  x, y = world.raster(*camera)
  valid = world.visible(target, x, y, camera[2], surface, facing)
  return np.stack([x - column, y - row], axis=-1), valid
