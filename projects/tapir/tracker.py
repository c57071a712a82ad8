"""Tracking points frame by frame, for robots and other live video.

  tracker = Tracker.load('causal_tapir')  # or load(): small weights of our own
  state = tracker.start(frame, points)
  while True:
    tracks, state = tracker.step(frame, state)   # the first frame too
    frame = camera.read()

Points can be added and dropped at any time; the programs are compiled for a
number of slots, so that this compiles nothing until the slots are used up.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from projects.tapir import features as features_lib
from projects.tapir import importer
from projects.tapir import model as model_lib
from projects.tapir import task as task_lib
from vidscenic.data import resize
from vidscenic.importers import published
from vidscenic.ops import tracking
from vidscenic.ops import video as video_ops
from vidscenic.tools import download

# Numbers of slots that programs are compiled for; more are multiples of the
# last.
SLOTS = (16, 64, 256)


class Tracks(NamedTuple):
  """Where points are in one frame.

  Attributes:
    points: float32[N, 2], (x, y) in raster pixels of the frame: (0, 0) is the
      upper left corner of the first pixel.
    visible: bool[N]; where it is False the position is a guess.
    ids: int64[N], numbers given by `start` and `add`, ascending.
  """

  points: np.ndarray
  visible: np.ndarray
  ids: np.ndarray


class State(NamedTuple):
  """What a tracker remembers. No call changes it, so earlier ones can be kept.

  Attributes:
    size: (height, width) of the frames.
    ids: int64[slots], number of the point in each slot, -1 if free.
    next_id: number of the next point.
    features: of the points.
    memory: of the model.
  """

  size: tuple[int, int]
  ids: np.ndarray
  next_id: int
  features: Any
  memory: Any


class Tracker:
  """Tracks points online with a causal model.

  Args:
    model: a `model.Tapir` with use_causal_conv.
    params: its parameters.
    resolution: (height, width) that frames are resized to, multiples of 8;
      larger finds more and takes longer.

  Raises:
    ValueError: a model that is not causal, or a wrong resolution.
  """

  def __init__(
    self,
    model: model_lib.Tapir,
    params: Any,
    resolution: Sequence[int] = (256, 256),
  ):
    if not getattr(model, 'use_causal_conv', False):
      raise ValueError(
        'use_causal_conv=False: this model looks into the future and cannot '
        'run online; load causal weights, such as causal_tapir_checkpoint.npy'
      )
    if model.extra_conv_shift:
      raise ValueError(
        'extra_conv_shift=True: this model looks at the next frame and cannot '
        'run online'
      )
    self.model, self.params = model, params
    self.resolution = check_resolution(resolution)

  @classmethod
  def load(
    cls,
    weights: str | os.PathLike = importer.OWN_WEIGHTS,
    *,
    resolution: Sequence[int] = (),
    use_causal_conv: bool | None = None,
    softmax_temperature: float | None = None,
  ) -> 'Tracker':
    """Loads a tracker.

    Args:
      weights: name of published weights, downloaded once, or a file; the
        small ones of this project need no download.
      resolution: as of the class; () takes the one of training.
      use_causal_conv, softmax_temperature: only for files that say neither by
        their name nor by themselves.

    Raises:
      OSError, ValueError: an unreadable file, or not of a causal TAPIR.
    """
    model, params = load_model(
      weights,
      use_causal_conv=use_causal_conv,
      softmax_temperature=softmax_temperature,
    )
    if not isinstance(model, model_lib.Tapir):
      raise ValueError(f'{weights} holds TAP-Net, which cannot run online')
    return cls(model, params, resolution or model.initial_resolution)

  def start(
    self, frame: np.ndarray, points: np.ndarray, *, slots: int = 0
  ) -> State:
    """Chooses what to track; call `step` with the same frame next.

    Args:
      frame: uint8[H, W, 3], RGB, any size.
      points: [N, 2], (x, y) in raster pixels of the frame.
      slots: room for so many points at least, if more will be added.

    Raises:
      ValueError: no points, points outside the frame or not finite, or a
        frame of another type.
    """
    frame = _checked_frame(frame)
    points = check_points(points, frame.shape[:2])
    if not len(points):
      raise ValueError('points is empty: give at least one (x, y)')
    count = slots_for(max(len(points), slots))
    empty = State(frame.shape[:2], np.full(count, -1), 0, None, None)
    return self.add(frame, empty, points)

  def step(self, frame: np.ndarray, state: State) -> tuple[Tracks, State]:
    """Finds the points in the next frame.

    Args:
      frame: uint8[H, W, 3], RGB, of the size of the first.
      state: of `start`, `add`, `drop` or the last `step`.

    Returns:
      (tracks of the points that are not dropped, state for the next frame).

    Raises:
      ValueError: a frame of another size or type.
    """
    small = self._small(frame, state.size)
    points, visible, memory = _step(
      self.model, self.params, small, state.features, state.memory
    )
    used = state.ids >= 0
    order = np.argsort(state.ids[used])
    scale = np.divide(state.size, self.resolution)[::-1]
    points = np.asarray(points)[used][order] * np.float32(scale)
    tracks = Tracks(
      points, np.asarray(visible)[used][order], state.ids[used][order]
    )
    return tracks, state._replace(memory=memory)

  def add(self, frame: np.ndarray, state: State, points: np.ndarray) -> State:
    """Tracks more points; call `step` with the same frame next.

    Args:
      frame: uint8[H, W, 3], RGB, of the size of the first.
      state: of `start`, `drop` or the last `step`.
      points: [N, 2], (x, y) in raster pixels of the frame; their numbers follow
        those given so far.

    Raises:
      ValueError: as `start`.
    """
    small = self._small(frame, state.size)
    points = check_points(points, state.size)
    free = np.flatnonzero(state.ids < 0)
    if len(points) > len(free) or state.features is None:
      state = self._grown(state, len(points))
      free = np.flatnonzero(state.ids < 0)
    chosen = free[: len(points)]
    slots = len(state.ids)
    # Every slot looks something up; those that stay keep what they have.
    queries = np.zeros((1, slots, 3), np.float32)
    scale = np.divide(self.resolution, state.size)
    queries[0, chosen, 1:] = points[:, ::-1] * scale
    new = np.zeros(slots, bool)
    new[chosen] = True
    features, memory = _put(
      self.model,
      self.params,
      small,
      queries,
      new,
      state.features,
      state.memory,
    )
    ids = state.ids.copy()
    ids[chosen] = state.next_id + np.arange(len(points))
    next_id = state.next_id + len(points)
    return State(state.size, ids, next_id, features, memory)

  def drop(self, state: State, ids: Sequence[int]) -> State:
    """Stops tracking points; their slots are free again.

    Raises:
      ValueError: a number that is not tracked.
    """
    unknown = sorted(set(ids) - set(state.ids[state.ids >= 0].tolist()))
    if unknown:
      raise ValueError(f'ids: {unknown[0]} is not tracked')
    return state._replace(ids=np.where(np.isin(state.ids, ids), -1, state.ids))

  def _grown(self, state, more):
    """A state with room for more points; the old ones keep their slots."""
    used = int((state.ids >= 0).sum())
    old = len(state.ids)
    slots = max(old, slots_for(used + more))
    features, memory = jax.eval_shape(
      functools.partial(_empty, self.model, self.resolution, slots)
    )
    features, memory = jax.tree.map(
      lambda s: jnp.zeros(s.shape, s.dtype), (features, memory)
    )
    if state.features is not None:
      features = jax.tree.map(
        lambda x, y: x.at[:, :old].set(y), features, state.features
      )
      memory = jax.tree.map(
        lambda x, y: x.at[:, :, :old].set(y), memory, state.memory
      )
    ids = np.concatenate([state.ids, np.full(slots - old, -1)])
    return state._replace(ids=ids, features=features, memory=memory)

  def _small(self, frame, size):
    frame = _checked_frame(frame)
    if frame.shape[:2] != tuple(size):
      raise ValueError(
        f'frame has {frame.shape[0]}x{frame.shape[1]} pixels, the first one '
        f'had {size[0]}x{size[1]}: all must be alike'
      )
    return resize.resize_frames(
      frame[None], self.resolution, method='bilinear'
    )[None]


def load_model(weights: str | os.PathLike, **known) -> tuple[Any, Any]:
  """(model, parameters) of published weights or of a file.

  Args:
    weights: a published name, which is downloaded once, or a file.
    **known: as of `importer.model_options`.
  """
  if any(weights == entry.name for entry in published.WEIGHTS):
    weights = download.fetch(published.find(weights))
  options = importer.model_options(weights, **known)
  task = task_lib.PointTracking(options)
  params, state = jax.eval_shape(task.init, jax.random.key(0), {})
  if state:
    return task.model, importer.load(weights, params, state)
  return task.model, jax.device_put(importer.load(weights, params))


def slots_for(count: int) -> int:
  """Slots of the programs that track so many points."""
  for slots in SLOTS:
    if count <= slots:
      return slots
  return -(-count // SLOTS[-1]) * SLOTS[-1]


def check_points(points: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """float32[N, 2], (x, y) in a frame of (height, width).

  Raises:
    ValueError: another shape, not finite, or outside; names the point.
  """
  points = np.asarray(points, np.float32)
  if points.ndim != 2 or points.shape[1] != 2:
    raise ValueError(f'points must be [N, 2], (x, y), got {points.shape}')
  for number, (x, y) in enumerate(points):
    if not (np.isfinite(x) and np.isfinite(y)):
      raise ValueError(f'points[{number}] = ({x:g}, {y:g}) is not finite')
    if not (0 <= x <= size[1] and 0 <= y <= size[0]):
      raise ValueError(
        f'points[{number}] = ({x:g}, {y:g}) is outside the frame: want x in '
        f'[0, {size[1]}] and y in [0, {size[0]}]'
      )
  return points


def check_resolution(resolution: Sequence[int]) -> tuple[int, int]:
  """(height, width).

  Raises:
    ValueError: not two multiples of 8.
  """
  sides = tuple(resolution) if np.ndim(resolution) == 1 else ()
  if len(sides) != 2 or not all(
    isinstance(side, (int, np.integer)) and side >= 8 and side % 8 == 0
    for side in sides
  ):
    raise ValueError(
      f'resolution={resolution}: want (height, width), multiples of 8'
    )
  return tuple(int(side) for side in sides)


def _checked_frame(frame):
  frame = np.asarray(frame)
  if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
    raise ValueError(
      'a frame must be uint8[height, width, 3], RGB, got '
      f'{frame.dtype}{list(frame.shape)}'
    )
  return frame


def _levels(model, resolution):
  return features_lib.default_resolutions(resolution, model.initial_resolution)


def _empty(model, resolution, slots):
  """Features and memory of free slots."""
  count = len(
    set((tuple(model.initial_resolution), *_levels(model, resolution)))
  )
  groups = model.channels_per_group
  grid = features_lib.Grid(
    jnp.zeros((1, slots, groups[3])), jnp.zeros((1, slots, groups[1]))
  )
  memory = model.initial_state(slots, len(_levels(model, resolution)))
  return (grid,) * count, memory


@functools.partial(jax.jit, static_argnums=0)
def _step(model, params, frame, features, memory):
  def stages(model, frame):
    grids = model.feature_grids(frame)
    return model.trajectories(grids, features, state=memory)

  video = video_ops.normalize(frame)
  tracks, memory = model.apply({'params': params}, video, method=stages)
  last = tracks.final(model.num_pips_iter)
  hidden = tracking.predicted_occluded(last.occlusion, last.expected_dist)
  return last.points[0, :, 0], ~hidden[0, :, 0], memory


@functools.partial(jax.jit, static_argnums=0)
def _put(model, params, frame, queries, new, features, memory):
  """Looks up new points and clears the memory of their slots."""

  def stages(model, frame):
    return model.query_features(model.feature_grids(frame), queries)

  video = video_ops.normalize(frame)
  found = model.apply({'params': params}, video, method=stages)
  features = jax.tree.map(
    lambda x, y: jnp.where(new[:, None], x, y), found, features
  )
  memory = jax.tree.map(
    lambda x: jnp.where(new.reshape(-1, *(1,) * (x.ndim - 3)), 0, x), memory
  )
  return features, memory
