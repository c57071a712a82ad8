"""Average precision by hand, with ties, and against a slow definition."""

import numpy as np
import pytest

from vidscenic.evaluation import average_precision as ap


@pytest.mark.parametrize(
  ('scores', 'labels', 'want'),
  [
    ([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0], (1 + 2 / 3) / 2),
    ([0.1, 0.2, 0.3], [1, 0, 0], 1 / 3),
    ([3, 2, 1], [1, 1, 1], 1),
    # The example of scikit-learn's documentation.
    ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.8333333333),
    # Equal scores come in together: 1 of 2, then 2 of 3.
    ([0.5, 0.5, 0.2], [1, 0, 1], 0.5 * (1 / 2) + 0.5 * (2 / 3)),
    ([0.5, 0.5, 0.2], [0, 1, 1], 0.5 * (1 / 2) + 0.5 * (2 / 3)),
    ([0, 0, 0, 0], [1, 0, 0, 0], 1 / 4),
    ([-np.inf, np.inf], [0, 1], 1),
  ],
)
def test_by_hand(scores, labels, want):
  got = ap.average_precision(np.array(scores), np.array(labels))
  assert got == pytest.approx(want)


def slowly(scores, labels):
  """Threshold by threshold."""
  total, area, recall = labels.sum(), 0.0, 0.0
  for threshold in sorted(set(scores), reverse=True):
    taken = scores >= threshold
    now = labels[taken].sum() / total
    area += (now - recall) * labels[taken].mean()
    recall = now
  return area


def test_equals_the_definition():
  rng = np.random.default_rng(0)
  for _ in range(20):
    scores = rng.integers(0, 9, 40) / 8.0
    labels = rng.integers(0, 2, 40)
    got = ap.average_precision(scores, labels)
    assert got == pytest.approx(slowly(scores, labels), abs=1e-12)


def test_mean_leaves_out_classes_without_an_example():
  scores = np.array([[0.9, 0.5, 0.1], [0.1, 0.4, 0.2]])
  labels = np.array([[1, 0, 0], [0, 0, 1]])
  mean, each = ap.mean_average_precision(scores, labels)
  np.testing.assert_array_equal(each, [1, np.nan, 1])
  assert mean == 1
  assert np.isnan(ap.mean_average_precision(scores, labels * 0)[0])


def test_wrong_arrays_are_named():
  with pytest.raises(ValueError, match='same shape'):
    ap.mean_average_precision(np.zeros((2, 3)), np.zeros((2, 4)))
  with pytest.raises(ValueError, match='0 or 1'):
    ap.average_precision(np.zeros(2), np.array([0.5, 1]))
  with pytest.raises(ValueError, match='1 scores are NaN'):
    ap.average_precision(np.array([0, np.nan]), np.array([0, 1]))
