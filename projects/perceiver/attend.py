"""Cross-attention of the Perceivers, also to hundreds of thousands of inputs.

Perceiver (arXiv 2103.03206) and Perceiver IO (2107.14795), as in the released
code: layer norms in front of queries, of keys and values and of the MLP; with
`use_query_residual` off only the residual around the attention is gone. The
self-attention layers are `vidscenic.layers.blocks.Block`.

One attention matrix of the optical flow model has 2048 x 182528 entries. Three
ways lead to the same result: at once; in chunks of queries, where everything
that follows is done chunk by chunk too; and in chunks of keys, where a chunk is
normalised, projected and folded into a running softmax (arXiv 2112.05682), so
that neither the matrix nor all keys and values are ever in memory. Both loops
recompute their chunks in the backward pass.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidscenic.layers import attention, blocks, norms

EPS = 1e-5  # of every layer norm
SHAPES_FOR_ATTN = ('kv', 'q')

# Haiku's default for linear layers and convolutions: a normal distribution of
# deviation 1 / sqrt(fan in), cut off at two deviations and not widened again.
PLAIN_INIT = nn.initializers.variance_scaling(
  0.87962566103423978**2, 'fan_in', 'truncated_normal'
)


def linear(features: int, *, dtype, zeros: bool = False, **options):
  """A linear layer outside of attention, initialised as Haiku does."""
  init = nn.initializers.zeros if zeros else PLAIN_INIT
  return nn.Dense(features, kernel_init=init, dtype=dtype, **options)


class CrossAttend(nn.Module):
  """Queries read inputs; an MLP branch follows: [B, O, E] -> [B, O, E].

  Parameters, as in `blocks.Block`: cross_norm, kv_norm, cross_attention,
  mlp_norm, mlp.
  """

  query_channels: int  # E
  input_channels: int  # C
  num_heads: int = 1
  widening_factor: int = 1  # of the MLP
  qk_channels: int | None = None  # None: as shape_for_attn says
  v_channels: int | None = None  # None: those of queries and keys
  shape_for_attn: str = 'kv'  # inner width: that of the inputs, or 'q'
  use_query_residual: bool = True
  dropout_prob: float = 0.0  # of both branches' results
  activation: str = 'gelu_tanh'
  query_chunk: int = 0  # about so many queries at a time; 0: all
  key_chunk: int = 0  # about so many inputs at a time, where queries are few
  implementation: str = 'xla'  # see `attention`
  dtype: Any = jnp.float32  # compute

  def setup(self):
    if self.shape_for_attn not in SHAPES_FOR_ATTN:
      raise ValueError(
        f'cross_attention_shape_for_attn={self.shape_for_attn!r}: want one of '
        f'{SHAPES_FOR_ATTN}'
      )
    of_inputs = self.shape_for_attn == 'kv'
    inner = self.input_channels if of_inputs else self.query_channels
    norm = functools.partial(norms.layer_norm, None, eps=EPS, dtype=self.dtype)
    self.cross_norm, self.kv_norm, self.mlp_norm = norm(), norm(), norm()
    self.cross_attention = attention.MultiHeadAttention(
      self.num_heads,
      qkv_features=self.qk_channels or inner,
      v_features=self.v_channels,
      out_features=self.query_channels,
      implementation=self.implementation,
      masked_rows='zero',
      dtype=self.dtype,
    )
    self.mlp = blocks.Mlp(
      self.widening_factor * self.query_channels,
      activation=self.activation,
      kernel_init=nn.initializers.lecun_normal(),
      dtype=self.dtype,
    )
    self.drop = nn.Dropout(self.dropout_prob)

  def __call__(
    self,
    queries,
    inputs,
    *,
    input_mask=None,
    query_mask=None,
    then=lambda x: x,
    train: bool = False,
  ):
    """Reads.

    Args:
      queries: [B, O, E].
      inputs: [B, M, C].
      input_mask: bool[B, M], True = may be read.
      query_mask: bool[B, O]; a query that is False reads nothing: what the
        heads return is zero, and so is that of all queries of an example of
        which no input may be read.
      then: pure function of [B, n, E] that follows, query by query; with chunks
        of queries it is part of the loop and its input never exists as a whole.
      train: enables dropout.

    Returns:
      What `then` makes of [B, O, E] in the dtype of the queries.

    Raises:
      ValueError: dropout with chunks.
    """
    by_query = 0 < self.query_chunk < queries.shape[1]
    by_key = 0 < self.key_chunk < inputs.shape[1] and not by_query
    # Parameters are made by the plain formula, which leaves no trace in a
    # compiled program that returns only them.
    if self.is_initializing() or not (by_query or by_key):
      keys_values = self.project_inputs(inputs)
      heads = self.attend(
        self.project_queries(queries), *keys_values, input_mask, query_mask
      )
      return then(self.finish(queries, heads, train=train))
    if train and self.dropout_prob:
      raise ValueError(
        f'dropout_prob={self.dropout_prob} with query_chunk='
        f'{self.query_chunk}, key_chunk={self.key_chunk}: set them to 0'
      )
    if by_query:
      return self._by_query(queries, inputs, input_mask, query_mask, then)
    heads = self._by_key(queries, inputs, input_mask, query_mask)
    return then(self.finish(queries, heads))

  def project_queries(self, queries):
    """[B, O, E] -> [B, O, heads, d]."""
    return self.cross_attention.query(self.cross_norm(queries))

  def project_inputs(self, inputs):
    """[B, M, C] -> keys [B, M, heads, d], values [B, M, heads, e]."""
    return self.cross_attention.project_kv(self.kv_norm(inputs))

  def attend(self, q, k, v, input_mask, query_mask):
    """What the heads return: [B, O, heads, e]."""
    return attention.dot_product_attention(
      q,
      k,
      v,
      mask=_outer(query_mask, input_mask),
      implementation=self.implementation,
      masked_rows='zero',
    )

  def finish(self, queries, heads, *, train: bool = False):
    """Output projection, residuals and MLP."""
    drop = functools.partial(self.drop, deterministic=not train)
    x = drop(self.cross_attention.out(heads))
    if self.use_query_residual:
      x = queries + x
    x = x + drop(self.mlp(self.mlp_norm(x)))
    return x.astype(queries.dtype)

  def _part(self):
    """(this module on its own, its variables), for use inside of a loop."""
    return self.clone(parent=None), {'params': self.variables['params']}

  def _by_query(self, queries, inputs, input_mask, query_mask, then):
    module, variables = self._part()
    k, v = self.project_inputs(inputs)

    @jax.checkpoint
    def read(part):
      x, mask = part
      q = module.apply(variables, x, method='project_queries')
      heads = module.attend(q, k, v, input_mask, mask)
      return then(module.apply(variables, x, heads, method='finish'))

    length = queries.shape[1]
    parts = _cut((queries, query_mask), self.query_chunk)
    out = jnp.moveaxis(jax.lax.map(read, parts), 0, 1)
    return out.reshape(len(queries), -1, out.shape[-1])[:, :length]

  def _by_key(self, queries, inputs, input_mask, query_mask):
    module, variables = self._part()
    q = self.project_queries(queries)
    scale = 1 / math.sqrt(q.shape[-1])
    lowest = jnp.finfo(jnp.float32).min

    @jax.checkpoint
    def fold(carry, part):
      peak, total, mixed = carry
      x, mask = part
      k, v = module.apply(variables, x, method='project_inputs')
      logits = scale * jnp.einsum(
        'bqhd,bkhd->bhqk', q, k, preferred_element_type=jnp.float32
      )
      if mask is not None:
        logits = jnp.where(mask[:, None, None], logits, lowest)
      # The result does not depend on what is subtracted.
      top = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
      top = jnp.maximum(peak, top)
      weights = jnp.exp(logits - top[..., None])
      if mask is not None:
        weights = jnp.where(mask[:, None, None], weights, 0)
      keep = jnp.exp(peak - top)
      new = jnp.einsum(
        'bhqk,bkhe->bhqe',
        weights.astype(v.dtype),
        v,
        preferred_element_type=jnp.float32,
      )
      total = keep * total + jnp.sum(weights, axis=-1)
      return (top, total, keep[..., None] * mixed + new), None

    chunk = _chunk_size(inputs.shape[1], self.key_chunk)
    if input_mask is None and inputs.shape[1] % chunk:
      input_mask = jnp.ones(inputs.shape[:2], bool)  # False where padded
    parts = _cut((inputs, input_mask), chunk)
    rows = (len(queries), self.num_heads, queries.shape[1])
    value_width = self.cross_attention.v_features or (
      self.cross_attention.qkv_features
    )
    start = (
      jnp.full(rows, lowest),
      jnp.zeros(rows),
      jnp.zeros((*rows, value_width // self.num_heads)),
    )
    (_, total, mixed), _ = jax.lax.scan(fold, start, parts)
    heads = mixed / jnp.where(total > 0, total, 1)[..., None]
    if query_mask is not None:
      heads = jnp.where(query_mask[:, None, :, None], heads, 0)
    return jnp.moveaxis(heads, 1, 2).astype(self.dtype)


def _outer(query_mask, input_mask):
  """bool[B, 1, O, M], with 1 for an axis without a mask; None without any."""
  if query_mask is None and input_mask is None:
    return None
  mask = True
  if query_mask is not None:
    mask = mask & query_mask[:, None, :, None]
  if input_mask is not None:
    mask = mask & input_mask[:, None, None, :]
  return mask


def _chunk_size(length, most):
  """A divisor of length in [most / 2, most], so that nothing is padded."""
  for size in range(most, (most - 1) // 2, -1):
    if length % size == 0:
      return size
  return most


def _cut(arrays, most):
  """[B, M, ...] each -> [chunks, B, chunk, ...], the last chunk padded."""

  def cut(x):
    size = _chunk_size(x.shape[1], most)
    widths = [(0, 0)] * x.ndim
    widths[1] = (0, -x.shape[1] % size)
    x = jnp.pad(x, widths) if widths[1][1] else x
    x = x.reshape(len(x), -1, size, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  return jax.tree.map(cut, arrays)
