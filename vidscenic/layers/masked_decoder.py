"""Narrow decoders that predict hidden tokens from the visible ones.

One module serves

  VideoMAE (arXiv 2203.12602)   visible and mask tokens together, sin-cos codes
  MAE-ST (2205.09113)           the same with learned positions and class token:
                                "unshuffling" orders tokens, and attention does
                                not care about their order
  V-JEPA 2 (2506.09985)         the same with rotary codes and one of several
                                mask tokens; sorting by position is no change
  cross-attention predictors    mask tokens alone, which read the visible ones

Decoders inside the encoder, tokens that join before the last blocks, are made
of ranges of blocks (`transformer.Transformer`, start and stop).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vidscenic.layers import norms, position, transformer
from vidscenic.ops import masking

READS = ('joint', 'cross')
POSITIONS = ('none', 'sincos_flat', 'sincos_3d', 'learned', 'learned_separable')


class MaskedDecoder(nn.Module):
  """Features of the visible tokens -> predictions at other places.

  Parameters: embed, mask_token [M, width], position/... if learned,
  transformer/..., norm, head.
  """

  num_outputs: int
  width: int = 384
  depth: int = 4
  num_heads: int = 6
  mlp_features: int = 1536
  reads: str = 'joint'  # or 'cross': the visible tokens are keys only
  positions: str = 'sincos_flat'  # one of POSITIONS, added to all tokens
  grid: Sequence[int] | None = None  # (t, h, w) of a learned table
  # Options of `position.rotary` with `fractions` of the head dim; joint only.
  rotary: Mapping[str, Any] | None = None
  num_mask_tokens: int = 1  # M
  num_prefix: int = 0  # leading features without a place: class tokens
  block: Mapping[str, Any] = nn.FrozenDict()  # further fields of Block
  embed_bias: bool = True
  norm_eps: float = 1e-6  # of the last norm
  residual_init_scale: float | str = 1.0
  mask_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
  scan: bool = False
  remat: str = 'none'
  dtype: Any = jnp.float32  # compute; the head is float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    features,
    keep_ids,
    predict_ids,
    *,
    grid: Sequence[int],
    mask_index: int = 0,
    return_intermediates: bool = False,
  ):
    """Decodes.

    Args:
      features: [..., P + K, D], P = num_prefix tokens without a place first.
      keep_ids: int[..., K], places of the others.
      predict_ids: int[..., Q], places to predict.
      grid: (t, h, w) of the clip.
      mask_index: which of the mask tokens stands for hidden ones.
      return_intermediates: also return what every block returns.

    Returns:
      float32[..., Q, num_outputs]; with return_intermediates a dict of that as
      `predicted`, `embedded` [..., P + K, width], `inputs` [..., P + K + Q,
      width] of the first block (with 'cross' the queries alone) and
      `intermediates` [blocks, ...].

    Raises:
      ValueError: an unknown option.
    """
    self._check(mask_index)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    embedded = nn.Dense(
      self.width, use_bias=self.embed_bias, name='embed', **dtypes
    )(features).astype(jnp.float32)
    masks = self.param(
      'mask_token',
      self.mask_init,
      (self.num_mask_tokens, self.width),
      self.param_dtype,
    )
    lead = embedded.shape[:-2]
    keep_ids, predict_ids = (
      jnp.broadcast_to(ids, (*lead, ids.shape[-1]))
      for ids in (keep_ids, predict_ids)
    )
    queries = jnp.broadcast_to(
      masks[mask_index].astype(jnp.float32), (*predict_ids.shape, self.width)
    )
    prefix, seen = jnp.split(embedded, [self.num_prefix], axis=-2)
    table = self._table(grid)
    if table is not None:
      seen += masking.take_tokens(table, keep_ids)
      queries += masking.take_tokens(table, predict_ids)
    context = jnp.concatenate([prefix, seen], axis=-2)
    rotary = self._rotary(grid, keep_ids, predict_ids)
    if self.reads == 'joint':
      inputs, kv, order = jnp.concatenate([context, queries], -2), None, None
    else:
      inputs, kv, order = queries, context, ('cross', 'mlp')
    block = dict(
      self.block, num_heads=self.num_heads, mlp_features=self.mlp_features
    )
    stack = transformer.Transformer(
      self.depth,
      block=block if order is None else block | {'order': order},
      residual_init_scale=self.residual_init_scale,
      scan=self.scan,
      remat=self.remat,
      name='transformer',
      **dtypes,
    )
    result = stack(
      inputs, kv, rotary=rotary, return_intermediates=return_intermediates
    )
    x, hidden = result if return_intermediates else (result, None)
    x = x[..., x.shape[-2] - predict_ids.shape[-1] :, :]
    x = norms.layer_norm(
      'norm', eps=self.norm_eps, param_dtype=self.param_dtype
    )(x)
    predicted = nn.Dense(
      self.num_outputs, param_dtype=self.param_dtype, name='head'
    )(x)
    if not return_intermediates:
      return predicted
    return {
      'predicted': predicted,
      'embedded': embedded,
      'inputs': inputs,
      'intermediates': hidden,
    }

  def _check(self, mask_index):
    for name, known in (('reads', READS), ('positions', POSITIONS)):
      if getattr(self, name) not in known:
        raise ValueError(f'{name}={getattr(self, name)!r}: want one of {known}')
    if self.reads == 'cross' and self.rotary is not None:
      raise ValueError("reads='cross' has no self-attention to be rotated")
    if not 0 <= mask_index < self.num_mask_tokens:
      raise ValueError(
        f'mask_index={mask_index}: want one of {self.num_mask_tokens} mask '
        'tokens'
      )

  def _table(self, grid):
    """What is added to the tokens of each place: [N, width] or None."""
    if self.positions == 'none':
      return None
    if self.positions.startswith('learned'):
      table = position.LearnedPositions(
        grid if self.grid is None else self.grid,
        self.width,
        separable=self.positions == 'learned_separable',
        param_dtype=self.param_dtype,
        name='position',
      )(grid)
    elif self.positions == 'sincos_flat':
      table = jnp.asarray(position.sincos_flat(grid, self.width))
    else:
      table = position.sincos_3d(grid, self.width)
    return table.reshape(-1, self.width)

  def _rotary(self, grid, keep_ids, predict_ids):
    if self.rotary is None:
      return None
    options = dict(self.rotary)
    width = self.block.get('qkv_features', self.width) // self.num_heads
    sizes = position.rotary_sizes(width, options.pop('fractions'))
    code = position.rotary(position.grid_indices(grid), sizes, **options)
    code = code.take(jnp.concatenate([keep_ids, predict_ids], axis=-1))
    return code.prepend(self.num_prefix) if self.num_prefix else code
