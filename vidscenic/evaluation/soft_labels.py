"""Masks and keypoints as label maps on a feature grid, and back.

What `propagation` carries through a video; the conventions are those of the
published evaluation of RVM (arXiv 2512.13684), which differ from ours in that
a joint sits *on* a cell number, without half a cell.
"""

from collections.abc import Sequence

import numpy as np

# The stamp of a joint: 4 x 4 cells, largest at (2, 2).
_STAMP = np.exp(-((np.arange(4) - 2.0) ** 2) / (2 * 0.5**2))
_STAMP = np.outer(_STAMP, _STAMP).astype(np.float32)
# Cells that a joint's position is the mean of.
_CELLS = 5


def from_mask(
  mask: np.ndarray, *, size: Sequence[int], grid: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
  """Share of every number in every cell, by bilinear sampling.

  Args:
    mask: integers [H0, W0].
    size: (H, W) at which features are taken; the mask goes there first, by the
      nearest pixel up and left.
    grid: (h, w) of the features. From `size` to there nothing is smoothed: a
      cell sees the four pixels around its centre.

  Returns:
    (float32[h, w, n], the n numbers that occur in the mask, ascending).
  """
  numbers = np.unique(mask)
  rows, columns = (
    np.arange(new) * old // new
    for new, old in zip(size, mask.shape, strict=True)
  )
  mask = mask[rows[:, None], columns]
  soft = (mask[..., None] == numbers).astype(np.float32)
  return _bilinear(soft, grid), numbers


def to_mask(
  labels: np.ndarray,
  numbers: np.ndarray,
  *,
  size: Sequence[int],
  original: Sequence[int],
) -> np.ndarray:
  """The most likely number of every pixel.

  Args:
    labels: float[h, w, n].
    numbers: [n], of the channels.
    size: (H, W) at which labels are compared, after bilinear upsampling.
    original: (H0, W0) of the result, by the nearest pixel.

  Returns:
    [H0, W0], of the dtype of numbers.
  """
  best = numbers[np.argmax(_bilinear(labels, size), axis=-1)]
  rows, columns = (
    (2 * np.arange(new) + 1) * old // (2 * new)
    for new, old in zip(original, size, strict=True)
  )
  return best[rows[:, None], columns]


def from_keypoints(
  keypoints: np.ndarray, *, original: Sequence[int], grid: Sequence[int]
) -> np.ndarray:
  """One map per joint, with a small bump around it.

  Args:
    keypoints: [J, 2], (x, y) in pixels.
    original: (H0, W0) of the frame.
    grid: (h, w) of the features.

  Returns:
    float32[h, w, 1 + J]; channel 0 is 1 where there is no joint. A joint
    outside the frame leaves an empty map.
  """
  height, width = grid
  soft = np.zeros((height, width, 1 + len(keypoints)), np.float32)
  scale = np.array([width / original[1], height / original[0]])
  for joint, centre in enumerate(np.asarray(keypoints) * scale, start=1):
    # Towards zero, as int() does, on both sides of it.
    corner, end = np.trunc(centre - 1.5), np.trunc(centre + 2.5)
    corner, end = corner.astype(int), end.astype(int)
    left, top = np.maximum(corner, 0)
    right, bottom = np.minimum(end, (width, height))
    if left < right and top < bottom:
      soft[top:bottom, left:right, joint] = _STAMP[
        top - corner[1] : bottom - corner[1],
        left - corner[0] : right - corner[0],
      ]
  soft[..., 0] = np.all(soft[..., 1:] == 0, axis=-1)
  return soft


def to_keypoints(
  labels: np.ndarray, *, original: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
  """Positions of joints: the weighted mean of their strongest cells.

  Args:
    labels: float[h, w, 1 + J]; channel 0 is not read.
    original: (H0, W0) of the frame.

  Returns:
    (float32[J, 2], (x, y) in pixels, -1 for a joint with an empty map;
    bool[J], whether it is found).
  """
  height, width, channels = labels.shape
  flat = labels[..., 1:].reshape(-1, channels - 1).astype(np.float64)
  # Stable: of equal cells the first ones.
  best = np.argsort(-flat, axis=0, kind='stable')[:_CELLS]
  weights = np.take_along_axis(flat, best, axis=0)
  total = weights.sum(0)
  found = flat.sum(0) > 0
  weights = weights / np.where(found, total, 1)
  x = (weights * (best % width)).sum(0) * (original[1] / width)
  y = (weights * (best // width)).sum(0) * (original[0] / height)
  points = np.where(found[:, None], np.stack([x, y], axis=-1), -1)
  return points.astype(np.float32), found


def _bilinear(values, size):
  """[H, W, n] -> [*size, n]; pixel centres at i + 0.5, no antialiasing."""
  rows, columns = (
    _taps(old, new) for old, new in zip(values.shape, size, strict=False)
  )
  values = np.tensordot(rows, values.astype(np.float32), 1)
  return np.tensordot(columns, values, (1, 1)).swapaxes(0, 1)


def _taps(old, new):
  """float32[new, old]: two weights per row, clamped at the border."""
  place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
  low = np.minimum(place.astype(int), max(old - 2, 0))
  matrix = np.zeros((new, old), np.float32)
  matrix[np.arange(new), low] = 1 - (place - low)
  matrix[np.arange(new), np.minimum(low + 1, old - 1)] += place - low
  return matrix
