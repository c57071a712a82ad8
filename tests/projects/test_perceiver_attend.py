"""Cross-attention: chunks of queries and keys, and masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.perceiver import attend
from tests.parity import quick
from tests.projects import perceiver_small


@functools.cache
def read(masked, **chunks):
  """((_, what CrossAttend gives), gradients) for 9 queries and 30 inputs."""
  queries, inputs = (
    perceiver_small.normal(2, 9, 6),
    perceiver_small.normal(2, 30, 10, seed=2),
  )
  masks = {}
  if masked:
    rng = np.random.default_rng(0)
    input_mask = rng.random((2, 30)) < 0.5
    input_mask[1] = False  # nothing may be read
    masks = {
      'input_mask': jnp.asarray(input_mask),
      'query_mask': jnp.asarray(rng.random((2, 9)) < 0.5),
    }
  module = attend.CrossAttend(
    6, 10, num_heads=2, qk_channels=8, v_channels=4, **chunks
  )

  def loss(variables, queries, inputs):
    out = module.apply(variables, queries, inputs, **masks)
    return jnp.sum(out**3), out

  return quick.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(
    perceiver_small.init(module, queries, inputs), queries, inputs
  )


@pytest.mark.parametrize(
  ('chunks', 'masked'),
  [
    ({'query_chunk': 4}, True),
    ({'key_chunk': 8}, True),  # 30 inputs: chunks of 6,
    ({'key_chunk': 7}, False),  # of 7 with padding
  ],
)
def test_chunks_change_neither_result_nor_gradient(chunks, masked):
  (_, want), want_grads = read(masked)
  (_, got), got_grads = read(masked, **chunks)
  np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)
  for a, b in zip(
    jax.tree.leaves(got_grads), jax.tree.leaves(want_grads), strict=True
  ):
    # float32 and another order of sums.
    np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()) + 1e-5)


def test_query_that_may_read_nothing_still_gets_the_output_bias():
  module = attend.CrossAttend(4, 4, use_query_residual=False)
  queries, inputs = (
    perceiver_small.normal(1, 2, 4),
    perceiver_small.normal(1, 3, 4),
  )
  variables = perceiver_small.init(module, queries, inputs)
  mask = jnp.array([[True, False]])

  @quick.jit
  def run(variables):
    return (
      module.apply(variables, queries, inputs, query_mask=mask),
      module.apply(
        variables, queries[:, 1:], jnp.zeros((1, 1, 1, 4)), method='finish'
      ),
    )

  out, want = run(variables)
  np.testing.assert_allclose(out[:, 1:], want, atol=1e-6)
  params = variables['params']
  params['cross_attention']['out']['bias'] += 1
  assert np.abs(run(variables)[0][:, 1:] - out[:, 1:]).min() > 1e-3
