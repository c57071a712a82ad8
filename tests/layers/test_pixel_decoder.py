"""Pixels by their coordinates: which ones, their code, their values."""

import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.layers import fourier, pixel_decoder


def test_lattice_is_that_of_the_shifted_picture():
  """Roll by the offset, then take the middle of every block."""
  picture = np.arange(16 * 24).reshape(1, 16, 24, 1)
  for dy, dx in ((0, 0), (3, 1), (2, 7)):
    rows = pixel_decoder.lattice(16, 8, jnp.array([dy]))
    columns = pixel_decoder.lattice(24, 8, jnp.array([dx]))
    rolled = np.roll(picture, (dy, dx), axis=(1, 2))
    np.testing.assert_array_equal(
      pixel_decoder.take_lattice(picture, rows, columns),
      rolled[:, 4::8, 4::8],
    )


def test_lattice_without_factor_is_everything():
  np.testing.assert_array_equal(pixel_decoder.lattice(5, 0), range(5))
  with pytest.raises(ValueError, match='18 pixels cannot be subsampled by 8'):
    pixel_decoder.lattice(18, 8)


def test_code_of_a_pixel_is_that_of_the_grid():
  grid = fourier.grid_octaves(fourier.linear_axes((6, 9)), 16)
  rows, columns = np.array([[5, 0]]), np.array([[8, 2, 1]])
  code = pixel_decoder.lattice_code(rows, columns, size=(6, 9), num_bases=16)
  grid = np.asarray(grid)
  np.testing.assert_array_equal(code[0], grid[[5, 0]][:, [8, 2, 1]])


def test_a_subset_of_pixels_is_that_of_all(normal, random, run):
  decoder = pixel_decoder.PixelDecoder(
    depth=2, num_heads=2, qkv_features=8, mlp_features=12, num_bases=3
  )
  tokens, size = normal(2, 3, 5, 8), (4, 6)
  every = jnp.arange(4), jnp.arange(6)
  params = random(decoder, tokens, *every, size=size)
  whole = run(decoder, params, tokens, *every, size=size)
  assert whole.shape == (2, 3, 4, 6, 3)
  rows, columns = np.array([3, 1]), np.array([5, 0, 2])
  part = run(decoder, params, tokens, rows, columns, size=size)
  np.testing.assert_allclose(
    part, whole[:, :, rows][:, :, :, columns], atol=1e-5
  )
