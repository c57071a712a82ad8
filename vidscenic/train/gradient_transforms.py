"""Gradient transformations that optax lacks, or that must know of layers.

Paths decide what an array is: below a component `blocks` the leading axis
counts layers, and every layer is treated as the tensor it would be without
`nn.scan`.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidscenic.train import paths

# Root mean square of the entries of muon's update, the value of arXiv
# 2502.16982, section 2.2: a learning rate and weight decay tuned for AdamW fit,
# and the parameters that Adam trains beside it need none of their own.
MUON_RMS = 0.2

_TO_HEADS = ('query', 'key', 'value')


def scale_by_trust_ratio() -> optax.GradientTransformation:
  """Times |param| / |update| per tensor, 1 where either norm is zero.

  LAMB, arXiv 1904.00962, without clipping of the ratio. `optax.
  scale_by_trust_ratio` would take one norm over all layers of a stacked leaf.
  """

  def norm(x, axes):
    return jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True))

  def scale(path, u, p):
    axes = tuple(range(1 if paths.is_stacked(path) else 0, u.ndim))
    p_norm, u_norm = norm(p, axes), norm(u, axes)
    defined = (p_norm > 0) & (u_norm > 0)
    # The divisor is replaced too: 0 / 0 would set off jax_debug_nans.
    ratio = p_norm / jnp.where(defined, u_norm, 1.0)
    return u * jnp.where(defined, ratio, 1.0)

  return optax.stateless(
    lambda updates, params: paths.map_named(scale, updates, params)
  )


def scale_by_muon(
  axes: Mapping[str, optax.contrib.MuonDimensionNumbers],
  shapes: Mapping[str, tuple[int, ...]],
  *,
  momentum: float,
  eps: float,
  nesterov: bool,
) -> optax.GradientTransformation:
  """Orthogonalised momentum with entries of size `MUON_RMS`.

  Args:
    axes: {path: the leaf as a matrix, from `matrix_axes`}. Updates hold these
      leaves and `optax.MaskedNode` in the place of all others.
    shapes: {path: shape of the leaf}.
    momentum, eps, nesterov: see `optax.contrib.scale_by_muon`.
  """

  def size(path):
    fan_in = math.prod(shapes[path][a] for a in axes[path].reduction_axis)
    fan_out = math.prod(shapes[path][a] for a in axes[path].output_axis)
    return MUON_RMS * math.sqrt(max(fan_in, fan_out))

  return optax.chain(
    optax.contrib.scale_by_muon(
      beta=momentum,
      eps=eps,
      nesterov=nesterov,
      weight_dimension_numbers=lambda updates: paths.map_named(
        lambda path, _: axes[path], updates
      ),
    ),
    scale_leaves({path: size(path) for path in axes}),
  )


def matrix_axes(
  path: str, shape: tuple[int, ...]
) -> optax.contrib.MuonDimensionNumbers | None:
  """How a leaf is a matrix, or None if it is none.

  Only leaves called 'kernel' are matrices. Projections to heads [D, heads,
  head_dim] (modules query, key and value) have one input axis; all others have
  their output last and everything else as input: [D, F], [heads, head_dim, D]
  and convolutions [..., C, F]. A depthwise convolution, C = 1, is no matrix.
  The layer axis of a stacked leaf is in neither group, which optax takes as a
  batch of matrices.

  Returns:
    The input (reduction) and output axes of the whole leaf.
  """
  *_, parent, name = ('', *path.split('/'))
  first = 1 if paths.is_stacked(path) else 0
  rank = len(shape) - first
  to_heads = parent in _TO_HEADS
  depthwise = rank > 2 and shape[-2] == 1 and not to_heads
  if name != 'kernel' or rank < 2 or depthwise:
    return None
  all_axes = tuple(range(first, len(shape)))
  inputs = 1 if to_heads else rank - 1
  return optax.contrib.MuonDimensionNumbers(
    all_axes[:inputs], all_axes[inputs:]
  )


def scale_leaves(factors: Mapping[str, Any]) -> optax.GradientTransformation:
  """Times one number per leaf, or one per slice of its leading axis.

  Args:
    factors: {path: a number, or a sequence as long as the leading axis}.
  """

  def scale(path, u):
    factor = np.asarray(factors[path], np.float32)
    return u * factor.reshape(factor.shape + (1,) * (u.ndim - factor.ndim))

  return optax.stateless(lambda updates, _: paths.map_named(scale, updates))


def in_float32(
  tx: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Gives `tx` gradients and parameters in at least float32.

  So moments, norms and updates of bfloat16 parameters are float32 too;
  `optax.apply_updates` rounds once, after the sum.
  """

  def widen(tree):
    return jax.tree.map(
      lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree
    )

  def update(updates, state, params=None):
    params = None if params is None else widen(params)
    return tx.update(widen(updates), state, params)

  return optax.GradientTransformation(lambda p: tx.init(widen(p)), update)
