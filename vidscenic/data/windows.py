"""Which part of a picture becomes the output: crop, scale, offset, flip.

A `Window` is plain integers, so the pixels come from the very operations that
the papers name (cut, resize, cut, mirror) and every label follows from the one
affine map that these integers define. Coordinates are raster coordinates:
(0, 0) is the upper left corner of the first pixel, the centre of pixel (row i,
column j) is at y = i + 0.5, x = j + 0.5.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Size = tuple[int, int]  # (height, width)


class Window(NamedTuple):
  """Output pixel grid <- source: cut `box`, resize, cut at `offset`, mirror.

  Attributes:
    source: (height, width) of the picture it applies to.
    box: (top, left, height, width) inside the source.
    scaled: (height, width) that the box is resized to.
    offset: (top, left) of the output in the resized box. Negative, or reaching
      beyond it: the output is padded there.
    size: (height, width) of the output.
    flip: mirror left and right at the end.
  """

  source: Size
  box: tuple[int, int, int, int]
  scaled: Size
  offset: tuple[int, int]
  size: Size
  flip: bool = False

  @property
  def scale(self) -> tuple[float, float]:
    """Output pixels per source pixel, (y, x)."""
    return (
      self.scaled[0] / self.box[2],
      self.scaled[1] / self.box[3],
    )

  def map_y(self, y):
    """Source raster y -> output raster y."""
    return (y - self.box[0]) * self.scale[0] - self.offset[0]

  def map_x(self, x):
    """Source raster x -> output raster x, mirrored if flip."""
    x = (x - self.box[1]) * self.scale[1] - self.offset[1]
    return self.size[1] - x if self.flip else x

  @property
  def content(self) -> tuple[float, float, float, float]:
    """(ymin, xmin, ymax, xmax) of the output that is not padding."""
    top, left = (max(0, -offset) for offset in self.offset)
    bottom = min(self.size[0], self.scaled[0] - self.offset[0])
    right = min(self.size[1], self.scaled[1] - self.offset[1])
    if self.flip:
      left, right = self.size[1] - right, self.size[1] - left
    return top, left, bottom, right

  def pixels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source pixel under the centre of each output pixel.

    Returns:
      (rows int[H], columns int[W], inside bool[H, W]); where `inside` is False
      the output is padding and the row or column is clamped.
    """
    rows, inside_y = _nearest(
      self.box[0], self.box[2], self.scaled[0], self.offset[0], self.size[0]
    )
    columns, inside_x = _nearest(
      self.box[1], self.box[3], self.scaled[1], self.offset[1], self.size[1]
    )
    if self.flip:
      columns, inside_x = columns[::-1], inside_x[::-1]
    return rows, columns, inside_y[:, None] & inside_x


def whole(source: Size, size: Size = (), flip: bool = False) -> Window:
  """The whole picture, resized to `size` if that is given."""
  size = tuple(size) or tuple(source)
  return Window(tuple(source), (0, 0, *source), size, (0, 0), size, flip)


def part(
  source: Size, *, top: int, left: int, height: int, width: int
) -> Window:
  """A rectangle at its own scale; beyond the picture it is padding."""
  return Window(
    tuple(source), (0, 0, *source), tuple(source), (top, left), (height, width)
  )


