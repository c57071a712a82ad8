"""Errors of depth maps by hand."""

import jax
import numpy as np
import pytest

from vidscenic.ops import depth

errors = jax.jit(depth.errors)


def means(*args, **kwargs):
  pairs = errors(*args, **kwargs)
  return {k: float(s / n) for k, (s, n) in pairs.items()}


def test_by_hand():
  target = np.array([1.0, 2.0, 4.0, 8.0])
  prediction = np.array([1.2, 2.0, 2.0, 12.0])
  got = means(prediction, target)
  assert got['abs_rel'] == pytest.approx((0.2 + 0 + 0.5 + 0.5) / 4)
  assert got['mse'] == pytest.approx((0.04 + 0 + 4 + 16) / 4)
  # Ratios 1.2, 1, 2, 1.5; the bounds are 1.25, 1.5625, 1.953.
  assert got['delta1'] == 0.5
  assert got['delta2'] == 0.75
  assert got['delta3'] == 0.75


def test_unknown_and_masked_pixels_count_nothing():
  target = np.array([[1, 0, np.nan, np.inf, -2, 3.0], [1, 1, 1, 1, 1, 1]])
  prediction = np.array([[1, 5, 5, 5, 5, np.nan], [9, 9, np.nan, 9, 9, 9]])
  mask = np.array([[1, 1, 1, 1, 1, 0], [0] * 6])
  pairs = errors(prediction, target, mask=mask)
  assert {float(n) for _, n in pairs.values()} == {1}
  assert float(pairs['abs_rel'][0]) == 0
  assert float(pairs['delta1'][0]) == 1


def test_a_mask_of_rows_counts_all_their_pixels():
  shape = (2, 3, 4, 5, 1)
  target = np.ones(shape)
  prediction = np.full(shape, 1.5)
  prediction[1] = np.nan
  total, count = errors(prediction, target, mask=np.array([True, False]))[
    'abs_rel'
  ]
  assert (float(total), float(count)) == (30, 60)


def test_predictions_that_cannot_be_depth_are_wrong():
  prediction = np.array([0.0, -1.0, np.nan, 1.0])
  pairs = errors(prediction, np.ones(4))
  assert float(pairs['delta3'][0]) == 1
  assert np.isnan(pairs['abs_rel'][0])


def test_shapes_that_differ_are_named():
  with pytest.raises(ValueError, match='differ in shape'):
    depth.errors(np.ones((2, 3)), np.ones(3))
  with pytest.raises(ValueError, match='leading part'):
    depth.errors(np.ones((2, 3)), np.ones((2, 3)), mask=np.ones(3))
