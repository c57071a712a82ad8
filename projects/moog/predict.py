"""MooG on one's own video: tracks, next frames, what single tokens follow.

Everything goes frame by frame with the state carried on, so memory does not
grow with the length of the video.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from projects.moog import task as task_lib
from vidscenic.data import resize
from vidscenic.layers import pixel_decoder
from vidscenic.ops import masking
from vidscenic.tasks import readout, track_heads
from vidscenic.tools import predict as predict_lib
from vidscenic.viz import attention as attention_viz
from vidscenic.viz import boxes as box_viz
from vidscenic.viz import images, tracks

_OUTPUTS = ('tracks', 'frames', 'attention')


def show(
  model,
  video,
  out,
  *,
  points: Sequence[Sequence[float]] = (),
  boxes: Sequence[Sequence[float]] = (),
  grid: int = 5,
  size: Sequence[int] = (),
  tokens: Sequence[int] = (),
  factor: int = 2,
  chunk: int = 8,
  seed: int = 0,
  what: Sequence[str] = _OUTPUTS,
):
  """Writes what the model and its heads make of a video.

    tracks.mp4: point and box tracks over the video, from heads 'points' and
      'boxes'; points.csv: frame, seconds, point, x, y, visible (1 or 0), as in
      results.npz, which has times [T], points [T, N, 2], (x, y) in
      pixels of the video, occluded [T, N], boxes [T, K, 4], (ymin, xmin, ymax,
      xmax) in [0, 1].
    frames.mp4: each frame as it was predicted from those before, beside it, of
      tasks that train on it; psnr [T] in results.npz.
    attention.mp4: where chosen tokens look in each frame, mean over heads of
      the last layer that corrects them.

  Args:
    model: `vidscenic.tools.loaded.Loaded` with a task of MooG.
    video: `vidscenic.data.stream.VideoStream`.
    out: `vidscenic.tools.outputs.Outputs`.
    points: (x, y) in pixels of the video in its first frame; with neither these
      nor boxes a grid of points.
    boxes: (ymin, xmin, ymax, xmax) in [0, 1], in the first frame.
    grid: side of that grid.
    size: (height, width) that the model sees; empty: as in training.
    tokens: numbers of the tokens to watch; empty: eight of them.
    factor: every factor-th pixel of a predicted frame is decoded.
    chunk: frames at a time.
    seed: of the random first state.
    what: which of 'tracks', 'frames' and 'attention' to write.

  Raises:
    UsageError: an unusable argument, named.
  """
  unknown = sorted(set(what) - set(_OUTPUTS))
  if unknown:
    raise predict_lib.UsageError(
      f'--option=what: {unknown[0]!r} is none of {_OUTPUTS}'
    )
  size = tuple(size) or model.task.clip[1:]
  count = getattr(model.task.backbone, 'num_tokens', 0)
  tokens = tuple(tokens) or tuple(
    np.unique(np.linspace(0, count - 1, 8).astype(int)).tolist()
  )
  reader = _Reader(model, size, tokens=tokens, factor=factor, seed=seed)
  if 'frames' not in what or not reader.decodes:
    reader.factor = 0
  watch = 'attention' in what
  trackers, painter = [], tracks.TrackPainter()
  if 'tracks' in what:
    trackers = _trackers(model, video, points, boxes, grid)
  pending = []  # (number, seconds, frame) whose tracks are not known yet
  for part in video.chunks(chunk, size=size, with_source=True):
    found = reader.read(part.frames, watch=watch)
    source = part.source[: part.count]
    out.arrays('times', part.times)
    if 'predicted' in found:
      _write_frames(out, found, source, part.count)
    if watch:
      _write_attention(out, found['attention'][: part.count], source, tokens)
    if trackers:
      last = part.first + part.count >= video.num_frames
      for tracker in trackers:
        tracker.add(found['features'][:, : part.count], last=last)
      numbers = range(part.first, part.first + part.count)
      pending += list(zip(numbers, part.times, source, strict=True))
      ready = min(tracker.ready for tracker in trackers)
      _write_tracks(out, trackers, painter, pending[:ready])
      pending = pending[ready:]


class _Reader:
  """Runs the backbone over chunks: features, predicted frames, attention."""

  def __init__(self, model, size, *, tokens, factor, seed):
    task = model.task
    if not hasattr(task.backbone, 'lattices'):
      raise predict_lib.UsageError(
        f'{type(task.backbone).__name__}: projects.moog.predict shows MooG'
      )
    count = task.backbone.num_tokens
    if not all(0 <= n < count for n in tokens):
      raise predict_lib.UsageError(
        f'--option=tokens={list(tokens)}: want numbers below {count}'
      )
    unit = int(np.prod(task.backbone.strides))
    if len(size) != 2 or any(n < unit or n % unit for n in size):
      raise predict_lib.UsageError(
        f'--option=size={list(size)}: want (height, width), multiples of {unit}'
      )
    self.decodes = isinstance(task, task_lib.NextFrame)
    if self.decodes and factor and any(n % max(factor, 1) for n in size):
      raise predict_lib.UsageError(
        f'--option=factor={factor}: want a number that divides {list(size)}'
      )
    self.factor = factor
    self._task, self._params = task, model.params
    self._size, self._tokens = size, np.asarray(tokens)
    self._keys = masking.row_keys(jax.random.key(seed), jnp.zeros(1, int))
    self._state = None
    self._run = jax.jit(self._compute, static_argnames='watch')

  def read(self, frames, *, watch):
    """{features [1, T, N, D], predicted, psnr, attention [T, tokens, h, w]}."""
    found, self._state = self._run(
      self._params, frames[None], self._state, watch=watch
    )
    return jax.device_get(found)

  def _compute(self, params, frames, state, watch):
    video = self._task.inputs({'video': frames})
    out, seen = self._task.backbone.apply(
      {'params': params['backbone']},
      video,
      state,
      keys=self._keys,
      # Lattice of a loss gradient, as in evaluation.
      factor=getattr(self._task, 'eval_factor', 0),
      mutable='attention_weights' if watch else 'none',
    )
    found = {'features': out.features}
    if self.factor:
      rows, columns = (
        pixel_decoder.lattice(n, self.factor) for n in self._size
      )
      said = self._task.pixels(params, out, rows, columns, self._size)
      truth = pixel_decoder.take_lattice(video, rows, columns)
      square = jnp.mean(jnp.square(said - truth), axis=(2, 3, 4))
      found['predicted'] = jnp.clip(said[0], 0, 1)
      found['psnr'] = -10 * jnp.log10(jnp.maximum(square[0], 1e-10))
    if watch:
      found['attention'] = self._attention(seen['attention_weights'])
    return found, out.state

  def _attention(self, seen):
    stack = seen['step']['corrector']['stack']
    block = stack[max(stack, key=lambda name: int(name.rsplit('_', 1)[-1]))]
    (weights,) = block['cross_attention']['weights']  # [T, 1, heads, N, S]
    weights = weights[:, 0, :, self._tokens].mean(axis=2)
    stride = int(np.prod(self._task.backbone.strides))
    grid = [n // stride for n in self._size]
    # Indexing put the tokens first.
    return jnp.moveaxis(weights.reshape(len(self._tokens), -1, *grid), 0, 1)


class _Tracker:
  """One head over a stream of features; `ready` frames can be taken."""

  def __init__(self, head, params, queries):
    self.ready = 0
    self._head, self._queries = head, jnp.asarray(queries)[None]
    self._state, self._features, self._values, self._seen = None, [], [], []
    self._window = head.kind == 'window'
    self._run = jax.jit(
      lambda tokens, queries, state: head.track(
        params, readout.Features(tokens, (1, 1)), queries, None, state
      )
    )

  def add(self, features, *, last):
    """Features [1, T, N, D] of the frames that follow."""
    if not self._window:
      tracks = self._run(features, self._queries, self._state)
      self._state = tracks.state
      self._keep(tracks, features.shape[1])
      return
    self._features += list(np.asarray(features[0]))
    length = self._head.layers.num_frames
    while len(self._features) > length or (
      not last and len(self._features) == length
    ):
      self._read_window(self._head.hop or length // 2)
    if last:
      # The end again and again, as far as the head needs more.
      count = len(self._features)
      self._features += self._features[-1:] * (length - count)
      self._read_window(count)

  def _read_window(self, count):
    length = self._head.layers.num_frames
    tokens = np.stack(self._features[:length])[None]
    tracks = self._run(tokens, self._queries, None)
    self._keep(tracks, count)
    if count < length:
      self._queries = tracks.values[:, count]
    self._features = self._features[count:]

  def _keep(self, tracks, count):
    self._values += list(np.asarray(tracks.values[0, :count]))
    seen = np.ones(tracks.values.shape[1:3], bool)
    if tracks.visible is not None:
      seen = np.asarray(tracks.seen()[0])
    self._seen += list(seen[:count])
    self.ready += count

  def take(self, count):
    """(values [count, Q, C], seen [count, Q]); they are forgotten."""
    parts = [np.stack(x[:count]) for x in (self._values, self._seen)]
    del self._values[:count], self._seen[:count]
    self.ready -= count
    return parts


def _trackers(model, video, points, boxes, grid):
  """A `_Tracker` for each head that is asked for something."""
  heads = model.task.heads
  for name, given in (('points', points), ('boxes', boxes)):
    if given and name not in heads:
      raise predict_lib.UsageError(
        f'--option={name}: the task has no head {name!r}, only {sorted(heads)}'
      )
  trackers = []
  if 'points' in heads and (points or not boxes):
    points = np.asarray(points or _grid(video, grid), np.float32)
    if points.ndim != 2 or points.shape[1] != 2:
      raise predict_lib.UsageError('--option=points: want (x, y) pairs')
    queries = np.insert(points[:, ::-1], 0, 0, axis=1)
    try:
      track_heads.check_points(
        queries, (video.num_frames, video.height, video.width)
      )
    except ValueError as error:
      raise predict_lib.UsageError(f'--option=points: {error}') from error
    trackers.append(
      _Tracker(
        heads['points'],
        model.params['heads']['points'],
        points / np.float32([video.width, video.height]),
      )
    )
  if 'boxes' in heads and boxes:
    boxes = np.asarray(boxes, np.float32)
    good = boxes.ndim == 2 and boxes.shape[1] == 4
    if not good or not (0 <= boxes.min() and boxes.max() <= 1):
      raise predict_lib.UsageError(
        '--option=boxes: want (ymin, xmin, ymax, xmax) in [0, 1]'
      )
    trackers.append(
      _Tracker(heads['boxes'], model.params['heads']['boxes'], boxes)
    )
  return trackers


def _grid(video, side):
  x = (np.arange(side) + 0.5) / side
  x, y = np.meshgrid(x * video.width, x * video.height)
  return np.stack([x.ravel(), y.ravel()], axis=-1).tolist()


def _write_tracks(out, trackers, painter, frames):
  if not frames:
    return
  numbers, times, pictures = zip(*frames, strict=True)
  pictures = np.stack(pictures)
  height, width = pictures.shape[1:3]
  for tracker in trackers:
    values, seen = tracker.take(len(frames))
    if values.shape[-1] == 4:
      out.arrays('boxes', values)
      pictures = box_viz.draw_boxes(pictures, values)
      continue
    points = values * np.float32([width, height])
    out.arrays('points', points)
    out.arrays('occluded', ~seen)
    rows = tracks.rows(numbers[0], times, points, seen)
    out.table('points', tracks.COLUMNS, rows)
    pictures = painter.draw(
      pictures, points.swapaxes(0, 1), ~seen.swapaxes(0, 1)
    )
  out.frames('tracks', pictures)


def _write_frames(out, found, source, count):
  said = images.to_uint8(found['predicted'][:count])
  said = resize.resize_frames(said, source.shape[1:3], method='bilinear')
  out.arrays('psnr', found['psnr'][:count])
  out.frames(
    'frames',
    images.side_by_side(said, source, labels=('predicted', 'truth')),
  )


def _write_attention(out, weights, source, tokens):
  columns = [
    images.label(
      attention_viz.draw_attention(source, weights[:, i]), f'token {number}'
    )
    for i, number in enumerate(tokens)
  ]
  frames = [
    images.grid([column[t] for column in columns], columns=4)
    for t in range(len(source))
  ]
  out.frames('attention', np.stack(frames))