def smallest(source: Size, short_side: int) -> Size:
  """(height, width) with the short side at `short_side`, as DMVR rounds it."""
  height, width = source
  return (
    max(short_side, height * short_side // width),
    max(short_side, width * short_side // height),
  )


def covering(source: Size, size: Size) -> Size:
  """The smallest size of the source's aspect ratio that covers `size`."""
  scale = max(size[0] / source[0], size[1] / source[1])
  return (
    max(size[0], round(source[0] * scale)),
    max(size[1], round(source[1] * scale)),
  )


def jittered(
  rng: np.random.Generator,
  scaled: Size,
  *,
  scales: tuple[float, float],
  prob: float,
) -> Size:
  """DMVR's scale jitter: independent factors for height and width.

  Three numbers are drawn whether or not the jitter applies.
  """
  factor_y, factor_x = rng.uniform(*scales, size=2)
  if rng.random() >= prob:
    return scaled
  return (
    max(1, int(scaled[0] * factor_y)),
    max(1, int(scaled[1] * factor_x)),
  )


def center(source: Size, scaled: Size, size: Size) -> Window:
  """The middle of the resized picture; padded where that is smaller."""
  offset = ((scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2)
  return Window(tuple(source), (0, 0, *source), scaled, offset, size)


def three(source: Size, scaled: Size, size: Size) -> list[Window]:
  """Left, centre, right windows of a landscape, top to bottom of a portrait.

  The centre is rounded up, as SlowFast and Scenic do.
  """
  room = (scaled[0] - size[0], scaled[1] - size[1])
  middle = (-(-room[0] // 2), -(-room[1] // 2))
  if scaled[0] > scaled[1]:
    offsets = [(top, middle[1]) for top in (0, middle[0], room[0])]
  else:
    offsets = [(middle[0], left) for left in (0, middle[1], room[1])]
  return [
    Window(tuple(source), (0, 0, *source), scaled, offset, size)
    for offset in offsets
  ]


def random_crop(
  rng: np.random.Generator, source: Size, scaled: Size, size: Size
) -> Window:
  """A uniformly drawn place in the resized picture.

  A picture smaller than `size` is enlarged, keeping its shape, until it covers
  it (DMVR's slice fails there).
  """
  if scaled[0] < size[0] or scaled[1] < size[1]:
    scaled = covering(scaled, size)
  offset = (
    int(rng.integers(scaled[0] - size[0] + 1)),
    int(rng.integers(scaled[1] - size[1] + 1)),
  )
  return Window(tuple(source), (0, 0, *source), scaled, offset, size)


def random_resized(
  rng: np.random.Generator,
  source: Size,
  size: Size,
  *,
  area: tuple[float, float],
  aspect: tuple[float, float],
  attempts: int = 10,
) -> Window:
  """Inception's crop: random area and aspect ratio, resized to `size`.

  Args:
    rng: numpy generator.
    source: (height, width) of the picture.
    size: (height, width) of the output.
    area: range of the fraction of the picture's area, uniform.
    aspect: range of width / height of the crop, relative to that of `size`,
      uniform in its logarithm.
    attempts: draws before the largest centred crop of allowed aspect is taken.
  """
  height, width = source
  shape = size[1] / size[0]
  for _ in range(attempts):
    pixels = height * width * rng.uniform(*area)
    ratio = shape * math.exp(
      rng.uniform(math.log(aspect[0]), math.log(aspect[1]))
    )
    w = round(math.sqrt(pixels * ratio))
    h = round(math.sqrt(pixels / ratio))
    if 0 < w <= width and 0 < h <= height:
      top = int(rng.integers(height - h + 1))
      left = int(rng.integers(width - w + 1))
      return Window(tuple(source), (top, left, h, w), size, (0, 0), size)
  ratio = min(max(width / height, shape * aspect[0]), shape * aspect[1])
  w = max(1, min(width, round(height * ratio)))
  h = max(1, min(height, round(width / ratio)))
  box = ((height - h) // 2, (width - w) // 2, h, w)
  return Window(tuple(source), box, size, (0, 0), size)


def multi_scale(
  rng: np.random.Generator,
  source: Size,
  size: Size,
  *,
  scales: Sequence[float],
) -> Window:
  """TSN's crop: sides from a list, 13 fixed places (VideoMAE pretraining).

  Height and width are fractions of the short side, at most one step of the
  list apart.
  """
  short = min(source)
  sides = [int(short * scale) for scale in scales]
  pairs = [
    (i, j)
    for i in range(len(sides))
    for j in range(len(sides))
    if abs(i - j) <= 1
  ]
  i, j = pairs[rng.integers(len(pairs))]
  # Sides within two pixels of the output avoid a pointless resize.
  h = size[0] if abs(sides[i] - size[0]) < 3 else sides[i]
  w = size[1] if abs(sides[j] - size[1]) < 3 else sides[j]
  h, w = max(1, min(h, source[0])), max(1, min(w, source[1]))
  # Corners, edge middles and centre, then the four inner quarter points.
  places = [(a, b) for a in (0, 2, 4) for b in (0, 2, 4)]
  places += [(a, b) for a in (1, 3) for b in (1, 3)]
  a, b = places[rng.integers(len(places))]
  box = (a * ((source[0] - h) // 4), b * ((source[1] - w) // 4), h, w)
  return Window(tuple(source), box, size, (0, 0), size)


def nearest(positions: np.ndarray, length: int, scaled: int) -> np.ndarray:
  """Pixel of an axis of `length` under pixel centres of `scaled` ones.

  floor((p + 0.5) length / scaled), in integers: exact for any size, and a
  centre on the seam of two pixels belongs to the later one.
  """
  return (2 * positions + 1) * length // (2 * scaled)


def _nearest(begin, length, scaled, offset, size):
  positions = np.arange(size) + offset
  inside = (positions >= 0) & (positions < scaled)
  pixels = nearest(positions, length, scaled)
  return begin + np.clip(pixels, 0, length - 1), inside
