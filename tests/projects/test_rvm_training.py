"""Training of synthetic_tiny.py: devices, rematerialisation, resuming."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from projects.rvm.configs import synthetic_tiny
from tests.projects import rvm_small as small
from vidscenic import config as vc
from vidscenic.data import pipeline
from vidscenic.train import sharding

STEPS, ROWS = 10, 8
# Less to compile.
SMALLER = dict(
  width=16,
  depth=1,
  num_heads=2,
  mlp_features=24,
  core_heads=2,
  core_mlp_features=24,
  decoder_width=16,
  decoder_depth=1,
  decoder_heads=2,
  decoder_mlp_features=24,
)
CONFIG = synthetic_tiny.get_config()


def batches(start, count):
  iterator = pipeline.make_train_iter(
    CONFIG.data.train, batch_size=ROWS, seed=0, start=start
  )
  result = [next(iterator) for _ in range(count)]
  iterator.close()
  return result


@functools.cache
def data():
  return batches(0, STEPS)


def make_task(remat):
  kwargs = vc.plain(CONFIG.task.kwargs)
  kwargs['model'] |= SMALLER | {'remat': remat}
  return vc.build(CONFIG.task.factory, **kwargs)


def random_params(task):
  """Values of the size that fresh ones have, in a moment."""
  shapes, _ = jax.eval_shape(task.init, jax.random.key(0), data()[0])
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: jnp.asarray(0.2 * rng.standard_normal(s.shape), s.dtype), shapes
  )


def train(num_devices, remat):
  """(losses, parameters) of ten steps of plain gradient descent."""
  task = make_task(remat)
  mesh = sharding.make_mesh(
    {'data': num_devices, 'fsdp': 1, 'model': 1}, jax.devices()[:num_devices]
  )

  @small.compiled
  def gradient(params, batch, step):
    def loss(params):
      context = small.context(ROWS, train=True)
      context = context._replace(rng=jax.random.fold_in(context.rng, step))
      total, weight, _ = task.loss(params, {}, batch, context).terms['mse']
      return total / weight

    loss, grads = jax.value_and_grad(loss)(params)
    return loss, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

  params = jax.device_put(random_params(task), sharding.replicated(mesh))
  losses = []
  for step, batch in enumerate(data()):
    batch = jax.device_put(batch, sharding.batch_sharding(mesh))
    loss, params = gradient(params, batch, jnp.int32(step))
    losses.append(float(loss))
  return np.array(losses), jax.device_get(params)


def test_devices_and_remat_change_nothing():
  want_losses, want = train(1, 'none')
  losses, params = train(8, 'full')
  np.testing.assert_allclose(losses, want_losses, rtol=1e-5)
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert np.ptp(losses) > 0.01  # they have something to agree on


def test_gaps_and_frames_go_on_where_a_run_stopped():
  for batch, want in zip(batches(4, 2), data()[4:6], strict=True):
    for name in ('frame_ids', 'video'):
      np.testing.assert_array_equal(batch[name], want[name])
  gaps = np.concatenate([batch['frame_ids'][:, 4:] - 3 for batch in data()])
  assert set(gaps.ravel()) == {2, 3, 4, 5, 6}
