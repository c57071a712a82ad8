"""Pre-training of RVM: fill in future frames of which 5 % are visible."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from projects.rvm import model as model_lib
from projects.rvm import streaming
from vidscenic import config_checks, task
from vidscenic.ops import losses, masking
from vidscenic.ops import video as video_ops

LOSSES = ('all', 'masked')
ORIGINS = ('first', 'last')
_GREY = 0.5  # shown in place of hidden patches


class MaskedVideo(task.Task):
  """Mean squared error of target frames, in pixels of [0, 1].

  Batches: video uint8[B, S + K, H, W, 3], sources then targets, and frame_ids
  int32[B, S + K], when they are, see `data.SourcesAndTargets`. Every target has
  a mask of its own.

  Figures of evaluation to compare with the loss, mean squared errors over the
  pixels that it looks at: `mse_copy_last` and `mse_mean_sources`, of the last
  source frame and the mean of the sources put in place of each target, and
  `mse_other_sources`, of the model with the sources of the next clip of the
  batch. A model that is of use stays below the first two and far below the
  third. `mse_hidden` is the model's over hidden patches alone.
  """

  def __init__(
    self,
    *,
    size: Sequence[int] = (256, 256),
    num_sources: int = 4,
    num_targets: int = 4,
    mask_ratio: float = 0.95,
    loss: str = 'all',
    delta_origin: str = 'first',
    model: Mapping[str, Any] | None = None,
  ):
    """See the arguments.

    Args:
      size: (H, W) of training frames.
      num_sources: S.
      num_targets: K.
      mask_ratio: share of the patches of a target that is hidden.
      loss: 'all' pixels of the targets, or those of 'masked' patches.
      delta_origin: whether the code of a target is its distance from the
        'first' source, as in the published demonstration, or the 'last'.
      model: fields of `model.RVM`, and `size`, 'S', 'B', 'L' or 'H', whose
        fields are then filled in.

    Raises:
      ValueError: an unknown or unusable argument, named.
    """
    self.model = _build_model(dict(model or {}))
    self.size = tuple(size)
    self.grid = streaming.grid(self.model, self.size)
    self.num_sources, self.num_targets = num_sources, num_targets
    self.num_tokens = self.grid[0] * self.grid[1]
    self.num_keep = masking.num_visible(self.num_tokens, mask_ratio)
    if not 0 < self.num_keep < self.num_tokens:
      raise ValueError(
        f'task.kwargs.mask_ratio={mask_ratio} leaves {self.num_keep} of '
        f'{self.num_tokens} patches visible: want one or more, not all'
      )
    for name, value, known in (
      ('loss', loss, LOSSES),
      ('delta_origin', delta_origin, ORIGINS),
    ):
      if value not in known:
        raise ValueError(f'task.kwargs.{name}={value!r}: want one of {known}')
    self._masked_only = loss == 'masked'
    self._origin = 0 if delta_origin == 'first' else num_sources - 1

  def batch_spec(self):
    count = self.num_sources + self.num_targets
    return {
      'video': jax.ShapeDtypeStruct((count, *self.size, 3), jnp.uint8),
      'frame_ids': jax.ShapeDtypeStruct((count,), jnp.int32),
    }

  def check_batch(self, batch):
    sources = batch['frame_ids'][batch['mask'], : self.num_sources]
    wrong = sources[(sources != np.arange(self.num_sources)).any(axis=1)]
    if len(wrong):
      raise ValueError(
        f'frame_ids of the data start with {wrong[0].tolist()}, want '
        f'task.kwargs.num_sources={self.num_sources} sources in a row: '
        'num_sources and num_targets of task.kwargs and transform_kwargs must '
        'agree'
      )
    deltas = self._deltas(batch['frame_ids'])
    wrong = deltas[(deltas < 0) | (deltas >= self.model.num_deltas)]
    if wrong.size:
      raise ValueError(
        f'frame_ids of the data give the delta {wrong.flat[0]}, which has no '
        f'code in [0, {self.model.num_deltas}): lower transform_kwargs.gaps, '
        'or raise task.kwargs.model.num_deltas'
      )

  def init(self, rng, batch):
    video = video_ops.normalize(batch['video'][:1], 'unit')
    sources, targets = self._split(video)
    if not self.model.decoder:
      return self.model.init(rng, sources, method='encode')['params'], {}
    ids = jnp.zeros((1, self.num_targets, self.num_keep), jnp.int32)
    deltas = ids[..., 0]
    return self.model.init(rng, sources, targets, ids, deltas)['params'], {}

  def loss(self, params, model_state, batch, ctx):
    if not self.model.decoder:
      raise ValueError('task.kwargs.model.decoder=False: nothing to train')
    sources, targets, mask = self._inputs(batch, ctx)
    features, _ = self.model.apply({'params': params}, sources, method='encode')
    reconstructed = self._decode(params, features, targets, mask, batch)
    hidden = self._hidden_pixels(mask)
    rows = losses.align(batch['mask'], targets)
    weight = rows * (hidden if self._masked_only else 1)
    error = reconstructed - targets
    mse = losses.squared(error, weight=weight)
    figures = {'mse_hidden': losses.squared(error, weight=rows * hidden)}
    if not ctx.train:
      for name, guess in (
        ('copy_last', sources[:, -1:]),
        ('mean_sources', sources.mean(axis=1, keepdims=True)),
      ):
        figures[f'mse_{name}'] = losses.squared(guess - targets, weight=weight)
      if len(sources) > 1:
        others = self._decode(
          params, jnp.roll(features, 1, axis=0), targets, mask, batch
        )
        figures['mse_other_sources'] = losses.squared(
          others - targets, weight=weight * jnp.roll(rows, 1, axis=0)
        )
    return task.LossOut({'mse': (*mse, 1.0)}, figures, model_state)

  def predict(self, params, model_state, batch, ctx, carry=None):
    """Features of the sources, and the targets filled in.

    Args:
      params: of the model.
      model_state: not used.
      batch: as in training.
      ctx: its key and rows draw the masks.
      carry: state to go on from, None: zeros.

    Returns:
      ({features: float32[B, S, h, w, D]} and, with a decoder, float32[B, K, H,
      W, 3] in [0, 1]: visible, the targets with hidden patches grey;
      reconstructed; copy_last, the last source; truth), state.
    """
    sources, targets, mask = self._inputs(batch, ctx)
    features, carry = self.model.apply(
      {'params': params}, sources, carry, method='encode'
    )
    outputs = {
      'features': streaming.feature_map(self.model, features, self.size)
    }
    if self.model.decoder:
      reconstructed = self._decode(params, features, targets, mask, batch)
      outputs |= {
        'visible': jnp.where(self._hidden_pixels(mask), _GREY, targets),
        'reconstructed': reconstructed,
        'copy_last': jnp.broadcast_to(sources[:, -1:], targets.shape),
        'truth': targets,
      }
    return outputs, carry

  def _inputs(self, batch, ctx):
    """Sources, targets and a mask over the patches of each target."""
    sources, targets = self._split(video_ops.normalize(batch['video'], 'unit'))
    keys = masking.split_keys(
      masking.row_keys(ctx.rng, ctx.rows), self.num_targets
    )
    mask = masking.random_mask(
      keys, num_tokens=self.num_tokens, num_keep=self.num_keep
    )
    return sources, targets, mask

  def _hidden_pixels(self, mask):
    return hidden_pixels(mask.hidden, grid=self.grid, patch=self.model.patch)

  def _decode(self, params, features, targets, mask, batch):
    deltas = self._deltas(batch['frame_ids'])
    return self.model.apply(
      {'params': params},
      features,
      targets,
      mask.keep_ids,
      deltas,
      method='decode',
    )

  def _split(self, video):
    return video[:, : self.num_sources], video[:, self.num_sources :]

  def _deltas(self, frame_ids):
    origin = frame_ids[:, self._origin, None]
    return frame_ids[:, self.num_sources :] - origin


def hidden_pixels(
  hidden: jax.Array, *, grid: Sequence[int], patch: Sequence[int]
) -> jax.Array:
  """The pixels of hidden patches.

  Args:
    hidden: bool[..., h * w], of each patch.
    grid: (h, w).
    patch: (rows, columns).

  Returns:
    bool[..., H, W, 1].
  """
  hidden = hidden.reshape(*hidden.shape[:-1], *grid)
  for axis, size in zip((-2, -1), patch, strict=True):
    hidden = jnp.repeat(hidden, size, axis=axis)
  return hidden[..., None]


def _build_model(fields):
  if 'size' in fields:
    fields = model_lib.rvm_config(fields.pop('size')) | fields
  known = model_lib.RVM.__dataclass_fields__.keys() - {'parent', 'name'}
  for name in fields:
    if name not in known:
      raise ValueError(
        config_checks.unknown(f'task.kwargs.model.{name}', name, known)
      )
  for name in ('patch', 'base_grid'):  # a model is hashed, lists are not
    if name in fields:
      fields[name] = tuple(fields[name])
  if 'dtype' in fields:
    fields['dtype'] = jnp.dtype(fields['dtype'])
  return model_lib.RVM(**fields)
