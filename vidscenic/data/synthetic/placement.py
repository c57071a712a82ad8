"""Builds the surfaces of a scene at given times for one image size.

All in float64. The bounds of an ellipsoid in the image come from its dual conic
and are exact; points on three great circles can miss its corners even with a
margin.
"""

import dataclasses
import math

import numpy as np

from vidscenic.data.synthetic import scene as scene_lib
from vidscenic.data.synthetic import surfaces

_CLOSEST = 0.1  # an object is absent where it could come closer than this
_EDGE_ON = 1e-3  # or is this thin: inverting its map would lose all digits
_WARPED = 1.75  # bound of a card's radius after bending
_OUTLINE = 64  # points on the outline of a card


@dataclasses.dataclass(frozen=True)
class View:
  """A camera over time: what decides where a scene appears in the image."""

  tau: np.ndarray  # float64[T]
  rotation: np.ndarray  # float64[T, 3, 3] world from camera
  centre: np.ndarray  # float64[T, 3]
  height: int  # of the image, pixels
  width: int
  focal: float  # pixels

  def bounds(self, low, high, present):
    """Pixel rectangles around image directions, a pixel wider.

    Args:
      low, high: [T, 2], least and greatest (x, y) at unit depth.
      present: bool[T].

    Returns:
      int64[T, 4]: x0, y0, x1, y1 within the image; zero where not present.
    """
    size = np.array([self.width, self.height])
    low = np.floor(low * self.focal + size / 2 - 1)
    high = np.ceil(high * self.focal + size / 2 + 1)
    rect = np.concatenate([np.clip(low, 0, size), np.clip(high, 0, size)], 1)
    return np.where(present[:, None], rect, 0).astype(np.int64)


def make_view(camera, *, num_frames: int, height: int, width: int) -> View:
  """Samples a `scene.Camera`; a single frame is taken at tau = 0."""
  tau = np.arange(num_frames) / max(num_frames - 1, 1)
  rotation, centre = scene_lib.camera_pose(camera, tau)
  return View(tau, rotation, centre, height, width, camera.focal * width)


def make_room(room, light, view: View) -> surfaces.Room:
  """Places a `scene.Room` lit by a `scene.Light`."""
  inward = np.array([(x, -x) for x in light.direction]).reshape(6)
  return surfaces.Room(
    textures=np.array([face.texture for face in room.faces], np.int32),
    periods=np.array([face.periods for face in room.faces]),
    offsets=np.array([face.offset for face in room.faces]).T,
    brightness=surfaces.lit(light.ambient, inward),
    forward=view.rotation.swapaxes(1, 2),
    rays=view.rotation,
    centre=view.centre,
    low=np.array(room.low) - view.centre,
    high=np.array(room.high) - view.centre,
    pixel=1 / view.focal,
  )


def make_object(thing, light, view: View):
  """Places a `scene.Thing`: a `surfaces.Ellipsoid` or a `surfaces.Card`."""
  own, position = scene_lib.object_pose(thing.motion, view.tau)
  camera = view.rotation.swapaxes(1, 2)
  offset = (camera * (position - view.centre)[:, None]).sum(-1)
  make = _make_ellipsoid if thing.look.shape == 'ellipsoid' else _make_card
  return make(thing, light, view, own, offset)


