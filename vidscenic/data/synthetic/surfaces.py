"""The surfaces of a scene in closed form: cards, ellipsoids and the room.

Every surface maps both ways between rays and material coordinates, which stay
constant for a point of the surface: (u, v) on a card, a unit vector on an
ellipsoid, the world position in the room. A ray is (x, y, 1) in the camera,
so the distance along it is the depth along the optical axis.

Cards and ellipsoids share one interface, used alike for rendering, ray
casting and visibility:
  cast(frames, rays) -> depth, inside (> 0 on the surface), material
  project(frames, material) -> camera x, y, z, whether that side is seen
  coverage(inside, depth), texture_at(frames, depth, material),
  shade(frames, material)
and the fields `rays` (matrix [T, 3, 3] applied to a ray before `cast`), `rect`
(int [T, 4]: x0, y0, x1, y1 in pixels, empty where absent) and `near` (a lower
bound of the depth). `frames` is an integer array that broadcasts against the
others. The precision is that of the fields: float64 as built, float32 after
`single`.
"""

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from vidscenic.data.synthetic import scene as scene_lib

# Rays that miss get this depth: behind every wall, so no test accepts them.
_FAR = 1e4
_TURN = 2 * math.pi


@dataclasses.dataclass(frozen=True)
class Card:
  """A textured, possibly bending planar shape, seen from both sides."""

  look: scene_lib.Look
  warp: scene_lib.Warp
  forward: Any  # [T, 3, 3]: (u', v', 1) to camera coordinates
  rays: Any  # its inverse, zero where the card is absent
  bends: Any  # [T, 2] phases of the two shears
  present: Any  # bool[T]
  rect: Any
  near: Any
  brightness: Any  # [T]
  texels: Any  # [T] texture periods per pixel at unit depth
  pixel: float  # size of a pixel at unit depth in card radii

  @property
  def position(self):
    """Centre in camera coordinates, [T, 3]."""
    return self.forward[:, :, 2]

  def cast(self, frames, rays):
    """Where rays meet the plane; see the module's docstring."""
    q1, q2, q3 = rays
    # Rays that miss the plane are clamped: far behind every other surface.
    z = 1 / np.maximum(q3, 1 / _FAR)
    u, v = self._unbend(frames, q1 * z, q2 * z)
    return z, outline(self.look, u, v), (u, v)

  def project(self, frames, material):
    """Camera coordinates of material points and whether they can be seen."""
    u, v = self._bend(frames, *material)
    m = functools.partial(_entry, self.forward, frames)
    x, y, z = (m(i, 0) * u + m(i, 1) * v + m(i, 2) for i in range(3))
    return x, y, z, self.present[frames]

  def coverage(self, inside, depth):
    """Fraction of a pixel that the card covers, in [0, 1]."""
    share = 0.5 + inside / (depth * (1.2 * self.pixel))
    return np.minimum(np.maximum(share, 0), 1)

  def texture_at(self, frames, depth, material):
    """Texture coordinates in periods and periods per pixel."""
    u, v = (
      0.5 * self.look.scale * m + offset
      for m, offset in zip(material, self.look.offset, strict=True)
    )
    return u, v, depth * self.texels[frames]

  def shade(self, frames, material):
    """Brightness of the lit surface."""
    del material
    return self.brightness[frames]

  def _bend(self, frames, u, v):
    if self.warp.amplitudes[0] == 0:
      return u, v
    (a1, a2), (w1, w2) = self.warp.amplitudes, self.warp.frequencies
    u = u + a1 * np.sin(w1 * v + _entry(self.bends, frames, 0))
    return u, v + a2 * np.sin(w2 * u + _entry(self.bends, frames, 1))

  def _unbend(self, frames, u, v):
    if self.warp.amplitudes[0] == 0:
      return u, v
    (a1, a2), (w1, w2) = self.warp.amplitudes, self.warp.frequencies
    v = v - a2 * np.sin(w2 * u + _entry(self.bends, frames, 1))
    return u - a1 * np.sin(w1 * v + _entry(self.bends, frames, 0)), v


