"""Pixels read out of tokens by their coordinates (MooG, arXiv 2411.05927).

One query per pixel knows nothing but where it is; it attends to the tokens of a
frame. Any pixels can be asked for: training takes a coarse, shifted lattice of
every frame. Used for colours (MooG's decoder) and depth (its dense readout).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vidscenic.layers import fourier, transformer

# The blocks of MooG but for their branches: scale-only norms, no biases in
# front of attention, RMS-normalised queries and keys.
BLOCK = {
  'use_bias': False,
  'norm_bias': False,
  'qk_norm': 'rms',
  'activation': 'gelu_tanh',
}


class PixelDecoder(nn.Module):
  """Values of chosen pixels of every frame, from the tokens of that frame.

  A query is D zeros and the Fourier code of the pixel's row and column, on a
  grid whose first and last pixels are at -1 and 1. There is no activation at
  the end.

  Parameters: transformer/stack/..., recon.
  """

  depth: int = 6
  num_heads: int = 2
  qkv_features: int = 128
  mlp_features: int = 2048
  num_bases: int = 16  # octaves of the Fourier code
  num_outputs: int = 3
  implementation: str = 'xla'  # of attention
  query_chunk: int = 0  # pixels that attend at a time; 0: all
  remat: str = 'none'
  dtype: Any = jnp.float32  # compute
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens, rows, columns, *, size: Sequence[int]):
    """Decodes.

    Args:
      tokens: [..., N, D].
      rows: int[..., h], rows of the lattice; leading axes broadcast against
        those of tokens.
      columns: int[..., w].
      size: (H, W), number of all rows and columns.

    Returns:
      float32[..., h, w, num_outputs].
    """
    code = lattice_code(rows, columns, size=size, num_bases=self.num_bases)
    h, w, channels = code.shape[-3:]
    lead, width = tokens.shape[:-2], tokens.shape[-1]
    code = code.reshape(*code.shape[:-3], h * w, channels)
    code = jnp.broadcast_to(code, (*lead, h * w, channels))
    zeros = jnp.zeros((*code.shape[:-1], width), code.dtype)
    queries = jnp.concatenate([zeros, code], axis=-1)
    block = BLOCK | {
      'order': ('cross', 'mlp'),
      'num_heads': self.num_heads,
      'qkv_features': self.qkv_features,
      'mlp_features': self.mlp_features,
      'implementation': self.implementation,
      'query_chunk': self.query_chunk,
    }
    x = transformer.ProjectedTransformer(
      self.depth,
      block,
      remat=self.remat,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name='transformer',
    )(queries, tokens)
    out = nn.Dense(
      self.num_outputs,
      dtype=jnp.float32,
      param_dtype=self.param_dtype,
      name='recon',
    )(x)
    return out.reshape(*lead, h, w, self.num_outputs)


def lattice(size: int, factor: int, offsets=None):
  """Every factor-th row or column, from the middle of the first block.

  f/2, f/2 + f, ...; with offsets (f/2 + f j - offset) mod size, the pixels that
  a cyclic shift by `offset` brings there.

  Args:
    size: number of rows or columns.
    factor: f; 0 or 1 takes all.
    offsets: int[...] in [0, f), or None.

  Returns:
    int32[..., size / f].

  Raises:
    ValueError: f does not divide size.
  """
  factor = max(factor, 1)
  if size % factor:
    raise ValueError(
      f'{size} pixels cannot be subsampled by {factor}: resize the video to a '
      f'multiple of {factor}, or choose another factor'
    )
  index = jnp.arange(size // factor, dtype=jnp.int32) * factor + factor // 2
  if offsets is None:
    return index
  return (index - jnp.asarray(offsets, jnp.int32)[..., None]) % size


def take_lattice(frames, rows, columns):
  """The pixels that `PixelDecoder` is asked for.

  Args:
    frames: [..., H, W, C].
    rows: int[..., h] or int[h].
    columns: int[..., w] or int[w].

  Returns:
    [..., h, w, C].
  """
  lead = frames.shape[:-3]
  rows = jnp.broadcast_to(rows, (*lead, rows.shape[-1]))
  columns = jnp.broadcast_to(columns, (*lead, columns.shape[-1]))
  picked = jnp.take_along_axis(frames, rows[..., None, None], axis=-3)
  return jnp.take_along_axis(picked, columns[..., None, :, None], axis=-2)


def lattice_code(rows, columns, *, size: Sequence[int], num_bases: int):
  """Fourier code of pixels: float32[..., h, w, 4 * num_bases].

  Args:
    rows: int[..., h].
    columns: int[..., w].
    size: (H, W), number of all rows and columns.
    num_bases: number of octaves.
  """
  # float32 tables of double precision; their rows are picked, not computed.
  codes = [
    jnp.asarray(fourier.octaves(axis[:, None], num_bases))[index]
    for axis, index in zip(
      fourier.linear_axes(size), (rows, columns), strict=True
    )
  ]
  rows, columns = codes[0][..., :, None, :], codes[1][..., None, :, :]
  shape = jnp.broadcast_shapes(rows.shape, columns.shape)
  # The axis is the fastest index: (octave, axis).
  code = jnp.stack(
    [jnp.broadcast_to(rows, shape), jnp.broadcast_to(columns, shape)], axis=-1
  )
  return code.reshape(*shape[:-1], -1)