def _make_card(thing, light, view, own, offset):
  pixel = 1 / (view.focal * thing.size)
  plane = scene_lib.matmul(view.rotation.swapaxes(1, 2), own)
  forward = np.stack(
    [thing.size * plane[..., 0], thing.size * plane[..., 1], offset], axis=-1
  )
  reach = _WARPED * np.hypot(forward[:, 2, 0], forward[:, 2, 1])
  a, b, c = (forward[..., i] for i in range(3))
  rows = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], axis=1)
  volume = (rows[:, 0] * a).sum(-1)
  distance = np.sqrt((offset**2).sum(-1))
  # The cosine between the normal and the line of sight to the centre.
  slant = np.abs(volume) / np.maximum(thing.size**2 * distance, 1e-9)
  present = (forward[:, 2, 2] - reach > _CLOSEST) & (slant > _EDGE_ON)
  volume = np.where(present, volume, 1)
  rays = np.where(present[:, None, None], rows / volume[:, None, None], 0)
  warp = thing.warp
  bends = np.array(warp.phases) + np.array(warp.rates) * view.tau[:, None]
  normal = (own[..., 2] * np.array(light.direction)).sum(-1)
  towards = np.where((plane[..., 2] * offset).sum(-1) > 0, -normal, normal)
  card = surfaces.Card(
    look=thing.look,
    warp=warp,
    forward=forward,
    rays=rays,
    bends=bends,
    present=present,
    rect=np.zeros((len(present), 4), np.int64),
    near=forward[:, 2, 2] - reach,
    brightness=surfaces.lit(light.ambient, towards),
    texels=0.5 * thing.look.scale * pixel / np.sqrt(np.maximum(slant, 0.1)),
    pixel=pixel,
  )
  return dataclasses.replace(
    card, rect=_card_rect(card, forward[:, 2, 2] + reach, view)
  )


def _card_rect(card, deepest, view):
  """Bounds of the bent outline, as far out as its soft edge goes."""
  extent = {
    'disc': 1.0,
    'blob': 1 + sum(abs(b) for b in card.look.lobes),
    'star': 1.05,
    'square': 0.88 * math.sqrt(2),
    'triangle': 1.07,
  }[card.look.shape]
  # The edge ends 0.6 pixels out; the square's corner is farther by sqrt(2).
  radius = extent + 0.85 * card.pixel * np.maximum(deepest, 0)
  angle = 2 * math.pi * np.arange(_OUTLINE) / _OUTLINE
  radius = radius[:, None] / math.cos(math.pi / _OUTLINE)
  frames = np.arange(len(deepest))[:, None]
  material = radius * np.cos(angle), radius * np.sin(angle)
  x, y, z, _ = card.project(frames, material)
  z = np.maximum(z, 0.5 * _CLOSEST)
  directions = np.stack([x / z, y / z], axis=-1)
  return view.bounds(directions.min(1), directions.max(1), card.present)


def _make_ellipsoid(thing, light, view, own, offset):
  axes = tuple(thing.size * a for a in thing.look.axes)
  forward = scene_lib.matmul(view.rotation.swapaxes(1, 2), own) * axes
  inverse = own.swapaxes(1, 2) / np.array(axes)[:, None]
  depth = offset[:, 2]
  present = depth > 1.2 * max(axes) + _CLOSEST
  # Dual conic of the silhouette: tangent lines x = constant are its roots.
  conic = offset[:, :, None] * offset[:, None] - scene_lib.matmul(
    forward, forward.swapaxes(1, 2)
  )
  scale = np.where(present, conic[:, 2, 2], 1)[:, None]
  middle = conic[:, 2, :2]
  square = np.stack([conic[:, 0, 0], conic[:, 1, 1]], axis=-1)
  spread = np.sqrt(np.maximum(middle**2 - square * scale, 0))
  world = (view.rotation * offset[:, None]).sum(-1)
  lamp = (inverse * np.array(light.direction)).sum(-1) * thing.size
  return surfaces.Ellipsoid(
    look=thing.look,
    axes=thing.look.axes,
    forward=forward,
    position=offset,
    rays=scene_lib.matmul(inverse, view.rotation),
    eye=-(inverse * world[:, None]).sum(-1),
    present=present,
    rect=view.bounds(
      (middle - spread) / scale, (middle + spread) / scale, present
    ),
    near=depth - np.sqrt((forward[:, 2] ** 2).sum(-1)),
    lamp=lamp,
    ambient=light.ambient,
    pixel=1 / (view.focal * thing.size),
  )


def _cross(a, b):
  after, before = [1, 2, 0], [2, 0, 1]
  return a[:, after] * b[:, before] - a[:, before] * b[:, after]
