"""Multi-head attention: one function, one module.

The function serves self- and cross-attention of every project: float32
softmax, boolean masks (True = may attend), exact query chunking, an optional
fused kernel. The module adds the projections, for MooG (arXiv 2411.05927) with
RMS-normalised queries and keys, for Perceiver (2103.03206) with separate widths
of queries and keys, and of values.

Keys and values may have leading axes of size 1 where the queries have more:
they are then shared, not copied. RVM's decoder reads the same source features
for K target frames as x [B, K, Q, D] against kv [B, 1, S, D], and MooG's
readouts do the same with blocks of queries.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

IMPLEMENTATIONS = ('xla', 'cudnn')
MASKED_ROWS = ('uniform', 'zero')
PROJECTIONS = ('query', 'key', 'value')


def dot_product_attention(
  q,
  k,
  v,
  *,
  bias=None,
  mask=None,
  scale: float | None = None,
  implementation: str = 'xla',
  query_chunk: int = 0,
  masked_rows: str = 'uniform',
  return_weights: bool = False,
):
  """Softmax attention over the keys, computed in float32.

  Args:
    q: [..., Q, heads, d].
    k: [..., S, heads, d]; leading axes broadcast against those of q.
    v: [..., S, heads, e]; leading axes as in k.
    bias: added to the logits; broadcastable to [..., heads, Q, S].
    mask: bool, broadcastable to [..., heads, Q, S]; True = may attend.
    scale: factor of the logits before the bias; None: 1 / sqrt(d).
    implementation: 'xla', or 'cudnn' for NVIDIA's fused kernel (bfloat16 or
      float16, d = e a multiple of 8 and at most 128, 256 from Hopper on).
    query_chunk: number of queries handled at a time, 0 = all. Bounds memory to
      query_chunk x S weights, also in the backward pass, which recomputes
      them; the result is exact. The fused kernel never forms the matrix and
      ignores it.
    masked_rows: what a query without any allowed key returns: 'uniform' the
      mean of all values (a softmax over equal logits, as in MooG), 'zero'
      zeros (as in Perceiver).
    return_weights: also return the weights, which forces the 'xla' formula.

  Returns:
    [..., Q, heads, e] in q's dtype; with return_weights a pair of that and
    float32[..., heads, Q, S].

  Raises:
    ValueError: unknown option, or inputs that the fused kernel cannot take.
  """
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
      f'implementation must be one of {IMPLEMENTATIONS}, got {implementation!r}'
    )
  if masked_rows not in MASKED_ROWS:
    raise ValueError(
      f'masked_rows must be one of {MASKED_ROWS}, got {masked_rows!r}'
    )
  if query_chunk < 0:
    raise ValueError(f'query_chunk must be >= 0, got {query_chunk}')
  scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
  if implementation == 'cudnn' and not return_weights:
    return _fused(q, k, v, bias, mask, scale, masked_rows)
  if 0 < query_chunk < q.shape[-3]:
    out, weights = _chunked(
      q, k, v, bias, mask, scale, masked_rows, query_chunk, return_weights
    )
  else:
    out, weights = _attend(q, k, v, bias, mask, scale, masked_rows)
  return (out, weights) if return_weights else out


def _attend(q, k, v, bias, mask, scale, masked_rows):
  """The formula itself; returns the output and the float32 weights."""
  logits = scale * jnp.einsum(
    '...qhd,...khd->...hqk', q, k, preferred_element_type=jnp.float32
  )
  if bias is not None:
    logits = logits + bias.astype(jnp.float32)
  if mask is not None:
    # The most negative finite number and not -inf: a row without any allowed
    # key has equal logits then, and neither it nor its gradient is NaN.
    logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(logits, axis=-1)
  if mask is not None and masked_rows == 'zero':
    weights = jnp.where(_any_key(mask), weights, 0)
  out = jnp.einsum('...hqk,...khe->...qhe', weights.astype(v.dtype), v)
  return out.astype(q.dtype), weights


def _any_key(mask):
  return jnp.any(mask, axis=-1, keepdims=True)


def _chunked(
  q, k, v, bias, mask, scale, masked_rows, query_chunk, return_weights
):
  """Maps `_attend` over blocks of queries; the last block is padded."""
  length = q.shape[-3]
  num_chunks = -(-length // query_chunk)
  pad = num_chunks * query_chunk - length

  def split(x, axis):
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, pad)
    x = jnp.pad(x, widths)
    axis = axis % x.ndim
    shape = (*x.shape[:axis], num_chunks, query_chunk, *x.shape[axis + 1 :])
    return jnp.moveaxis(x.reshape(shape), axis, 0)

  def join(x, axis):
    axis = axis % (x.ndim - 1)
    x = jnp.moveaxis(x, 0, axis)
    shape = (*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return jax.lax.slice_in_dim(x.reshape(shape), 0, length, axis=axis)

  # Only operands that really have a query axis are cut; the rest is shared.
  cut = {'q': split(q, -3)}
  whole = {'bias': None, 'mask': None}
  for name, x in (('bias', bias), ('mask', mask)):
    if x is not None and x.ndim > 1 and x.shape[-2] != 1:
      cut[name] = split(x, -2)
    else:
      whole[name] = x

  # Without the checkpoint the backward pass would keep the weights of all
  # chunks, that is, the matrix that chunking is there to avoid.
  @jax.checkpoint
  def one(cut):
    part = whole | cut
    out, weights = _attend(
      part['q'], k, v, part['bias'], part['mask'], scale, masked_rows
    )
    return out, weights if return_weights else None

  out, weights = jax.lax.map(one, cut)
  return join(out, -3), join(weights, -2) if return_weights else None


def _fused(q, k, v, bias, mask, scale, masked_rows):
  """NVIDIA's kernel behind jax.nn; it knows [B, Q, heads, d] only."""
  _check_fused(q, k, v)
  length, heads, width = q.shape[-3:]
  num_keys = k.shape[-3]
  lead = jnp.broadcast_shapes(q.shape[:-3], k.shape[:-3], v.shape[:-3])
  rank = len(lead)
  q = jnp.broadcast_to(q, (*lead, length, heads, width))
  k, v = (x.reshape((1,) * (rank + 3 - x.ndim) + x.shape) for x in (k, v))
  # Trailing leading axes over which keys are shared become more queries, so
  # that the keys need not be copied for the kernel.
  keep = rank
  if bias is None and mask is None:
    while keep and k.shape[keep - 1] == v.shape[keep - 1] == 1:
      keep -= 1
  batch = math.prod(lead[:keep])
  q = q.reshape(batch, -1, heads, width)
  k, v = (
    jnp.broadcast_to(
      x.reshape(*x.shape[:keep], num_keys, heads, width),
      (*lead[:keep], num_keys, heads, width),
    ).reshape(batch, num_keys, heads, width)
    for x in (k, v)
  )

  def expand(x):
    # The kernel broadcasts batch and heads, never queries and keys.
    x = x.reshape((1,) * (rank + 3 - x.ndim) + x.shape)
    full = lead if any(n != 1 for n in x.shape[:rank]) else (1,) * rank
    x = jnp.broadcast_to(x, (*full, x.shape[-3], length, num_keys))
    return x.reshape(-1, *x.shape[-3:])

  out = jax.nn.dot_product_attention(
    q,
    k,
    v,
    bias=None if bias is None else expand(bias).astype(q.dtype),
    mask=None if mask is None else expand(mask),
    scale=scale,
    implementation='cudnn',
  )
  out = out.reshape(*lead, length, heads, width)
  if mask is not None and masked_rows == 'zero':
    # [..., heads or 1, Q or 1, 1] -> [..., Q or 1, heads or 1, 1]
    some = _any_key(mask.reshape((1,) * (3 - mask.ndim) + mask.shape))
    out = jnp.where(jnp.swapaxes(some, -3, -2), out, 0)
  return out


