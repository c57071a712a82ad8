"""Coordinates and sampling at coordinates.

One convention everywhere, that of TAP-Vid, **raster pixels**: (0, 0) is
the upper left *corner* of the first pixel and (W, H) the lower right corner of
the last; pixel (row i, column j) has its centre at x = j + 0.5, y = i + 0.5.
Time is in frames and has no half: frame k is at t = k. Normalised ("unit")
coordinates are raster pixels divided by (W, H); signed ones are 2 * unit - 1.
So going to another resolution is a pure scale, without half-pixel terms.

The order of the last axis is always named: 'xy' (target points, flow), 'yx',
or 'tyx' (query points, whose t no conversion touches). Sizes are always
(H, W) or (T, H, W), whatever the order of the points. Everything is float32.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

ORDERS = ('xy', 'yx', 'tyx')
MODES = ('clamp', 'zeros')


def pixels_to_unit(points, *, size: Sequence[int], order: str):
  """Raster pixels -> [0, 1].

  Args:
    points: [..., 2] or [..., 3], as `order` says.
    size: (H, W) of the frame in pixels.
    order: 'xy', 'yx' or 'tyx'; t is left in frames.

  Returns:
    float32, the shape of points.

  Raises:
    ValueError: unknown order, or a last axis that does not match it.
  """
  return _float(points, order) / _per_axis(size, order)


def unit_to_pixels(points, *, size: Sequence[int], order: str):
  """[0, 1] -> raster pixels; arguments as in `pixels_to_unit`."""
  return _float(points, order) * _per_axis(size, order)


def unit_to_signed(points):
  """[0, 1] -> [-1, 1] for purely spatial points (no t): 2 x - 1."""
  return 2 * jnp.asarray(points, jnp.float32) - 1


def signed_to_unit(points):
  """[-1, 1] -> [0, 1] for purely spatial points (no t): (x + 1) / 2."""
  return (jnp.asarray(points, jnp.float32) + 1) / 2


def scale_points(
  points, *, source: Sequence[int], target: Sequence[int], order: str
):
  """Raster pixels of one resolution -> raster pixels of another.

  Also from a frame to its feature grid: target is then the grid's size.

  Args:
    points: [..., 2] or [..., 3], as `order` says.
    source: (H, W) in which points are given.
    target: (H, W) wanted.
    order: 'xy', 'yx' or 'tyx'; t is left in frames.

  Returns:
    float32, the shape of points.

  Raises:
    ValueError: unknown order, or a last axis that does not match it.
  """
  ratio = [new / old for new, old in zip(target, source, strict=True)]
  return _float(points, order) * _per_axis(ratio, order)


def _float(points, order):
  if order not in ORDERS:
    raise ValueError(f'order must be one of {ORDERS}, got {order!r}')
  points = jnp.asarray(points, jnp.float32)
  if points.shape[-1:] != (len(order),):
    raise ValueError(
      f'points of order {order!r} need a last axis of {len(order)}, got shape '
      f'{points.shape}'
    )
  return points


def _per_axis(height_width, order):
  height, width = height_width
  values = {'t': 1, 'y': height, 'x': width}
  return jnp.array([values[axis] for axis in order], jnp.float32)


def swap_xy(points):
  """(x, y) <-> (y, x) on the last axis.

  Args:
    points: [..., 2].

  Returns:
    [..., 2].

  Raises:
    ValueError: the last axis is not 2, so (t, y, x) is refused.
  """
  if points.shape[-1] != 2:
    raise ValueError(f'swap_xy needs [..., 2], got {points.shape}')
  return points[..., ::-1]


def pixel_centers(size: Sequence[int], *, order: str):
  """Raster coordinates of the centres of all pixels of a frame or a video.

  Args:
    size: (H, W), or (T, H, W) for 'tyx'.
    order: 'xy', 'yx' or 'tyx'.

  Returns:
    float32[H, W, 2] or [T, H, W, 3]; entry [i, j] of 'xy' is (j+0.5, i+0.5).

  Raises:
    ValueError: unknown order, or a size of another length.
  """
  if order not in ORDERS or len(size) != len(order):
    raise ValueError(
      f'pixel_centers of size {tuple(size)} in order {order!r}: expected '
      "(H, W) with 'xy' or 'yx', or (T, H, W) with 'tyx'"
    )
  names = 'tyx'[-len(size) :]
  half = {'t': 0.0, 'y': 0.5, 'x': 0.5}
  axes = [
    jnp.arange(n, dtype=jnp.float32) + half[axis]
    for n, axis in zip(size, names, strict=True)
  ]
  found = dict(zip(names, jnp.meshgrid(*axes, indexing='ij'), strict=True))
  return jnp.stack([found[axis] for axis in order], axis=-1)


def bilinear(image, points, *, mode: str):
  """Samples images between their pixels.

  Args:
    image: [..., H, W, C]. For a video the leading axes are [T] or [B, T], and
      points then are given frame by frame.
    points: [..., *Q, 2], (x, y) in raster pixels *of this image* (use
      `scale_points` for a feature grid); the leading axes are those of image,
      Q is any shape, () included.
    mode: 'clamp' repeats the border pixels; 'zeros' takes every pixel outside
      as 0, so values fade out over one pixel around the border.

  Returns:
    [..., *Q, C], of the dtype of image, or float32 if that is an integer; the
    blend is float32. A NaN point gives NaN. The gradient with respect to
    points is finite everywhere and 0 well outside; at a pixel centre, where
    the slope jumps, it is one of the two sides' or between them.

  Raises:
    ValueError: unknown mode, or leading axes that differ.
  """
  _check_sampling(image, points, 2, mode)
  index = points.astype(jnp.float32)[..., ::-1] - 0.5
  return _linear(image, index, 2, mode)


def trilinear(video, points, *, mode: str):
  """Samples videos between their pixels and frames.

  Args:
    video: [..., T, H, W, C].
    points: [..., *Q, 3], (t, y, x), t in frames, y x in raster pixels *of this
      video*; the leading axes are those of video, Q is any shape.
    mode: as in `bilinear`, for the time axis as well.

  Returns:
    [..., *Q, C], dtype and gradient as in `bilinear`.

  Raises:
    ValueError: unknown mode, or leading axes that differ.
  """
  _check_sampling(video, points, 3, mode)
  half = jnp.array([0.0, 0.5, 0.5], jnp.float32)
  return _linear(video, points.astype(jnp.float32) - half, 3, mode)


def _check_sampling(values, points, num_axes, mode):
  if mode not in MODES:
    raise ValueError(f'mode must be one of {MODES}, got {mode!r}')
  lead = values.ndim - num_axes - 1
  if (
    lead < 0
    or points.ndim <= lead
    or points.shape[-1] != num_axes
    or points.shape[:lead] != values.shape[:lead]
  ):
    raise ValueError(
      f'cannot sample values of shape {values.shape} at points of shape '
      f'{points.shape}: expected the same leading axes '
      f'{values.shape[: max(lead, 0)]} and a last axis of {num_axes}'
    )


def _linear(values, index, num_axes, mode):
  """Multilinear interpolation at array indices [..., *Q, num_axes]."""
  lead = values.shape[: -num_axes - 1]
  sizes = values.shape[-num_axes - 1 : -1]
  channels = values.shape[-1]
  queries = index.shape[len(lead) : -1]
  batch, num_points = math.prod(lead), math.prod(queries)
  table = values.reshape(batch, math.prod(sizes), channels)
  index = index.reshape(batch, num_points, num_axes)

  # Clipping changes no value (at -1 and at n all weight is on a pixel outside)
  # and keeps far points from overflowing the integers.
  margin = 1 if mode == 'zeros' else 0
  upper = jnp.array(sizes, jnp.float32) - 1 + margin
  index = jnp.clip(index, -margin, upper)
  floor = jax.lax.stop_gradient(jnp.floor(index))
  fraction = index - floor
  # NaN has no integer; its weights carry it into the result.
  first = jnp.where(jnp.isnan(floor), 0, floor).astype(jnp.int32)

  out = jnp.zeros((batch, num_points, channels), jnp.float32)
  for corner in itertools.product((0, 1), repeat=num_axes):
    flat = jnp.zeros((batch, num_points), jnp.int32)
    weight = jnp.ones((batch, num_points), jnp.float32)
    inside = jnp.ones((batch, num_points), bool)
    for axis, (step, size) in enumerate(zip(corner, sizes, strict=True)):
      place = first[..., axis] + step
      inside &= (place >= 0) & (place < size)
      flat = flat * size + jnp.clip(place, 0, size - 1)
      share = fraction[..., axis]
      weight = weight * (share if step else 1 - share)
    picked = jax.vmap(_rows)(table, flat)
    if mode == 'zeros':
      picked = jnp.where(inside[..., None], picked, 0)
    out += picked.astype(jnp.float32) * weight[..., None]
  is_float = jnp.issubdtype(values.dtype, jnp.floating)
  dtype = values.dtype if is_float else jnp.float32
  return out.reshape(*lead, *queries, channels).astype(dtype)


def _rows(table, ids):
  return table.at[ids].get(mode='promise_in_bounds')
