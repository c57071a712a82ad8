"""A small masked autoencoder for clips, after MAE-ST (arXiv 2205.09113).

The encoder sees the visible patches only; a narrow decoder fills the rest in.
Unlike the paper there is no class token, and positions are a fixed 3-D sincos
table in both parts.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vidscenic.layers import position, transformer, vit
from vidscenic.ops import masking


class MaskedAutoencoder(nn.Module):
  """Predicts every patch of a clip from a few of them."""

  patch: Sequence[int] = (2, 8, 8)  # (frames, rows, columns)
  width: int = 128  # of the encoder; also its MLP's quarter
  depth: int = 4
  num_heads: int = 4
  decoder_width: int = 96
  decoder_depth: int = 2
  scan: bool = False
  remat: str = 'none'
  dtype: Any = jnp.float32  # compute; parameters stay float32

  def setup(self):
    common = dict(scan=self.scan, remat=self.remat, dtype=self.dtype)
    self.encoder = vit.VisionTransformer(
      width=self.width,
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_features=4 * self.width,
      patch=self.patch,
      positions='sincos_3d',
      **common,
    )
    self.embed = nn.Dense(self.decoder_width, dtype=self.dtype)
    self.mask_token = self.param(
      'mask_token', nn.initializers.normal(0.02), (self.decoder_width,)
    )
    self.decoder = transformer.Transformer(
      self.decoder_depth,
      block=dict(num_heads=self.num_heads, mlp_features=4 * self.decoder_width),
      final_norm=True,
      **common,
    )
    pixels = 3 * self.patch[0] * self.patch[1] * self.patch[2]
    self.head = nn.Dense(pixels)

  def __call__(self, video, ids):
    """Predicts patches.

    Args:
      video: float[B, T, H, W, 3] in [-1, 1].
      ids: int32[B, K], row-major numbers of the visible patches.

    Returns:
      float32[B, N, pixels per patch], the same order as `video.patchify`.
    """
    encoded = self.encoder(video, ids=ids)
    grid = encoded['grid']
    tokens = masking.scatter_tokens(
      self.embed(encoded['tokens']).astype(jnp.float32),
      ids,
      num_tokens=grid[0] * grid[1] * grid[2],
      fill=self.mask_token,
    )
    table = position.sincos_3d(grid, self.decoder_width)
    tokens += jnp.asarray(table.reshape(-1, self.decoder_width))
    return self.head(self.decoder(tokens).astype(jnp.float32))
