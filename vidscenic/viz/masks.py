"""Segmentations laid over frames, and patches hidden from a masked model."""

import numpy as np

from vidscenic.viz import colors as colors_lib
from vidscenic.viz import images

_HIDDEN = 128  # grey
_MOST_COLORS = 1 << 16


def draw_masks(
  frames: np.ndarray,
  segmentations: np.ndarray,
  *,
  alpha: float = 0.5,
  outline: int | None = None,
  colors: np.ndarray | None = None,
) -> np.ndarray:
  """Tints every object and draws its outline.

  Args:
    frames: uint8[T, H, W, 3], or one frame uint8[H, W, 3].
    segmentations: int[T, H, W, 1] or [H, W, 1], object numbers; 0 is the
      background and stays as it is.
    alpha: opacity of the tint in [0, 1].
    outline: its width in pixels, inside the object and in its colour at full
      brightness; 0 draws none; None makes it fit the picture.
    colors: uint8[K, 3], row k for object k; None: `segmentation_colors`.

  Returns:
    uint8 of the shape of frames, a copy.

  Raises:
    ValueError: sizes that differ, a number that is negative or has no colour.
  """
  frames = images.checked(frames, ndim=4 if np.ndim(frames) == 4 else 3)
  segments = np.asarray(segmentations)
  if (
    segments.shape != (*frames.shape[:-1], 1) or segments.dtype.kind not in 'iu'
  ):
    raise ValueError(
      f'segmentations must be int{[*frames.shape[:-1], 1]} like the frames, got'
      f' {segments.dtype}{[*segments.shape]}'
    )
  largest = int(segments.max())
  if colors is None:
    colors = segmentation_colors(min(largest + 1, _MOST_COLORS))
  colors = colors_lib.checked(colors)
  if segments.min() < 0 or largest >= len(colors):
    raise ValueError(
      f'segmentations hold {segments.min()} to {largest}, but there are colours'
      f' for 0 to {len(colors) - 1}: renumber the objects'
    )
  if outline is None:
    outline = max(1, round(min(frames.shape[-3:-1]) / 360))
  bright = colors * (255 / np.maximum(colors.max(1, keepdims=True), 1))
  result = np.empty_like(frames)
  for index in np.ndindex(frames.shape[:-3]):
    ids = segments[index][..., 0]
    opacity = np.where(ids > 0, np.float32(alpha), 0)[..., None]
    result[index] = images.blend(frames[index], colors[ids], opacity)
    edge = _outline(ids, outline)
    result[index][edge] = np.rint(bright)[ids[edge]]
  return result


def segmentation_colors(count: int) -> np.ndarray:
  """The palette of PASCAL VOC and DAVIS: uint8[count, 3], black first.

  The bits of an object's number, three at a time from the lowest, become the
  bits of red, green and blue from the highest, so low numbers differ most.
  """
  number = np.arange(count)
  colors = np.zeros((count, 3), np.uint8)
  for place in range(8):
    bits = number[:, None] >> (3 * place + np.arange(3)) & 1
    colors |= (bits << (7 - place)).astype(np.uint8)
  return colors


def hide_patches(video: np.ndarray, hidden: np.ndarray) -> np.ndarray:
  """Greys out what a masked model does not see.

  Args:
    video: uint8[T, H, W, 3].
    hidden: bool[t, h, w], True where a patch is hidden; each axis divides that
      of the video.

  Returns:
    uint8[T, H, W, 3], a copy.

  Raises:
    ValueError: a grid that does not divide the video.
  """
  video = images.checked(video, ndim=4).copy()
  hidden = np.asarray(hidden, bool)
  size = video.shape[:3]
  if hidden.ndim != 3 or any(
    not g or s % g for s, g in zip(size, hidden.shape, strict=True)
  ):
    raise ValueError(f'patches {hidden.shape} do not divide the video {size}')
  for axis, (whole, parts) in enumerate(zip(size, hidden.shape, strict=True)):
    hidden = np.repeat(hidden, whole // parts, axis=axis)
  video[hidden] = _HIDDEN
  return video


def _outline(ids, width):
  """Pixels of an object at most `width` rows or columns from another."""
  edge = np.zeros(ids.shape, bool)
  for k in range(1, width + 1):
    for old, new in ((ids, edge), (ids.T, edge.T)):
      differs = old[k:] != old[:-k]
      new[k:] |= differs
      new[:-k] |= differs
  return edge & (ids > 0)
