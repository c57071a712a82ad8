"""Similarity of a feature with a feature grid around a position.

TAPIR's score maps (arXiv 2306.08637, section 3.3). Interpolation is linear, so
products come first and are interpolated: the 7 x 7 places share one fraction of
a cell, and need the 8 x 8 cells around them.
"""

import jax
import jax.numpy as jnp

_RADIUS = 3  # cells
# Up to here products with all cells, one matrix product, are faster than
# products with gathered ones.
_MAX_DENSE = 4096


def local_correlations(features, grid, centres):
  """Products with the 7 x 7 neighbourhood of a position, zero outside.

  Args:
    features: [B, N, T, C].
    grid: [B, T, h, w, C].
    centres: [B, N, T, 2], (x, y) in raster cells of the grid.

  Returns:
    [B, N, T, 49]: rows (y offsets -3 to 3) outside, columns (x) inside.
  """
  height, width = grid.shape[2:4]
  index = centres.astype(jnp.float32) - 0.5
  floor = jax.lax.stop_gradient(jnp.floor(index))
  fraction = (index - floor)[..., None]
  # Whatever is this far outside sees no cell.
  reach = 2 * _RADIUS + 2
  limit = jnp.array([width, height], jnp.float32) + reach
  first = jnp.clip(floor - _RADIUS, -reach, limit).astype(jnp.int32)
  offsets = jnp.arange(reach)
  columns, rows = first[..., :1] + offsets, first[..., 1:] + offsets
  inside = _within(rows, height)[..., :, None]
  inside &= _within(columns, width)[..., None, :]
  rows, columns = jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)
  cells = rows[..., :, None] * width + columns[..., None, :]
  cells = cells.reshape(*cells.shape[:-2], -1)
  flat = grid.reshape(*grid.shape[:2], height * width, -1)
  if height * width <= _MAX_DENSE:
    products = jnp.einsum('bntc,btkc->bntk', features, flat)
    products = jnp.take_along_axis(products, cells, axis=-1)
  else:
    near = jnp.take_along_axis(flat[:, None], cells[..., None], axis=-2)
    products = jnp.sum(features[..., None, :] * near, axis=-1)
  products = products.reshape(inside.shape) * inside
  x, y = fraction[..., 0, :, None], fraction[..., 1, :, None]
  products = products[..., :-1, :] * (1 - y) + products[..., 1:, :] * y
  products = products[..., :-1] * (1 - x) + products[..., 1:] * x
  return products.reshape(*products.shape[:-2], -1)


def _within(index, size):
  return (index >= 0) & (index < size)
