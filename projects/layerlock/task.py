"""Masked pretraining with SimpleMAE, and with progressive freezing (LayerLock).

SimpleMAE (arXiv 2412.15212): predict the pixels of all patches from 5 % of
them. LayerLock (2509.10156): freeze blocks from the bottom up while training,
and predict what the newest frozen block makes of the whole clip.

What the pass that makes the targets sees is not published. Here it sees the
clip unmasked: the target of a hidden patch needs that patch. The parameters of
the patch embedding and of positions freeze with block 1; without that the
target would move.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from projects.layerlock import model as model_lib
from vidscenic import config as vc
from vidscenic import config_checks, task
from vidscenic.layers import transformer, vit
from vidscenic.ops import losses, masking, targets
from vidscenic.ops import video as video_ops
from vidscenic.train import freezing

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
    self.model, self.schedule = build_model(
      dict(model or {}), self.clip, self.recipe
    )
    grid = self.model.grid
    self.num_tokens = grid[0] * grid[1] * grid[2]
    decode = self.model.decode_grid or grid
    self.num_decode = decode[0] * decode[1] * decode[2]
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
    self._check_subset()

  def _check_subset(self):
    latent = self.recipe.latent_target
    self.num_chosen = int(latent.fraction * self.num_decode + 1e-6)
    if latent.subset == 'visible':
      self.num_chosen = self.num_keep
      if self.num_decode != self.num_tokens:
        raise ValueError(
          "task.kwargs.layerlock.latent_target.subset='visible' needs one "
          'decode token per patch: leave out model.decode_grid'
        )
    if self.num_chosen < 1:
      raise ValueError(
        f'task.kwargs.layerlock.latent_target.fraction={latent.fraction} '
        f'leaves none of {self.num_decode} decode tokens'
      )

  # What changes while training.

  def phase(self, step):
    return 0 if self.schedule is None else self.schedule.frozen_blocks(step)

  def frozen(self, phase):
    if not self.model.heads:
      return ()
    rules = []
    if self.recipe.freeze and phase:
      rules += [_STEM, *block_rules('backbone', phase, scan=self.model.scan)]
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
    return clear_moments(state, tuple(clear))

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
    weight = rows * self._token_weight(mask)[..., None]
    terms = {}
    if model_lib.PIXELS in predicted:
      error = predicted[model_lib.PIXELS] - self._pixels(video)
      terms['pixels'] = (
        *losses.squared(error, weight=weight),
        self.weights['pixels'],
      )
    if blocks:
      chosen = self._chosen(ctx, mask)
      truths = [kept] if reuse else self.features_of(
        params, video, blocks, chosen
      )  # fmt: skip
      scale = self.weights['latent'] / len(blocks)
      scale *= ctx.scheduled.get('latent_weight', 1.0)
      if chosen is not None:
        weight = masking.take_tokens(weight, chosen)
      for block, truth in zip(blocks, truths, strict=True):
        guess = predicted[self.recipe.head(block)]
        if chosen is not None:
          guess = masking.take_tokens(guess, chosen)
        truth = targets.features(truth, norm=self.recipe.latent_target.norm)
        name = 'latent' if len(blocks) == 1 else f'latent_{block}'
        terms[name] = (*losses.squared(guess - truth, weight=weight), scale)
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
      decode token stands for several.
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

  def features_of(self, params, video, blocks, chosen=None):
    """Outputs of some blocks for the whole clip, one per decode token.

    Args:
      params: of the model.
      video: float[B, T, H, W, 3] in [0, 1].
      blocks: ascending, counted from 1.
      chosen: int[B, n] decode tokens, None: all.

    Returns:
      [float32[B, Nd or n, D]] without gradient.
    """
    params = jax.lax.stop_gradient(params)
    ids = None
    forward = self.recipe.latent_target.mode == 'forward'
    if chosen is not None and forward:
      ids = self._patches_of(chosen)
    streams = self.model.apply(
      {'params': params}, video, blocks, ids=ids, method='streams'
    )
    return [self._pooled(x, chosen, ids is not None) for x in streams]

  def _pooled(self, x, chosen, only_chosen):
    """Means over the patches of a decode token."""
    x = x.astype(jnp.float32)
    cell = self.model.cell
    size = cell[0] * cell[1] * cell[2]
    if only_chosen:
      return x.reshape(*x.shape[:-2], -1, size, x.shape[-1]).mean(axis=-2)
    if size > 1:
      x = x.reshape(*x.shape[:-2], *self.model.grid, x.shape[-1])
      x = targets.shrink(x, cell)
      x = x.reshape(*x.shape[:-4], -1, x.shape[-1])
    return x if chosen is None else masking.take_tokens(x, chosen)

  # What diagnostics look at.

  input_range = 'unit'

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
    (tokens,) = self.features_of(params, video, blocks[-1:])
    return targets.features(tokens, norm=self.recipe.latent_target.norm)

  def blocks(self, params):
    """Parameters of the blocks, in order."""
    return blocks_of(params['backbone'])

  def _num_frozen(self, phase):
    return phase if self.recipe.freeze else 0

  def _pixels(self, video):
    video = targets.shrink(video, self.model.cell)
    return targets.pixels(
      video, self.model.patch, norm=self.recipe.pixel_target.norm
    )

  def _token_weight(self, mask):
    """float32[B, Nd]: how much of a decode token's patches counts."""
    if self.recipe.loss_tokens == 'all':
      return jnp.ones((len(mask.hidden), self.num_decode), jnp.float32)
    hidden = mask.hidden.astype(jnp.float32)
    hidden = hidden.reshape(-1, *self.model.grid, 1)
    return targets.shrink(hidden, self.model.cell).reshape(-1, self.num_decode)

  def _chosen(self, ctx, mask):
    """int[B, n]: decode tokens whose features are predicted; None: all."""
    latent = self.recipe.latent_target
    if latent.subset == 'visible':
      return mask.keep_ids
    if self.num_chosen == self.num_decode:
      return None
    rng = jax.random.fold_in(masking.typed_key(ctx.rng), _SUBSET)
    return masking.random_mask(
      masking.row_keys(rng, ctx.rows),
      num_tokens=self.num_decode,
      num_keep=self.num_chosen,
    ).keep_ids

  def _patches_of(self, chosen):
    """int[B, n * patches per decode token], those of a token side by side."""
    grid = jnp.arange(self.num_tokens).reshape(*self.model.grid, 1)
    table = video_ops.patchify(grid, self.model.cell)
    table = table.reshape(self.num_decode, -1)
    return table[chosen].reshape(*chosen.shape[:-1], -1)


