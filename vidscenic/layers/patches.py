"""Patch and tubelet embedding.

Equal to a convolution with kernel = stride = patch and no padding, but written
as a matrix product on patch vectors: masked models gather the visible patches
first and embed only those, and both uses share one parameter.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vidscenic.ops import video as video_ops


class PatchEmbedding(nn.Module):
  """Projects the patches of clips to tokens.

  Parameters: projection/kernel [pt, ph, pw, C, D] (the layout of a 3-D
  convolution) and projection/bias [D]. An image is a clip of one frame.
  """

  width: int  # D
  patch: Sequence[int] = (2, 16, 16)  # (frames, rows, columns)
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32  # compute
  param_dtype: Any = jnp.float32

  def setup(self):
    self.projection = _Projection(
      self.width, self.patch, self.kernel_init, self.dtype, self.param_dtype
    )

  def __call__(self, video):
    """Embeds every patch.

    Args:
      video: [..., T, H, W, C], every size a multiple of the patch's.

    Returns:
      [..., T/pt, H/ph, W/pw, D].

    Raises:
      ValueError: a size that the patch does not divide.
    """
    return self.projection(video_ops.patchify(video, self.patch))

  def embed_patches(self, patches):
    """Patch vectors [..., pt*ph*pw*C], ordered (t, row, column, channel)."""
    return self.projection(patches)


class _Projection(nn.Module):
  """Dense layer whose kernel is stored with the axes of the patch."""

  width: int
  patch: Sequence[int]
  kernel_init: nn.initializers.Initializer
  dtype: Any
  param_dtype: Any

  @nn.compact
  def __call__(self, patches):
    size = patches.shape[-1]
    pixels = math.prod(self.patch)
    if size % pixels:
      raise ValueError(f'patch vectors of {size} values, patch {self.patch}')
    shape = (*self.patch, size // pixels, self.width)

    def init(rng, shape, dtype):
      # Fans of the matrix, not of a convolution: they differ for xavier.
      return self.kernel_init(rng, (size, self.width), dtype).reshape(shape)

    kernel = self.param('kernel', init, shape, self.param_dtype)
    bias = self.param(
      'bias', nn.initializers.zeros, (self.width,), self.param_dtype
    )
    kernel = kernel.reshape(size, self.width).astype(self.dtype)
    return patches.astype(self.dtype) @ kernel + bias.astype(self.dtype)
