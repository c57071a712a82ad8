"""The temporal network of TAPIR: what refines a trajectory.

Each of its blocks mixes over time by two depthwise convolutions of few frames,
then over channels by two dense layers (arXiv 2306.08637, section 3.3). With
`causal` the convolutions look back only; then a video can be cut anywhere and
continued from the state, with the same numbers as in one piece.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidscenic.layers import norms

_MULTIPLIER = 4  # channels inside a block for each outside


class Mixer(nn.Module):
  """[..., T, Cin] -> [..., T, out_dim].

  Parameters: input/{kernel, bias}; block_{i}/{time_norm/scale, time_up,
  time_down, channel_norm/scale, channel_up, channel_down}; norm/scale;
  output/{kernel, bias}.
  """

  out_dim: int
  hidden_dim: int = 512
  num_blocks: int = 12
  kernel_size: int = 3  # frames
  causal: bool = False

  @nn.compact
  def __call__(self, x, state=None, num_frames=None):
    """Applies the network.

    Args:
      x: [..., T, Cin], any T >= 1.
      state: what an earlier call returned, to go on behind its frames; None:
        the clip starts here. Only for `causal`.
      num_frames: int32 scalar, frames in front that are real; what is behind
        them changes nothing there. None: all.

    Returns:
      ([..., T, out_dim], state behind the last frame; {} unless causal).
    """
    x = nn.Dense(self.hidden_dim, name='input')(x)
    real = None
    if num_frames is not None:
      real = (jnp.arange(x.shape[-2]) < num_frames)[:, None, None]
    names = [f'block_{i}' for i in range(self.num_blocks)]
    if state is None and not self.is_initializing():
      # A loop over equal blocks: compiled once, and the gradient of the
      # residual stream is computed once per block. XLA for CPUs would compute
      # it again for each of its uses, all the way from the last block.
      weights = [self.variables['params'][name] for name in names]
      block = _Block(self.kernel_size, self.causal, parent=None)
      x, after = jax.lax.scan(
        lambda x, params: block.apply({'params': params}, x, None, real),
        x,
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *weights),
      )
      after = [
        jax.tree.map(lambda a, i=i: a[i], after) for i in range(len(names))
      ]
    else:
      after = []
      for name in names:
        block = _Block(self.kernel_size, self.causal, name=name)
        x, last = block(x, None if state is None else state[name], real)
        after.append(last)
    states = dict(zip(names, after, strict=True)) if self.causal else {}
    x = norms.layer_norm('norm', eps=1e-5, use_bias=False)(x)
    return nn.Dense(self.out_dim, name='output')(x), states


def initial_state(
  lead: tuple[int, ...], *, hidden_dim: int, num_blocks: int, kernel_size: int
) -> dict[str, Any]:
  """The state of a causal `Mixer` in front of the first frame: zeros.

  Args:
    lead: the leading axes of its input.
    hidden_dim, num_blocks, kernel_size: as of the `Mixer`.

  Returns:
    {'block_{i}': (float32[*lead, kernel_size - 1, hidden_dim], float32[*lead,
    kernel_size - 1, 4, hidden_dim])}, the last inputs of both convolutions.
  """
  past = kernel_size - 1
  return {
    f'block_{i}': (
      jnp.zeros((*lead, past, hidden_dim)),
      jnp.zeros((*lead, past, _MULTIPLIER, hidden_dim)),
    )
    for i in range(num_blocks)
  }


class _Block(nn.Module):
  """[..., T, C] -> ([..., T, C], state)."""

  kernel_size: int
  causal: bool

  @nn.compact
  def __call__(self, x, state, real):
    width = x.shape[-1]
    before_up, before_down = (None, None) if state is None else state
    y = norms.layer_norm('time_norm', eps=1e-5, use_bias=False)(x)
    conv = _TimeConv(width, self.kernel_size, self.causal, name='time_up')
    # Four values per channel; their axis comes first, so that the last one,
    # over which processors work in parallel, stays long.
    y, after_up = conv(y[..., None, :], before_up, real)
    y = nn.gelu(y, approximate=True)
    conv = _TimeConv(width, self.kernel_size, self.causal, name='time_down')
    y, after_down = conv(y, before_down, real)
    x = x + jnp.sum(y, axis=-2)
    y = norms.layer_norm('channel_norm', eps=1e-5, use_bias=False)(x)
    y = nn.Dense(_MULTIPLIER * width, name='channel_up')(y)
    y = nn.gelu(y, approximate=True)
    x = x + nn.Dense(width, name='channel_down')(y)
    return x, (after_up, after_down)


class _TimeConv(nn.Module):
  """Depthwise convolution over T: [..., T, 1 or 4, C] -> [..., T, 4, C].

  Value j of channel c has the published number 4 c + j: parameters kernel
  [kernel_size, 1, 4 C] and bias [4 C] have that order.
  """

  features: int
  kernel_size: int
  causal: bool

  @nn.compact
  def __call__(self, x, before, real):
    # As in front of the clip, there are zeros behind it.
    x = x if real is None else x * real
    shape = (self.kernel_size, 1, _MULTIPLIER * self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    bias = self.param('bias', nn.initializers.zeros, shape[-1:])
    kernel = kernel.reshape(-1, self.features, _MULTIPLIER).swapaxes(1, 2)
    bias = bias.reshape(self.features, _MULTIPLIER).T
    past = self.kernel_size - 1
    after = None
    if self.causal:
      if before is None:
        before = jnp.zeros((*x.shape[:-3], past, *x.shape[-2:]), x.dtype)
      elif x.shape[-2] == 1:
        before = before[..., None, :]
      x = jnp.concatenate([before, x], axis=-3)
      after = x[..., x.shape[-3] - past :, :, :]
      if after.shape[-2] == 1:
        after = after[..., 0, :]
    else:
      widths = (past // 2, past - past // 2)
      x = jnp.pad(x, [*[(0, 0)] * (x.ndim - 3), widths, (0, 0), (0, 0)])
    length = x.shape[-3] - past
    y = bias
    for k in range(self.kernel_size):
      y = y + kernel[k] * jax.lax.slice_in_dim(
        x, k, k + length, axis=x.ndim - 3
      )
    return y, after
