"""Stacks of transformer blocks.

A stack keeps its blocks either one by one (`block_0`, `block_1`, ...) or
stacked (`blocks`, every leaf with a leading layer axis) and then runs them with
a scan. `stack_blocks` and `unstack_blocks` convert parameter trees. Throughout
the code base a path component named exactly `blocks` marks such leaves.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidscenic.layers import blocks, norms

REMAT = ('none', 'full', 'dots')


class Transformer(nn.Module):
  """A stack of equal blocks.

  Parameters: `block_0`, `block_1`, ... or, with `scan`, `blocks`, whose leaves
  have a leading axis of length depth; `final_norm` if asked for.
  """

  depth: int
  block: Mapping[
    str, Any
  ]  # fields of blocks.Block, except dtype and param_dtype
  final_norm: bool = False  # after the last block, eps and bias as theirs
  drop_path: float = 0.0  # of the last block; grows linearly from 0
  # Of the last kernels of every branch; 'depth': 1 / sqrt(2 l) for block l,
  # counted from 1 (V-JEPA 2, BEiT).
  residual_init_scale: float | str = 1.0
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
      kv, mask, cross_mask, rotary: see `blocks.Block`; the same for all.
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
      ValueError: an unknown option, or numbers outside [0, depth].
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
    if self.residual_init_scale != 'depth' and isinstance(
      self.residual_init_scale, str
    ):
      raise ValueError(
        "residual_init_scale must be a number or 'depth', got "
        f'{self.residual_init_scale!r}'
      )
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
        eps=self.block.get('norm_eps', blocks.Block.norm_eps),
        use_bias=self.block.get('norm_bias', blocks.Block.norm_bias),
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
    return blocks.Block(
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

  def _init_scales(self):
    if self.residual_init_scale == 'depth':
      return 1 / np.sqrt(2 * np.arange(1, self.depth + 1))
    return np.full(self.depth, self.residual_init_scale, float)

  def _unrolled(self):
    """run(x, shared, first, last, frozen, ...) over separate blocks."""
    stack = [self._block(f'block_{i}') for i in range(self.depth)]

    def run(x, shared, first, last, frozen, *, collect, train):
      hidden = []
      for i in range(first, last):
        rate = float(self._rates()[i])
        scale = float(self._init_scales()[i])
        body = functools.partial(
          _call, drop_path=rate, init_scale=scale, train=train
        )
        body = self._remat(body, frozen)
        if frozen:
          body = _change_params(body, jax.lax.stop_gradient)
        x = body(stack[i], x, shared)
        hidden.append(x)
      return x, jnp.stack(hidden) if collect else None

    return run

  def _scanned(self):
    """run(x, shared, first, last, frozen, ...) over stacked blocks."""
    block = self._block('blocks')

    def run(x, shared, first, last, frozen, *, collect, train):
      def body(block, x, shared, rate, scale):
        rate = 0.0 if rate is None else rate
        scale = 1.0 if scale is None else scale
        x = _call(
          block, x, shared, drop_path=rate, init_scale=scale, train=train
        )
        return x, x if collect else None

      def cut(params):
        params = jax.tree.map(lambda leaf: leaf[first:last], params)
        return jax.lax.stop_gradient(params) if frozen else params

      body = nn.scan(
        self._remat(body, frozen),
        variable_axes={'params': 0, 'intermediates': 0, 'attention_weights': 0},
        split_rngs={True: True},  # every stream differs between blocks
        in_axes=(nn.broadcast, 0, 0),
        length=last - first,
      )
      if frozen or last - first < self.depth:
        body = _change_params(body, cut)
      rates = self._rates()[first:last] if self.drop_path else None
      scales = None
      if self.is_initializing():
        scales = jnp.asarray(self._init_scales()[first:last], jnp.float32)
      return body(block, x, shared, rates, scales)

    return run


class ProjectedTransformer(nn.Module):
  """A stack with a final norm between linear maps (MooG).

  Dense `in` if hidden_features is set, always, even to the same width; the
  stack, whose norm is there with depth 0 too; Dense `out` if out_features is
  set, or back to the width of the input if hidden_features differs from it.

  Parameters: in, stack/{block_0, ..., final_norm}, out.
  """

  depth: int
  block: Mapping[str, Any]  # see `Transformer`
  hidden_features: int | None = None
  out_features: int | None = None
  remat: str = 'none'
  dtype: Any = jnp.float32  # compute
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, kv=None):
    """x: [..., N, D], kv: [..., S, D'] or None -> [..., N, features]."""
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    width, out = x.shape[-1], self.out_features
    if self.hidden_features is not None:
      x = nn.Dense(self.hidden_features, name='in', **dtypes)(x)
      if out is None and self.hidden_features != width:
        out = width
    x = Transformer(
      self.depth,
      self.block,
      final_norm=True,
      remat=self.remat,
      name='stack',
      **dtypes,
    )(x, kv)
    if out is not None:
      x = nn.Dense(out, name='out', **dtypes)(x)
    return x


def _call(block, x, shared, *, drop_path, init_scale, train):
  kv, mask, cross_mask, rotary = shared
  return block(
    x,
    kv,
    mask=mask,
    cross_mask=cross_mask,
    rotary=rotary,
    drop_path=drop_path,
    residual_init_scale=init_scale,
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
  children = [params.pop(name) for name in numbered]

  def stack(*leaves):
    is_numpy = isinstance(leaves[0], np.ndarray)
    return np.stack(leaves) if is_numpy else jnp.stack(leaves)

  return params | {'blocks': jax.tree.map(stack, *children)}


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
