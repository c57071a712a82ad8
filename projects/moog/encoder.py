"""MooG's encoder (arXiv 2411.05927): every frame to a grid of tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidscenic.layers import fourier, norms, pixel_decoder, transformer

POSITIONS = ('concat', 'add')


class Encoder(nn.Module):
  """Frames, one by one, to tokens on a grid of a quarter of their size.

  Parameters: conv_0, ..., conv_norm, position (with 'add'), transformer.
  """

  features: Sequence[int] = (64, 128, 128, 256, 256, 512)
  strides: Sequence[int] = (1, 1, 1, 2, 1, 2)
  position: str = 'add'  # 'concat', or 'add' a linear map of the code
  num_bases: int = 20  # octaves of the Fourier code
  hidden_features: int = 512
  depth: int = 0  # blocks; the linear maps and the norm are there without
  block: Mapping[str, Any] = nn.FrozenDict()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, video):
    """float[B, T, H, W, 3] in [0, 1] -> [B, T, tokens, C]."""
    total = int(np.prod(self.strides))
    height, width = video.shape[2:4]
    if height % total or width % total:
      raise ValueError(
        f'frames of {height}x{width} pixels: want multiples of {total}; resize '
        'the video'
      )
    x = video
    for i, (features, stride) in enumerate(
      zip(self.features, self.strides, strict=True)
    ):
      x = nn.gelu(x) if i else x
      x = nn.Conv(features, (3, 3), stride, dtype=self.dtype, name=f'conv_{i}')(
        x
      )
    x = norms.layer_norm('conv_norm', use_bias=False, dtype=self.dtype)(x)
    self.sow('intermediates', 'conv', x)
    code = fourier.grid_octaves(
      fourier.linear_axes(x.shape[2:4]), self.num_bases
    )
    if self.position == 'concat':
      code = jnp.broadcast_to(code, (*x.shape[:-1], code.shape[-1]))
      x = jnp.concatenate([x, code.astype(x.dtype)], axis=-1)
    else:
      # Octaves of 2^19 pi: products of rounded factors would be noise.
      code = nn.Dense(
        x.shape[-1],
        precision=jax.lax.Precision.HIGHEST,
        name='position',
      )(code)
      x = (x + code).astype(x.dtype)
    self.sow('intermediates', 'positioned', x)
    x = x.reshape(*x.shape[:2], -1, x.shape[-1])
    return transformer.ProjectedTransformer(
      self.depth,
      pixel_decoder.BLOCK | {'order': ('self', 'mlp'), **self.block},
      hidden_features=self.hidden_features,
      dtype=self.dtype,
      name='transformer',
    )(x)
