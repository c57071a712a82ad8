"""Heads that turn tokens into one vector, or into one per query.

`ClassificationHead` pools by the mean or a token. `AttentionPool` reads tokens
with learned queries: the defaults are the MAP head of big_vision, and its
options make V-JEPA 2's pooler (arXiv 2506.09985). `AttentiveReadout` is the
readout of 4DS (2412.15212) and of MooG's published heads (2411.05927).
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vidscenic.layers import attention, blocks, norms

POOLS = ('mean', 'token')


class ClassificationHead(nn.Module):
  """Pool, optional norm, linear layer: [..., N, D] -> [..., num_classes].

  Parameters: norm, classifier. The classifier starts at zero.
  """

  num_classes: int
  pool: str = 'mean'  # over N, or 'token': token 0, the class token
  norm: bool = False  # LayerNorm between pool and classifier
  norm_eps: float = 1e-6
  dropout: float = 0.0  # before the classifier
  dtype: Any = jnp.float32  # compute
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens, *, train: bool = False):
    if self.pool not in POOLS:
      raise ValueError(f'pool must be one of {POOLS}, got {self.pool!r}')
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    if self.pool == 'mean':
      x = jnp.mean(tokens, axis=-2, dtype=jnp.float32)
    else:
      x = tokens[..., 0, :]
    if self.norm:
      x = norms.layer_norm('norm', eps=self.norm_eps, **dtypes)(x)
    x = nn.Dropout(self.dropout, deterministic=not train, name='drop')(x)
    return nn.Dense(
      self.num_classes,
      kernel_init=nn.initializers.zeros,
      name='classifier',
      **dtypes,
    )(x)


class AttentionPool(nn.Module):
  """Learned queries attend to the tokens; an MLP branch follows.

  With the defaults (MAP head): y = attention(query, tokens); y + mlp(norm(y)).
  V-JEPA 2's pooler: residual=True, kv_norm=True, project_out=False and
  activation='gelu_erf'; its self-attention layers are a `Transformer` before.

  Parameters: query [Q, D], attention, mlp_norm, mlp, with kv_norm also kv_norm.
  """

  num_heads: int
  mlp_features: int
  num_queries: int = 1
  residual: bool = False  # add the query to what it reads
  kv_norm: bool = False
  project_out: bool = True
  norm_eps: float = 1e-6
  activation: str = 'gelu_tanh'
  implementation: str = 'xla'
  query_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
  dtype: Any = jnp.float32  # compute
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens, *, mask=None):
    """Pools the tokens.

    Args:
      tokens: [..., N, D].
      mask: bool, broadcastable to [..., heads, Q, N]; True = may attend.

    Returns:
      [..., Q, D] in the module's dtype.
    """
    width = tokens.shape[-1]
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = functools.partial(norms.layer_norm, eps=self.norm_eps, **dtypes)
    query = self.param(
      'query', self.query_init, (self.num_queries, width), self.param_dtype
    )
    # Not left to promotion: with `residual` the result would be float32.
    query = query.astype(self.dtype)
    query = query.reshape((1,) * (tokens.ndim - 2) + query.shape)
    kv = norm('kv_norm')(tokens) if self.kv_norm else tokens
    y = attention.MultiHeadAttention(
      self.num_heads,
      qkv_features=width,
      project_out=self.project_out,
      implementation=self.implementation,
      name='attention',
      **dtypes,
    )(query, kv, mask=mask)
    if self.residual:
      y = query + y
    return y + blocks.Mlp(
      self.mlp_features, activation=self.activation, name='mlp', **dtypes
    )(norm('mlp_norm')(y))


class AttentiveReadout(nn.Module):
  """Cross-attention readout of the tokens of a clip.

  Learned queries, or embedded ones from outside, attend once to all tokens of
  all frames; an MLP branch and a linear layer follow:

    F = norm(features) + temporal_table
    y = q + out(attention(q, F));  y = y + mlp(norm(y));  result = final(y)

  The residual is the raw query (learned, or the projected external one). With
  `plain` there is only final(attention(q, F)), without norms, MLP and biases
  of keys and values.

  Parameters: query [Q, heads, P/heads] or the Dense layer query; kv_norm,
  temporal_table [T, 1, D], key, value, out, mlp_norm, mlp, final. T is fixed
  by the table.
  """

  num_outputs: int
  width: int  # P
  num_heads: int
  num_queries: int = 1  # learned ones, when none are passed
  plain: bool = False
  temporal_table: bool = True
  norm_eps: float = 1e-6
  dropout: float = 0.0  # of what attention returns
  implementation: str = 'xla'
  query_chunk: int = 0  # dense readouts have thousands of queries
  dtype: Any = jnp.float32  # compute
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features, queries=None, *, train: bool = False):
    """Reads out.

    Args:
      features: [..., T, S, D].
      queries: [..., Q, Dq], None for the learned ones.
      train: enables dropout.

    Returns:
      [..., Q, num_outputs]; a single learned query loses its axis.

    Raises:
      ValueError: width that num_heads does not divide.
    """
    if self.width % self.num_heads:
      raise ValueError(
        f'width={self.width} is not divisible by num_heads={self.num_heads}'
      )
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = functools.partial(norms.layer_norm, eps=self.norm_eps, **dtypes)
    lead, (num_frames, _, channels) = features.shape[:-3], features.shape[-3:]
    heads = (self.num_heads, self.width // self.num_heads)
    table_init = nn.initializers.normal(0.02)

    if not self.plain:
      features = norm('kv_norm')(features)
    if self.temporal_table:
      features += self.param(
        'temporal_table', table_init, (num_frames, 1, channels),
        self.param_dtype,
      )  # fmt: skip
    tokens = features.reshape(*lead, -1, channels)
    project = functools.partial(
      nn.DenseGeneral, heads, use_bias=not self.plain, **dtypes
    )
    k, v = project(name='key')(tokens), project(name='value')(tokens)
    if queries is None:
      shape = (self.num_queries, *heads)
      q = self.param('query', table_init, shape, self.param_dtype)
      q = jnp.broadcast_to(q.astype(self.dtype), (*lead, *shape))
    else:
      q = nn.DenseGeneral(heads, name='query', **dtypes)(queries)
    z = attention.dot_product_attention(
      q,
      k,
      v,
      implementation=self.implementation,
      query_chunk=self.query_chunk,
    )
    z = z.reshape(*z.shape[:-2], self.width)
    z = nn.Dropout(self.dropout, deterministic=not train, name='drop')(z)
    if self.plain:
      y = z
    else:
      y = q.reshape(z.shape) + nn.Dense(self.width, name='out', **dtypes)(z)
      y += blocks.Mlp(4 * self.width, name='mlp', **dtypes)(norm('mlp_norm')(y))
    out = nn.Dense(self.num_outputs, name='final', **dtypes)(y)
    if queries is None and self.num_queries == 1:
      out = out[..., 0, :]
    return out
