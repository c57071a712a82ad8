"""Pictures for reports: grids, strips, sheets, labels, things side by side.

Pixels are uint8 RGB, [H, W, 3] for an image and [T, H, W, 3] for a video, in
and out. What is not covered by a picture is white.
"""

from collections.abc import Mapping, Sequence

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
  images = [checked(image, ndim=3) for image in images]
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
  video = checked(video, ndim=4)
  frames = video[_evenly(len(video), num)]
  return grid(frames, columns=len(frames), pad=pad)


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
  pixels = checked(pixels, ndim=4 if pixels.ndim == 4 else 3)
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
  parts = [checked(part, ndim=ndim) for part in pixels]
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


def stack(images: Sequence[np.ndarray], pad: int = 2) -> np.ndarray:
  """Joins images from top to bottom: uint8[sum of H + pads, max W, 3].

  Args:
    images: uint8[H, W, 3] each, of any size.
    pad: pixels in between.

  Raises:
    ValueError: no images, or another shape or dtype.
  """
  images = [checked(image, ndim=3) for image in images]
  if not images:
    raise ValueError('a stack needs at least one image')
  height = sum(len(image) + pad for image in images) - pad
  width = max(image.shape[1] for image in images)
  canvas = np.full((height, width, 3), _BACKGROUND, np.uint8)
  top = 0
  for image in images:
    canvas[top : top + len(image), : image.shape[1]] = image
    top += len(image) + pad
  return canvas


def checked(pixels: np.ndarray, *, ndim: int) -> np.ndarray:
  """Returns uint8 RGB pixels as an array, or says what is wrong with them.

  Args:
    pixels: uint8[H, W, 3] for ndim 3, uint8[T, H, W, 3] for ndim 4.
    ndim: 3 or 4.

  Raises:
    ValueError: another shape or dtype, or no pixels.
  """
  pixels = np.asarray(pixels)
  if pixels.dtype != np.uint8 or pixels.ndim != ndim or pixels.shape[-1] != 3:
    want = 'uint8[H, W, 3]' if ndim == 3 else 'uint8[T, H, W, 3]'
    raise ValueError(f'expected {want}, got {pixels.dtype}{[*pixels.shape]}')
  if not pixels.size:
    raise ValueError(f'nothing to show in shape {pixels.shape}')
  return pixels


def blend(
  pixels: np.ndarray, over: np.ndarray, alpha: np.ndarray | float
) -> np.ndarray:
  """Lays colours over pixels: (1 - alpha) * pixels + alpha * over, rounded.

  Args:
    pixels: uint8[..., 3].
    over: uint8 that broadcasts to pixels.
    alpha: in [0, 1], broadcasts to [..., 1]; 1 shows `over` alone.

  Returns:
    uint8[..., 3].
  """
  pixels = np.asarray(pixels)
  mixed = np.subtract(over, pixels, dtype=np.float32)
  mixed *= np.asarray(alpha, np.float32)
  mixed += pixels
  # Adding a half and cutting rounds, since nothing here is negative.
  mixed += 0.5
  return mixed.astype(np.uint8)


def upsample(
  grid: np.ndarray, size: tuple[int, int], *, smooth: bool = True
) -> np.ndarray:
  """Brings maps on a token grid to the size of the frames.

  Args:
    grid: uint8[..., h, w, 3], colours, or float[..., h, w], numbers. Token
      (i, j) covers the pixels of row i * H / h to (i + 1) * H / h and so on.
    size: (H, W) wanted.
    smooth: bilinear between the centres of the tokens, constant beyond the
      outermost; False shows each token as a block.

  Returns:
    uint8[..., H, W, 3] or float32[..., H, W].

  Raises:
    ValueError: another shape, or an empty grid.
  """
  grid = np.asarray(grid)
  tail = 3 if grid.dtype == np.uint8 else 2
  if grid.ndim < tail or not grid.size or tail == 3 and grid.shape[-1] != 3:
    raise ValueError(
      'a token grid must be uint8[..., h, w, 3] or float[..., h, w], got'
      f' {grid.dtype}{[*grid.shape]}'
    )
  if tail == 2:
    grid = grid.astype(np.float32)
  method = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
  result = np.empty(
    (*grid.shape[:-tail], *size, *grid.shape[grid.ndim - tail + 2 :]),
    grid.dtype,
  )
  for index in np.ndindex(grid.shape[:-tail]):
    picture = Image.fromarray(np.ascontiguousarray(grid[index]))
    result[index] = picture.resize(size[::-1], method)
  return result


def sheet(
  videos: Mapping[str, np.ndarray], num: int = 8, pad: int = 2
) -> np.ndarray:
  """A contact sheet: one named row per video, one column per moment.

  Example: `sheet({'visible': seen, 'prediction': made, 'truth': clip})`.

  Args:
    videos: uint8[T, H, W, 3] by name, all of one length, top row first.
    num: columns, evenly spaced from the first to the last frame; all frames if
      T is smaller. The top row tells their numbers.
    pad: pixels between pictures.

  Returns:
    uint8[H', W', 3].

  Raises:
    ValueError: no videos, another shape or dtype, lengths that differ, num < 1.
  """
  videos = {name: checked(video, ndim=4) for name, video in videos.items()}
  lengths = {name: len(video) for name, video in videos.items()}
  if len(set(lengths.values())) != 1:
    raise ValueError(f'a sheet needs videos of one length, got {lengths}')
  numbers = _evenly(next(iter(lengths.values())), num)
  rows = []
  for name, video in videos.items():
    cells = list(video[numbers])
    if not rows:
      cells = [
        label(cell, f'frame {number}')
        for cell, number in zip(cells, numbers, strict=True)
      ]
    rows.append(label(grid(cells, columns=len(cells), pad=pad), name))
  return stack(rows, pad=pad)


def _evenly(length: int, num: int) -> np.ndarray:
  if num < 1:
    raise ValueError(f'num must be at least 1, got {num}')
  return np.linspace(0, length - 1, min(num, length)).round().astype(int)


def _shortened(
  text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> str:
  if font.getlength(text) <= width:
    return text
  while text and font.getlength(text + '...') > width:
    text = text[:-1]
  return text + '...' if text else ''
