"""Patches of an image cover it once, and blend what they say."""

import numpy as np
import pytest

from projects.perceiver import tiling

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
  image = rng.standard_normal((2, 11, 17, 2)).astype(np.float32)
  places = tiling.corners((11, 17), (6, 8), 2)
  tiles = [image[:, y : y + 6, x : x + 8] for y, x in places]
  np.testing.assert_allclose(
    tiling.stitch(tiles, places, (11, 17)), image, atol=1e-6
  )


def test_seams_are_blended_linearly():
  tiles = [np.full((1, 1, 4, 1), value) for value in (0.0, 1.0)]
  out = tiling.stitch(tiles, [(0, 0), (0, 2)], (1, 6))
  np.testing.assert_allclose(out.ravel(), [0, 0, 0.5, 0.5, 1, 1])


def test_image_smaller_than_a_patch_is_refused_with_the_remedy():
  with pytest.raises(ValueError, match='300 pixels .* patch of 368: enlarge'):
    tiling.corners((300, 600), PATCH)
  with pytest.raises(ValueError, match='min_overlap=368'):
    tiling.corners((400, 600), PATCH, 368)
