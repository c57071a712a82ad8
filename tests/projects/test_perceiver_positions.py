"""Positions of grids and of places, Fourier features and learned tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.perceiver import positions, preprocessors
from tests.projects import perceiver_small


def test_positions_of_a_grid_span_both_ends_and_indexed_ones_do_not():
  options = dict(num_bands=2, max_resolution=(4,))
  grid = positions.fourier_features((4,), **options)
  points = positions.fourier_features((4,), jnp.arange(4), **options)
  np.testing.assert_allclose(grid[:, 0], [-1, -1 / 3, 1 / 3, 1], atol=1e-6)
  np.testing.assert_allclose(points[:, 0], [-1, -0.5, 0, 0.5], atol=1e-6)


def test_indexed_features_follow_row_major_order():
  options = dict(num_bands=3, max_resolution=(5, 6))
  every = positions.fourier_features((5, 6), jnp.arange(30), **options)
  some = positions.fourier_features(
    (5, 6), jnp.array([[7, 29], [0, 7]]), **options
  )
  np.testing.assert_array_equal(some, every[np.array([[7, 29], [0, 7]])])
  np.testing.assert_allclose(every[7, :2], [-1 + 2 / 5, -1 + 2 / 6], atol=1e-6)


def test_learned_positions_know_one_size():
  module = preprocessors.ImagePreprocessor(
    prep_type='pixels',
    spatial_downsample=1,
    position_encoding_type='trainable',
    trainable_position_encoding_kwargs={'num_channels': 4},
  )
  variables = perceiver_small.init(module, perceiver_small.normal(1, 4, 6, 3))
  with pytest.raises(ValueError, match=r'24 places do not fit inputs of 30'):
    jax.eval_shape(module.apply, variables, perceiver_small.normal(1, 5, 6, 3))
