"""Feature grids of TAPIR: what it sees of every frame, and at which sizes."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from vidscenic.layers import norms

STRIDE = 8  # of the coarse grid; sides must be multiples of it


class Grid(NamedTuple):
  """Unit vectors of one resolution (Hr, Wr).

  Attributes:
    lowres: [B, T, Hr/8, Wr/8, Cl]; of queries [B, N, Cl].
    hires: [B, T, Hr/4, Wr/4, Ch]; of queries [B, N, Ch].
  """

  lowres: Any
  hires: Any


@flax.struct.dataclass
class FeatureGrids:
  """What the model sees of a video.

  Attributes:
    levels: `Grid` of every resolution, the initial one first.
    refinement: index into levels of each refinement, in order.
    size: (H, W) of the video, in whose pixels positions are.
  """

  levels: tuple[Grid, ...]
  refinement: tuple[int, ...] = flax.struct.field(pytree_node=False)
  size: tuple[int, int] = flax.struct.field(pytree_node=False)

  def resolution(self, level: int) -> tuple[int, int]:
    """(Hr, Wr) of a level."""
    height, width = self.levels[level].lowres.shape[2:4]
    return height * STRIDE, width * STRIDE


def default_resolutions(
  video_size: Sequence[int], initial: Sequence[int]
) -> tuple[tuple[int, int], ...]:
  """Resolutions at which a video of this size is refined.

  From the initial one to the video's own in equal steps of at most a factor of
  two, rounded down to multiples of 8; only the initial one for small videos.

  Args:
    video_size: (H, W).
    initial: (H, W) of the first guess.
  """
  initial = tuple(initial)
  ratios = [v / i for v, i in zip(video_size, initial, strict=True)]
  steps = math.ceil(max(math.log2(r) for r in ratios))
  if tuple(video_size) == initial or steps < 1:
    return (initial,)
  return tuple(
    tuple(
      int(i * ratio ** (step / steps) // STRIDE) * STRIDE
      for i, ratio in zip(initial, ratios, strict=True)
    )
    for step in range(steps + 1)
  )


class ExtraConvs(nn.Module):
  """BootsTAPIR's residual convolutions: [B, T, h, w, C] -> the same."""

  num_layers: int
  multiplier: int
  shift: bool  # also sees the frames before and behind

  @nn.compact
  def __call__(self, x):
    for i in range(self.num_layers):
      x = _ExtraConv(self.multiplier, self.shift, name=f'layer_{i}')(x)
    return x


class _ExtraConv(nn.Module):
  multiplier: int
  shift: bool

  @nn.compact
  def __call__(self, x):
    width = x.shape[-1]
    # The sum below is with the normalised values; the others are dropped.
    x = norms.layer_norm('norm', eps=1e-5)(x)
    y = x
    if self.shift:
      before = jnp.concatenate([x[:, :1], x[:, :-1]], axis=1)
      behind = jnp.concatenate([x[:, 1:], x[:, -1:]], axis=1)
      y = jnp.concatenate([x, before, behind], axis=-1)
    y = nn.Conv(self.multiplier * width, (3, 3), name='up')(y)
    y = nn.gelu(y, approximate=True)
    zeros = nn.initializers.zeros
    return x + nn.Conv(width, (3, 3), kernel_init=zeros, name='down')(y)


def unit_vectors(x):
  """x / max(|x|, 1e-6) over the last axis."""
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))
