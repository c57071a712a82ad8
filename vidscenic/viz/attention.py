"""Attention weights as heat over frames.

Weights are float, from softmax or any others >= 0, with the keys on a grid that
covers the frame: key (i, j) of [h, w] stands for its patch.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from vidscenic.viz import colors as colors_lib
from vidscenic.viz import images, marks

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_DIM = 0.7
_MARK = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)


def draw_attention(
  frames: np.ndarray,
  weights: np.ndarray,
  *,
  alpha: float = 0.8,
  highest: float | None = None,
) -> np.ndarray:
  """Lays heat over frames; dim and grey, so that the heat has all the colour.

  Args:
    frames: uint8[T, H, W, 3], or one frame uint8[H, W, 3].
    weights: float[t, h, w], or [h, w] for one frame; t divides T, and each map
      goes with T / t frames, as tubelets do. NaN counts as 0.
    alpha: opacity where the weight is highest, in [0, 1].
    highest: the weight with full heat; None takes the greatest of all. Give it
      to compare heads or parts of a longer video.

  Returns:
    uint8 of the shape of frames, a copy.

  Raises:
    ValueError: a t that does not divide T, or another number of axes.
  """
  frames = images.checked(frames, ndim=4 if np.ndim(frames) == 4 else 3)
  single = frames.ndim == 3
  weights = np.asarray(weights, np.float32)
  fits = weights.ndim == frames.ndim - 1 and weights.size > 0
  if not fits or not single and len(frames) % len(weights):
    want = (
      'float[h, w]' if single else f'float[t, h, w], t dividing {len(frames)}'
    )
    raise ValueError(f'weights must be {want}, got shape {weights.shape}')
  weights = np.nan_to_num(weights, nan=0.0)
  highest = weights.max(initial=0.0) if highest is None else highest
  if single:
    return _heated(frames, weights, alpha, highest)
  repeats = len(frames) // len(weights)
  return np.stack(
    [
      _heated(frame, weights[number // repeats], alpha, highest)
      for number, frame in enumerate(frames)
    ]
  )


def attention_sheet(
  frame: np.ndarray,
  weights: np.ndarray,
  *,
  queries: np.ndarray | None = None,
  heads: Sequence[str] | None = None,
  width: int = 224,
) -> np.ndarray:
  """One picture per query and head: a row per query, a column per head.

  Each picture has heat up to its own greatest weight: it shows where a head
  looks, not how sharply.

  Args:
    frame: uint8[H, W, 3].
    weights: float[heads, Q, h, w].
    queries: float[Q, 2], (x, y) in raster pixels of the frame, marked by a ring
      in the pictures; None marks nothing.
    heads: names of the columns; None counts from 0.
    width: of a picture in pixels.

  Returns:
    uint8[H', W', 3].

  Raises:
    ValueError: shapes that do not fit each other.
  """
  frame = images.checked(frame, ndim=3)
  weights = np.asarray(weights, np.float32)
  if weights.ndim != 4:
    raise ValueError(
      f'weights must be float[heads, Q, h, w], got shape {weights.shape}'
    )
  count, rows = weights.shape[:2]
  names = [f'head {k}' for k in range(count)] if heads is None else list(heads)
  if len(names) != count:
    raise ValueError(f'{len(names)} names for {count} heads')
  if queries is not None and np.shape(queries) != (rows, 2):
    raise ValueError(
      f'queries must be float[{rows}, 2] for the weights, got'
      f' {[*np.shape(queries)]}'
    )
  scale = width / frame.shape[1]
  size = width, max(1, round(frame.shape[0] * scale))
  frame = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
  pictures = []
  for row in range(rows):
    cells = []
    for column, name in enumerate(names):
      cell = draw_attention(frame, weights[column, row])
      if queries is not None:
        _mark(cell, np.asarray(queries[row], float) * scale)
      cells.append(cell if row else images.label(cell, name))
    pictures.append(images.grid(cells, columns=count))
  return images.stack(pictures)


def _heated(frame, weights, alpha, highest):
  heat = images.upsample(weights, frame.shape[:2])
  heat = np.clip(heat / highest if highest > 0 else 0 * heat, 0, 1)
  color = colors_lib.heat_colors(heat, low=0.0, high=1.0)
  grey = (frame @ _LUMA * _DIM).astype(np.uint8)
  grey = np.repeat(grey[..., None], 3, axis=-1)
  return images.blend(grey, color, (alpha * heat)[..., None])


def _mark(cell, centre):
  """Draws a white ring with a dark rim in place."""
  layer = marks.Layer(*cell.shape[:2])
  layer.rings(centre[None], 7, _MARK[0], width=5)
  layer.paint(cell)
  layer.rings(centre[None], 6, _MARK[1], width=3)
  layer.paint(cell)
