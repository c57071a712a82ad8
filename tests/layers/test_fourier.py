"""Fourier features against their formulas, and what they put into programs."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.layers import fourier


def test_linear_grid_includes_its_ends():
  grid = fourier.linear_grid((1, 3, 5))
  assert grid.dtype == np.float64
  np.testing.assert_allclose(grid[0, 2, 1], [-1, 1, -0.5])


def test_octaves_equal_the_formula(normal):
  points = np.asarray(normal(6, 2))
  want = []
  for y, x in points.astype(np.float64):
    phase = [2.0**i * np.pi * c for i in range(20) for c in (y, x)]
    want.append([math.sin(p) for p in phase])
    want[-1] += [math.sin(p + math.pi / 2) for p in phase]
  got = fourier.octaves(points, 20)
  np.testing.assert_allclose(got, want, atol=1e-6)
  # float32 inputs under jit are as exact, at 20 octaves too.
  traced = jax.jit(lambda x: fourier.octaves(x, 20))(points)
  np.testing.assert_allclose(traced, want, atol=1e-6)


@pytest.mark.parametrize('concat_positions', [True, False])
@pytest.mark.parametrize('sine_only', [True, False])
def test_bands_equal_the_formula(concat_positions, sine_only):
  grid = fourier.linear_grid((4, 7))
  options = dict(concat_positions=concat_positions, sine_only=sine_only)
  got = fourier.bands(grid, 5, (16, 224), **options)
  want = []
  for y, x in grid.reshape(-1, 2):
    phases = [
      math.pi * (c * f)
      for c, r in ((y, 16), (x, 224))
      for f in np.linspace(1, r / 2, 5)
    ]
    row = [y, x] if concat_positions else []
    row += [math.sin(p) for p in phases]
    row += [] if sine_only else [math.cos(p) for p in phases]
    want.append(row)
  np.testing.assert_allclose(got.reshape(28, -1), want, atol=1e-6)
  traced = fourier.bands(jnp.asarray(grid), 5, (16, 224), **options)
  np.testing.assert_allclose(traced, got, atol=1e-4)  # float32 phases
  with pytest.raises(ValueError, match='2 entries'):
    fourier.bands(grid, 5, (16,))


@pytest.mark.parametrize('concat_positions', [True, False])
@pytest.mark.parametrize('sine_only', [True, False])
def test_bands_of_a_grid_are_those_of_its_points(concat_positions, sine_only):
  options = dict(concat_positions=concat_positions, sine_only=sine_only)
  grid, resolution = (4, 1, 7), (16, 30720, 224)
  got = fourier.grid_bands(fourier.linear_axes(grid), 5, resolution, **options)
  want = fourier.bands(fourier.linear_grid(grid), 5, resolution, **options)
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(got, want)
  with pytest.raises(ValueError, match='3 entries'):
    fourier.grid_bands(fourier.linear_axes(grid), 5, (16, 224))


def test_bands_of_places_are_those_of_the_grid():
  axes = fourier.linear_axes((4, 7))
  grid = fourier.grid_bands(axes, 3, (8, 14))
  rows, columns = jnp.array([[3, 0], [1, 2]]), jnp.array([[6, 1], [0, 4]])
  got = fourier.place_bands(axes, (rows, columns), 3, (8, 14))
  np.testing.assert_array_equal(got, grid[rows, columns])
  with pytest.raises(ValueError, match='2 entries'):
    fourier.place_bands(axes, (rows, columns), 3, (8,))


def test_octaves_of_a_grid_are_those_of_its_points():
  grid = (3, 4, 5)
  got = fourier.grid_octaves(fourier.linear_axes(grid), 20)
  want = fourier.octaves(fourier.linear_grid(grid), 20)
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
  'code, shape',
  [
    (
      lambda: fourier.grid_bands(
        fourier.linear_axes((224, 224)), 64, (224, 224)
      ),
      (224, 224, 258),
    ),
    (
      lambda: fourier.grid_octaves(fourier.linear_axes((128, 128)), 16),
      (128, 128, 64),
    ),
  ],
  ids=['bands', 'octaves'],
)
def test_programs_hold_one_table_per_axis(code, shape):
  lowered = jax.jit(lambda x: x + code()).lower(jnp.zeros(shape))
  # Literals are written in hexadecimal, 8 characters for a number; the full
  # table would have 8 for each of prod(shape).
  assert len(lowered.as_text()) < 8 * math.prod(shape) / 20
  # Nor does the compiler fold them into a table.
  found = re.findall(
    r'f32\[([\d,]+)\]\S* constant\(', lowered.compile().as_text()
  )
  sizes = [math.prod(map(int, found_shape.split(','))) for found_shape in found]
  assert sizes and max(sizes) < math.prod(shape) / 20
