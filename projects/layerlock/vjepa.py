"""V-JEPA (arXiv 2404.08471), also with progressive freezing (LayerLock).

The predictor fills in what a teacher, the average of the encoder, makes of the
whole clip at hidden places. With `layerlock` the target is what one of the
teacher's blocks returns: the first one at the start, then the newest block that
is frozen in the student; once per freeze the teacher takes over the frozen
blocks. LayerLock's paper (2509.10156) says that this works, and not how the
targets are normalised or which masks it used: those are V-JEPA's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from projects.layerlock import blocks as blocks_lib
from vidscenic import config as vc
from vidscenic import task
from vidscenic.layers import jepa
from vidscenic.ops import block_masking, losses, masking, targets
from vidscenic.ops import video as video_ops
from vidscenic.tasks import model_fields
from vidscenic.train import freezing

MASKS = ({'num_blocks': 8, 'area': 0.15}, {'num_blocks': 2, 'area': 0.7})
# Folded into the key of a step, so that its uses draw different numbers.
_SHAPE, _PLACE = range(2)


class MaskedLatents(task.Task):
  """Mean absolute error of features, averaged over the masks of a clip.

  Batches: video uint8[B, T, H, W, 3]. The run needs `config.ema.decay`, the
  teacher's; without it the encoder is its own teacher, and only freezing keeps
  it from collapse.

  A phase is the number of frozen blocks. Loss terms: `mask_0`, `mask_1`, ...
  """

  input_range = 'imagenet'

  def __init__(
    self,
    *,
    clip: Sequence[int] = (16, 224, 224),
    model: Mapping[str, Any] | None = None,
    masks: Sequence[Mapping[str, Any]] = MASKS,
    layerlock: Mapping[str, Any] | None = None,
    sync_on_freeze: bool = True,
  ):
    """See the arguments.

    Args:
      clip: (T, H, W) of a training clip.
      model: fields of `jepa.JointEmbedding`, and `size`, one of `vit.SIZES`,
        whose fields are then filled in.
      masks: arguments of `block_masking.multi_block_mask`, one per mask.
      layerlock: fields of `recipe.Recipe` about freezing; None: V-JEPA.
      sync_on_freeze: whether the teacher takes over blocks that freeze.

    Raises:
      ValueError: an unknown or unusable argument, named.
    """
    self.clip = tuple(clip)
    self.model = _build_model(dict(model or {}))
    self.grid = model_fields.token_grid(self.clip, self.model.patch)
    self.recipe = self.schedule = None
    if layerlock is not None:
      self.recipe = vc.build(
        'projects.layerlock.recipe:Recipe',
        field='task.kwargs.layerlock',
        **_checked(dict(layerlock)),
      )
      self.schedule = self.recipe.schedule(self.model.depth)
    self._masks = []
    for i, mask in enumerate(masks):
      try:
        keep, predict = block_masking.block_counts(grid=self.grid, **mask)
      except (TypeError, ValueError) as error:
        raise ValueError(f'task.kwargs.masks[{i}]={mask}: {error}') from error
      self._masks.append(
        dict(mask, grid=self.grid, num_keep=keep, num_predict=predict)
      )
    if not self._masks:
      raise ValueError('task.kwargs.masks is empty: want one mask or more')
    self._sync = sync_on_freeze

  # What changes while training.

  def phase(self, step):
    return 0 if self.schedule is None else self.schedule.frozen_blocks(step)

  def frozen(self, phase):
    if not phase or not self.freezes:
      return ()
    scan = self.model.scan
    return (
      r'^encoder/embedding/',
      *blocks_lib.block_rules('encoder', phase, scan=scan),
    )

  def on_phase(self, state, old, new):
    del old
    if self.recipe.reset_moments_on_switch:
      state = blocks_lib.clear_moments(state, ('',))
    if not self._sync or not self.freezes or state.ema_params is None:
      return state
    mask = freezing.frozen_mask(state.params, self.frozen(new))
    student = jax.tree.map(
      lambda p, a: p.astype(a.dtype), state.params, state.ema_params
    )
    synced = freezing.keep_frozen(state.ema_params, student, mask)
    return state._replace(ema_params=synced)

  def lr_scale(self, step):
    return 1.0 if self.schedule is None else self.schedule.lr_scale(step)

  # The task itself.

  def batch_spec(self):
    return {'video': jax.ShapeDtypeStruct((*self.clip, 3), jnp.uint8)}

  def init(self, rng, batch):
    video = video_ops.normalize(batch['video'][:1], self.input_range)
    ids = jnp.zeros((1, 1), jnp.int32)
    return self.model.init(rng, video, ids, ids)['params'], {}

  def loss(self, params, model_state, batch, ctx):
    video = video_ops.normalize(batch['video'], self.input_range)
    truth = self.newest_target(params, video, ctx)
    rows = batch['mask'].astype(jnp.float32)[:, None]
    terms = {}
    for i, mask in enumerate(self.masks(ctx)):
      predicted = self.model.apply(
        {'params': params},
        video,
        mask.keep_ids,
        mask.predict_ids,
        num_frozen=ctx.phase if self.freezes else 0,
      )
      error = predicted - masking.take_tokens(truth, mask.predict_ids)
      weight = (rows * mask.weight)[..., None]
      terms[f'mask_{i}'] = (
        *losses.l1(error, weight=weight),
        1 / len(self._masks),
      )
    return task.LossOut(terms, {}, model_state)

  def predict(self, params, model_state, batch, ctx, carry=None):
    """Features of the encoder: {features: float32[B, t, h, w, D]}, carry."""
    video = video_ops.normalize(batch['video'], self.input_range)
    encoded = self.model.apply({'params': params}, video, method='encode')
    tokens = encoded['tokens']
    shape = (*tokens.shape[:-2], *encoded['grid'], tokens.shape[-1])
    return {'features': tokens.reshape(shape)}, carry

  def masks(self, ctx):
    """The `BlockMask`s of a batch, one per configuration."""
    found = []
    for i, mask in enumerate(self._masks):
      rng = jax.random.fold_in(masking.typed_key(ctx.rng), i)
      keys = masking.row_keys(jax.random.fold_in(rng, _PLACE), ctx.rows)
      shape_key = jax.random.fold_in(rng, _SHAPE)
      found.append(block_masking.multi_block_mask(keys, shape_key, **mask))
    return found

  # What diagnostics look at.

  error_power = 1  # of the loss

  def newest_terms(self, phase) -> tuple[str, ...]:
    """Terms of the loss whose mean is that of the newest target."""
    del phase
    return tuple(f'mask_{i}' for i in range(len(self._masks)))

  @property
  def depth(self) -> int:
    """Blocks of the encoder."""
    return self.model.depth

  encoder_depth = depth

  @property
  def freezes(self) -> bool:
    """Whether the blocks of a phase are frozen."""
    return self.recipe is not None and self.recipe.freeze

  @property
  def target_is_fixed(self) -> bool:
    """Whether the target of a phase cannot change."""
    return self.freezes

  def streams(self, params, video, blocks):
    """Residual streams of whole clips: [float32[B, N, D]] for each block."""
    return self.model.apply({'params': params}, video, blocks, method='streams')

  def newest_target(self, params, video, ctx):
    """What the teacher makes of the clip, normalised: float32[B, N, D]."""
    teacher = params if ctx.ema_params is None else ctx.ema_params
    teacher = {'params': jax.lax.stop_gradient(teacher)}
    if self.schedule is None:
      tokens = self.model.apply(teacher, video, method='encode')['tokens']
    else:
      block = max(1, ctx.phase)
      (tokens,) = self.model.apply(teacher, video, (block,), method='streams')
    return targets.features(tokens, norm='layernorm')

  def blocks(self, params):
    """Parameters of the blocks of the encoder, in order."""
    return blocks_lib.blocks_of(params['encoder'])


def _build_model(fields):
  fields = model_fields.checked(
    jepa.JointEmbedding,
    model_fields.with_size(fields),
    fixed=('predictor',),
    also=('size',),
  )
  model = jepa.JointEmbedding(**fields)
  if not 0 <= model.mask_index < model.num_mask_tokens:
    raise ValueError(
      f'{model_fields.FIELD}.mask_index={model.mask_index}: want one of '
      f'{model.num_mask_tokens} mask tokens'
    )
  return model


# Fields of a recipe that mean nothing here.
_PIXEL_FIELDS = (
  'target_mode', 'multi_include_pixels', 'latent_head', 'loss_tokens',
  'latent_target', 'pixel_target',
)  # fmt: skip


def _checked(fields):
  for name in _PIXEL_FIELDS:
    if name in fields:
      raise ValueError(
        f'task.kwargs.layerlock.{name}: V-JEPA predicts one block of its '
        'teacher at hidden places; leave it out'
      )
  if not fields.get('latent_targets', True):
    raise ValueError('task.kwargs.layerlock.latent_targets=False: V-JEPA '
                     'predicts nothing else')  # fmt: skip
  return fields