def build_model(fields, clip, recipe):
  """(SimpleMAE, schedule) of the arguments of a task.

  Args:
    fields: of `MaskedVideo`'s model.
    clip: (T, H, W).
    recipe: a `recipe.Recipe`.

  Raises:
    ValueError: an unknown or unusable field, named.
  """
  if 'size' in fields:
    size = fields.pop('size')
    if size not in vit.SIZES:
      raise ValueError(
        f'task.kwargs.model.size={size!r}: known are {tuple(vit.SIZES)}'
      )
    fields = vit.vit_config(size) | fields
  decoder = fields.pop('decoder', True)
  known = model_lib.SimpleMAE.__dataclass_fields__.keys()
  known -= {'parent', 'name', 'heads', 'grid'}
  for name in fields:
    if name not in known:
      raise ValueError(
        config_checks.unknown(
          f'task.kwargs.model.{name}', name, known | {'size', 'decoder'}
        )
      )
  for name, value in fields.items():  # a model is hashed, lists are not
    fields[name] = tuple(value) if isinstance(value, list) else value
  if 'dtype' in fields:
    fields['dtype'] = jnp.dtype(fields['dtype'])
  patch = fields.get('patch', model_lib.SimpleMAE.patch)
  if any(n < 1 or n % p for n, p in zip(clip, patch, strict=True)):
    raise ValueError(
      f'task.kwargs.clip={clip} is not made of whole patches of {tuple(patch)}'
    )
  grid = tuple(n // p for n, p in zip(clip, patch, strict=True))
  depth = fields.get('depth', model_lib.SimpleMAE.depth)
  layers = fields.get(
    'num_decoder_layers', model_lib.SimpleMAE.num_decoder_layers
  )
  if decoder and not 0 < layers < depth:
    raise ValueError(
      f'task.kwargs.model.num_decoder_layers={layers}: want 1 to {depth - 1} '
      f'of the {depth} blocks'
    )
  decode = fields.get('decode_grid') or grid
  if len(decode) != 3 or any(
    n < 1 or full % n for n, full in zip(decode, grid, strict=True)
  ):
    raise ValueError(
      f'task.kwargs.model.decode_grid={tuple(decode)} does not divide the grid '
      f'of patches {grid}'
    )
  schedule = recipe.schedule(depth - layers) if decoder else None
  heads = recipe.heads(schedule) if decoder else ()
  return model_lib.SimpleMAE(**fields, grid=grid, heads=heads), schedule


def block_rules(path: str, count: int, *, scan: bool):
  """Rules of `Task.frozen` for the first blocks of a `Transformer`.

  Args:
    path: of the `vit.VisionTransformer`.
    count: number of blocks, at least 1.
    scan: whether blocks are stacked.
  """
  if scan:
    return [(f'^{path}/transformer/blocks/', count)]
  numbers = '|'.join(str(i) for i in range(count))
  return [f'^{path}/transformer/block_(?:{numbers})/']


def blocks_of(params):
  """Parameters of each block of a `vit.VisionTransformer`, in order."""
  stack = transformer.unstack_blocks(params['transformer'])
  count = sum(name.startswith('block_') for name in stack)
  return [stack[f'block_{i}'] for i in range(count)]


def clear_moments(state, prefixes: Sequence[str]):
  """Zeros in the optimizer state of parameters below some paths.

  Args:
    state: a `TrainState`.
    prefixes: starts of parameter paths, '' for all.
  """
  if not prefixes:
    return state
  leaves, structure = jax.tree.flatten(state.opt_state)
  owners = freezing.param_leaf_paths(state.opt_state, state.params)
  leaves = [
    jnp.zeros_like(leaf)
    if owner is not None and owner.startswith(tuple(prefixes))
    else leaf
    for leaf, owner in zip(leaves, owners, strict=True)
  ]
  return state._replace(opt_state=jax.tree.unflatten(structure, leaves))


def _repeat(clip, factors):
  """Enlarges [B, t, h, w, C] by repeating."""
  for axis, factor in zip((1, 2, 3), factors, strict=True):
    clip = jnp.repeat(clip, factor, axis=axis)
  return clip
