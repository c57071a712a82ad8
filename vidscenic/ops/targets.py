"""What masked video models predict: pixels, gradients, features.

Every target is float32 per token [..., N, C] and carries no gradient. Sources:
VideoMAE (arXiv 2203.12602), MAE-ST (2205.09113), 4DS (2412.15212), MaskFeat
(2112.09133), V-JEPA (2404.08471), LayerLock (2509.10156).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from vidscenic.ops import video as video_ops


def pixels(video, patch: Sequence[int], *, norm: str = 'none'):
  """Patch vectors (time, row, column, channel), perhaps normalised.

  For targets of some frames only, pick those first (`video.take_frames` with
  `strided_frame_ids` or `spread_frame_ids`) and shorten the patch.

  Args:
    video: float[..., T, H, W, C].
    patch: (pt, ph, pw).
    norm: mode of `video.normalize_patches`.

  Returns:
    float32[..., N, pt*ph*pw*C], N row-major.
  """
  vectors = video_ops.patchify(video, patch)
  vectors = vectors.reshape(*vectors.shape[:-4], -1, vectors.shape[-1])
  return video_ops.normalize_patches(
    vectors, norm, num_channels=video.shape[-1]
  )


def shrink(video, factors: Sequence[int]):
  """Means over boxes of frames, rows and columns.

  Args:
    video: float[..., T, H, W, C]; also features on a grid of tokens.
    factors: (frames, rows, columns) of a box, divisors of the sizes.

  Returns:
    float32[..., T/f, H/f, W/f, C].
  """
  boxes = video_ops.patchify(video.astype(jnp.float32), factors)
  boxes = boxes.reshape(*boxes.shape[:-1], math.prod(factors), -1)
  return jax.lax.stop_gradient(boxes.mean(axis=-2))


def hog_cells(frames, *, num_bins: int = 9, cell: int = 8):
  """Histograms of oriented gradients, MaskFeat's.

  Sobel gradients of the frame, mirrored at its border, vote with their size for
  one of the bins of atan2(gx, gy): x comes first, and opposite directions share
  a bin. The bins of a cell and channel are divided by their norm.

  Args:
    frames: float[..., H, W, C], normalised as the model's input.
    num_bins: directions in half a turn.
    cell: side in pixels, a divisor of H and W.

  Returns:
    float32[..., C, num_bins, H/cell, W/cell].

  Raises:
    ValueError: sizes that the cell does not divide.
  """
  *lead, height, width, channels = frames.shape
  if height % cell or width % cell:
    raise ValueError(f'{height}x{width} pixels are no whole cells of {cell}')
  x = jax.lax.stop_gradient(frames).astype(jnp.float32)
  x = x.reshape(-1, height, width, channels)
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode='reflect')

  def smooth(y, axis):
    before, middle, after = (
      jax.lax.slice_in_dim(y, i, y.shape[axis] - 2 + i, axis=axis)
      for i in range(3)
    )
    return before + 2 * middle + after

  def difference(y, axis):
    size = y.shape[axis]
    return jax.lax.slice_in_dim(y, 0, size - 2, axis=axis) - (
      jax.lax.slice_in_dim(y, 2, size, axis=axis)
    )

  gx = difference(smooth(x, 1), 2)
  gy = difference(smooth(x, 2), 1)
  size = jnp.sqrt(gx * gx + gy * gy)
  angle = jnp.arctan2(gx, gy) / jnp.pi * num_bins
  index = jnp.floor(angle).astype(jnp.int32) % num_bins
  cells = []
  for i in range(num_bins):
    votes = jnp.where(index == i, size, 0.0)
    votes = votes.reshape(-1, height // cell, cell, width // cell, cell,
                          channels)  # fmt: skip
    cells.append(votes.sum(axis=(2, 4)))
  bins = jnp.stack(cells, axis=1)  # [.., bins, h, w, C]
  norm = jnp.sqrt(jnp.sum(bins * bins, axis=1, keepdims=True))
  bins = jnp.moveaxis(bins / jnp.maximum(norm, 1e-12), -1, 1)
  return bins.reshape(*lead, *bins.shape[1:])


def hog(
  video, patch: Sequence[int], *, num_bins: int = 9, cell: int = 8, offset=0
):
  """`hog_cells` of the first frame of every token, as one vector per token.

  Args:
    video: float[..., T, H, W, C], normalised as the model's input.
    patch: (pt, ph, pw) of a token; ph and pw are multiples of the cell.
    num_bins, cell: of `hog_cells`.
    offset: which frame of a token is looked at.

  Returns:
    float32[..., N, C * num_bins * ph/cell * pw/cell], ordered (channel, bin,
    row of cells, column of cells).

  Raises:
    ValueError: sizes that do not divide.
  """
  pt, ph, pw = patch
  if ph % cell or pw % cell:
    raise ValueError(f'patch={tuple(patch)} holds no whole cells of {cell}')
  frames = video[..., offset::pt, :, :, :]
  cells = hog_cells(frames, num_bins=num_bins, cell=cell)
  *lead, t, channels, bins, rows, columns = cells.shape
  a, b = ph // cell, pw // cell
  cells = cells.reshape(*lead, t, channels, bins, rows // a, a, columns // b, b)
  n = len(lead)
  order = [n + axis for axis in (0, 3, 5, 1, 2, 4, 6)]
  cells = cells.transpose(*range(n), *order)
  return cells.reshape(*lead, t * (rows // a) * (columns // b), -1)


def features(tokens, *, norm: str = 'none', eps: float = 1e-5):
  """Features of a teacher or of frozen layers as targets.

  Args:
    tokens: [..., D].
    norm: 'none', or 'layernorm' over D without scale and bias (V-JEPA).
    eps: of the norm, inside the root.

  Returns:
    float32[..., D].

  Raises:
    ValueError: unknown norm.
  """
  x = jax.lax.stop_gradient(tokens).astype(jnp.float32)
  if norm == 'none':
    return x
  if norm != 'layernorm':
    raise ValueError(f"norm={norm!r}: want 'none' or 'layernorm'")
  x = x - x.mean(axis=-1, keepdims=True)
  variance = jnp.mean(x * x, axis=-1, keepdims=True)
  return x / jnp.sqrt(variance + eps)
