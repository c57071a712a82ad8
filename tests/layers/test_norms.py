"""Instance and batch normalisation against numbers computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from vidscenic.layers import norms


def test_instance_norm_statistics(normal, run):
  x = 100 + normal(2, 5, 4, 6)
  params = {'params': {'scale': jnp.ones(6), 'bias': jnp.zeros(6)}}
  y = np.asarray(run(norms.InstanceNorm(), params, x))
  np.testing.assert_allclose(y.mean((1, 2)), 0, atol=1e-4)
  np.testing.assert_allclose(y.std((1, 2)), 1, atol=1e-3)
  low = run(norms.InstanceNorm(dtype=jnp.bfloat16), params, x)
  assert low.dtype == jnp.bfloat16
  np.testing.assert_allclose(low.astype(jnp.float32), y, atol=0.02)


def train(module, variables, x, run):
  y, new = run(module, variables, x, train=True, mutable=['batch_stats'])
  return y, dict(variables, **new)


def test_batch_norm_follows_haiku_over_several_updates(run):
  # One channel with batches {0, 2}, {4, 4}, {-1, 3}: means 1, 4, 1 and biased
  # variances 1, 0, 4.
  module = norms.BatchNorm()
  batches = [
    np.array(b, np.float32)[:, None] for b in ([0, 2], [4, 4], [-1, 3])
  ]
  variables = module.init(jax.random.key(0), batches[0], train=True)
  stats = variables['batch_stats']
  assert stats['counter'] == 0 and stats['counter'].dtype == jnp.int32
  assert not stats['mean']['hidden'].any()
  want = [
    # mean hidden, mean average, var hidden, var average
    (0.1, 1.0, 0.1, 1.0),
    (0.49, 0.49 / 0.19, 0.09, 0.09 / 0.19),
    (0.541, 0.541 / 0.271, 0.481, 0.481 / 0.271),
  ]
  params = {'scale': jnp.array([2.0]), 'bias': jnp.array([5.0])}
  variables = dict(variables, params=params)
  for step, (batch, numbers) in enumerate(zip(batches, want, strict=True)):
    y, variables = train(module, variables, batch, run)
    stats = variables['batch_stats']
    got = [
      stats[name][part][0]
      for name in ('mean', 'var')
      for part in ('hidden', 'average')
    ]
    np.testing.assert_allclose(got, numbers, rtol=2e-6, err_msg=f'{step}')
    assert stats['counter'] == step + 1
    own = 2 * (batch - batch.mean()) / np.sqrt(batch.var() + 1e-5) + 5
    np.testing.assert_allclose(y, own, rtol=1e-5)
  _, mean, _, variance = want[-1]
  x = np.array([[0.5], [7.0]], np.float32)
  want = 2 * (x - mean) / np.sqrt(variance + 1e-5) + 5
  np.testing.assert_allclose(run(module, variables, x), want, rtol=1e-5)


def test_batch_norm_pools_all_axes_but_the_last(normal, run):
  x = 3 + normal(2, 3, 4, 5)
  module = norms.BatchNorm(decay=0.5)
  variables = module.init(jax.random.key(0), x)
  # An untrained model changes nothing in evaluation.
  np.testing.assert_allclose(run(module, variables, x), x, rtol=1e-5)
  _, variables = train(module, variables, x, run)
  stats = variables['batch_stats']
  np.testing.assert_allclose(
    stats['mean']['average'], np.mean(x, (0, 1, 2)), rtol=1e-5
  )
  np.testing.assert_allclose(
    stats['var']['average'], np.var(x, (0, 1, 2)), rtol=1e-4
  )


def test_batch_norm_keeps_float32_statistics_in_half_precision(normal, run):
  x = normal(64, 3).astype(jnp.bfloat16)
  module = norms.BatchNorm(dtype=jnp.bfloat16)
  variables = module.init(jax.random.key(0), x)
  y, variables = train(module, variables, x, run)
  assert y.dtype == jnp.bfloat16
  stats = variables['batch_stats']
  assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {
    jnp.dtype('float32'),
    jnp.dtype('int32'),
  }
  wide = np.asarray(x.astype(jnp.float32))
  np.testing.assert_allclose(stats['mean']['average'], wide.mean(0), atol=1e-6)
