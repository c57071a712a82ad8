"""Scenes of the synthetic videos: what is drawn at random and how it moves.

A scene is a plain tuple of numbers, drawn before and independently of the
number of frames and of the resolution, so one index shows the same scene at
every size. Time runs from tau = 0 (first frame) to 1 (last frame). Axes: x
right, y down, z forward; lengths in scene units, angles in radians. "Widths"
are image widths.

Only `Generator.random` is called: numpy may change its distributions between
versions, but not the raw stream. For the same reason the 3x3 products below
are written out instead of going through the installed BLAS.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

ACTIONS = (
  'right',
  'left',
  'up',
  'down',
  'approach',
  'recede',
  'clockwise',
  'counterclockwise',
  'spin_right',
  'spin_left',
  'shake_horizontal',
  'shake_vertical',
)
SHAPES = ('disc', 'blob', 'star', 'square', 'triangle', 'ellipsoid')
PERMUTATIONS = tuple(itertools.permutations(range(3)))  # of the colour channels
MAX_OBJECTS = 9

# Direction (x, y) and sense of the classes that come in opposite pairs.
_SHIFTS = {'right': (1, 0), 'left': (-1, 0), 'up': (0, -1), 'down': (0, 1)}
_ZOOMS = {'approach': -1, 'recede': 1}
_ROLLS = {'clockwise': 1, 'counterclockwise': -1}
_SPINS = {'spin_right': 1, 'spin_left': -1}
_SHAKES = {'shake_horizontal': (1, 0), 'shake_vertical': (0, 1)}


class Difficulty(NamedTuple):
  """Ranges that separate easy scenes from hard ones."""

  objects: tuple[int, int]  # least and greatest number, at most MAX_OBJECTS
  speed: float  # of the camera and of all motion that carries no label
  twin: float  # probability that an object looks like an earlier one
  light: float  # strength of shading, exposure changes and noise; 0 is none
  distract: float  # probability that an object ignores the clip's action


DIFFICULTIES = {
  'easy': Difficulty((2, 4), 0.5, 0.0, 0.25, 0.0),
  'medium': Difficulty((3, 6), 1.0, 0.35, 0.6, 0.2),
  'hard': Difficulty((5, 9), 1.5, 0.6, 1.0, 0.3),
}


class Smooth(NamedTuple):
  """A smooth random function of tau: a trend and three slow waves."""

  amplitude: float
  slope: float
  weights: tuple[float, ...]
  phases: tuple[float, ...]

  def __call__(self, tau):
    """Values at tau, float64 of the same shape."""
    waves = sum(
      m * (np.sin(np.pi * i * tau + phase) - math.sin(phase))
      for i, m, phase in zip((1, 2, 3), self.weights, self.phases, strict=True)
    )
    return self.amplitude * (1.2 * self.slope * (tau - 0.5) + 0.35 * waves)


class Camera(NamedTuple):
  """A pinhole camera: focal length in widths, position x y z, angles y x z."""

  focal: float
  position: tuple[Smooth, ...]
  angles: tuple[Smooth, ...]


class Face(NamedTuple):
  """Texture of one wall: index, periods per unit, offsets in periods."""

  texture: int
  periods: float
  offset: tuple[float, float]


class Room(NamedTuple):
  """The box around everything; faces in the order x-, x+, y-, y+, z-, z+."""

  low: tuple[float, float, float]
  high: tuple[float, float, float]
  faces: tuple[Face, ...]


class Light(NamedTuple):
  """Direction towards the light, ambient part, exposure and pixel noise."""

  direction: tuple[float, float, float]
  ambient: float
  exposure: Smooth  # relative change of brightness
  noise: float  # standard deviation, as a fraction of full scale


class Look(NamedTuple):
  """Shape and surface of an object: what look-alikes share."""

  shape: str
  lobes: tuple[float, ...]  # amplitudes of the blob's harmonics 2..5
  lobe_phases: tuple[float, ...]
  axes: tuple[float, float, float]  # of the ellipsoid, relative to its size
  texture: int
  permutation: int  # of the colour channels, index into PERMUTATIONS
  gain: float
  scale: float  # texture periods per card diameter
  offset: tuple[float, float]  # in periods


class Warp(NamedTuple):
  """Two travelling shears that bend a card; zero amplitudes: a rigid card.

  With card coordinates (u, v) in card radii:
    u' = u + a1 sin(w1 v + p1 + r1 tau), v' = v + a2 sin(w2 u' + p2 + r2 tau).
  """

  amplitudes: tuple[float, float]
  frequencies: tuple[float, float]
  phases: tuple[float, float]
  rates: tuple[float, float]


class Motion(NamedTuple):
  """How one object moves; `unit` is the size of one width at its depth."""

  action: str
  origin: tuple[float, float, float]  # the camera at mid-clip
  offset: tuple[float, float, float]  # from there to the object, at mid-clip
  unit: float
  shift: float  # widths per clip
  zoom: float  # exponent per clip
  roll_rate: float  # radians per clip
  spin_rate: float  # radians per clip
  shake: tuple[float, float, float]  # amplitude in widths, cycles, phase
  drift: tuple[Smooth, ...]  # widths
  tilt: float
  tilt_axis: float  # angle of the tilt's axis within the card
  tilt_drift: Smooth
  roll: float
  roll_drift: Smooth


class Thing(NamedTuple):
  """One moving object; `size` is its radius in scene units."""

  look: Look
  size: float
  motion: Motion
  warp: Warp


class Scene(NamedTuple):
  """Everything about one clip except its sampling in time and space."""

  camera: Camera
  room: Room
  light: Light
  things: tuple[Thing, ...]
  label: int  # index into ACTIONS: what object 0 does


def draw_scene(rng, difficulty: Difficulty, *, num_textures: int) -> Scene:
  """Draws a scene.

  Args:
    rng: numpy Generator; only its `random` method is used.
    difficulty: ranges to draw from.
    num_textures: textures are indices in [0, num_textures).

  Returns:
    The scene. Object 0 decides the label; it is a quarter larger than the
    others and is never a look-alike.
  """
  draw = _Draw(rng)
  speed = difficulty.speed
  camera = _draw_camera(draw, speed)
  room = _draw_room(draw, num_textures)
  light = _draw_light(draw, difficulty.light)
  label = draw.integer(len(ACTIONS))
  least, most = difficulty.objects
  things: list[Thing] = []
  for k in range(least + draw.integer(most - least + 1)):
    look = _draw_look(draw, num_textures)
    twin, other = draw(0, 1), draw(0, 1)
    if things and twin < difficulty.twin:
      look = things[int(other * len(things))].look
    distracted, action = draw(0, 1), draw.integer(len(ACTIONS))
    if k == 0 or distracted >= difficulty.distract:
      action = label
    depth = draw(2.6, 6.5)
    place = draw(-0.36, 0.36), draw(-0.3, 0.3)
    radius = draw(0.09, 0.2) * (1.25 if k == 0 else 1.0)
    motion = _draw_motion(draw, ACTIONS[action], depth, place, camera, speed)
    if look.shape == 'ellipsoid':
      motion = motion._replace(spin_rate=motion.spin_rate * 1.9)
    else:
      motion = motion._replace(spin_rate=motion.spin_rate * 1.05)
    size = radius * depth / camera.focal
    things.append(Thing(look, size, motion, _draw_warp(draw, speed)))
  return Scene(camera, room, light, tuple(things), label)


def camera_pose(camera: Camera, tau):
  """World-from-camera rotations float64[T, 3, 3] and centres [T, 3]."""
  centre = np.stack([smooth(tau) for smooth in camera.position], axis=-1)
  rotation = matmul(
    _rotation(1, camera.angles[0](tau)),
    _rotation(0, camera.angles[1](tau)),
    _rotation(2, camera.angles[2](tau)),
  )
  return rotation, centre


def object_pose(motion: Motion, tau):
  """World-from-object rotations float64[T, 3, 3] and centres [T, 3]."""
  c = tau - 0.5
  zoom = np.exp(motion.zoom * _ZOOMS.get(motion.action, 0) * c)
  position = np.array(motion.origin) + zoom[:, None] * np.array(motion.offset)
  moved = np.stack([smooth(tau) for smooth in motion.drift], axis=-1)
  amplitude, cycles, phase = motion.shake
  wave = amplitude * np.sin(2 * np.pi * cycles * tau + phase)
  for path, directions in ((motion.shift * c, _SHIFTS), (wave, _SHAKES)):
    x, y = directions.get(motion.action, (0, 0))
    moved[:, 0] += x * path
    moved[:, 1] += y * path
  spin = motion.spin_rate * _SPINS.get(motion.action, 0) * c
  roll = motion.roll_rate * _ROLLS.get(motion.action, 0) * c
  roll = roll + motion.roll + motion.roll_drift(tau)
  axis = np.full_like(c, motion.tilt_axis)
  rotation = matmul(
    _rotation(1, -spin),
    _rotation(2, axis),
    _rotation(0, motion.tilt + motion.tilt_drift(tau)),
    _rotation(2, roll - axis),
  )
  return rotation, position + motion.unit * moved


def matmul(*matrices):
  """Product of stacks of matrices, as sums in a fixed order."""
  result = matrices[0]
  for m in matrices[1:]:
    result = sum(
      result[..., :, i, None] * m[..., i, None, :] for i in range(m.shape[-2])
    )
  return result


class _Draw:
  """Uniform numbers from the raw stream of a generator."""

  def __init__(self, rng):
    # A scene of nine objects needs 815; one call is faster than as many.
    self._numbers = iter(rng.random(1024).tolist())

  def __call__(self, low, high) -> float:
    return low + (high - low) * next(self._numbers)

  def many(self, count, low, high) -> tuple[float, ...]:
    return tuple(self(low, high) for _ in range(count))

  def integer(self, stop) -> int:
    return int(self(0, stop))

  def sign(self) -> float:
    return 1.0 if self(0, 1) < 0.5 else -1.0

  def smooth(self, amplitude) -> Smooth:
    slope, *weights = self.many(4, -1, 1)
    phases = self.many(3, 0, 2 * math.pi)
    return Smooth(amplitude, slope, tuple(weights), phases)


def _draw_camera(draw, speed):
  focal = draw(0.9, 1.35)
  if draw(0, 1) < 0.25:  # a camera on a tripod
    speed = 0.0
  position = tuple(draw.smooth(a * speed) for a in (0.55, 0.3, 0.6))
  angles = tuple(draw.smooth(math.radians(a) * speed) for a in (9, 6, 5))
  return Camera(focal, position, angles)


def _draw_room(draw, num_textures):
  low = -draw(3.5, 6), -draw(2.2, 3.2), -3.0
  high = draw(3.5, 6), draw(1.6, 2.6), draw(8, 12)
  faces = tuple(
    Face(draw.integer(num_textures), draw(0.15, 0.45), draw.many(2, 0, 1))
    for _ in range(6)
  )
  return Room(low, high, faces)


def _draw_light(draw, strength):
  x, y, z = draw(-0.6, 0.6), -1.0, draw(-0.8, -0.1)
  norm = math.sqrt(x * x + y * y + z * z)
  ambient = 1 - 0.55 * strength * draw(0.3, 1)
  exposure = draw.smooth(0.18 * strength)
  noise = 0.03 * strength * draw(0, 1)
  return Light((x / norm, y / norm, z / norm), ambient, exposure, noise)


def _draw_look(draw, num_textures):
  shape = SHAPES[draw.integer(len(SHAPES))]
  lobes = draw.many(4, -1, 1)
  total = draw(0.2, 0.42) / sum(abs(b) for b in lobes)
  return Look(
    shape=shape,
    lobes=tuple(b * total for b in lobes),
    lobe_phases=draw.many(4, 0, 2 * math.pi),
    axes=(1.0, *draw.many(2, 0.7, 1.15)),
    texture=draw.integer(num_textures),
    permutation=draw.integer(len(PERMUTATIONS)),
    gain=draw(0.75, 1.15),
    scale=draw(0.35, 0.8),
    offset=draw.many(2, 0, 1),
  )


def _draw_motion(draw, action, depth, place, camera, speed):
  rotation, centre = camera_pose(camera, np.array([0.5]))
  unit = depth / camera.focal
  ahead = np.array([place[0] * unit, place[1] * unit, depth])
  return Motion(
    action=action,
    origin=tuple(centre[0].tolist()),
    offset=tuple((rotation[0] * ahead).sum(-1).tolist()),
    unit=unit,
    shift=draw(0.28, 0.5) * min(speed, 1.25),
    zoom=0.7 * min(speed, 1.2),
    roll_rate=draw(1.6, 4.2) * min(speed, 1.25),
    spin_rate=2 * draw(0.8, 1) * min(speed, 1.1),
    shake=(draw(0.09, 0.17), draw(1.5, 3), draw(0, 2 * math.pi)),
    drift=tuple(draw.smooth(0.05 * speed) for _ in range(3)),
    tilt=math.radians(draw(0, 35)),
    tilt_axis=draw(0, 2 * math.pi),
    tilt_drift=draw.smooth(math.radians(18) * speed),
    roll=draw(0, 2 * math.pi),
    roll_drift=draw.smooth(math.radians(10) * speed),
  )


def _draw_warp(draw, speed):
  bends = draw(0, 1) < 0.5
  size = min(speed, 1.2) if bends else 0.0
  return Warp(
    amplitudes=tuple(a * size for a in draw.many(2, 0.05, 0.16)),
    frequencies=draw.many(2, 1.5, 3.5),
    phases=draw.many(2, 0, 2 * math.pi),
    rates=tuple(draw.sign() * draw(2, 9) for _ in range(2)),
  )


def _rotation(axis, angle):
  """Rotations [T, 3, 3] about a coordinate axis, right-handed."""
  i, j = (axis + 1) % 3, (axis + 2) % 3
  matrix = np.zeros((len(angle), 3, 3))
  matrix[:, axis, axis] = 1
  matrix[:, i, i] = matrix[:, j, j] = np.cos(angle)
  matrix[:, j, i] = np.sin(angle)
  matrix[:, i, j] = -matrix[:, j, i]
  return matrix
