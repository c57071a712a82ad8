"""Fourier features of coordinates: octaves (MooG) and bands (Perceiver).

Those of a grid are computed by NumPy in double precision while the program is
traced. In float32 arithmetic the highest frequencies would be noise: MooG's
phases reach 1.6e6 rad, where neighbouring float32 numbers are 0.125 apart.
They enter the program as one small table per axis: Perceiver's code for optical
flow, 182528 x 258, would be a literal of 188 MB. Sources: the released
code of MooG (arXiv 2411.05927) and Perceiver IO (2107.14795).
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from vidscenic.layers import position


def linear_grid(grid: Sequence[int]) -> np.ndarray:
  """Coordinates in [-1, 1], both end points included: float64[*grid, axes].

  The first and last index of an axis sit at exactly -1 and 1; an axis of
  length 1 sits at -1. The order is that of grid.
  """
  return np.stack(np.meshgrid(*linear_axes(grid), indexing='ij'), axis=-1)


def linear_axes(
  grid: Sequence[int], *, dtype=np.float64
) -> tuple[np.ndarray, ...]:
  """Coordinates of `linear_grid` along every axis: dtype[n] each."""
  return tuple(_linspace(-1, 1, n, dtype) for n in grid)


def octaves(coordinates, num_bases: int):
  """Sines and cosines of 2^i * pi * c, i < num_bases (MooG).

  Args:
    coordinates: [..., A]; float64 NumPy for constants, else JAX. For those of
      a grid see `grid_octaves`.
    num_bases: number of octaves.

  Returns:
    float32[..., 2 * A * num_bases]: all sines, then all cosines, each ordered
    (octave, axis), axis fastest.
  """
  xp, c = _module(coordinates)
  factors = 2.0 ** np.arange(num_bases, dtype=c.dtype)
  turns = (c[..., None, :] * factors[:, None]).reshape(*c.shape[:-1], -1)
  # Scaling by powers of two and taking the remainder are exact, so that the
  # sine sees at most one turn: exact to 1e-7 even in float32.
  phase = np.pi * (turns - 2 * xp.round(turns / 2))
  out = xp.concatenate([xp.sin(phase), xp.cos(phase)], axis=-1)
  return out.astype(np.float32)


def grid_octaves(axes: Sequence[np.ndarray], num_bases: int):
  """`octaves` of a grid, from one small constant per axis.

  Args:
    axes: float64[n] each, the coordinates along every axis (`linear_axes`).
    num_bases: number of octaves.

  Returns:
    float32[*grid, 2 * len(axes) * num_bases], equal to `octaves` of the
    mesh of axes.
  """
  # [n, 2 * num_bases] each, and the axis is the fastest index.
  tables = [octaves(axis[:, None], num_bases) for axis in axes]
  out = position.join_axes(tables, join=jnp.stack)
  return out.reshape(*out.shape[:-2], -1)


def bands(
  positions,
  num_bands: int,
  max_resolution: Sequence[int],
  *,
  concat_positions: bool = True,
  sine_only: bool = False,
  dtype=np.float64,
):
  """Sines and cosines of pi * p * f, f from 1 to Nyquist (Perceiver).

  Args:
    positions: [..., A] in [-1, 1]; float64 NumPy for constants or JAX, then
      with float32's errors: 1e-4 at 224 pixels, 1e-2 at 30720. For those of a
      grid see `grid_bands`.
    num_bands: frequencies per axis, evenly spaced from 1 to resolution / 2.
    max_resolution: A numbers; 2 / resolution is the distance of two samples.
    concat_positions: put the positions themselves first.
    sine_only: leave out the cosines.
    dtype: of NumPy's arithmetic. With np.float32, frequencies and phases are
      rounded as the released code rounds them; its weights know these features,
      whose errors reach 1e-2 for sound, and no better ones.

  Returns:
    float32[..., A * (2 * num_bands + 1)] with the defaults: positions, sines,
    cosines, each ordered (axis, band), band fastest.

  Raises:
    ValueError: not one resolution per axis.
  """
  if len(max_resolution) != positions.shape[-1]:
    raise ValueError(
      f'max_resolution={max_resolution} must have {positions.shape[-1]} entries'
    )
  xp, p = _module(positions, dtype)
  frequencies = np.stack(
    [_linspace(1, r / 2, num_bands, dtype) for r in max_resolution]
  )
  # In this order, which matters to float32.
  phase = p.dtype.type(np.pi) * (p[..., None] * frequencies.astype(p.dtype))
  phase = phase.reshape(*p.shape[:-1], -1)
  parts = [p] if concat_positions else []
  parts += [xp.sin(phase)] + ([] if sine_only else [xp.cos(phase)])
  return xp.concatenate(parts, axis=-1).astype(np.float32)


def grid_bands(
  axes: Sequence[np.ndarray],
  num_bands: int,
  max_resolution: Sequence[int],
  *,
  concat_positions: bool = True,
  sine_only: bool = False,
  dtype=np.float64,
):
  """`bands` of a grid, from small constants for every axis.

  Args:
    axes: dtype[n] each, the coordinates along every axis (`linear_axes`).
    num_bands, max_resolution, concat_positions, sine_only, dtype: see `bands`.

  Returns:
    float32[*grid, channels], equal to `bands` of the mesh of axes.

  Raises:
    ValueError: not one resolution per axis.
  """
  tables = _axis_tables(axes, num_bands, max_resolution, dtype)
  parts = [
    position.join_axes([table[:, cut] for table in tables])
    for cut in _cuts(num_bands, concat_positions, sine_only)
  ]
  return jnp.concatenate(parts, axis=-1)


def place_bands(
  axes: Sequence[np.ndarray],
  places,
  num_bands: int,
  max_resolution: Sequence[int],
  *,
  concat_positions: bool = True,
  sine_only: bool = False,
  dtype=np.float64,
):
  """`bands` of some places of a grid, from the constants of `grid_bands`.

  Args:
    axes: as in `grid_bands`.
    places: int[...] for every axis, indices along it, which may be traced.
    num_bands, max_resolution, concat_positions, sine_only, dtype: see `bands`.

  Returns:
    float32[..., channels].

  Raises:
    ValueError: not one resolution per axis.
  """
  rows = [
    jnp.take(jnp.asarray(table), place, axis=0)
    for table, place in zip(
      _axis_tables(axes, num_bands, max_resolution, dtype), places, strict=True
    )
  ]
  cuts = _cuts(num_bands, concat_positions, sine_only)
  return jnp.concatenate(
    [row[..., cut] for cut in cuts for row in rows], axis=-1
  )


def _axis_tables(axes, num_bands, max_resolution, dtype):
  """float32[n, 1 + 2 * num_bands] of every axis: its position, sine, cosine."""
  if len(max_resolution) != len(axes):
    raise ValueError(
      f'max_resolution={max_resolution} must have {len(axes)} entries'
    )
  return [
    bands(axis[:, None], num_bands, (resolution,), dtype=dtype)
    for axis, resolution in zip(axes, max_resolution, strict=True)
  ]


def _cuts(num_bands, concat_positions, sine_only):
  """Parts of a table; a code has all axes of one part before the next one."""
  cuts = [slice(0, 1)] if concat_positions else []
  cuts.append(slice(1, 1 + num_bands))
  return cuts + ([] if sine_only else [slice(1 + num_bands, None)])


def _linspace(start, stop, num, dtype):
  """As `jnp.linspace` in float32, whose points are not np.linspace rounded."""
  if np.dtype(dtype) == np.float64 or num == 1:
    return np.linspace(start, stop, num, dtype=dtype)
  step = np.arange(num - 1, dtype=dtype) / dtype(num - 1)
  inner = dtype(start) * (1 - step) + dtype(stop) * step
  return np.append(inner, dtype(stop))


def _module(x, dtype=np.float64):
  """numpy and dtype for NumPy arrays, else jax.numpy and float32."""
  if isinstance(x, np.ndarray):
    return np, x.astype(dtype)
  return jnp, x.astype(jnp.float32)
