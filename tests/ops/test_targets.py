"""What masked models predict; the goldens of MaskFeat test the values too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.ops import targets


def test_pixels_are_patch_vectors_in_token_order():
  video = np.random.default_rng(0).random((2, 4, 4, 6, 3), np.float32)
  got = targets.pixels(video, (2, 2, 3))
  np.testing.assert_array_equal(got[1, 3], video[1, :2, 2:, 3:].reshape(-1))
  normed = targets.pixels(video, (2, 2, 3), norm='patch')
  np.testing.assert_allclose(normed.mean(-1), 0, atol=1e-5)
  np.testing.assert_allclose(normed.std(-1, ddof=1), 1, atol=1e-3)


def test_boxes_shrink_to_their_mean():
  video = np.arange(32.0).reshape(1, 2, 4, 4, 1)
  got = targets.shrink(video, (2, 2, 4))
  np.testing.assert_allclose(got[0, 0, :, 0, 0], [11.5, 19.5])
  gradient = jax.grad(lambda v: targets.shrink(v, (2, 2, 4)).sum())(
    jnp.asarray(video)
  )
  assert not gradient.any()


def test_edges_vote_for_their_direction():
  # A step from left to right: gx alone, and atan2(gx, 0) is half a pi.
  frame = np.zeros((16, 16, 1), np.float32)
  frame[:, 12:] = 1
  cells = np.asarray(targets.hog_cells(frame))
  assert cells.shape == (1, 9, 2, 2)
  # The step is within the right column of cells: gx < 0 gives bin
  # floor(-0.5 * 9) mod 9 = 4, the same as for the opposite step.
  np.testing.assert_allclose(cells[0, :, :, 1].T, [np.eye(9)[4]] * 2)
  np.testing.assert_allclose(cells[0, :, :, 0], 0)
  np.testing.assert_allclose(targets.hog_cells(1 - frame), cells)
  # Turned by a quarter, gx = 0.
  turned = np.asarray(targets.hog_cells(frame.transpose(1, 0, 2)))
  assert turned[0, [0, 8], 1].sum() == 2  # rounding decides which of the two


def test_hog_looks_at_one_frame_of_every_token():
  video = np.random.default_rng(0).random((1, 4, 16, 32, 3), np.float32)
  got = targets.hog(video, (2, 16, 16))
  assert got.shape == (1, 4, 108)
  changed = video.copy()
  changed[:, 1::2] = 0
  np.testing.assert_array_equal(targets.hog(changed, (2, 16, 16)), got)
  # Order: colour, bin, row and column of cells.
  cells = targets.hog_cells(video[0, 2])
  want = cells[:, :, :, 2:].reshape(-1)
  np.testing.assert_allclose(got[0, 3], want, atol=1e-6)
  with pytest.raises(ValueError, match='no whole cells'):
    targets.hog(video, (2, 4, 16))


def test_features_are_normalised_without_gradient():
  x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (2, 5, 64)))
  got = targets.features(x, norm='layernorm')
  np.testing.assert_allclose(got.mean(-1), 0, atol=1e-5)
  np.testing.assert_allclose(got.std(-1), 1, atol=1e-4)
  np.testing.assert_array_equal(targets.features(x), x.astype(jnp.float32))
  gradient = jax.grad(lambda v: targets.features(v, norm='layernorm').sum())(x)
  assert not gradient.any()
  with pytest.raises(ValueError, match="norm='batch'"):
    targets.features(x, norm='batch')
