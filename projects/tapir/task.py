"""Tracking any point as a task: training on clips with known tracks."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from projects.tapir import losses, tapnet
from projects.tapir import model as model_lib
from projects.tapir import tracks as tracks_lib
from vidscenic import task
from vidscenic.ops import augment, grids, masking, metrics, tracking
from vidscenic.ops import video as video_ops

MODELS = {'tapir': model_lib.Tapir, 'tapnet': tapnet.TapNet}
_PER_QUERY = ('query_points', 'target_points', 'occluded')
# Size at which TAP-Vid counts pixels.
_SCORED = (256, 256)


def make_model(options: Mapping[str, Any] | None = None):
  """A `model.Tapir`, or with name='tapnet' a `tapnet.TapNet`.

  Args:
    options: name, and fields of the model.

  Raises:
    ValueError: an unknown name or field.
  """
  options = dict(options or {})
  name = options.pop('name', 'tapir')
  if name not in MODELS:
    raise ValueError(f'model.name must be one of {(*MODELS,)}, got {name!r}')
  fields = set(MODELS[name].__dataclass_fields__) - {'parent', 'name'}
  if unknown := sorted(set(options) - fields):
    raise ValueError(
      f'model.{unknown[0]} is no field of {name}: choose from {sorted(fields)}'
    )
  return MODELS[name](**options)


class PointTracking(task.Task):
  """TAPIR's losses on tracks of query points; also TAP-Net's.

  A batch holds video uint8[B, T, H, W, 3], query_points [B, N, 3] (t, y, x),
  target_points [B, N, T, 2] (x, y), all in raster pixels, and occluded
  bool[B, N, T].

  While training, queries are put in random order and only the first
  `grad_chunks` chunks of `query_chunk_size` are refined: a refinement without
  gradient, as the released code computes for the others, would change no
  parameter. First guesses are trained on all queries.

  Args:
    model: fields of `model.Tapir`, or of `tapnet.TapNet` with name='tapnet'.
    clip: (T, H, W) of a training clip.
    num_queries: N.
    query_chunk_size: queries at a time; 0: all.
    grad_chunks: chunks whose refinement is trained; 0: all.
    colors: arguments of `augment.color_augment` in training; None or empty:
      colours stay.
    expected_dist_thresh: see `losses.point_losses`. A point that the model
      expects to be further off counts as hidden, so a model that is not exact
      yet wants it large.
  """

  def __init__(
    self,
    model: Mapping[str, Any] | None = None,
    clip: Sequence[int] = (24, 256, 256),
    num_queries: int = 256,
    query_chunk_size: int = 32,
    grad_chunks: int = 1,
    colors: Mapping[str, Any] | None = None,
    expected_dist_thresh: float = losses.EXPECTED_DIST_THRESH,
  ):
    self.model = make_model(model)
    self.clip, self.num_queries = tuple(clip), num_queries
    self.query_chunk_size, self.grad_chunks = query_chunk_size, grad_chunks
    self.colors = dict(colors or {})
    self.expected_dist_thresh = expected_dist_thresh
    self.is_tapnet = isinstance(self.model, tapnet.TapNet)
    if expected_dist_thresh <= 0:
      raise ValueError(f'{expected_dist_thresh=} must be positive')
    if query_chunk_size < 0 or grad_chunks < 0:
      raise ValueError(
        f'{query_chunk_size=} and {grad_chunks=} must not be negative'
      )

  def batch_spec(self):
    n, (t, h, w) = self.num_queries, self.clip
    return {
      'video': jax.ShapeDtypeStruct((t, h, w, 3), jnp.uint8),
      'query_points': jax.ShapeDtypeStruct((n, 3), jnp.float32),
      'target_points': jax.ShapeDtypeStruct((n, t, 2), jnp.float32),
      'occluded': jax.ShapeDtypeStruct((n, t), jnp.bool_),
    }

  def init(self, rng, batch):
    del batch  # parameters depend on no size
    variables = self.model.init(
      rng, jnp.zeros((1, 1, 64, 64, 3)), jnp.zeros((1, 1, 3))
    )
    params = variables['params']
    return params, {k: v for k, v in variables.items() if k == 'batch_stats'}

  def check_batch(self, batch):
    """Refuses queries that are not finite or name no frame of the clip."""
    real = np.asarray(batch.get('mask', True))
    queries = np.asarray(batch['query_points'])[real]
    if not np.isfinite(queries).all():
      raise ValueError('query_points holds numbers that are not finite')
    frames, length = queries[..., 0], batch['video'].shape[1]
    if frames.size and not 0 <= frames.min() <= frames.max() <= length - 1:
      raise ValueError(
        f'query_points: frames from {frames.min():g} to {frames.max():g}, want '
        f'0 to {length - 1}, the last of a clip'
      )

  def loss(self, params, model_state, batch, ctx):
    video = self.inputs(batch, ctx)
    others = None
    if self.is_tapnet:
      tracks, model_state = self._track_tapnet(
        params, model_state, video, batch, ctx.train
      )
    else:
      trained = self.num_queries
      if ctx.train and self.grad_chunks and self.query_chunk_size:
        trained = min(trained, self.grad_chunks * self.query_chunk_size)
        batch = _shuffled(batch, ctx)
      batch, others = _parted(batch, trained)
      tracks, rest = self._track_tapir(params, video, batch, others)
    terms = self._terms(tracks, batch)
    if others:
      terms = _with_first_guesses(terms, rest, others, self._targets(others))
    figures = self._figures(tracks, batch, ctx.train)
    return task.LossOut(terms, figures, model_state)

  def predict(self, params, model_state, batch, ctx, carry=None):
    """Tracks the queries of a batch through its clips.

    Args:
      params, model_state: of the model.
      batch: video uint8[B, T, H, W, 3] and query_points [B, N, 3], of any size.
      ctx: unused.
      carry: handed through.

    Returns:
      ({'points': [B, N, T, 2], 'occluded': bool[B, N, T], and the logits
      'occlusion' and, but for TAP-Net, 'expected_dist'}, carry).
    """
    del ctx
    video = video_ops.normalize(batch['video'])
    if self.is_tapnet:
      tracks, _ = self._track_tapnet(params, model_state, video, batch, False)
    else:
      tracks = self.model.apply(
        {'params': params},
        video,
        batch['query_points'],
        query_chunk_size=self.query_chunk_size,
      )
    tracks = self.final(tracks)
    outputs = {k: v for k, v in tracks._asdict().items() if v is not None}
    outputs['occluded'] = tracking.predicted_occluded(
      tracks.occlusion, tracks.expected_dist
    )
    return outputs, carry

  def final(self, tracks: tracks_lib.Tracks) -> tracks_lib.Tracks:
    """The answer of the task's model."""
    return tracks.final(getattr(self.model, 'num_pips_iter', 1))

  def inputs(self, batch, ctx):
    """Normalised video, in training with changed colours."""
    if not (ctx.train and self.colors):
      return video_ops.normalize(batch['video'])
    keys = masking.row_keys(ctx.rng, ctx.rows)
    unit = video_ops.normalize(batch['video'], 'unit')
    return augment.color_augment(keys, unit, **self.colors) * 2 - 1

  def _track_tapir(self, params, video, batch, others):
    """(`Tracks` of the batch's queries, first guesses of the others')."""
    chunk = self.query_chunk_size

    def run(model, video):
      grids_ = model.feature_grids(video)
      features = model.query_features(grids_, batch['query_points'])
      tracks, _ = model.trajectories(
        grids_,
        features,
        queries=batch['query_points'],
        query_chunk_size=chunk,
      )
      if not others:
        return tracks, None
      features = model.query_features(grids_, others['query_points'])
      return tracks, model.first_guesses(
        grids_, features, others['query_points'], query_chunk_size=chunk
      )

    return self.model.apply({'params': params}, video, method=run)

  def _track_tapnet(self, params, model_state, video, batch, train):
    out, changed = self.model.apply(
      {'params': params, **model_state},
      video,
      batch['query_points'],
      query_chunk_size=self.query_chunk_size,
      train=train,
      mutable=['batch_stats'],
    )
    return out.tracks, dict(changed) if train else model_state

  def _targets(self, batch):
    return {
      'target_points': batch['target_points'],
      'target_occluded': batch['occluded'],
      'size': batch['video'].shape[2:4],
      'rows': batch['mask'],
      'expected_dist_thresh': self.expected_dist_thresh,
    }

  def _terms(self, tracks, batch):
    return losses.trajectory_losses(
      tracks,
      getattr(self.model, 'num_pips_iter', 1),
      refined=batch['query_points'].shape[1] / self.num_queries,
      **self._targets(batch),
    )

  def _figures(self, tracks, batch, train):
    """TAP-Vid's scores of clips; in evaluation also of points at rest."""
    answer = self.final(tracks)
    shape = answer.occlusion.shape
    occluded = tracking.predicted_occluded(
      answer.occlusion, answer.expected_dist
    )
    guesses = {'': (answer.points, occluded)}
    if not train:
      queries = grids.swap_xy(batch['query_points'][..., 1:])[:, :, None]
      at_rest = jnp.broadcast_to(queries, (*shape, 2))
      guesses['static_'] = at_rest, jnp.zeros(shape, bool)
    scale = lambda points, order: grids.scale_points(
      points, source=batch['video'].shape[2:4], target=_SCORED, order=order
    )
    figures = {}
    for name, (points, hidden) in guesses.items():
      scores = tracking.tap_vid(
        query_points=scale(batch['query_points'], 'tyx'),
        target_points=scale(batch['target_points'], 'xy'),
        target_occluded=batch['occluded'],
        points=jax.lax.stop_gradient(scale(points, 'xy')),
        occluded=hidden,
        mode='strided',
      )
      for key in _SCORES:
        figures[f'{name}{key}'] = metrics.mean_of_known(
          scores[key], mask=batch['mask']
        )
    return figures


_SCORES = (
  'average_jaccard',
  'average_pts_within_thresh',
  'occlusion_accuracy',
)


def _shuffled(batch, ctx):
  """Every row's queries in an order of their own."""
  count = batch['query_points'].shape[1]
  keys = masking.row_keys(jax.random.fold_in(ctx.rng, 1), ctx.rows)
  orders = jax.vmap(lambda key: jax.random.permutation(key, count))(keys)
  take = jax.vmap(lambda x, order: x[order])
  return batch | {name: take(batch[name], orders) for name in _PER_QUERY}


def _parted(batch, count):
  """The batch with its first queries, and with the others (None if none)."""
  if batch['query_points'].shape[1] == count:
    return batch, None
  return tuple(
    batch | {name: batch[name][:, part] for name in _PER_QUERY}
    for part in (slice(count), slice(count, None))
  )


def _with_first_guesses(terms, tracks, others, targets):
  """Adds what queries that are not refined contribute."""
  terms = dict(terms)
  first = jax.tree.map(lambda x: x[0], tracks)
  for name, (total, entries) in losses.point_losses(*first, **targets).items():
    so_far, count, scale = terms[f'{name}_0']
    terms[f'{name}_0'] = (so_far + total, count + entries, scale)
  return terms
