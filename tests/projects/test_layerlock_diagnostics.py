"""Alarms of a training run that goes wrong, and none of one that does not."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.layerlock import diagnostics
from tests.projects import test_layerlock_training as training
from vidscenic import config as vc


@pytest.fixture(scope='module')
def evaluation():
  """(evaluator, state) in the second stage, with one frozen block."""
  run = training.run_on_one_device()
  data = vc.data_spec(
    source=f'{training.__name__}:Clips', transform='benchmarks.tiny:Identity'
  )
  evaluator = diagnostics.Diagnostics(
    run.task, run.mesh, data=data, batch_size=16, limit=32, tokens_per_clip=4
  )
  evaluator.bind('evals.health', {})
  return evaluator, run.fresh_state()


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
