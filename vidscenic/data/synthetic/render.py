"""Renders a world to frames, depth, segmentation and material coordinates.

The room fills every pixel; then the objects follow, far to near by their mean
depth, each only inside its projected bounds. All frames of a block form one
flat list of pixels per object, which is what makes small sizes fast: numpy
then works on long arrays.
"""

from typing import NamedTuple

import numpy as np

from vidscenic.data.synthetic import scene as scene_lib
from vidscenic.data.synthetic import surfaces

# Pixels per block of frames: temporaries that stay in the cache.
_BLOCK_PIXELS = 1 << 15


class Frames(NamedTuple):
  """A rendered clip.

  Attributes:
    video: uint8[T, H, W, 3].
    depth: float32[T, H, W], along the optical axis, scene units.
    surface: uint8[T, H, W], 0 the room, k object k - 1.
    material: float32[3, T * H * W] of the objects' pixels, else undefined; None
      unless asked for.
  """

  video: np.ndarray
  depth: np.ndarray
  surface: np.ndarray
  material: np.ndarray | None


def render(world, scene, bank, rng, *, material: bool = False) -> Frames:
  """Renders all frames.

  Args:
    world: `World` of the scene, in float32.
    scene: the textures' source.
    bank: `TextureBank`.
    rng: numpy Generator of the pixel noise.
    material: also return material coordinates, which the flow needs.

  Returns:
    The `Frames`.
  """
  size = world.num_frames, world.height, world.width
  pixels = world.height * world.width
  bank.require(face.texture for face in scene.room.faces)
  bank.require(thing.look.texture for thing in scene.things)
  result = Frames(
    video=np.empty((*size, 3), np.uint8),
    depth=np.empty(size, np.float32),
    surface=np.zeros(size, np.uint8),
    material=np.empty((3, size[0] * pixels), np.float32) if material else None,
  )
  order = np.argsort([-thing.position[:, 2].mean() for thing in world.objects])
  step = max(1, _BLOCK_PIXELS // pixels)
  for start in range(0, world.num_frames, step):
    stop = min(start + step, world.num_frames)
    block = Frames(
      result.video[start:stop],
      result.depth[start:stop].reshape(-1),
      result.surface[start:stop].reshape(-1),
      result.material[:, start * pixels : stop * pixels] if material else None,
    )
    colour = _draw_room(world, bank, start, stop, block)
    for k in order:
      _draw_object(world, k, bank, start, stop, block, colour)
    _develop(world, rng, start, stop, colour, block.video)
  return result


def _draw_room(world, bank, start, stop, block):
  """Writes the walls' depth; returns their colours, three planes [P]."""
  frames = np.arange(start, stop)[:, None, None]
  x, y = _pixel_directions(world)
  x, y = x[None, None], y[None, :, None]
  room = world.room
  rays = surfaces.apply_rays(room.rays, frames, x, y)
  depth, point, face = room.cast(frames, rays)
  length = np.sqrt(x * x + y * y + 1)
  u, v, footprint = room.texture_at(frames, depth, point, face, length)
  colour = bank.sample(room.textures.take(face), u, v, footprint)
  brightness = room.brightness.take(face)
  block.depth[:] = depth.reshape(-1)
  return [(plane * brightness).reshape(-1) for plane in colour]


def _draw_object(world, k, bank, start, stop, block, colour):
  """Blends object k into the colours and writes its depth and number."""
  thing = world.objects[k]
  area = _scan(world, thing.rect[start:stop], thing.rays[start:stop])
  if area is None:
    return
  frames, pixels, rays = area
  frames = frames + start
  depth, inside, material = thing.cast(frames, rays)
  cover = thing.coverage(inside, depth)
  kept = np.flatnonzero((cover > 0) & (depth < block.depth.take(pixels)))
  frames, pixels, depth, inside, cover = (
    a.take(kept) for a in (frames, pixels, depth, inside, cover)
  )
  material = [m.take(kept) for m in material]
  u, v, footprint = thing.texture_at(frames, depth, material)
  sampled = bank.sample(np.int32(thing.look.texture), u, v, footprint)
  shade = thing.look.gain * thing.shade(frames, material)
  for plane, source in zip(
    colour, scene_lib.PERMUTATIONS[thing.look.permutation], strict=True
  ):
    old = plane.take(pixels)
    plane[pixels] = old + cover * (shade * sampled[source] - old)
  solid = inside > 0
  pixels = pixels[solid]
  block.depth[pixels] = depth[solid]
  block.surface[pixels] = k + 1
  if block.material is not None:
    for row, values in zip(block.material, material, strict=False):
      row[pixels] = values[solid]


def _scan(world, rect, matrix):
  """All pixels of one rectangle per frame.

  Args:
    world: for the image's size.
    rect: int[t, 4].
    matrix: [t, 3, 3] applied to the pixels' rays.

  Returns:
    Frame numbers int[n], pixel numbers int[n] counted over the t frames, and
    the transformed rays as three arrays [n]; None if there is no pixel.
  """
  x0, y0, x1, y1 = rect.T
  widths = np.maximum(x1 - x0, 0)
  heights = np.where(widths > 0, np.maximum(y1 - y0, 0), 0)
  if not heights.any():
    return None
  frames = np.repeat(np.arange(len(rect)), heights)  # one entry per row
  first = np.cumsum(heights) - heights
  rows = np.arange(len(frames)) + (y0 - first).take(frames)
  counts = widths.take(frames)
  offsets = np.cumsum(counts) - counts
  step = np.arange(counts.sum())
  columns = step + np.repeat(x0.take(frames) - offsets, counts)
  line = (frames * world.height + rows) * world.width
  directions = _pixel_directions(world)
  x = directions[0].take(columns)
  y = directions[1].take(rows)
  rays = []
  for a, b, c in matrix.transpose(1, 2, 0):
    slope, base = a.take(frames), b.take(frames) * y + c.take(frames)
    rays.append(np.repeat(slope, counts) * x + np.repeat(base, counts))
  return np.repeat(frames, counts), columns + np.repeat(line, counts), rays


def _develop(world, rng, start, stop, colour, video):
  """Exposure, noise and rounding: planes to uint8[t, H, W, 3]."""
  shape = stop - start, world.height, world.width
  gain = (255 * world.exposure[start:stop]).astype(np.float32)[:, None, None]
  if world.noise:
    # Uniform with the given deviation; normal numbers would depend on numpy.
    spread = np.float32(255 * world.noise * np.sqrt(12))
    noise = rng.random((shape[0], 3, *shape[1:]), dtype=np.float32)
    noise -= np.float32(0.5)
    noise *= spread
  for i, plane in enumerate(colour):
    values = plane.reshape(shape) * gain
    if world.noise:
      values += noise[:, i]
    values += np.float32(0.5)
    video[..., i] = np.minimum(np.maximum(values, 0), 255)


def _pixel_directions(world):
  """Image directions of pixel columns and rows, float32[W] and float32[H]."""
  x, _ = world.directions(np.arange(world.width) + 0.5, 0.0)
  _, y = world.directions(0.0, np.arange(world.height) + 0.5)
  return x.astype(np.float32), y.astype(np.float32)
