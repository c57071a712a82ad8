"""Blocks and neighbourhoods of pixels as channels, and back.

The array functions of the released code of Perceiver IO (arXiv 2107.14795).
"""

from collections.abc import Sequence

import jax.numpy as jnp

from vidscenic.ops import video as video_ops


def space_to_depth(
  frames, *, temporal_block_size: int = 1, spatial_block_size: int = 1
):
  """Blocks of pixels as channels.

  Args:
    frames: [B, H, W, C] or [B, T, H, W, C].
    temporal_block_size: dt.
    spatial_block_size: s.

  Returns:
    [B, H/s, W/s, s*s*C] or [B, T/dt, H/s, W/s, dt*s*s*C], channels ordered
    (time, row, column, C).

  Raises:
    ValueError: a size that the block does not divide, or blocks over the time
      that images do not have.
  """
  s, is_image = spatial_block_size, frames.ndim == 4
  if is_image and temporal_block_size != 1:
    raise ValueError(
      f'temporal_downsample={temporal_block_size} but images have no time axis'
    )
  x = frames[:, None] if is_image else frames
  x = video_ops.patchify(x, (temporal_block_size, s, s))
  return x[:, 0] if is_image else x


def reverse_space_to_depth(
  frames, *, temporal_block_size: int = 1, spatial_block_size: int = 1
):
  """Blocks of pixels from channels.

  Args:
    frames: [B, h, w, s*s*C] or [B, t, h, w, dt*s*s*C], channels ordered (time,
      row, column, C).
    temporal_block_size: dt.
    spatial_block_size: s.

  Returns:
    [B, h*s, w*s, C] or [B, t*dt, h*s, w*s, C].
  """
  s, is_image = spatial_block_size, frames.ndim == 4
  x = frames[:, None] if is_image else frames
  x = video_ops.unpatchify(x, (temporal_block_size, s, s))
  return x[:, 0] if is_image else x


def extract_patches(
  images,
  *,
  sizes: Sequence[int],
  strides: Sequence[int] = (1, 1),
  rates: Sequence[int] = (1, 1),
  padding: str = 'SAME',
):
  """Neighbourhoods of pixels, as `tf.image.extract_patches` orders them.

  Args:
    images: [..., H, W, C]; zero outside.
    sizes: rows and columns of a patch.
    strides: from one patch to the next.
    rates: from one pixel of a patch to the next.
    padding: 'SAME', the odd pixel behind, or 'VALID'.

  Returns:
    [..., h, w, rows * columns * C], channels ordered (row, column, C).

  Raises:
    ValueError: unknown padding.
  """
  if padding not in ('SAME', 'VALID'):
    raise ValueError(f"padding={padding!r}: want 'SAME' or 'VALID'")
  widths, counts = [(0, 0)] * images.ndim, []
  for axis, size, stride, rate in zip(
    (-3, -2), sizes, strides, rates, strict=True
  ):
    length, span = images.shape[axis], (size - 1) * rate + 1
    count = (length - span) // stride + 1
    if padding == 'SAME':
      count = -(-length // stride)
      missing = max((count - 1) * stride + span - length, 0)
      widths[axis] = (missing // 2, missing - missing // 2)
    counts.append(count)
  x = jnp.pad(images, widths)

  def shifted(row, column):
    rows, columns = (
      slice(first * rate, first * rate + (count - 1) * stride + 1, stride)
      for first, rate, count, stride in zip(
        (row, column), rates, counts, strides, strict=True
      )
    )
    return x[..., rows, columns, :]

  return jnp.concatenate(
    [shifted(i, j) for i in range(sizes[0]) for j in range(sizes[1])], axis=-1
  )


def flow_patches(pairs):
  """3x3 neighbourhoods [..., H, W, 9 * C], as optical flow reads them."""
  return extract_patches(pairs, sizes=(3, 3))
