"""Small pictures for reports: grids, strips, labels, things side by side.

Pixels are uint8 RGB, [H, W, 3] for an image and [T, H, W, 3] for a video, in
and out. What is not covered by a picture is white.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_BACKGROUND = 255


def to_uint8(
  pixels: np.ndarray, *, low: float = 0.0, high: float = 1.0
) -> np.ndarray:
  """Maps [low, high] to 0..255, clipped and rounded; NaN becomes 0.

  Args:
    pixels: numbers of any shape.
    low: the value that becomes 0.
    high: the value that becomes 255.

  Returns:
    uint8 of the same shape.

  Raises:
    ValueError: high <= low.
  """
  if not high > low:
    raise ValueError(f'high must be above low, got low={low} high={high}')
  scaled = (np.asarray(pixels, np.float32) - low) * (255.0 / (high - low))
  scaled = np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0)
  return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def grid(
  images: Sequence[np.ndarray], columns: int | None = None, pad: int = 2
) -> np.ndarray:
  """Lays out images row by row, each in a cell of the largest size.

  Args:
    images: uint8[H, W, 3] each, or uint8[N, H, W, 3]; sizes may differ, smaller
      ones sit in the top left corner of their cell.
    columns: images in a row; None makes the grid about square.
    pad: pixels between cells.

  Returns:
    uint8[rows * (H + pad) - pad, columns * (W + pad) - pad, 3].

  Raises:
    ValueError: no images, another shape or dtype, columns < 1 or pad < 0.
  """
  images = [_checked(image, ndim=3) for image in images]
  if not images:
    raise ValueError('a grid needs at least one image')
  if columns is None:
    columns = int(np.ceil(np.sqrt(len(images))))
  if columns < 1 or pad < 0:
    raise ValueError(f'got columns={columns} (>= 1), pad={pad} (>= 0)')
  height = max(image.shape[0] for image in images) + pad
  width = max(image.shape[1] for image in images) + pad
  rows = -(-len(images) // columns)
  canvas = np.full(
    (rows * height - pad, columns * width - pad, 3), _BACKGROUND, np.uint8
  )
  for index, image in enumerate(images):
    top, left = index // columns * height, index % columns * width
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
  return canvas


def strip(video: np.ndarray, num: int = 8, pad: int = 2) -> np.ndarray:
  """Puts frames of a video side by side, from the first to the last.

  Args:
    video: uint8[T, H, W, 3].
    num: frames to show, evenly spaced; all of them if T is smaller.
    pad: pixels between frames.

  Returns:
    uint8[H, min(num, T) * (W + pad) - pad, 3].

  Raises:
    ValueError: another shape or dtype, no frames, num < 1 or pad < 0.
  """
  video = _checked(video, ndim=4)
  if num < 1:
    raise ValueError(f'num must be at least 1, got {num}')
  num = min(num, len(video))
  frames = video[np.linspace(0, len(video) - 1, num).round().astype(int)]
  return grid(frames, columns=num, pad=pad)


def label(pixels: np.ndarray, text: str, *, size: int = 11) -> np.ndarray:
  """Adds a white bar with one line of text above an image or a video.

  Args:
    pixels: uint8[H, W, 3] or uint8[T, H, W, 3].
    text: what does not fit into W ends in '...'.
    size: height of the font in pixels; the bar is size + 4 high.

  Returns:
    uint8[..., H + size + 4, W, 3].

  Raises:
    ValueError: another shape or dtype, or size < 1.
  """
  pixels = np.asarray(pixels)
  pixels = _checked(pixels, ndim=4 if pixels.ndim == 4 else 3)
  if size < 1:
    raise ValueError(f'size must be at least 1, got {size}')
  width = pixels.shape[-2]
  bar = Image.new('RGB', (width, size + 4), (_BACKGROUND,) * 3)
  font = ImageFont.load_default(size)
  # The anchor is the middle of ascenders and descenders, so that labels of
  # neighbours line up whatever letters they have.
  ImageDraw.Draw(bar).text(
    (2, size / 2 + 2),
    _shortened(' '.join(text.split()), font, width - 4),
    fill=(0, 0, 0),
    font=font,
    anchor='lm',
  )
  bar = np.broadcast_to(
    np.asarray(bar), (*pixels.shape[:-3], size + 4, width, 3)
  )
  return np.concatenate([bar, pixels], axis=-3)


def side_by_side(
  *pixels: np.ndarray, labels: Sequence[str] | None = None, pad: int = 2
) -> np.ndarray:
  """Joins images, or videos of equal length, from left to right.

  Args:
    *pixels: all uint8[H, W, 3] or all uint8[T, H, W, 3]; H and W may differ.
    labels: a text above each.
    pad: pixels in between.

  Returns:
    uint8[max H, sum of W + pads, 3], or [T, max H, sum of W + pads, 3].

  Raises:
    ValueError: nothing to join, another shape or dtype, images mixed with
      videos, lengths that differ, or not a label each.
  """
  if not pixels:
    raise ValueError('side_by_side needs at least one image or video')
  ndim = 4 if np.ndim(pixels[0]) == 4 else 3
  parts = [_checked(part, ndim=ndim) for part in pixels]
  if ndim == 4 and len({len(part) for part in parts}) > 1:
    lengths = [len(part) for part in parts]
    raise ValueError(f'videos differ in their number of frames: {lengths}')
  if labels is not None:
    if len(labels) != len(parts):
      raise ValueError(f'{len(labels)} labels for {len(parts)} pictures')
    parts = [label(part, t) for part, t in zip(parts, labels, strict=True)]
  height = max(part.shape[-3] for part in parts)
  width = sum(part.shape[-2] + pad for part in parts) - pad
  shape = (*parts[0].shape[:-3], height, width, 3)
  canvas = np.full(shape, _BACKGROUND, np.uint8)
  left = 0
  for part in parts:
    right = left + part.shape[-2]
    canvas[..., : part.shape[-3], left:right, :] = part
    left = right + pad
  return canvas


def _checked(pixels: np.ndarray, *, ndim: int) -> np.ndarray:
  pixels = np.asarray(pixels)
  if pixels.dtype != np.uint8 or pixels.ndim != ndim or pixels.shape[-1] != 3:
    want = 'uint8[H, W, 3]' if ndim == 3 else 'uint8[T, H, W, 3]'
    raise ValueError(f'expected {want}, got {pixels.dtype}{[*pixels.shape]}')
  if not pixels.size:
    raise ValueError(f'nothing to show in shape {pixels.shape}')
  return pixels


def _shortened(
  text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> str:
  if font.getlength(text) <= width:
    return text
  while text and font.getlength(text + '...') > width:
    text = text[:-1]
  return text + '...' if text else ''
