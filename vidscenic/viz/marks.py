"""Antialiased dots, rings, diamonds and lines with exact positions.

Positions are (x, y) in raster pixels: (0, 0) is the upper-left corner of the
first pixel, whose centre is at (0.5, 0.5). A pixel is covered by its distance
to the mark's edge: fully from half a pixel inside, not at all from half a pixel
outside. Marks may lie anywhere; those that are not finite are left out.
"""

from collections.abc import Callable

import numpy as np

from vidscenic.viz import images

_ALPHA_BITS = 8
_ITEM_BITS = 32 - _ALPHA_BITS
_PIECE = 5.0  # pixels; lines are drawn in pieces so that all boxes are small
_BLOCK = 1 << 19  # distances computed at a time; keeps temporaries in the cache


class Layer:
  """Marks that are drawn onto one frame together.

  Marks of a layer do not blend with each other: the one with the most opacity
  at a pixel is seen there, of equals the last. So joints and crossings of
  faded lines stay clean. Marks that shall lie on top go to another layer.
  """

  def __init__(self, height: int, width: int):
    """Makes an empty layer for frames of this size."""
    self._shape = height, width
    # Opacity in the high bits and the mark's number in the low ones, so that
    # the maximum picks the winner.
    self._best = np.zeros(height * width, np.uint32)
    self._colors = []
    self._count = 0

  def dots(
    self,
    centres: np.ndarray,
    radius: float,
    colors: np.ndarray,
    alpha: float = 1.0,
  ) -> None:
    """Adds discs.

    Args:
      centres: float[N, 2], (x, y) in raster pixels.
      radius: in pixels.
      colors: uint8[N, 3], or one [3].
      alpha: opacity in [0, 1].
    """
    self._add(
      centres, radius, colors, alpha, lambda dx, dy, _: _length(dx, dy) - radius
    )

  def rings(
    self,
    centres: np.ndarray,
    radius: float,
    colors: np.ndarray,
    alpha: float = 1.0,
    *,
    width: float,
  ) -> None:
    """Adds circles whose line, `width` thick, lies inside the radius."""
    half = width / 2

    def distance(dx, dy, _):
      return np.abs(_length(dx, dy) - (radius - half)) - half

    self._add(centres, radius, colors, alpha, distance)

  def diamonds(
    self,
    centres: np.ndarray,
    radius: float,
    colors: np.ndarray,
    alpha: float = 1.0,
  ) -> None:
    """Adds filled squares that stand on a corner, `radius` from the centre."""
    scale = np.float32(np.sqrt(0.5))
    self._add(
      centres,
      radius,
      colors,
      alpha,
      lambda dx, dy, _: (np.abs(dx) + np.abs(dy) - radius) * scale,
    )

  def lines(
    self,
    start: np.ndarray,
    stop: np.ndarray,
    width: float,
    colors: np.ndarray,
    alpha: np.ndarray | float = 1.0,
  ) -> None:
    """Adds straight lines with round ends.

    Args:
      start: float[N, 2], (x, y) in raster pixels.
      stop: float[N, 2].
      width: in pixels.
      colors: uint8[N, 3], or one [3].
      alpha: opacity in [0, 1], of all or float[N].
    """
    start, stop = np.asarray(start, float), np.asarray(stop, float)
    colors = np.broadcast_to(colors, (len(start), 3))
    alpha = np.broadcast_to(alpha, len(start))
    # Pieces of equal length per line: middle and half the way along each.
    line, start, stop = _clipped(start, stop, self._shape, margin=width)
    length = np.hypot(*(stop - start).T)
    pieces = np.maximum(np.ceil(length / _PIECE), 1).astype(int)
    of = np.repeat(np.arange(len(line)), pieces)
    number = np.arange(len(of)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    step = ((stop - start) / pieces[:, None])[of]
    middle = start[of] + step * (number + 0.5)[:, None]
    half = np.float32(step / 2)[:, :, None, None]
    scale = 1 / np.maximum((half**2).sum(1), 1e-12)

    def distance(dx, dy, block):
      hx, hy = half[block, 0], half[block, 1]
      along = (dx * hx + dy * hy) * scale[block]
      along = np.clip(along, -1, 1, out=along)
      return _length(dx - along * hx, dy - along * hy) - width / 2

    reach = (width + _PIECE) / 2
    self._add(middle, reach, colors[line[of]], alpha[line[of]], distance)

  def paint(self, frame: np.ndarray) -> None:
    """Draws the marks onto a frame in place, and empties the layer.

    Args:
      frame: uint8[H, W, 3], contiguous in memory.

    Raises:
      ValueError: another size than the layer's, or not contiguous.
    """
    # Without this a copy would be painted, and lost.
    if frame.shape != (*self._shape, 3) or not frame.flags.c_contiguous:
      raise ValueError(
        f'frame must be contiguous uint8{[*self._shape, 3]}, got'
        f' {[*frame.shape]} with strides {frame.strides}'
      )
    touched = np.flatnonzero(self._best)
    if touched.size:
      best = self._best[touched]
      self._best[touched] = 0
      colors = np.concatenate(self._colors)[best & ((1 << _ITEM_BITS) - 1)]
      full = (1 << _ALPHA_BITS) - 1
      alpha = (best >> _ITEM_BITS).astype(np.float32)[:, None] / full
      pixels = frame.reshape(-1, 3)
      pixels[touched] = images.blend(pixels[touched], colors, alpha)
    self._colors, self._count = [], 0

  def _add(
    self,
    centres: np.ndarray,
    reach: float,
    colors: np.ndarray,
    alpha: np.ndarray | float,
    distance: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
  ) -> None:
    """Adds marks that lie within `reach` of their centres.

    `distance` takes offsets from the centres in x, [n, 1, D], and in y,
    [n, D, 1], and which marks these are, and returns the signed distance to
    the edge, negative inside.
    """
    height, width = self._shape
    centres = np.asarray(centres, np.float64).reshape(-1, 2)
    colors = np.broadcast_to(colors, (len(centres), 3))
    alpha = np.broadcast_to(alpha, len(centres))
    reach = reach + 0.5
    # False for NaN, too.
    near = (centres >= -reach) & (centres <= (width + reach, height + reach))
    chosen = np.flatnonzero(near.all(1))
    side = np.arange(int(np.ceil(2 * reach)) + 1)
    block = max(1, _BLOCK // side.size**2)
    for index in np.split(chosen, range(block, len(chosen), block)):
      first = np.floor(centres[index] - reach).astype(np.int64)
      columns, rows = first.T[..., None] + side
      dx = np.float32(columns + 0.5 - centres[index, :1])[:, None, :]
      dy = np.float32(rows + 0.5 - centres[index, 1:])[:, :, None]
      cover = 0.5 - distance(dx, dy, index).reshape(-1)
      hit = np.flatnonzero(cover > 0)
      mark, inside = np.divmod(hit, side.size**2)
      i, j = np.divmod(inside, side.size)
      row, column = rows[mark, i], columns[mark, j]
      kept = (row >= 0) & (row < height) & (column >= 0) & (column < width)
      pixel, mark = (row * width + column)[kept], index[mark[kept]]
      opacity = np.minimum(cover[hit[kept]], 1) * alpha[mark]
      opacity = np.rint(opacity * ((1 << _ALPHA_BITS) - 1)).astype(np.uint32)
      order = (self._count + mark).astype(np.uint32)
      np.maximum.at(self._best, pixel, opacity << _ITEM_BITS | order)
    self._colors.append(colors)
    self._count += len(colors)


def _length(x, y):
  # Several times as fast as np.hypot; nothing here is near an overflow.
  return np.sqrt(x * x + y * y)


def _clipped(start, stop, shape, margin):
  """Cuts lines to the picture and a margin, so that none is endless.

  Returns which of the lines are left and their ends. Liang and Barsky, 1984.
  """
  low, high = -margin, np.array(shape[::-1]) + margin
  finite = np.isfinite(start).all(1) & np.isfinite(stop).all(1)
  line = np.flatnonzero(finite)
  start, way = start[line], stop[line] - start[line]
  with np.errstate(divide='ignore', invalid='ignore'):
    bounds = (low - start) / way, (high - start) / way
  # fmin and fmax pass over 0 / 0, a line along the border.
  enter = np.fmin(*bounds).max(1, initial=0)
  leave = np.fmax(*bounds).min(1, initial=1)
  kept = enter <= leave
  line, start, way = line[kept], start[kept], way[kept]
  # Rounding can leave the ends of very long lines far outside.
  return (
    line,
    np.clip(start + enter[kept, None] * way, low, high),
    np.clip(start + leave[kept, None] * way, low, high),
  )
