"""A scene sampled at T frames in an H x W raster.

Raster coordinates: (0, 0) is the upper-left corner of the first pixel and
(W, H) the lower-right corner of the last; the pixel in row i and column j has
its centre at (j + 0.5, i + 0.5). Surface 0 is the room, k > 0 is object k - 1:
the values of the segmentation.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from vidscenic.data.synthetic import placement, surfaces

# Points nearer than this, or behind the camera, are projected as if here.
_MIN_DEPTH = 0.05


class Hit(NamedTuple):
  """What a ray meets first: surface int64[N], depth, material coordinates.

  `material` is float64[3, N]; cards leave the third row zero.
  """

  surface: np.ndarray
  depth: np.ndarray
  material: np.ndarray


@dataclasses.dataclass(frozen=True)
class World:
  """The surfaces, ready for questions about rays and points."""

  height: int
  width: int
  focal: float  # pixels
  rotation: np.ndarray  # float64[T, 3, 3] world from camera
  centre: np.ndarray  # float64[T, 3] of the camera
  exposure: np.ndarray  # float64[T]
  noise: float  # standard deviation, fraction of full scale
  room: surfaces.Room
  objects: tuple[Any, ...]

  @property
  def num_frames(self) -> int:
    """T of every field above."""
    return len(self.centre)

  def surface(self, index: int):
    """The room for 0, else object index - 1."""
    return self.objects[index - 1] if index else self.room

  def single(self) -> 'World':
    """The same world with surfaces in float32."""
    objects = tuple(surfaces.single(thing) for thing in self.objects)
    room = surfaces.single(self.room)
    return dataclasses.replace(self, room=room, objects=objects)

  def directions(self, x, y):
    """Raster positions to image directions at unit depth."""
    scale = 1 / self.focal
    return (x - self.width / 2) * scale, (y - self.height / 2) * scale

  def raster(self, x, y, z):
    """Camera coordinates to raster x and y; finite behind the camera too."""
    scale = self.focal / np.maximum(z, _MIN_DEPTH)
    return x * scale + self.width / 2, y * scale + self.height / 2

  def cast(self, frames, x, y) -> Hit:
    """First surface along the rays through raster positions.

    Args:
      frames: int[N].
      x, y: [N] inside the image.

    Returns:
      A `Hit` for N rays.
    """
    dx, dy = self.directions(x, y)
    rays = surfaces.apply_rays(self.room.rays, frames, dx, dy)
    depth, material, _ = self.room.cast(frames, rays)
    material = np.stack(material)
    surface = np.zeros(len(frames), np.int64)
    for k, thing in enumerate(self.objects, 1):
      index = np.flatnonzero(_in_rect(thing.rect, frames, x, y))
      where = frames[index]
      rays = surfaces.apply_rays(thing.rays, where, dx[index], dy[index])
      z, inside, found = thing.cast(where, rays)
      hit = (inside > 0) & (z < depth[index])
      index = index[hit]
      depth[index] = z[hit]
      surface[index] = k
      material[:, index] = 0
      for row, values in zip(material, found, strict=False):
        row[index] = values[hit]
    return Hit(surface, depth, material)

  def visible(self, frames, x, y, z, surface, facing):
    """Whether points of surfaces are seen.

    Exact: every other surface is asked at the very position of the point, not
    at a pixel of a rendered map.

    Args:
      frames: integers that broadcast with the points.
      x, y: raster positions.
      z: depths.
      surface: which surface each point belongs to.
      facing: False where the surface is absent or turned away.

    Returns:
      bool of the points' shape: inside the image, in front of the camera,
      facing it, and nothing else in between.
    """
    seen = (x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)
    seen &= (z > _MIN_DEPTH) & facing
    flat = np.broadcast_to(frames, seen.shape).reshape(-1)
    x, y, z = (np.broadcast_to(a, seen.shape) for a in (x, y, z))
    hidden = []
    for k, thing in enumerate((self.room, *self.objects)):
      near = seen & (surface != k)
      if k:
        near &= _in_rect(thing.rect, frames, x, y)
        near &= z > thing.near.take(frames)
      index = np.flatnonzero(near)
      depth, where = z.reshape(-1).take(index), flat.take(index)
      dx, dy = self.directions(*(a.reshape(-1).take(index) for a in (x, y)))
      rays = surfaces.apply_rays(thing.rays, where, dx, dy)
      other, inside, _ = thing.cast(where, rays)
      between = other < depth
      hidden.append(index[between & (inside > 0) if k else between])
    seen.reshape(-1)[np.concatenate(hidden)] = False
    return seen


def make_world(scene, *, num_frames: int, height: int, width: int) -> World:
  """Samples a scene in time and space, in float64.

  Args:
    scene: `scene.Scene`.
    num_frames, height, width: size of the clip; one frame is tau = 0.

  Returns:
    The `World`.
  """
  view = placement.make_view(
    scene.camera, num_frames=num_frames, height=height, width=width
  )
  objects = tuple(
    placement.make_object(thing, scene.light, view) for thing in scene.things
  )
  return World(
    height=height,
    width=width,
    focal=view.focal,
    rotation=view.rotation,
    centre=view.centre,
    exposure=1 + scene.light.exposure(view.tau),
    noise=scene.light.noise,
    room=placement.make_room(scene.room, scene.light, view),
    objects=objects,
  )


def _in_rect(rect, frames, x, y):
  x0, y0, x1, y1 = (rect[:, i].take(frames) for i in range(4))
  return (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
