"""Normalisation layers with float32 statistics and arithmetic.

The result has the module's `dtype`; statistics never do. Variances take two
passes: E[x^2] - E[x]^2 loses digits where a residual stream has a large mean.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp


def layer_norm(
  name,
  *,
  eps: float = 1e-6,
  use_bias: bool = True,
  dtype=jnp.float32,
  param_dtype=jnp.float32,
):
  """LayerNorm over the last axis; parameters scale and, with use_bias, bias.

  Published models differ in eps (1e-4, 1e-5, 1e-6, 1e-12) and in the bias.
  """
  return nn.LayerNorm(
    epsilon=eps,
    use_bias=use_bias,
    use_fast_variance=False,
    dtype=dtype,
    param_dtype=param_dtype,
    name=name,
  )


class GroupNorm(nn.Module):
  """Mean and variance over H, W and a group of channels: [..., H, W, C].

  One group per channel is instance norm (tapir.md 1.1). Leading axes, frames
  and examples, never share statistics. Parameters: scale [C] and bias [C].
  """

  num_groups: int | None = None  # None: one per channel
  eps: float = 1e-5
  dtype: Any = jnp.float32  # of the result
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    *lead, h, w, c = x.shape
    groups = self.num_groups or c
    if c % groups:
      raise ValueError(f'num_groups={groups} does not divide {c} channels')
    y = x.astype(jnp.float32).reshape(*lead, h, w, groups, c // groups)
    mean = jnp.mean(y, axis=(-4, -3, -1), keepdims=True)
    y = y - mean
    variance = jnp.mean(jnp.square(y), axis=(-4, -3, -1), keepdims=True)
    scale = self.param('scale', nn.initializers.ones, (c,), self.param_dtype)
    bias = self.param('bias', nn.initializers.zeros, (c,), self.param_dtype)
    y = y / jnp.sqrt(variance + self.eps)
    return (y.reshape(x.shape) * scale + bias).astype(self.dtype)
