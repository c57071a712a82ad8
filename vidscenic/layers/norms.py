"""Normalisation layers with float32 statistics and arithmetic.

The result has the module's `dtype`; statistics never do. Variances take two
passes: E[x^2] - E[x]^2 loses digits where a residual stream has a large mean.
Only `BatchNorm` uses that formula, for the sake of published weights.
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


class InstanceNorm(nn.Module):
  """Mean and variance over H and W of every channel: [..., H, W, C].

  Leading axes, frames and examples, never share statistics.
  Parameters: scale [C] and bias [C].
  """

  eps: float = 1e-5
  dtype: Any = jnp.float32  # of the result
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    shape = x.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, shape, self.param_dtype)
    bias = self.param('bias', nn.initializers.zeros, shape, self.param_dtype)
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=(-3, -2), keepdims=True)
    variance = jnp.mean(jnp.square(x), axis=(-3, -2), keepdims=True)
    x = x / jnp.sqrt(variance + self.eps)
    return (x * scale + bias).astype(self.dtype)


class BatchNorm(nn.Module):
  """Mean and variance over all axes but the last, as Haiku computes them.

  The variance is biased, E[x^2] - E[x]^2. Evaluation uses running averages
  without the bias towards their start (TAP-Net, Perceiver): with t the number
  of updates so far,

    hidden = decay * hidden + (1 - decay) * batch's value
    average = hidden / (1 - decay^t)

  so that after one update they are the batch's values. Flax's own BatchNorm
  has no such correction, and other numbers.

  Parameters: scale [C] and bias [C]. In 'batch_stats', float32 whatever the
  dtypes: mean/{hidden, average} [C], var/{hidden, average} [C] and counter, an
  int32 scalar. Before the first update the averages are 0 and 1.
  """

  decay: float = 0.9
  eps: float = 1e-5
  dtype: Any = jnp.float32  # of the result
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool = False):
    """Normalises x.

    Args:
      x: [..., C].
      train: use the statistics of x and update the running ones, which needs
        mutable=['batch_stats'].

    Returns:
      Array like x.
    """
    shape = x.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, shape, self.param_dtype)
    bias = self.param('bias', nn.initializers.zeros, shape, self.param_dtype)

    def running(name, average):
      # Haiku starts the averages at 0; a variance of 0 would only blow up the
      # evaluation of a model that was never trained.
      return self.variable(
        'batch_stats',
        name,
        lambda: {'hidden': jnp.zeros(shape), 'average': average(shape)},
      )

    means, variances = running('mean', jnp.zeros), running('var', jnp.ones)
    counter = self.variable(
      'batch_stats', 'counter', lambda: jnp.zeros((), jnp.int32)
    )
    x = x.astype(jnp.float32)
    if train:
      axes = tuple(range(x.ndim - 1))
      mean = jnp.mean(x, axis=axes)
      variance = jnp.mean(jnp.square(x), axis=axes) - jnp.square(mean)
      variance = jnp.maximum(variance, 0)  # rounding can make it negative
      if not self.is_initializing():
        counter.value = counter.value + 1
        weight = 1 - self.decay**counter.value
        for state, value in ((means, mean), (variances, variance)):
          hidden = state.value['hidden']
          hidden = self.decay * hidden + (1 - self.decay) * value
          state.value = {'hidden': hidden, 'average': hidden / weight}
    else:
      mean, variance = means.value['average'], variances.value['average']
    x = (x - mean) / jnp.sqrt(variance + self.eps)
    return (x * scale + bias).astype(self.dtype)
