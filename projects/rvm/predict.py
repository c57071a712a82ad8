"""What RVM sees in a video: features as colours, and labels that follow things.

The video is streamed, so memory does not grow with its length. It is read
twice: colours need the principal components of all features.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from projects.rvm import streaming
from vidscenic.data import resize
from vidscenic.data import stream as stream_lib
from vidscenic.evaluation import propagation, soft_labels
from vidscenic.tools import loaded, outputs
from vidscenic.tools import predict as predict_lib
from vidscenic.viz import features as features_viz
from vidscenic.viz import images, tracks
from vidscenic.viz import masks as masks_viz


def describe(
  model: loaded.Loaded,
  video: stream_lib.VideoStream,
  out: outputs.Outputs,
  *,
  short_side: int = 256,
  chunk: int = 8,
  mask: str = '',
  points: str = '',
  features_every: int = 1,
  moments: int = 4,
  gaps: Sequence[int] = (4, 48),
  radius: float = propagation.PUBLISHED.radius,
  top_k: int = propagation.PUBLISHED.top_k,
):
  """Streams a video through the model.

  Writes
    features.mp4: the frames beside the first three principal components of
      their features;
    results.npz: `times` in seconds [T], `explained`, the share of variance of
      the three components, and for every `features_every`-th frame `features`
      float16[t, h, w, D] and their `feature_frames` [t];
    masks.mp4 and, in results.npz, `masks` uint8[T, H, W], if a mask is given;
    points.mp4 and points.csv, if points are given;
    reconstruction.png and reconstruction.csv: some frames of which the model
      sees few patches, filled in, unless the weights have no decoder.

  Args:
    model: with a `task.MaskedVideo`.
    video: the source.
    out: of that video.
    short_side: of the frames as the model sees them, in pixels, rounded to
      patches; the other side follows.
    chunk: frames that the encoder takes at once.
    mask: picture of numbers for the pixels of the first frame, 0 is background,
      as DAVIS stores them (palette or grey). It is carried on.
    points: text file with `x,y` in pixels of the first frame, a point per line.
      They are carried on.
    features_every: 0 writes no features.
    moments: reconstructions shown, evenly spaced; 0: none.
    gaps: (least, most) frames from the sources to the frames filled in, which
      are brought to the size of training, whatever their shape.
    radius, top_k: of the propagation of masks and points, see
      `propagation.Settings`; radius in patches.

  Raises:
    UsageError, OSError: a mask, points or settings that cannot be used.
  """
  size = _fitted(video, short_side, model.task.model.patch)
  settings = propagation.PUBLISHED._replace(radius=radius, top_k=top_k)
  given = model.task.model, settings
  carriers = []
  try:
    if mask:
      carriers.append(_Masks(mask, video, size, *given))
    if points:
      carriers.append(_Points(points, video, size, *given))
  except ValueError as error:  # settings out of range
    raise predict_lib.UsageError(str(error)) from error

  pca = features_viz.FeaturePca()
  for _, maps in _stream(model, video, size, chunk):
    pca.update(maps)
  pca.finish()
  out.arrays('explained', pca.explained)

  shown = _Moments(model, video, moments, gaps)
  for part, maps in _stream(model, video, size, chunk, with_source=True):
    source = part.source[: part.count]
    colors = images.upsample(pca.colors(maps), source.shape[1:3])
    out.frames('features', images.side_by_side(source, colors))
    out.arrays('times', part.times)
    if features_every:
      numbers = part.first + np.arange(part.count)
      chosen = numbers % features_every == 0
      out.arrays('features', maps[chosen].astype(np.float16))
      out.arrays('feature_frames', numbers[chosen])
    for carrier in carriers:
      carrier.take(source, maps, part, out)
    shown.take(source, part.first)
  shown.reconstruct(out)


def _fitted(video, short_side, patch):
  """(H, W) of whole patches with about the shape of the video."""
  scale = short_side / min(video.height, video.width)
  return tuple(
    max(1, round(n * scale / p)) * p
    for n, p in zip((video.height, video.width), patch, strict=True)
  )


def _stream(model, video, size, chunk, *, with_source=False):
  """Yields (chunk, float32[count, h, w, D]) through the whole video."""
  net = model.task.model
  state = streaming.init_state(net, batch=1, size=size)
  for part in video.chunks(
    chunk, size=size, method='lanczos', with_source=with_source
  ):
    features, state = streaming.encode_video(
      net, model.params, part.frames[None], state
    )
    maps = streaming.feature_map(net, features[0, : part.count], size)
    yield part, np.asarray(maps)


class _Masks:
  """A mask of the first frame, carried on."""

  def __init__(self, path, video, size, net, settings):
    with Image.open(path) as picture:
      mask = np.array(picture)
    original = video.height, video.width
    if mask.shape != original or mask.dtype != np.uint8:
      raise predict_lib.UsageError(
        f'--option=mask={path} is {mask.dtype}{list(mask.shape)}: want '
        f'a palette or grey picture of {original[1]}x{original[0]} pixels, '
        f'like {video.path}'
      )
    labels, self._numbers = soft_labels.from_mask(
      mask, size=size, grid=streaming.grid(net, size)
    )
    self._carry = propagation.Propagator(labels, settings=settings)
    self._sizes = dict(size=size, original=original)

  def take(self, frames, maps, part, out):
    del part
    found = np.stack(
      [
        soft_labels.to_mask(self._carry(each), self._numbers, **self._sizes)
        for each in maps
      ]
    )
    out.arrays('masks', found)
    out.frames('masks', masks_viz.draw_masks(frames, found[..., None]))


class _Points:
  """Points of the first frame, carried on."""

  def __init__(self, path, video, size, net, settings):
    try:
      points = np.loadtxt(path, delimiter=',', ndmin=2)
    except ValueError as error:
      raise predict_lib.UsageError(
        f'--option=points={path}: want a line `x,y` for each point: {error}'
      ) from error
    self._original = video.height, video.width
    limit = self._original[::-1]
    if points.shape[1:] != (2,) or not len(points):
      raise predict_lib.UsageError(
        f'--option=points={path}: want a line `x,y` for each point'
      )
    if not ((points >= 0) & (points < limit)).all():
      raise predict_lib.UsageError(
        f'--option=points={path}: want points within {limit[0]}x'
        f'{limit[1]} pixels, got {points.min(0)} to {points.max(0)}'
      )
    labels = soft_labels.from_keypoints(
      points, original=self._original, grid=streaming.grid(net, size)
    )
    self._carry = propagation.Propagator(labels, settings=settings)
    self._painter = tracks.TrackPainter()

  def take(self, frames, maps, part, out):
    pairs = [
      soft_labels.to_keypoints(self._carry(each), original=self._original)
      for each in maps
    ]
    points, found = (np.stack(x, axis=1) for x in zip(*pairs, strict=True))
    out.frames('points', self._painter.draw(frames, points, ~found))
    out.table(
      'points',
      ('frame', 'seconds', 'point', 'x', 'y', 'found'),
      (
        (part.first + t, part.times[t], n, *points[n, t], int(found[n, t]))
        for t, n in itertools.product(range(part.count), range(len(points)))
      ),
    )


class _Moment(NamedTuple):
  """Frames of one reconstruction, by their numbers."""

  numbers: np.ndarray  # int[S + K]
  frames: dict[int, np.ndarray]


class _Moments:
  """Collects the frames of some reconstructions while the video goes by."""

  def __init__(self, model, video, count, gaps):
    self._model, self._task = model, model.task
    task = model.task
    last = task.num_sources - 1
    # The farthest target must lie in the video and have a code.
    most = min(gaps[1], video.num_frames - 1 - last, _farthest(task))
    self._moments = []
    if not task.model.decoder or most < 1:
      return
    ids = np.linspace(min(gaps[0], most), most, task.num_targets).round()
    self._ids = np.concatenate(
      [np.arange(task.num_sources), last + ids.astype(int)]
    )
    room = video.num_frames - 1 - self._ids[-1]
    starts = np.linspace(0, room, max(0, count)).astype(int)
    self._moments = [
      _Moment(start + self._ids, {}) for start in np.unique(starts)
    ]

  def take(self, frames, first):
    """Keeps what is needed of frames `first`, first + 1, ..."""
    for moment in self._moments:
      for number in set(moment.numbers) & {*range(first, first + len(frames))}:
        frame = frames[number - first][None]
        moment.frames[number] = resize.resize_frames(
          frame, self._task.size, method='bilinear'
        )[0]

  def reconstruct(self, out):
    """Draws and writes them."""
    task, sheets = self._task, []
    if not self._moments:
      return

    @jax.jit
    def fill_in(params, video, row):
      batch = {
        'video': video[None],
        'frame_ids': np.int32(self._ids)[None],
        'mask': np.ones(1, bool),
      }
      context = self._model.context(row[None])
      clips, _ = task.predict(params, {}, batch, context)
      del clips['features']
      return {name: clip[0] for name, clip in clips.items()}

    for row, (numbers, frames) in enumerate(self._moments):
      video = np.stack([frames[number] for number in numbers])
      clips = jax.device_get(fill_in(self._model.params, video, np.int32(row)))
      errors = {
        name: ((clips[name] - clips['truth']) ** 2).mean(axis=(1, 2, 3))
        for name in ('reconstructed', 'copy_last')
      }
      out.table(
        'reconstruction',
        ('last_source', 'target', 'mse', 'mse_copy_last'),
        zip(
          [numbers[task.num_sources - 1]] * task.num_targets,
          numbers[task.num_sources :],
          *errors.values(),
          strict=True,
        ),
      )
      rows = [
        images.grid(list(images.to_uint8(clips[name])), task.num_targets)
        for name in ('copy_last', 'visible', 'reconstructed', 'truth')
      ]
      names = f'after frame {numbers[task.num_sources - 1]}: last source'
      names = names, 'visible', 'reconstructed', 'truth'
      sheets.append(images.stack(list(map(images.label, rows, names))))
    out.picture('reconstruction', images.stack(sheets, pad=8))


def _farthest(task: Any) -> int:
  """The largest gap whose delta has a code."""
  return task.model.num_deltas - task.num_sources
