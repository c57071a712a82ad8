"""Transformer blocks and stacks of them.

One block covers the published models by the `order` of its branches:

  ('self', 'mlp')            ViT, 4DS, LayerLock, MooG predictor
  ('cross', 'mlp', 'self')   RVM's core and decoder (rvm.md 8)
  ('self+cross', 'mlp')      MooG corrector, TRAJAN (moog.md 1.2)
  ('cross', 'mlp')           MooG decoder, Perceiver's cross-attention

'self+cross' is one residual branch: both attentions read the same normalised
input and their sum is added.

A stack keeps its blocks either one by one (`block_0`, `block_1`, ...) or
stacked (`blocks`, every leaf with a leading layer axis) and then runs them with
a scan. `stack_blocks` and `unstack_blocks` convert parameter trees. Throughout
the code base a path component named exactly `blocks` marks such leaves.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidscenic.layers import attention, norms

ACTIVATIONS = {
  'gelu_tanh': functools.partial(nn.gelu, approximate=True),
  'gelu_erf': functools.partial(nn.gelu, approximate=False),
  'squared_relu': lambda x: jnp.square(nn.relu(x)),
}
BRANCHES = ('self', 'cross', 'self+cross', 'mlp')
REMAT = ('none', 'full', 'dots')


class Mlp(nn.Module):
  """Two-layer perceptron on the last axis: [..., D] -> [..., D]."""

  features: int  # width of the hidden layer
  activation: str = 'gelu_tanh'  # a key of ACTIVATIONS
  kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
  dtype: Any = jnp.float32  # compute
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    dense = functools.partial(
      nn.Dense,
      kernel_init=self.kernel_init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )
    width = x.shape[-1]
    x = dense(self.features, name='up')(x)
    x = ACTIVATIONS[self.activation](x)
    return dense(width, name='down')(x)


class DropPath(nn.Module):
  """Drops a whole residual branch, drawn once per example.

  Examples are the first axis of x; all that belongs to one, such as frames or
  groups of tokens in further axes, is kept or dropped together (hip.md 2).
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
        y = self._mlp(y)
      else:
        parts = []
        if 'self' in branch:
          parts.append(self._self_attention(y, mask, rotary))
        if 'cross' in branch:
          parts.append(self._cross_attention(y, kv, cross_mask))
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

  def _mlp(self, y):
    return Mlp(
      self.mlp_features,
      activation=self.activation,
      kernel_init=self.mlp_init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name='mlp',
    )(y)

  def _attention(self, width, name):
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
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )

  def _self_attention(self, y, mask, rotary):
    if rotary is not None and self.rotary_site == 'norm':
      # Queries, keys and values all see the positions (layerlock.md 3.3).
      y, rotary = rotary.apply(y), None
    attend = self._attention(y.shape[-1], 'self_attention')
    return attend(y, mask=mask, rotary=rotary)

  def _cross_attention(self, y, kv, mask):
    if self.kv_norm:
      kv = self._norm('kv_norm')(kv)
    attend = self._attention(y.shape[-1], 'cross_attention')
    return attend(y, kv, mask=mask)


