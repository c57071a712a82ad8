"""Masked pretraining with SimpleMAE, and with progressive freezing (LayerLock).

SimpleMAE (arXiv 2412.15212): predict the pixels of all patches from 5 % of
them. LayerLock (2509.10156): freeze blocks from the bottom up while training,
and predict what the newest frozen block makes of the whole clip.

The parameters of the patch embedding and of positions freeze with block 1;
without that the target would move. What the targets are made of is in
targets.py.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from projects.layerlock import blocks as blocks_lib
from projects.layerlock import model as model_lib
from projects.layerlock import targets
from vidscenic import config as vc
from vidscenic import task
from vidscenic.ops import losses, masking
from vidscenic.ops import video as video_ops
from vidscenic.tasks import model_fields

_GREY = 0.5  # shown in place of hidden patches
# Folded into the key of a step, so that its uses draw different numbers.
_MASK, _SUBSET = range(2)
_STEM = r'^backbone/(?:embedding|position)/'


class MaskedVideo(task.Task):
  """Mean squared error of pixels or features.

  Batches: video uint8[B, T, H, W, 3].

  A phase is the number of frozen blocks. Loss terms: `pixels`, and `latent` or,
  with several targets, `latent_3` and the like.

  Schedules: `config.schedules.latent_weight`, if there is one, is a factor on
  the loss of features.
  """

  def __init__(
    self,
    *,
    clip: Sequence[int] = (16, 224, 224),
    mask_ratio: float = 0.95,
    model: Mapping[str, Any] | None = None,
    layerlock: Mapping[str, Any] | None = None,
    latent_weight: float = 1.0,
    pixel_weight: float = 1.0,
    readout_depth: float = 0.95,
  ):
    """See the arguments.

    Args:
      clip: (T, H, W) of a training clip.
      mask_ratio: share of patches hidden, anywhere in the clip.
      model: fields of `model.SimpleMAE`, and `size`, one of `vit.SIZES`, whose
        fields are then filled in. `decoder` False: features only.
      layerlock: fields of `recipe.Recipe`; None: neither freezing nor features
        as targets, that is SimpleMAE.
      latent_weight: factor on the loss of features.
      pixel_weight: factor on the loss of pixels.
      readout_depth: relative depth of the features of `predict`.

    Raises:
      ValueError: an unknown or unusable argument, named.
    """
    if layerlock is None:
      layerlock = {'freeze': False, 'latent_targets': False}
    self.recipe = vc.build(
      'projects.layerlock.recipe:Recipe',
      field='task.kwargs.layerlock',
      **layerlock,
    )
    self.clip = tuple(clip)
    self.model, self.schedule = _build_model(
      dict(model or {}), self.clip, self.recipe
    )
    if not 0 <= mask_ratio <= 1:
      raise ValueError(
        f'task.kwargs.mask_ratio={mask_ratio}: want it in [0, 1]'
      )
    self.num_tokens = math.prod(self.model.grid)
    self.num_keep = masking.num_visible(self.num_tokens, mask_ratio)
    if not 0 < self.num_keep < self.num_tokens:
      raise ValueError(
        f'task.kwargs.mask_ratio={mask_ratio} leaves {self.num_keep} of '
        f'{self.num_tokens} patches visible: want one or more, not all'
      )
    self.weights = {'pixels': pixel_weight, 'latent': latent_weight}
    self.readout_blocks = model_lib.readout_blocks(
      self.model.depth, readout_depth
    )
    self.targets = targets.ClipTargets(self.model, self.recipe, self.num_keep)

  # What changes while training.

  def phase(self, step):
    return 0 if self.schedule is None else self.schedule.frozen_blocks(step)

  def frozen(self, phase):
    if not self.model.heads:
      return ()
    rules = []
    if self.recipe.freeze and phase:
      rules += [
        _STEM,
        *blocks_lib.block_rules('backbone', phase, scan=self.model.scan),
      ]
    used = self._heads(phase)
    unused = [name for name in self.model.heads if name not in used]
    return (*rules, *(f'^{name}/' for name in unused))

  def on_phase(self, state, old, new):
    del old
    clear = []
    if self.recipe.reset_moments_on_switch:
      clear.append('')
    if self.recipe.latent_head == 'reinit' and self._targets(new):
      clear.append(f'{model_lib.LATENT}/')
      state = self._fresh_head(state, new)
    return blocks_lib.clear_moments(state, tuple(clear))

  def _fresh_head(self, state, phase):
    shape = state.params[model_lib.LATENT]['kernel'].shape
    rng = jax.random.fold_in(jax.random.key(0), phase)
    head = {
      'kernel': nn.initializers.lecun_normal()(rng, shape),
      'bias': jnp.zeros(shape[1:]),
    }
    put = lambda tree: tree if tree is None else {
      **tree, model_lib.LATENT: head
    }  # fmt: skip
    return state._replace(
      params=put(state.params), ema_params=put(state.ema_params)
    )

  def lr_scale(self, step):
    return 1.0 if self.schedule is None else self.schedule.lr_scale(step)

  def _targets(self, phase):
    return () if self.schedule is None else self.schedule.targets(phase)

  def _heads(self, phase):
    """Names of the heads that a phase needs."""
    blocks = self._targets(phase)
    names = [model_lib.PIXELS] if self.recipe.has_pixels(blocks) else []
    return tuple(dict.fromkeys([*names, *map(self.recipe.head, blocks)]))

  # The task itself.

  def batch_spec(self):
    return {'video': jax.ShapeDtypeStruct((*self.clip, 3), jnp.uint8)}

  def init(self, rng, batch):
    video = video_ops.normalize(batch['video'][:1], 'unit')
    if not self.model.heads:
      run = lambda key: self.model.init(key, video, method='features')
      return run(rng)['params'], {}
    ids = jnp.zeros((1, self.num_keep), jnp.int32)
    return self.model.init(rng, video, ids)['params'], {}

  def loss(self, params, model_state, batch, ctx):
    if not self.model.heads:
      raise ValueError('task.kwargs.model.decoder=False: nothing to train')
    video = video_ops.normalize(batch['video'], 'unit')
    mask = self.mask(ctx)
    blocks, frozen = self._targets(ctx.phase), self._num_frozen(ctx.phase)
    visible = self.recipe.latent_target.subset == 'visible'
    reuse = bool(blocks) and frozen and visible and len(blocks) == 1
    reuse = reuse and self.recipe.latent_target.mode == 'forward'
    predicted, kept = self.model.apply(
      {'params': params},
      video,
      mask.keep_ids,
      heads=self._heads(ctx.phase),
      num_frozen=frozen,
      given=frozen if reuse else None,
    )
    rows = batch['mask'].astype(jnp.float32)[:, None, None]
    weight = rows * self.targets.weights(mask)[..., None]
    terms = {}
    if model_lib.PIXELS in predicted:
      error = predicted[model_lib.PIXELS] - self.targets.pixels(video)
      terms['pixels'] = (
        *losses.squared(error, weight=weight),
        self.weights['pixels'],
      )
    if blocks:
      rng = jax.random.fold_in(masking.typed_key(ctx.rng), _SUBSET)
      chosen = self.targets.choose(rng, ctx.rows, mask)
      truths = [kept]
      if not reuse:
        truths = self.targets.features(params, video, blocks, chosen)
      scale = self.weights['latent'] / len(blocks)
      scale *= ctx.scheduled.get('latent_weight', 1.0)
      if chosen is not None:
        weight = masking.take_tokens(weight, chosen)
      for block, truth in zip(blocks, truths, strict=True):
        guess = predicted[self.recipe.head(block)]
        if chosen is not None:
          guess = masking.take_tokens(guess, chosen)
        pair = losses.squared(
          guess - self.targets.normalized(truth), weight=weight
        )
        terms[_term(block, blocks)] = (*pair, scale)
    return task.LossOut(terms, {}, model_state)

  def predict(self, params, model_state, batch, ctx, carry=None):
    """Features of the whole clip, and what the model fills in.

    Args:
      params: of the model.
      model_state: not used.
      batch: as in training.
      ctx: its key and rows draw the masks.
      carry: returned as it is.

    Returns:
      ({features: float32[B, t, h, w, D]} at `readout_depth` and, with a
      decoder, float32[B, T, H, W, 3]: visible, with hidden patches grey;
      predicted; truth), carry. Boxes of patches are shown as their mean where a
      decode token stands for several. Once features have taken the place of
      pixels, the head that predicts these is out of date.
    """
    video = video_ops.normalize(batch['video'], 'unit')
    outputs = {
      'features': self.model.apply(
        {'params': params},
        video,
        blocks=self.readout_blocks,
        method='features',
      )
    }
    if not self.model.heads:
      return outputs, carry
    mask = self.mask(ctx)
    predicted, _ = self.model.apply(
      {'params': params}, video, mask.keep_ids, heads=(model_lib.PIXELS,)
    )
    hidden = mask.hidden.reshape(-1, *self.model.grid, 1)
    decode = self.model.decode_grid or self.model.grid
    clip = video_ops.unpatchify(
      predicted[model_lib.PIXELS].reshape(len(video), *decode, -1),
      self.model.patch,
    )
    outputs |= {
      'visible': jnp.where(_repeat(hidden, self.model.patch), _GREY, video),
      'predicted': _repeat(clip, self.model.cell),
      'truth': video,
    }
    return outputs, carry

  def mask(self, ctx):
    """The mask of every row of a batch."""
    rng = jax.random.fold_in(masking.typed_key(ctx.rng), _MASK)
    return masking.random_mask(
      masking.row_keys(rng, ctx.rows),
      num_tokens=self.num_tokens,
      num_keep=self.num_keep,
    )

  # What diagnostics look at.

  input_range = 'unit'
  error_power = 2  # of the loss

  def newest_terms(self, phase) -> tuple[str, ...]:
    """Terms of the loss whose mean is that of the newest target."""
    blocks = self._targets(phase)
    return (_term(blocks[-1], blocks),) if blocks else ()

  @property
  def depth(self) -> int:
    """Blocks of the model."""
    return self.model.depth

  @property
  def encoder_depth(self) -> int:
    """Blocks in front of the decoder."""
    return self.model.encoder_depth if self.model.heads else self.model.depth

  @property
  def freezes(self) -> bool:
    """Whether the blocks of a phase are frozen."""
    return self.recipe.freeze

  @property
  def target_is_fixed(self) -> bool:
    """Whether the target of a phase cannot change."""
    return self.recipe.freeze

  def streams(self, params, video, blocks):
    """Residual streams of whole clips: [float32[B, N, D]] for each block."""
    return self.model.apply({'params': params}, video, blocks, method='streams')

  def newest_target(self, params, video, ctx):
    """float32[B, Nd, D] of the newest block, None in phases without one."""
    blocks = self._targets(ctx.phase)
    if not blocks:
      return None
    (tokens,) = self.targets.features(params, video, blocks[-1:])
    return self.targets.normalized(tokens)

  def blocks(self, params):
    """Parameters of the blocks, in order."""
    return blocks_lib.blocks_of(params['backbone'])

  def _num_frozen(self, phase):
    return phase if self.recipe.freeze else 0


def _build_model(fields, clip, recipe):
  """(SimpleMAE, schedule or None) of the arguments of the task."""
  fields = model_fields.with_size(fields)
  decoder = fields.pop('decoder', True)
  fields = model_fields.checked(
    model_lib.SimpleMAE,
    fields,
    fixed=('heads', 'grid'),
    also=('size', 'decoder'),
  )
  patch = fields.get('patch', model_lib.SimpleMAE.patch)
  fields['grid'] = model_fields.token_grid(clip, patch)
  heads = (model_lib.PIXELS,) if decoder else ()
  model = model_lib.SimpleMAE(**fields, heads=heads)
  model.check(f'{model_fields.FIELD}.')
  if not decoder:
    return model, None
  schedule = recipe.schedule(model.encoder_depth)
  return model.clone(heads=recipe.heads(schedule)), schedule


def _term(block, blocks):
  return 'latent' if len(blocks) == 1 else f'latent_{block}'


def _repeat(clip, factors):
  """Enlarges [B, t, h, w, C] by repeating."""
  for axis, factor in zip((1, 2, 3), factors, strict=True):
    clip = jnp.repeat(clip, factor, axis=axis)
  return clip