@dataclasses.dataclass(frozen=True)
class Ellipsoid:
  """A textured ellipsoid; in its own coordinates the unit sphere."""

  look: scene_lib.Look
  axes: tuple[float, float, float]
  forward: Any  # [T, 3, 3]: unit vectors to camera directions
  position: Any  # [T, 3] centre in camera coordinates
  rays: Any  # [T, 3, 3]: rays to the sphere's coordinates
  eye: Any  # [T, 3]: the camera in the sphere's coordinates
  present: Any
  rect: Any
  near: Any
  lamp: Any  # [T, 3]: light direction for unscaled normals
  ambient: float
  pixel: float  # size of a pixel at unit depth in object radii

  def cast(self, frames, rays):
    """Nearest meeting point of rays; see the module's docstring."""
    d1, d2, d3 = rays
    o1, o2, o3 = (_entry(self.eye, frames, i) for i in range(3))
    size = d1 * d1 + d2 * d2 + d3 * d3
    middle = -(o1 * d1 + o2 * d2 + o3 * d3) / size
    # The point of the ray nearest to the centre; its distance decides. The
    # textbook discriminant loses four digits in float32 on small objects.
    o1, o2, o3 = o1 + middle * d1, o2 + middle * d2, o3 + middle * d3
    inside = 1 - (o1 * o1 + o2 * o2 + o3 * o3)
    half = np.sqrt(np.maximum(inside, 0) / size)
    material = o1 - half * d1, o2 - half * d2, o3 - half * d3
    return middle - half, inside, material

  def project(self, frames, material):
    """Camera coordinates of material points and whether they can be seen."""
    m = functools.partial(_entry, self.forward, frames)
    n1, n2, n3 = material
    p = functools.partial(_entry, self.position, frames)
    x, y, z = (
      m(i, 0) * n1 + m(i, 1) * n2 + m(i, 2) * n3 + p(i) for i in range(3)
    )
    o1, o2, o3 = (_entry(self.eye, frames, i) for i in range(3))
    seen = (o1 * n1 + o2 * n2 + o3 * n3 > 1) & self.present[frames]
    return x, y, z, seen

  def coverage(self, inside, depth):
    """Fraction of a pixel that the ellipsoid covers, in [0, 1]."""
    share = 0.5 + 0.5 * inside / (depth * self.pixel)
    return np.where(inside > 0, np.minimum(share, 1), 0)

  def texture_at(self, frames, depth, material):
    """Texture coordinates in periods and periods per pixel."""
    del frames
    n1, n2, n3 = material
    u = np.arctan2(n2, n1) * (1 / _TURN) + self.look.offset[0]
    v = np.arccos(np.minimum(np.maximum(n3, -1), 1)) * (1 / _TURN)
    return u, v + self.look.offset[1], depth * (self.pixel / _TURN)

  def shade(self, frames, material):
    """Brightness of the lit surface."""
    facing = sum(
      _entry(self.lamp, frames, i) * n for i, n in enumerate(material)
    )
    size = sum(
      (n * (1 / a)) ** 2 for n, a in zip(material, self.axes, strict=True)
    )
    return lit(self.ambient, facing / np.sqrt(size))


