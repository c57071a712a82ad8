"""Patches of an image cover it once, and blend what they say."""

import jax.numpy as jnp
import numpy as np
import pytest

from projects.perceiver import tiling
from tests.parity import quick

PATCH = (368, 496)


def test_sintel_has_the_published_patches():
  assert tiling.starts(436, 368) == [0, 68]
  assert tiling.starts(1024, 496) == [0, 476, 528]


@pytest.mark.parametrize('extra', range(0, 61))
def test_every_size_is_covered_by_patches_inside_it(extra):
  # From one patch to the remainders where the demonstration's patches leave
  # the image (1 to 19) or are there twice (20).
  for size in (368 + extra, 706 + extra):
    starts = tiling.starts(size, 368)
    assert len(set(starts)) == len(starts)
    assert starts == sorted(starts)
    assert starts[0] == 0 and starts[-1] == size - 368
    assert all(b - a <= 348 for a, b in zip(starts, starts[1:], strict=False))


def test_weights_are_the_distance_to_the_border():
  np.testing.assert_array_equal(
    tiling.weights((3, 5)),
    [[1, 1, 1, 1, 1], [1, 2, 2, 2, 1], [1, 1, 1, 1, 1]],
  )


def test_patches_of_an_image_give_the_image():
  rng = np.random.default_rng(0)
  video = rng.standard_normal((3, 2, 11, 17, 2)).astype(np.float32)
  first = lambda patch: patch[:, 0]
  run = quick.jit(lambda video: tiling.blend(first, video, (6, 8), 2))
  np.testing.assert_allclose(run(video), video[:, 0], atol=1e-6)


def test_seams_are_blended_linearly():
  # Two patches, of which one says 0 and the other 1, share two columns.
  video = np.zeros((1, 1, 5, 6, 2), np.float32)
  video[:, :, 0, 2] = 1
  corner = lambda patch: jnp.broadcast_to(patch[:, 0, :1, :1], (1, 5, 4, 2))
  run = quick.jit(lambda video: tiling.blend(corner, video, (5, 4), 2))
  middle = run(video)[0, 2]
  want = [0, 0, 1 / 3, 2 / 3, 1, 1]
  np.testing.assert_allclose(middle, np.stack([want, want], -1), rtol=1e-6)


def test_image_smaller_than_a_patch_is_refused_with_the_remedy():
  with pytest.raises(ValueError, match='300 pixels .* patch of 368: enlarge'):
    tiling.corners((300, 600), PATCH)
  with pytest.raises(ValueError, match='min_overlap=368'):
    tiling.corners((400, 600), PATCH, 368)
