"""Transformer blocks.

One block covers the published models by the `order` of its branches:

  ('self', 'mlp')            ViT, 4DS, LayerLock, MooG predictor
  ('cross', 'mlp', 'self')   RVM's core and decoder
  ('self+cross', 'mlp')      MooG corrector, TRAJAN
  ('cross', 'mlp')           MooG decoder, Perceiver's cross-attention

'self+cross' is one residual branch: both attentions read the same normalised
input and their sum is added.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidscenic.layers import attention, norms

ACTIVATIONS = {
  'gelu_tanh': functools.partial(nn.gelu, approximate=True),
  'gelu_erf': functools.partial(nn.gelu, approximate=False),
  'squared_relu': lambda x: jnp.square(nn.relu(x)),
}
BRANCHES = ('self', 'cross', 'self+cross', 'mlp')


class Mlp(nn.Module):
  """Two-layer perceptron on the last axis: [..., D] -> [..., D]."""

  features: int  # width of the hidden layer
  activation: str = 'gelu_tanh'  # a key of ACTIVATIONS
  kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
  down_init: nn.initializers.Initializer | None = None  # None: kernel_init
  dtype: Any = jnp.float32  # compute
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    dense = functools.partial(
      nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype
    )
    width = x.shape[-1]
    x = dense(self.features, kernel_init=self.kernel_init, name='up')(x)
    x = ACTIVATIONS[self.activation](x)
    init = self.down_init or self.kernel_init
    return dense(width, kernel_init=init, name='down')(x)


class DropPath(nn.Module):
  """Drops a whole residual branch, drawn once per example.

  Examples are the first axis of x; all that belongs to one, such as frames or
  groups of tokens in further axes, is kept or dropped together.
  They are kept with probability 1 - rate and then divided by it unless
  `rescale` is off. Without leading axes, x [N, D], there is one draw.
  """

  rescale: bool = True

  @nn.compact
  def __call__(self, x, rate, *, train: bool = False):
    """x: [B, ..., N, D]; rate: in [0, 1), a number or a scalar array."""
    if not train or (isinstance(rate, (int, float)) and rate == 0):
      return x
    keep = 1.0 - rate
    rows = x.shape[: x.ndim > 2]
    rows += (1,) * (x.ndim - len(rows))
    kept = jax.random.bernoulli(self.make_rng('dropout'), keep, rows)
    x = jnp.where(kept, x, 0)
    return (x / keep).astype(x.dtype) if self.rescale else x


class Block(nn.Module):
  """Residual branches in the given order; see the module's docstring.

  Submodules, as far as `order` asks for them: self_norm, self_attention,
  cross_norm, cross_attention, kv_norm, attention_norm (shared by 'self+cross'),
  mlp_norm, mlp. The residual stream keeps the dtype it comes with.
  """

  num_heads: int
  mlp_features: int
  order: Sequence[str] = ('self', 'mlp')
  qkv_features: int | None = None  # over all heads; None: width of x
  v_features: int | None = None  # None: qkv_features
  use_bias: bool | Sequence[str] = True  # of query, key and value
  qk_norm: str | None = None
  kv_norm: bool = False  # normalise keys and values of 'cross' (Perceiver)
  cross_residual: bool = True  # False: 'cross' replaces x (Perceiver decoders)
  norm_placement: str = 'pre'  # or 'post': after the residual sum
  norm_eps: float = 1e-6
  norm_bias: bool = True
  activation: str = 'gelu_tanh'
  rotary_site: str = 'qk'  # or 'norm': rotate the input of self-attention
  dropout: float = 0.0  # of every branch's result
  drop_path_rescale: bool = True
  implementation: str = 'xla'
  query_chunk: int = 0
  masked_rows: str = 'uniform'
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  mlp_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
  dtype: Any = jnp.float32  # compute
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x,
    kv=None,
    *,
    mask=None,
    cross_mask=None,
    rotary=None,
    drop_path=0.0,
    residual_init_scale=1.0,
    train: bool = False,
  ):
    """Applies the block.

    Args:
      x: [..., N, D].
      kv: [..., S, D'] for 'cross'; leading axes may be 1 where x has more.
      mask: bool, broadcastable to [..., heads, N, N], for self-attention.
      cross_mask: bool, broadcastable to [..., heads, N, S].
      rotary: `position.Rotary` of the N tokens, for self-attention.
      drop_path: probability of dropping a branch, a number or scalar array.
      residual_init_scale: when parameters are made, factor of the kernels that
        a branch ends with, attention's `out` and the MLP's `down`; a number or
        scalar array.
      train: enables dropout and drop path (random stream 'dropout').

    Returns:
      [..., N, D] in x's dtype.

    Raises:
      ValueError: an unknown option, or 'cross' without kv.
    """
    self._check(kv)
    for branch in self.order:
      norm_name = 'attention' if branch == 'self+cross' else branch
      norm = self._norm(f'{norm_name}_norm')
      y = norm(x) if self.norm_placement == 'pre' else x
      if branch == 'mlp':
        y = self._mlp(y, residual_init_scale)
      else:
        parts = []
        if 'self' in branch:
          parts.append(
            self._self_attention(y, mask, rotary, residual_init_scale)
          )
        if 'cross' in branch:
          parts.append(
            self._cross_attention(y, kv, cross_mask, residual_init_scale)
          )
        y = sum(parts[1:], parts[0])
      y = nn.Dropout(
        self.dropout, deterministic=not train, name=f'{norm_name}_drop'
      )(y)
      y = DropPath(self.drop_path_rescale, name=f'{norm_name}_drop_path')(
        y, drop_path, train=train
      )
      if branch != 'cross' or self.cross_residual:
        y = x + y
      if self.norm_placement == 'post':
        y = norm(y)
      x = y.astype(x.dtype)
    return x

  def _check(self, kv):
    parts = '+'.join(self.order).split('+')
    if set(self.order) - set(BRANCHES) or len(set(parts)) < len(parts):
      raise ValueError(
        f'order must be made of {BRANCHES}, with each of self, cross and mlp '
        f'at most once, got {self.order}'
      )
    if kv is None and 'cross' in parts:
      raise ValueError(f'order={self.order} needs kv, got None')
    for name, known in (
      ('norm_placement', ('pre', 'post')),
      ('rotary_site', ('qk', 'norm')),
    ):
      if getattr(self, name) not in known:
        raise ValueError(
          f'{name} must be one of {known}, got {getattr(self, name)!r}'
        )

  def _norm(self, name):
    return norms.layer_norm(
      name,
      eps=self.norm_eps,
      use_bias=self.norm_bias,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )

  def _mlp(self, y, scale):
    return Mlp(
      self.mlp_features,
      activation=self.activation,
      kernel_init=self.mlp_init,
      down_init=_scaled(self.mlp_init, scale),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name='mlp',
    )(y)

  def _attention(self, width, scale, name):
    return attention.MultiHeadAttention(
      self.num_heads,
      qkv_features=self.qkv_features or width,
      v_features=self.v_features,
      out_features=width,
      use_bias=self.use_bias,
      qk_norm=self.qk_norm,
      implementation=self.implementation,
      query_chunk=self.query_chunk,
      masked_rows=self.masked_rows,
      kernel_init=self.kernel_init,
      out_init=_scaled(self.kernel_init, scale),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )

  def _self_attention(self, y, mask, rotary, scale):
    if rotary is not None and self.rotary_site == 'norm':
      # Queries, keys and values all see the positions, as in 4DS.
      y, rotary = rotary.apply(y), None
    attend = self._attention(y.shape[-1], scale, 'self_attention')
    return attend(y, mask=mask, rotary=rotary)

  def _cross_attention(self, y, kv, mask, scale):
    if self.kv_norm:
      kv = self._norm('kv_norm')(kv)
    attend = self._attention(y.shape[-1], scale, 'cross_attention')
    return attend(y, kv, mask=mask)


def _scaled(init, scale):
  def scaled(*args, **kwargs):
    value = init(*args, **kwargs)
    return (value * scale).astype(value.dtype)

  return scaled
