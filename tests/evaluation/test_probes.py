"""Nearest neighbours and linear probe against slow and known answers."""

import numpy as np
import pytest

from vidscenic.evaluation import probes


def clusters(count, classes=4, width=6, noise=0.3, seed=0):
  """Features around one centre per class; the centres are always the same."""
  centres = np.random.default_rng(9).normal(size=(classes, width))
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes, count)
  features = centres[labels] + noise * rng.normal(size=(count, width))
  return features.astype(np.float32), labels


def slow_votes(bank, labels, query, k, temperature):
  cosine = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
  votes = np.zeros(4)
  for i in np.argsort(-cosine)[:k]:
    votes[labels[i]] += np.exp(cosine[i] / temperature)
  return votes


def test_votes_are_weighted_with_the_cosine():
  bank, labels = clusters(60, noise=2.0)
  queries, _ = clusters(300, noise=2.0, seed=1)  # more than one chunk
  scores = probes.knn_scores(
    bank, labels, queries, k=(5, 1, 60), num_classes=4, temperature=0.5
  )
  assert scores.shape == (3, 300, 4)
  for k, each in zip((5, 1, 60), scores, strict=True):
    want = [slow_votes(bank, labels, query, k, 0.5) for query in queries]
    np.testing.assert_allclose(each, want, rtol=1e-4)


def test_length_of_features_does_not_matter():
  bank, labels = clusters(60, noise=2.0)
  queries, _ = clusters(20, noise=2.0, seed=1)
  kwargs = dict(k=(5,), num_classes=4)
  want = probes.knn_scores(bank, labels, queries, **kwargs)
  long = bank * np.arange(1, 61)[:, None]
  got = probes.knn_scores(long, labels, queries * 9, **kwargs)
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_k_beyond_the_bank_is_refused():
  bank, labels = clusters(8)
  for k in ((9,), (0,), ()):
    with pytest.raises(ValueError, match='want numbers in'):
      probes.knn_scores(bank, labels, bank, k=k, num_classes=4)


def linear(features, labels, queries, **kwargs):
  return probes.linear_scores(
    features, labels, queries, num_classes=4, **kwargs
  )


def test_linear_probe_separates_classes_that_a_plane_separates():
  features, labels = clusters(200)
  queries, wanted = clusters(100, seed=1)
  scores, _ = linear(features, labels, queries)
  assert np.mean(scores.argmax(-1) == wanted) == 1


def test_linear_probe_is_at_the_minimum():
  features, labels = clusters(200, noise=1.0)
  scores, l2 = linear(features, labels, features, l2=(0.01,))
  assert l2 == 0.01
  # At the minimum the gradient is 0: with standardised features x, kernel W
  # and probabilities p, mean x (p - y) + l2 W = 0, and mean (p - y) = 0.
  x = (features - features.mean(0)) / features.std(0)
  p = np.exp(scores - scores.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  error = p - np.eye(4)[labels]
  kernel, *_ = np.linalg.lstsq(x, scores - scores.mean(0), rcond=None)
  np.testing.assert_allclose(error.mean(0), 0, atol=1e-4)
  np.testing.assert_allclose(x.T @ error / len(x), -0.01 * kernel, atol=2e-4)


def test_scale_and_dead_dimensions_of_features_do_not_matter():
  features, labels = clusters(200, noise=1.0)
  want, _ = linear(features, labels, features, l2=(0.01,))
  changed = np.concatenate([features * 100 + 7, np.full((200, 1), 5.0)], axis=1)
  got, _ = linear(changed.astype(np.float32), labels, changed, l2=(0.01,))
  np.testing.assert_allclose(got, want, atol=0.01)


def test_penalty_is_chosen_on_held_out_examples():
  # Labels are noise: the more penalty the better.
  rng = np.random.default_rng(0)
  features = rng.normal(size=(200, 6)).astype(np.float32)
  labels = rng.integers(0, 4, 200)
  _, l2 = linear(features, labels, features, l2=(1e-4, 10.0, 1e-2))
  assert l2 == 10.0
  with pytest.raises(ValueError, match='l2 is empty'):
    linear(features, labels, features, l2=())