class Transformer(nn.Module):
  """A stack of equal blocks.

  Parameters: `block_0`, `block_1`, ... or, with `scan`, `blocks`, whose leaves
  have a leading axis of length depth; `final_norm` if asked for.
  """

  depth: int
  block: Mapping[str, Any]  # fields of Block, except dtype and param_dtype
  final_norm: bool = False  # after the last block, eps and bias as in Block
  drop_path: float = 0.0  # of the last block; grows linearly from 0
  scan: bool = False
  remat: str = 'none'  # 'full', or 'dots': keep results of weight matmuls
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
    num_frozen: int = 0,
    start: int = 0,
    stop: int | None = None,
    return_intermediates: bool = False,
    train: bool = False,
  ):
    """Runs blocks start, ..., stop - 1 (all by default).

    A block's number does not depend on the range, so a model can run the first
    blocks, add tokens and go on (late decode tokens), or stop early.

    Args:
      x: [..., N, D].
      kv, mask, cross_mask, rotary: see `Block`; the same for every block.
      num_frozen: blocks 0, ..., num_frozen - 1 run without gradient, and so
        does everything that x comes from if one of them is in the range. The
        number is static: their backward pass is not compiled at all, with
        `scan` too, where the stacked leaves are cut in two.
      start, stop: range of blocks; stop None: depth. `final_norm` belongs to
        the last block.
      return_intermediates: also return what every block of the range returns.
      train: enables dropout and drop path.

    Returns:
      [..., N, D]; with return_intermediates a pair of that and
      [stop - start, ..., N, D], without the final norm.

    Raises:
      ValueError: unknown remat, or numbers outside [0, depth].
    """
    stop = self.depth if stop is None else stop
    if not 0 <= start <= stop <= self.depth:
      raise ValueError(
        f'start={start} and stop={stop} must be a range in [0, {self.depth}]'
      )
    if not 0 <= num_frozen <= self.depth:
      raise ValueError(
        f'num_frozen must be in [0, {self.depth}], got {num_frozen}'
      )
    if self.remat not in REMAT:
      raise ValueError(f'remat must be one of {REMAT}, got {self.remat!r}')
    shared = (kv, mask, cross_mask, rotary)
    options = dict(collect=return_intermediates, train=train)
    run = self._scanned() if self.scan else self._unrolled()
    if self.is_initializing():
      # Every block gets its parameters, whatever the range; freezing changes
      # no value.
      num_frozen = 0
      if (start, stop) != (0, self.depth):
        run(x, shared, 0, self.depth, False, **options)
    split = min(max(num_frozen, start), stop)
    hidden = []
    for first, last, frozen in ((start, split, True), (split, stop, False)):
      if last > first:
        # kv keeps its gradient from the blocks that train.
        given = jax.lax.stop_gradient((x, shared)) if frozen else (x, shared)
        x, part = run(*given, first, last, frozen, **options)
        hidden.append(part)
    if self.final_norm and (stop == self.depth or self.is_initializing()):
      y = norms.layer_norm(
        'final_norm',
        eps=self.block.get('norm_eps', Block.norm_eps),
        use_bias=self.block.get('norm_bias', Block.norm_bias),
        dtype=self.dtype,
        param_dtype=self.param_dtype,
      )(x)
      x = y if stop == self.depth else x
    if not return_intermediates:
      return x
    if not hidden:
      hidden = [jnp.zeros((0, *x.shape), x.dtype)]
    return x, jnp.concatenate(hidden)

  def _block(self, name):
    return Block(
      **self.block, dtype=self.dtype, param_dtype=self.param_dtype, name=name
    )

  def _remat(self, body, frozen):
    # No activation of a frozen block is kept, so there is nothing to save.
    if self.remat == 'none' or frozen:
      return body
    policy = None
    if self.remat == 'dots':
      policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return nn.remat(body, prevent_cse=not self.scan, policy=policy)

  def _rates(self):
    return np.linspace(0, self.drop_path, self.depth)

  def _unrolled(self):
    """run(x, shared, first, last, frozen, ...) over separate blocks."""
    blocks = [self._block(f'block_{i}') for i in range(self.depth)]

    def run(x, shared, first, last, frozen, *, collect, train):
      hidden = []
      for i in range(first, last):
        rate = float(self._rates()[i])
        body = functools.partial(_call, drop_path=rate, train=train)
        body = self._remat(body, frozen)
        if frozen:
          body = _change_params(body, jax.lax.stop_gradient)
        x = body(blocks[i], x, shared)
        hidden.append(x)
      return x, jnp.stack(hidden) if collect else None

    return run

  def _scanned(self):
    """run(x, shared, first, last, frozen, ...) over stacked blocks."""
    block = self._block('blocks')

    def run(x, shared, first, last, frozen, *, collect, train):
      def body(block, x, shared, rate):
        rate = 0.0 if rate is None else rate
        x = _call(block, x, shared, drop_path=rate, train=train)
        return x, x if collect else None

      def cut(params):
        params = jax.tree.map(lambda leaf: leaf[first:last], params)
        return jax.lax.stop_gradient(params) if frozen else params

      body = nn.scan(
        self._remat(body, frozen),
        variable_axes={'params': 0, 'intermediates': 0, 'attention_weights': 0},
        split_rngs={True: True},  # every stream differs between blocks
        in_axes=(nn.broadcast, 0),
        length=last - first,
      )
      if frozen or last - first < self.depth:
        body = _change_params(body, cut)
      rates = self._rates()[first:last] if self.drop_path else None
      return body(block, x, shared, rates)

    return run


def _call(block, x, shared, *, drop_path, train):
  kv, mask, cross_mask, rotary = shared
  return block(
    x,
    kv,
    mask=mask,
    cross_mask=cross_mask,
    rotary=rotary,
    drop_path=drop_path,
    train=train,
  )


def _change_params(body, change):
  """Lets body(module, ...) see change(parameters) instead of parameters."""
  return nn.map_variables(body, 'params', trans_in_fn=change)


def stack_blocks(params):
  """Unrolled layout -> stacked layout, anywhere in a tree of plain dicts.

  Children `block_0`, ..., `block_{n-1}` of a dict become one child `blocks`
  whose leaves have a leading axis of length n. NumPy leaves stay NumPy.

  Raises:
    ValueError: numbers with gaps, blocks that differ in structure or shape, or
      a dict that already has `blocks`.
  """
  if not isinstance(params, Mapping):
    return params
  params = {name: stack_blocks(child) for name, child in params.items()}
  names = [name for name in params if re.fullmatch(r'block_\d+', name)]
  if not names:
    return params
  numbered = [f'block_{i}' for i in range(len(names))]
  if set(names) != set(numbered) or 'blocks' in params:
    raise ValueError(
      f'expected block_0, ..., block_{len(names) - 1} and no blocks, got '
      f'{sorted(params)}'
    )
  blocks = [params.pop(name) for name in numbered]

  def stack(*leaves):
    is_numpy = isinstance(leaves[0], np.ndarray)
    return np.stack(leaves) if is_numpy else jnp.stack(leaves)

  return params | {'blocks': jax.tree.map(stack, *blocks)}


def unstack_blocks(params):
  """Stacked layout -> unrolled layout; the exact inverse of `stack_blocks`.

  Raises:
    ValueError: leaves below a `blocks` with different leading axes.
  """
  if not isinstance(params, Mapping):
    return params
  params = dict(params)
  if 'blocks' in params:
    stacked = params.pop('blocks')
    depths = {leaf.shape[0] for leaf in jax.tree.leaves(stacked)}
    if len(depths) != 1:
      raise ValueError(f'leaves below blocks have leading axes {depths}')
    for i in range(depths.pop()):
      params[f'block_{i}'] = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
  return {name: unstack_blocks(child) for name, child in params.items()}
