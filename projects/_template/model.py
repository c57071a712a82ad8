"""A small masked autoencoder for clips, after MAE-ST (arXiv 2205.09113).

The encoder sees the visible patches only; a narrow decoder fills the rest in.
Unlike the paper there is no class token, and positions are a fixed 3-D sincos
table in both parts.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vidscenic.layers import position, transformer, vit
from vidscenic.ops import masking


class MaskedAutoencoder(nn.Module):
  """Predicts every patch of a clip from a few of them."""

  patch: Sequence[int] = (2, 8, 8)  # (frames, rows, columns)
  width: int = 128  # of the encoder; its MLPs are four times as wide
  depth: int = 4
  num_heads: int = 4
  decoder_width: int = 96
  decoder_depth: int = 2
  scan: bool = False
  remat: str = 'none'
  dtype: Any = jnp.float32  # compute; parameters stay float32

  @nn.compact
  def __call__(self, video, ids):
    """Predicts patches.

    Args:
      video: float[B, T, H, W, 3] in [-1, 1].
      ids: int32[B, K], row-major numbers of the visible patches.

    Returns:
      float32[B, N, pixels per patch], the same order as `video.patchify`.
    """
    common = dict(scan=self.scan, remat=self.remat, dtype=self.dtype)
    encoded = vit.VisionTransformer(
      width=self.width,
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_features=4 * self.width,
      patch=self.patch,
      positions='sincos_3d',
      name='encoder',
      **common,
    )(video, ids=ids)
    width = self.decoder_width
    embed = nn.Dense(width, dtype=self.dtype, name='embed')
    tokens = masking.scatter_tokens(
      embed(encoded['tokens']).astype(jnp.float32),
      ids,
      num_tokens=math.prod(encoded['grid']),
      fill=self.param('mask_token', nn.initializers.normal(0.02), (width,)),
    )
    tokens += position.sincos_3d(encoded['grid'], width).reshape(-1, width)
    block = dict(num_heads=self.num_heads, mlp_features=4 * width)
    tokens = transformer.Transformer(
      self.decoder_depth, block, final_norm=True, name='decoder', **common
    )(tokens)
    pixels = 3 * math.prod(self.patch)
    return nn.Dense(pixels, name='head')(tokens.astype(jnp.float32))
