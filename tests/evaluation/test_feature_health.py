"""Health figures of features whose health is known."""

import math

import numpy as np
import pytest

from vidscenic.evaluation import feature_health


def normal(clips=40, tokens=25, width=16, seed=0):
  return np.random.default_rng(seed).normal(size=(clips, tokens, width))


def health(tokens):
  return feature_health.health(tokens, tokens.mean(1))


def test_independent_features_are_healthy():
  figures = health(normal())
  assert figures['std_median'] == pytest.approx(1, abs=0.1)
  assert figures['dead'] == 0
  assert figures['effective_rank_share'] > 0.99
  assert abs(figures['mean_cosine']) < 0.1
  assert figures['input_variance_share'] == pytest.approx(1 - 1 / 40, abs=0.01)


def test_constant_features_are_dead():
  figures = health(np.full((4, 5, 6), 3.0))
  assert figures['dead'] == 1
  assert figures['std_max'] == 0
  assert figures['effective_rank'] == 0
  assert figures['mean_cosine'] == pytest.approx(1)
  assert figures['input_variance_share'] == 0
  assert health(np.zeros((4, 5, 6)))['dead'] == 1


def test_features_of_the_position_alone_do_not_vary_with_the_input():
  tokens = np.tile(normal(clips=1), (8, 1, 1))
  figures = health(tokens)
  assert figures['input_variance_share'] == pytest.approx(0, abs=1e-12)
  assert figures['effective_rank_share'] > 0.8
  assert figures['mean_cosine'] == pytest.approx(1)


def test_share_of_the_input_by_hand():
  tokens = np.array(
    [[[0.0], [10]], [[2], [12]]]
  )  # 5 from position, 1 from clip
  assert health(tokens)['input_variance_share'] == pytest.approx(1 / 26)


def test_dead_dimensions_are_counted_whatever_the_scale():
  tokens = normal()
  tokens[..., :4] = 7.0
  for scale in (1e-6, 1.0, 1e6):
    figures = health(tokens * scale)
    assert figures['dead'] == 4 / 16
    assert figures['std_min'] == pytest.approx(0, abs=1e-9 * scale)


@pytest.mark.parametrize('rank', [1, 3, 8])
def test_effective_rank_of_equal_singular_values_is_the_rank(rank):
  left, _, right = np.linalg.svd(normal(1, 50, 16)[0], full_matrices=False)
  matrix = left[:, :rank] @ right[:rank]
  assert feature_health.effective_rank(matrix) == pytest.approx(rank)
  assert feature_health.effective_rank(5 * matrix) == pytest.approx(rank)


def test_effective_rank_by_hand():
  # Shares 3/4 and 1/4: an entropy of 0.5623.
  got = feature_health.effective_rank(np.diag([3.0, 1.0]))
  assert got == pytest.approx(math.exp(0.562335), rel=1e-5)


def test_effective_rank_does_not_count_the_mean():
  figures = health(normal() + 1000)
  assert figures['effective_rank_share'] > 0.99


def test_mean_cosine_by_hand():
  vectors = np.array([[1.0, 0], [0, 5], [-2, 0]])
  # The pairs have cosines 0, -1 and 0.
  assert feature_health.mean_cosine(vectors) == pytest.approx(-1 / 3)
  assert math.isnan(feature_health.mean_cosine(vectors[:1]))


def test_features_that_are_not_finite_have_no_health():
  tokens = normal(3, 4, 5)
  tokens[1, 2, 3] = np.inf
  assert all(math.isnan(value) for value in health(tokens).values())


def test_wrong_arrays_are_named():
  with pytest.raises(ValueError, match='want'):
    feature_health.health(np.zeros((2, 3, 4)), np.zeros((2, 5)))
  with pytest.raises(ValueError, match='not empty'):
    feature_health.health(np.zeros((0, 3, 4)), np.zeros((0, 4)))
