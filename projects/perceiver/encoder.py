"""The encoder: latents read the inputs and process what they read.

Perceiver IO (arXiv 2107.14795): one cross-attention, then num_blocks passes
through one block of self-attention layers, whose weights all passes share. The
original Perceiver (2103.03206) reads the inputs again in front of every pass:
the first cross-attention has weights of its own, all later ones share one set
(sharing the first too was unstable). There is no norm behind the last layer.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from projects.perceiver import attend, positions
from vidscenic import task
from vidscenic.layers import transformer

# Folded into the key of a step; no row has this number.
_DROPOUT = 2**31 - 1


class PerceiverEncoder(nn.Module):
  """Inputs [B, M, C] -> latents [B, N, D].

  Parameters: latents [N, D]; cross_attend; shared_cross_attend if num_reads is
  above 1; self_attends/block_0, ... or, with `scan`, self_attends/blocks.
  """

  num_self_attends_per_block: int = 6
  num_blocks: int = 8  # passes through the block
  z_index_dim: int = 512  # N
  num_z_channels: int = 1024  # D
  qk_channels: int | None = None  # of both kinds of attention
  v_channels: int | None = None  # of both; the released code wants D or None
  num_cross_attend_heads: int = 1
  num_self_attend_heads: int = 8
  cross_attend_widening_factor: int = 1
  self_attend_widening_factor: int = 1
  dropout_prob: float = 0.0
  z_pos_enc_init_scale: float = positions.INIT_SCALE
  cross_attention_shape_for_attn: str = 'kv'
  use_query_residual: bool = True
  num_reads: int = 1  # cross-attentions in all; above 1 one for every pass
  share_weights: bool = True  # False: every pass has a block of its own
  activation: str = 'gelu_tanh'
  key_chunk: int = 0  # see `attend.CrossAttend`
  query_chunk: int = 0  # of self-attention, see `dot_product_attention`
  implementation: str = 'xla'
  scan: bool = False  # over layers and passes
  remat: str = 'none'  # of the self-attention layers
  dtype: Any = jnp.float32  # compute

  @nn.compact
  def __call__(self, inputs, *, input_mask=None, train: bool = False):
    """Encodes.

    Args:
      inputs: [B, M, C].
      input_mask: bool[B, M], True = may be read.
      train: enables dropout.

    Returns:
      [B, N, D].

    Raises:
      ValueError: heads that do not divide D, or unusable numbers of passes.
    """
    self._check()
    shape = (self.z_index_dim, self.num_z_channels)
    init = positions.table_init(self.z_pos_enc_init_scale)
    z = self.param('latents', init, shape, jnp.float32).astype(self.dtype)
    z = jnp.broadcast_to(z, (len(inputs), *shape))
    first = self._cross_attend('cross_attend', inputs.shape[-1])
    read = dict(input_mask=input_mask, train=train)
    if self.num_reads == 1:
      z = first(z, inputs, **read)
      return self._passes()(z, train=train)
    later = self._cross_attend('shared_cross_attend', inputs.shape[-1])
    block = self._block('self_attends')
    for i in range(self.num_blocks):
      z = (later if i else first)(z, inputs, **read)
      if not self.share_weights and i:
        block = self._block(f'self_attends_{i}')
      z = block(z, train=train)
    return z

  def _passes(self):
    """All passes after one reading: z -> z."""
    if not self.share_weights:
      blocks = [
        self._block(f'self_attends_{i}' if i else 'self_attends')
        for i in range(self.num_blocks)
      ]
      return lambda z, train: _chain(blocks, z, train)
    block = self._block('self_attends')
    if self.is_initializing():
      return lambda z, train: block(z, train=train)  # has all parameters
    if not self.scan or self.num_blocks == 1:
      return lambda z, train: _chain([block] * self.num_blocks, z, train)

    def one_pass(block, z, train):
      return block(z, train=train), None

    run = nn.scan(
      one_pass,
      variable_broadcast='params',
      split_rngs={'params': False, 'dropout': True},
      in_axes=nn.broadcast,
      length=self.num_blocks,
    )
    return lambda z, train: run(block, z, train)[0]

  def _cross_attend(self, name, channels):
    return attend.CrossAttend(
      self.num_z_channels,
      channels,
      num_heads=self.num_cross_attend_heads,
      widening_factor=self.cross_attend_widening_factor,
      qk_channels=self.qk_channels,
      v_channels=self.v_channels,
      shape_for_attn=self.cross_attention_shape_for_attn,
      use_query_residual=self.use_query_residual,
      dropout_prob=self.dropout_prob,
      activation=self.activation,
      key_chunk=self.key_chunk,
      dtype=self.dtype,
      name=name,
    )

  def _block(self, name):
    block = dict(
      num_heads=self.num_self_attend_heads,
      mlp_features=self.self_attend_widening_factor * self.num_z_channels,
      qkv_features=self.qk_channels,
      v_features=self.v_channels,
      norm_eps=attend.EPS,
      activation=self.activation,
      dropout=self.dropout_prob,
      implementation=self.implementation,
      query_chunk=self.query_chunk,
      mlp_init=nn.initializers.lecun_normal(),
    )
    return transformer.Transformer(
      self.num_self_attends_per_block,
      block,
      scan=self.scan,
      remat=self.remat,
      dtype=self.dtype,
      name=name,
    )

  def _check(self):
    for name in ('num_cross_attend_heads', 'num_self_attend_heads'):
      if self.num_z_channels % getattr(self, name):
        raise ValueError(
          f'num_z_channels={self.num_z_channels} is not divisible by '
          f'{name}={getattr(self, name)}'
        )
    if self.num_reads not in (1, self.num_blocks):
      raise ValueError(
        f'num_reads={self.num_reads}: want 1 or num_blocks={self.num_blocks}'
      )


def training_options(ctx: task.StepContext) -> dict[str, Any]:
  """Arguments with which a model is applied in a loss.

  Args:
    ctx: of the step.

  Returns:
    {'train': True, 'rngs': {'dropout': key}} in training, else {}.
  """
  if not ctx.train:
    return {}
  # Microbatches share the key: with it alone they would drop the same.
  rng = jax.random.fold_in(jax.random.fold_in(ctx.rng, _DROPOUT), ctx.rows[0])
  return {'train': True, 'rngs': {'dropout': rng}}


def _chain(blocks, z, train):
  for block in blocks:
    z = block(z, train=train)
  return z
