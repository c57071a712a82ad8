"""Patch embedding against a convolution, and gathered patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.layers import patches
from vidscenic.ops import video as video_ops


@pytest.mark.parametrize('patch', [(2, 4, 3), (1, 2, 2)])
def test_embedding_equals_a_convolution(normal, random, run, patch):
  video = normal(2, 4, 8, 6, 3)
  module = patches.PatchEmbedding(5, patch)
  params = random(module, video)
  projection = params['params']['projection']
  assert projection['kernel'].shape == (*patch, 3, 5)
  want = jax.lax.conv_general_dilated(
    video, projection['kernel'], patch, 'VALID',
    dimension_numbers=('NTHWC', 'THWIO', 'NTHWC'),
  )  # fmt: skip
  got = run(module, params, video)
  np.testing.assert_allclose(got, want + projection['bias'], atol=1e-5)


def test_gathered_patches_get_the_same_tokens(normal, random, run):
  video = normal(2, 4, 8, 6, 3)
  module = patches.PatchEmbedding(5, (2, 4, 3))
  params = random(module, video)
  tokens = run(module, params, video).reshape(2, 8, 5)
  vectors = video_ops.patchify(video, (2, 4, 3)).reshape(2, 8, -1)
  ids = jnp.array([6, 1, 3])
  got = run(module, params, vectors[:, ids], method='embed_patches')
  np.testing.assert_allclose(got, tokens[:, ids], atol=1e-6)


def test_frames_may_have_more_leading_axes(normal, random, run):
  video = normal(2, 3, 1, 4, 6, 3)
  module = patches.PatchEmbedding(5, (1, 2, 2))
  params = random(module, video)
  got = run(module, params, video)
  assert got.shape == (2, 3, 1, 2, 3, 5)
  np.testing.assert_allclose(
    got[1, 2], run(module, params, video[1, 2]), atol=1e-6
  )


def test_start_has_the_fans_of_a_matrix(normal):
  # A convolution's xavier would count D * 2 * 4 * 3 outputs.
  module = patches.PatchEmbedding(
    40, (2, 4, 3), kernel_init=jax.nn.initializers.xavier_uniform()
  )
  params = module.init(jax.random.key(0), normal(1, 2, 4, 3, 3))
  kernel = params['params']['projection']['kernel']
  limit = np.sqrt(6 / (2 * 4 * 3 * 3 + 40))
  assert 0.98 * limit < np.abs(kernel).max() <= limit


def test_sizes_that_do_not_fit_are_errors(normal, shapes):
  module = patches.PatchEmbedding(5, (2, 4, 3))
  with pytest.raises(ValueError, match='multiple'):
    shapes(module, normal(1, 3, 8, 6, 3))