@dataclasses.dataclass(frozen=True)
class Room:
  """The inside of a box."""

  textures: Any  # int32[6] of the faces x-, x+, y-, y+, z-, z+
  periods: Any  # [6] per unit
  offsets: Any  # [2, 6] in periods
  brightness: Any  # [6]
  forward: Any  # [T, 3, 3] camera from world
  rays: Any  # [T, 3, 3] world from camera
  centre: Any  # [T, 3] of the camera
  low: Any  # [T, 3] walls relative to the camera
  high: Any
  pixel: float  # size of a pixel at unit depth

  def cast(self, frames, rays):
    """Depth of the wall, the world position there, and the face 0..5."""
    exits, outward = [], []
    for i, d in enumerate(rays):
      # An exactly zero component does occur in float32.
      d = np.copysign(np.maximum(np.abs(d), 1e-6), d)
      a, b = (_entry(wall, frames, i) / d for wall in (self.low, self.high))
      exits.append(np.maximum(a, b))
      outward.append(d > 0)
    z = np.minimum(np.minimum(exits[0], exits[1]), exits[2])
    other = np.where(z == exits[1], 2 + outward[1], 4 + outward[2])
    face = np.where(z == exits[0], outward[0], other)
    point = tuple(
      _entry(self.centre, frames, i) + z * d for i, d in enumerate(rays)
    )
    return z, point, face

  def project(self, frames, material):
    """Camera coordinates of world positions; every wall can be seen."""
    m = functools.partial(_entry, self.forward, frames)
    point = [p - _entry(self.centre, frames, i) for i, p in enumerate(material)]
    x, y, z = (
      m(i, 0) * point[0] + m(i, 1) * point[1] + m(i, 2) * point[2]
      for i in range(3)
    )
    return x, y, z, True

  def texture_at(self, frames, depth, point, face, length):
    """Texture coordinates in periods and periods per pixel.

    Args:
      frames: integers that broadcast with depth.
      depth, point, face: as returned by `cast`.
      length: of the ray (x, y, 1).

    Returns:
      u, v and the footprint. It is the geometric mean of its long and short
      side: seen at an angle, a pixel covers more of the wall.
    """
    walls = np.stack([-self.low, self.high], axis=-1).reshape(-1)
    wall = walls.take(frames * 6 + face)
    periods = self.periods.take(face)
    x, y, z = point
    u = np.where(face < 2, z, x) * periods + self.offsets[0].take(face)
    v = np.where(face >> 1 == 1, z, y) * periods + self.offsets[1].take(face)
    slant = np.sqrt(depth * length / wall)
    return u, v, depth * periods * self.pixel * slant


def outline(look, u, v):
  """Implicit function of a card's shape: positive inside, about a distance."""
  if look.shape == 'square':
    return 0.88 - np.maximum(np.abs(u), np.abs(v))
  r = np.sqrt(u * u + v * v)
  if look.shape == 'disc':
    return 1 - r
  cos = u / np.maximum(r, 1e-6)
  square = cos * cos
  if look.shape == 'triangle':  # cos 3p
    return 0.85 - r + 0.22 * ((4 * square - 3) * cos)
  if look.shape == 'star':  # cos 5p
    return 0.8 - r + 0.25 * (((16 * square - 20) * square + 5) * cos)
  sin = v / np.maximum(r, 1e-6)
  edge, re, im = 1 - r, cos, sin
  for b, phase in zip(look.lobes, look.lobe_phases, strict=True):
    re, im = re * cos - im * sin, re * sin + im * cos  # the next harmonic
    edge = edge + ((b * math.cos(phase)) * re - (b * math.sin(phase)) * im)
  return edge


def lit(ambient, facing):
  """Brightness for the cosine between a normal and the light's direction."""
  return ambient + 1.3 * (1 - ambient) * np.maximum(facing, 0)


def apply_rays(matrix, frames, x, y):
  """matrix[frames] times (x, y, 1), as three arrays.

  Args:
    matrix: [T, 3, 3].
    frames: integers that broadcast with x and y.
    x, y: directions in the camera at unit depth.

  Returns:
    Three arrays of the broadcast shape.
  """
  m = functools.partial(_entry, matrix, frames)
  return tuple(m(i, 0) * x + (m(i, 1) * y + m(i, 2)) for i in range(3))


def single(surface):
  """The same surface in float32."""
  arrays = {
    field.name: value.astype(np.float32)
    for field in dataclasses.fields(surface)
    if isinstance(value := getattr(surface, field.name), np.ndarray)
    and value.dtype == np.float64
  }
  return dataclasses.replace(surface, **arrays)


def _entry(array, frames, *index):
  """array[frames, i, j] of an array [T, ...], shaped like frames."""
  return array[(slice(None), *index)].take(frames)