def _check_fused(q, k, v):
  """Explains what the kernel needs in terms of the fields a user can set."""
  dtypes = {str(x.dtype) for x in (q, k, v)}
  if len(dtypes) > 1 or not dtypes <= {'bfloat16', 'float16'}:
    raise ValueError(
      "implementation='cudnn' needs dtype bfloat16 or float16 for queries, "
      f"keys and values, got {sorted(dtypes)}; set dtype or use 'xla'"
    )
  width, v_width = q.shape[-1], v.shape[-1]
  if width != v_width or width % 8 or width > 256:
    raise ValueError(
      "implementation='cudnn' needs one head dim for queries and values, a "
      'multiple of 8 and at most 128 (256 from Hopper on), got '
      f'qkv_features / num_heads = {width} and v_features / num_heads = '
      f"{v_width}; change them or use 'xla'"
    )
  if jax.default_backend() != 'gpu':
    raise ValueError(
      "implementation='cudnn' needs an NVIDIA GPU, the default backend is "
      f"{jax.default_backend()!r}; use 'xla'"
    )


class MultiHeadAttention(nn.Module):
  """Multi-head attention with separate projections.

  Parameters: query/key/value kernels [D, heads, head_dim] and biases [heads,
  head_dim]; out kernel [heads, head_dim, D] and bias [D]; with qk_norm
  query_norm and key_norm, one scale [head_dim] for all heads.

  The weights are put into the collection 'attention_weights' (name 'weights',
  float32[..., heads, Q, S]) whenever a caller makes it mutable, which also
  works through blocks and scanned stacks. It is a collection of its own since
  weights exist with the 'xla' formula only: other intermediates can be looked
  at without a change of algorithm or memory.
  """

  num_heads: int
  qkv_features: int  # width of queries and keys over all heads
  v_features: int | None = None  # width of values; None: qkv_features
  out_features: int | None = None  # width of the result; None: qkv_features
  use_bias: bool | Sequence[str] = True  # or which of query, key, value
  out_bias: bool = True
  project_out: bool = True  # False: heads are concatenated and returned
  qk_norm: str | None = None  # 'rms' or 'layer', over head_dim, scale only
  norm_eps: float = 1e-6
  implementation: str = 'xla'
  query_chunk: int = 0
  masked_rows: str = 'uniform'
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  out_init: nn.initializers.Initializer | None = None  # None: kernel_init
  dtype: Any = jnp.float32  # compute
  param_dtype: Any = jnp.float32

  def setup(self):
    v_features = self.v_features or self.qkv_features
    for name, features in (
      ('qkv_features', self.qkv_features),
      ('v_features', v_features),
    ):
      if features % self.num_heads:
        raise ValueError(
          f'{name}={features} is not divisible by num_heads={self.num_heads}'
        )
    if isinstance(self.use_bias, bool):
      biased = PROJECTIONS if self.use_bias else ()
    else:
      biased = tuple(self.use_bias)
    if not set(biased) <= set(PROJECTIONS):
      raise ValueError(f'use_bias names {biased}, known are {PROJECTIONS}')
    shared = dict(dtype=self.dtype, param_dtype=self.param_dtype)

    def heads(features, name):
      return nn.DenseGeneral(
        (self.num_heads, features // self.num_heads),
        use_bias=name in biased,
        kernel_init=self.kernel_init,
        **shared,
      )

    self.query = heads(self.qkv_features, 'query')
    self.key = heads(self.qkv_features, 'key')
    self.value = heads(v_features, 'value')
    if self.project_out:
      self.out = nn.DenseGeneral(
        self.out_features or self.qkv_features,
        axis=(-2, -1),
        use_bias=self.out_bias,
        kernel_init=self.out_init or self.kernel_init,
        **shared,
      )
    if self.qk_norm is not None:
      norms = {
        'rms': nn.RMSNorm,
        'layer': lambda **kw: nn.LayerNorm(
          use_bias=False, use_fast_variance=False, **kw
        ),
      }
      if self.qk_norm not in norms:
        raise ValueError(
          f"qk_norm must be None, 'rms' or 'layer', got {self.qk_norm!r}"
        )
      options = dict(
        epsilon=self.norm_eps, dtype=self.dtype, param_dtype=self.param_dtype
      )
      self.query_norm = norms[self.qk_norm](**options)
      self.key_norm = norms[self.qk_norm](**options)

  def project_kv(self, kv, *, rotary=None):
    """Keys and values of kv, to be used by several calls.

    Args:
      kv: [..., S, D'].
      rotary: `position.Rotary` of the S keys.

    Returns:
      (k [..., S, heads, d], v [..., S, heads, e]); k is normalised and rotated.
    """
    k = self.key(kv)
    if self.qk_norm is not None:
      k = self.key_norm(k)
    if rotary is not None:
      k = rotary.apply(k, heads=True)
    return k, self.value(kv)

  def __call__(
    self,
    x,
    kv=None,
    *,
    projected=None,
    bias=None,
    mask=None,
    rotary=None,
    return_weights: bool = False,
  ):
    """Attends from x to kv, or to x itself.

    Args:
      x: [..., Q, D].
      kv: [..., S, D'], None for self-attention. Leading axes may be 1 where
        x has more.
      projected: result of `project_kv`, instead of kv.
      bias, mask: see `dot_product_attention`.
      rotary: `position.Rotary` of the Q queries and, unless `projected` is
        given, of the keys.
      return_weights: see `dot_product_attention`.

    Returns:
      [..., Q, out_features], without project_out [..., Q, v_features]; with
      return_weights a pair of that and float32[..., heads, Q, S].
    """
    q = self.query(x)
    if self.qk_norm is not None:
      q = self.query_norm(q)
    if rotary is not None:
      q = rotary.apply(q, heads=True)
    if projected is None:
      projected = self.project_kv(x if kv is None else kv, rotary=rotary)
    sowing = not self.is_initializing() and self.is_mutable_collection(
      'attention_weights'
    )
    result = dot_product_attention(
      q,
      *projected,
      bias=bias,
      mask=mask,
      implementation=self.implementation,
      query_chunk=self.query_chunk,
      masked_rows=self.masked_rows,
      return_weights=return_weights or sowing,
    )
    out, weights = result if return_weights or sowing else (result, None)
    if sowing:
      self.sow('attention_weights', 'weights', weights)
    if self.project_out:
      out = self.out(out)
    else:
      out = out.reshape(*out.shape[:-2], -1)
    return (out, weights) if return_weights else out
