"""Principal components of a stream of features, and their colours."""

import warnings

import numpy as np
import pytest

from vidscenic.viz import features


def planted(seed=0, shape=(7, 9, 11), channels=24, noise=0.01):
  """Features in a 3-D subspace: (features, basis float[C, 3])."""
  rng = np.random.default_rng(seed)
  basis = np.linalg.qr(rng.normal(size=(channels, 3)))[0]
  weights = rng.normal(size=(*shape, 3)) * (9, 4, 2)
  values = weights @ basis.T + rng.normal(size=channels) * 50
  return values + noise * rng.normal(size=(*shape, channels)), basis


def fitted(values, cuts=(), **kwargs):
  pca = features.FeaturePca(**kwargs)
  for part in np.split(values, cuts):
    pca.update(part)
  pca.finish()
  return pca


def test_planted_subspace_is_found_in_order():
  values, basis = planted()
  pca = fitted(values)
  # Each component is its planted direction up to its sign.
  assert np.abs(np.diag(pca.components.T @ basis)).min() > 0.99
  overlap = np.linalg.svd(pca.components.T @ basis)[1]
  np.testing.assert_allclose(overlap, 1, atol=1e-4)
  shares = np.array([81, 16, 4]) / 101
  np.testing.assert_allclose(pca.explained, shares, atol=0.03)


def test_mean_and_components_equal_those_of_the_whole_array():
  values, _ = planted(noise=1.0)
  pca, flat = fitted(values, cuts=(1, 2, 5)), values.reshape(-1, 24)
  np.testing.assert_allclose(pca.mean, flat.mean(0), rtol=1e-12)
  vectors = np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:3].T
  np.testing.assert_allclose(
    np.abs((pca.components * vectors).sum(0)), 1, atol=1e-6
  )


@pytest.mark.parametrize('cuts', [(1,), (3, 4), range(1, 7)])
def test_colors_do_not_depend_on_the_cuts(cuts, monkeypatch):
  # A sample smaller than the features, so that it must choose.
  monkeypatch.setattr(features, '_SAMPLE', 100)
  values, _ = planted()
  whole, parts = fitted(values), fitted(values, cuts)
  difference = whole.colors(values).astype(int) - parts.colors(values)
  assert np.abs(difference).max() <= 1  # rounding of sums
  assert len(parts._sample) == 100


def test_blocks_of_one_update_do_not_matter(monkeypatch):
  values, _ = planted()
  whole = fitted(values)
  monkeypatch.setattr(features, '_BLOCK', 10)
  blocks = fitted(values)
  np.testing.assert_allclose(blocks.components, whole.components, atol=1e-6)


def test_sign_is_fixed_by_the_greatest_entry():
  pca = fitted(planted()[0], components=5)
  greatest = np.abs(pca.components).argmax(0)
  assert (pca.components[greatest, range(5)] > 0).all()
  np.testing.assert_allclose(
    pca.components.T @ pca.components, np.eye(5), atol=1e-9
  )


def test_range_is_from_the_1st_to_the_99th_percentile():
  values, _ = planted()
  pca = fitted(values)
  scores = pca.project(values).reshape(-1, 3)
  got = pca.colors(values).reshape(-1, 3).astype(int)
  low, high = np.percentile(scores, (1, 99), axis=0)
  want = np.rint(np.clip((scores - low) / (high - low), 0, 1) * 255)
  assert np.abs(got - want).max() <= 1


def test_sample_is_even_over_the_stream(monkeypatch):
  monkeypatch.setattr(features, '_SAMPLE', 500)
  pca = features.FeaturePca(components=1)
  for start in range(0, 20_000, 100):
    pca.update(np.arange(start, start + 100.0)[:, None])
  counts = np.histogram(pca._sample[:, 0], bins=10, range=(0, 20_000))[0]
  # 50 each; 5 standard deviations of a binomial.
  assert len(pca._sample) == 500
  np.testing.assert_allclose(counts, 50, atol=34)


def test_outlier_does_not_flatten_the_colors():
  values, basis = planted()
  values[0, 0, 0] += 500 * basis[:, 0]
  red = fitted(values).colors(values)[..., 0]
  # Between least and greatest value all others would share 30 levels.
  assert np.percentile(red, 95) - np.percentile(red, 5) > 150


def test_features_that_are_not_finite_are_black_and_left_out():
  values, _ = planted()
  clean = fitted(values)
  spoilt = np.concatenate([values, values[:1] * np.nan])
  spoilt[7, 0, 0] = np.inf
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    pca = fitted(spoilt)
    got = pca.colors(spoilt)
    assert not pca.foreground(spoilt)[7].any()
  np.testing.assert_allclose(pca.components, clean.components, atol=1e-9)
  assert not got[7].any()
  assert np.abs(got[:7].astype(int) - clean.colors(values)).max() <= 1


def test_constant_features_are_grey():
  values = np.full((2, 3, 5), 4.0)
  assert (fitted(values).colors(values) == 128).all()


def test_foreground_splits_two_groups():
  rng = np.random.default_rng(0)
  thing = rng.random((4, 8, 8)) < 0.3
  values = rng.normal(size=(4, 8, 8, 6)) + 20 * thing[..., None]
  got = fitted(values).foreground(values)
  # All channels move together, so the sign rule makes the thing positive.
  np.testing.assert_array_equal(got, thing)
  assert not fitted(values).foreground(values, threshold=5.0).any()


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: features.FeaturePca(0), 'at least 1'),
    (lambda: features.FeaturePca().update(np.zeros((4, 2))), 'got 2'),
    (lambda: features.FeaturePca().finish(), r'call update\(\)'),
    (lambda: fitted(np.full((4, 3), np.nan)), 'no finite features'),
    (lambda: features.FeaturePca().colors(np.zeros(3)), r'call finish\(\)'),
    (lambda: fitted(np.eye(4), components=2).colors(np.eye(4)), 'got 2'),
  ],
)
def test_misuse_is_told(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_update_after_finish_needs_another_finish():
  values, _ = planted()
  pca = fitted(values)
  with pytest.raises(ValueError, match='got 5 channels after 24'):
    pca.update(np.zeros((2, 5)))
  pca.update(values)
  with pytest.raises(ValueError, match=r'call finish\(\)'):
    pca.project(values)
