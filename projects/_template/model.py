"""A small masked autoencoder for clips, after MAE-ST (arXiv 2205.09113).

Unlike there, positions are 3-D rotary codes, with which a model this small
learns to copy from neighbours much sooner, and there is no class token.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vidscenic.layers import transformer, vit
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
    """Fills in clips.

    Args:
      video: float[B, T, H, W, 3]
      ids: int32[B, K], row-major numbers of the visible patches.

    Returns:
      float32[B, N, pixels per patch], in the order of `ops.video.patchify`.
    """
    common = dict(scan=self.scan, remat=self.remat, dtype=self.dtype)
    encoder = vit.VisionTransformer(
      width=self.width,
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_features=4 * self.width,
      patch=self.patch,
      positions='none',
      rotary={'fractions': (0.25, 0.375, 0.375)},  # time, rows, columns
      name='encoder',
      **common,
    )
    encoded = encoder(video, ids=ids)
    width = self.decoder_width
    tokens = masking.scatter_tokens(
      nn.Dense(width, name='embed')(encoded['tokens']),
      ids,
      num_tokens=math.prod(encoded['grid']),
      fill=self.param('mask_token', nn.initializers.normal(0.02), (width,)),
    )
    num_heads = width // (self.width // self.num_heads)  # of the same width
    block = dict(num_heads=num_heads, mlp_features=4 * width)
    tokens = transformer.Transformer(
      self.decoder_depth, block, final_norm=True, name='decoder', **common
    )(tokens, rotary=encoder.rotary_code(encoded['grid']))
    pixels, zeros = 3 * math.prod(self.patch), nn.initializers.zeros
    return nn.Dense(pixels, kernel_init=zeros, name='head')(tokens)
