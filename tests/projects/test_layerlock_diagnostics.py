"""Alarms of a training run that goes wrong, and none of one that does not."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.layerlock import diagnostics, vjepa
from tests.projects import test_layerlock_training as training
from tests.projects import test_layerlock_vjepa
from vidscenic import config as vc
from vidscenic.train import sharding
from vidscenic.train import state as state_lib


def make_evaluator(task, mesh):
  data = vc.data_spec(
    source=f'{training.__name__}:Clips', transform='benchmarks.tiny:Identity'
  )
  evaluator = diagnostics.Diagnostics(
    task, mesh, data=data, batch_size=16, limit=32, tokens_per_clip=4
  )
  evaluator.bind('evals.health', {})
  return evaluator


@pytest.fixture(scope='module')
def evaluation():
  """(evaluator, state) in the second stage, with one frozen block."""
  run = training.run_on_one_device()
  return make_evaluator(run.task, run.mesh), run.fresh_state()


def alarms(evaluator, state, step, caplog):
  caplog.clear()
  with caplog.at_level(logging.WARNING):
    figures, _ = evaluator.run(state, step)
  texts = [r.message for r in caplog.records if 'alarm' in r.message]
  assert figures['alarms'] == len(texts)
  return figures, '\n'.join(texts)


def test_alarms(evaluation, caplog):
  evaluator, state = evaluation
  first, texts = alarms(evaluator, state, 4, caplog)
  assert not any(word in texts for word in ('moves', 'changed', 'place'))
  # One block of noise behind noise: nothing is explained by the place, and a
  # fresh head predicts worse than the mean.
  assert first['frozen/input_variance_share'] > 0.8
  assert first['latent_nmse'] > 0.5
  assert 'update_ratio/1' not in first

  # Unchanged, then changed though frozen.
  same, _ = alarms(evaluator, state, 5, caplog)
  assert same['update_ratio/1'] == same['update_ratio/2'] == 0.0
  assert same['target_std'] == first['target_std']
  block = state.params['backbone']['transformer']['block_0']
  doubled = jax.tree.map(lambda x: 2 * x, block)
  stack = state.params['backbone']['transformer'] | {'block_0': doubled}
  params = state.params | {
    'backbone': state.params['backbone'] | {'transformer': stack}
  }
  moved, texts = alarms(evaluator, state._replace(params=params), 6, caplog)
  np.testing.assert_allclose(moved['update_ratio/1'], 0.5, rtol=1e-5)
  assert 'block 1 is frozen but changed' in texts
  assert 'the target of block 1 moves' in texts

  # An embedding that sees nothing: every clip gives the same features.
  projection = params['backbone']['embedding']['projection']
  blind = {
    'kernel': jnp.zeros_like(projection['kernel']),
    'bias': jnp.arange(16.0),
  }
  params = params | {
    'backbone': params['backbone'] | {'embedding': {'projection': blind}}
  }
  dead, texts = alarms(evaluator, state._replace(params=params), 7, caplog)
  assert dead['end/input_variance_share'] < 1e-6
  for part in ('place in the clip alone', 'look alike', 'halved'):
    assert part in texts


def test_probe_is_fitted_to_every_other_clip():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, 80)
  features = np.eye(3)[labels] + 0.1 * rng.standard_normal((80, 3))
  assert diagnostics._probe(features.astype(np.float32), labels) == 1.0


def test_vjepas_first_target_may_move_and_later_ones_may_not(caplog):
  """Its loss is absolute, and so is what latent_nmse divides it by."""
  task = vjepa.MaskedLatents(
    clip=(2, 16, 16),
    model=test_layerlock_vjepa.SMALL,
    masks=({'num_blocks': 1, 'area': 0.5},),
    layerlock=dict(freeze_start_step=2, freeze_interval=9, max_frozen_layers=1),
  )
  mesh = sharding.make_mesh({'data': 1, 'fsdp': 1, 'model': 1},
                            jax.devices()[:1])  # fmt: skip
  evaluator = make_evaluator(task, mesh)
  spec = {'video': jnp.zeros((1, 2, 16, 16, 3), jnp.uint8)}
  shapes, _ = jax.eval_shape(task.init, jax.random.key(0), spec)
  rng = np.random.default_rng(0)
  params, teacher = (
    jax.tree.map(
      lambda s: jnp.asarray(0.2 * rng.standard_normal(s.shape), s.dtype),
      shapes,
    )
    for _ in range(2)
  )
  state = state_lib.TrainState(jnp.int32(0), 0, params, (), {}, teacher, 0)
  moved = state._replace(
    ema_params=jax.tree.map(lambda x: 1.5 * x + 0.01, teacher)
  )
  first, _ = alarms(evaluator, state, 1, caplog)
  assert 0 < first['latent_nmse'] < 10
  _, texts = alarms(evaluator, moved, 2, caplog)
  assert 'moves' not in texts
  alarms(evaluator, state, 3, caplog)
  _, texts = alarms(evaluator, moved, 4, caplog)
  assert 'the target of block 1 moves' in texts
