"""What a config builds: shapes, placements, several streams, initial values."""

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import pytest

from tests.train import tiny, tiny_config
from vidscenic import config as vc
from vidscenic import task as task_lib
from vidscenic.train import run as run_lib


class TwoStreams(task_lib.Task):
  """The slope of y over x from one stream, a penalty from the other."""

  def batch_spec(self):
    x = jax.ShapeDtypeStruct((8,), jnp.float32)
    y = jax.ShapeDtypeStruct((), jnp.float32)
    return {'labelled': {'x': x, 'y': y}, 'plain': {'x': x}}

  def init(self, rng, batch):
    return {'slope': jnp.ones(batch['plain']['x'].shape[-1])}, {'seen': 0.0}

  def loss(self, params, model_state, batch, ctx):
    labelled, plain = batch['labelled'], batch['plain']
    assert ctx.rows['labelled'].shape == labelled['y'].shape
    error = labelled['x'] @ params['slope'] - labelled['y']
    spread = plain['x'] @ params['slope']
    terms = {
      'fit': (jnp.sum(error**2), labelled['mask'].sum(), 1.0),
      'size': (jnp.sum(jnp.abs(spread)), plain['mask'].sum(), 0.25),
    }
    rows = sum(jnp.sum(r * 1.0) for r in jax.tree.leaves(ctx.rows))
    return task_lib.LossOut(
      terms, {'rows': (rows, 1.0)}, {'seen': model_state['seen'] + 1}
    )


class WithBackbone(tiny.Regression):
  """The first layer is never trained."""

  def never_trained(self):
    return ('^layer0/',)


def make_weights(path, target, *, params, rules, ignore, scale=2.0):
  """An init_from factory: fills the second layer."""
  assert (path, params, ignore) == ('weights', 'params', ())
  assert rules == (('(.*)', r'\1'),)
  layer = target['layer1']
  return {
    'layer1': {
      'kernel': jax.device_put(
        np.full(layer['kernel'].shape, scale, np.float32),
        layer['kernel'].sharding,
      )
    }
  }


def make_all_weights(path, target, model_state=None):
  """An init_from factory that gives batch statistics too."""
  params = {'slope': np.full(target['slope'].shape, 3.0, np.float32)}
  state = {'seen': np.full(model_state['seen'].shape, 7.0, np.float32)}
  return params, state


def make_slope_only(path, target):
  return {'slope': np.full(target['slope'].shape, 3.0, np.float32)}


class NeverInitialized(TwoStreams):
  """Its init may be asked for shapes only."""

  def init(self, rng, batch):
    def fail(value):
      raise AssertionError('initialized although everything was imported')

    params, state = super().init(rng, batch)
    jax.debug.callback(fail, params['slope'])
    return params, state


def streams(labelled, plain):
  part = dict(
    source='tests.train.tiny:Numbers', transform='tests.train.tiny:Jitter'
  )
  return vc.data_spec(
    streams={
      'labelled': {**part, 'batch_size': labelled},
      'plain': {**part, 'batch_size': plain},
    }
  )


def assert_as_described(state, shapes):
  assert jax.tree.structure(state) == jax.tree.structure(shapes)
  for leaf, want in zip(
    jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True
  ):
    assert (leaf.shape, leaf.dtype) == (want.shape, want.dtype)
    assert leaf.sharding.is_equivalent_to(want.sharding, leaf.ndim)


@pytest.mark.parametrize(
  'changes',
  [
    {},
    {'mesh__fsdp': 8, 'sharding': (('.*', 'fsdp'),), 'ema__decay': 0.9},
    {'task__factory': f'{__name__}:WithBackbone', 'ema__decay': 0.9},
  ],
)
def test_fresh_state_is_as_described(changes):
  run = run_lib.Run(tiny_config.changed(**changes))
  state = run.fresh_state()
  assert_as_described(state, run.state_shapes)
  assert int(state.step) == int(state.skipped) == int(state.bad_steps) == 0
  if state.ema_params is not None:
    for name in state.ema_params:
      np.testing.assert_array_equal(
        state.ema_params[name]['kernel'], state.params[name]['kernel']
      )
  trained = 'layer0' not in str(jax.tree.structure(state.opt_state))
  assert trained == (run.optimizer.never_trained == ('^layer0/',))


def test_initial_weights_depend_on_the_seed_alone():
  def first(**changes):
    return jax.device_get(
      run_lib.Run(tiny_config.changed(**changes)).fresh_state()
    )

  one = first().params
  cut = first(mesh__fsdp=8, sharding=(('.*', 'fsdp'),), batch_size=64).params
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(cut), strict=True):
    np.testing.assert_array_equal(a, b)
  other = first(seed=1).params
  assert np.any(one['head']['kernel'] != other['head']['kernel'])


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'task__factory': ''}, "task.factory is empty: want 'package.module"),
    ({'batch_size': 12}, r'batch_size=12 .*accum_steps=1 times data\*fsdp=8'),
    ({'accum_steps': 4}, r'batch_size=16 is not a multiple of accum_steps=4'),
    ({'mesh__data': 3}, 'does not fit 8 devices'),
    ({'sharding': (('kernel', 'replicate'),)}, 'no sharding rule matches'),
    ({'optim__frozen': ('layer9',)}, "optim.frozen: 'layer9' matches no"),
    ({'optim__frozen': ('.*',)}, 'nothing is left to train'),
    (
      {
        'task__factory': f'{__name__}:TwoStreams',
        'task__kwargs': mlc.ConfigDict(),
        'data__train': streams(8, 8),
        'accum_steps': 2,
      },
      'data.train.streams.labelled.batch_size=8 is not a multiple',
    ),
    (
      {'data__train': streams(8, 8)},
      r"streams \['labelled', 'plain'\] but the task wants \['index', 'x', 'y'",
    ),
  ],
)
def test_config_that_cannot_run_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    run_lib.Run(tiny_config.changed(**changes))


@pytest.mark.parametrize('accum', [1, 2])
def test_streams_have_their_own_rows_and_sizes(accum):
  config = tiny_config.changed(
    task__factory=f'{__name__}:TwoStreams',
    task__kwargs=mlc.ConfigDict(),
    data__train=streams(16, 32),
    batch_size=48,
    accum_steps=accum,
    optim__name='sgd',
    optim__momentum=0.0,
    optim__lr=0.125,
  )
  run = run_lib.Run(config)
  assert run.batch_shapes['plain']['x'].shape == (32, 8)
  rng = np.random.default_rng(0)
  batch = {
    stream: {
      name: jax.device_put(
        np.ones(s.shape, s.dtype)
        if name == 'mask'
        else rng.normal(size=s.shape).astype(s.dtype) * (name != 'replaced'),
        s.sharding,
      )
      for name, s in fields.items()
    }
    for stream, fields in run.batch_shapes.items()
  }
  state, metrics = run.compile_step(0).run(run.fresh_state(), batch)
  x, y = np.asarray(batch['labelled']['x']), np.asarray(batch['labelled']['y'])
  z = np.asarray(batch['plain']['x'])
  want = np.mean((x.sum(1) - y) ** 2) + 0.25 * np.mean(np.abs(z.sum(1)))
  np.testing.assert_allclose(metrics['loss'][0], want, rtol=1e-5)
  grad = 2 * np.mean((x.sum(1) - y)[:, None] * x, 0)
  grad += 0.25 * np.mean(np.sign(z.sum(1))[:, None] * z, 0)
  np.testing.assert_allclose(
    state.params['slope'], 1 - 0.125 * grad, rtol=1e-5, atol=1e-5
  )
  # Global row numbers of both streams, and state passed from part to part.
  assert metrics['rows'][0] == sum(range(16)) + sum(range(32))
  assert state.model_state['seen'] == accum


def test_imported_weights_replace_fresh_ones_and_reach_the_average():
  config = tiny_config.changed(
    init_from__factory=f'{__name__}:make_weights',
    init_from__path='weights',
    mesh__fsdp=8,
    sharding=(('.*', 'fsdp'),),
    ema__decay=0.9,
  )
  run = run_lib.Run(config)
  state = run.fresh_state()
  assert_as_described(state, run.state_shapes)
  for params in (state.params, state.ema_params):
    np.testing.assert_array_equal(params['layer1']['kernel'], 2.0)
  fresh = run_lib.Run(tiny_config.changed()).fresh_state().params
  for layer, name in (('layer0', 'kernel'), ('layer1', 'bias')):
    np.testing.assert_array_equal(state.params[layer][name], fresh[layer][name])


def imported(factory, task='TwoStreams'):
  config = tiny_config.changed(
    task__factory=f'{__name__}:{task}',
    task__kwargs=mlc.ConfigDict(),
    data__train=streams(16, 16),
    batch_size=32,
    init_from__factory=f'{__name__}:{factory}',
    init_from__path='weights',
  )
  return run_lib.Run(config).fresh_state()


def test_batch_statistics_come_with_weights_of_an_importer_that_gives_them():
  state = imported('make_all_weights')
  np.testing.assert_array_equal(state.params['slope'], 3.0)
  assert state.model_state['seen'] == 7.0


def test_batch_statistics_start_new_otherwise_and_a_warning_says_so(caplog):
  with caplog.at_level('WARNING'):
    state = imported('make_slope_only')
  np.testing.assert_array_equal(state.params['slope'], 3.0)
  assert state.model_state['seen'] == 0.0
  assert 'batch statistics and the like start new' in caplog.text


def test_nothing_is_initialized_where_everything_is_imported():
  state = imported('make_all_weights', task='NeverInitialized')
  jax.effects_barrier()
  assert state.model_state['seen'] == 7.0


def test_average_for_evaluation_has_the_untrained_parameters_too():
  run = run_lib.Run(
    tiny_config.changed(
      task__factory=f'{__name__}:WithBackbone', ema__decay=0.9
    )
  )
  state = run.fresh_state()
  state = state._replace(
    ema_params=jax.tree.map(lambda x: x + 1, state.ema_params)
  )
  assert 'layer0' not in state.ema_params
  seen = run.state_to_evaluate(state, 'params')
  assert seen.params is state.params
  assert set(seen.ema_params) == set(state.params)
  averaged = run.state_to_evaluate(state, 'ema')
  np.testing.assert_array_equal(
    averaged.params['layer0']['kernel'], state.params['layer0']['kernel']
  )
  np.testing.assert_array_equal(
    averaged.params['head']['kernel'], state.params['head']['kernel'] + 1
  )
  plain = run_lib.Run(tiny_config.changed())
  state = plain.fresh_state()
  assert plain.state_to_evaluate(state, 'params') is state


def test_evaluators_get_task_mesh_and_their_arguments():
  data = vc.data_spec(source='tests.train.tiny:Numbers')
  config = tiny_config.changed(
    evals={
      'heldout': {
        'factory': 'vidscenic.evaluation.evaluator:MeanLoss',
        'kwargs': {'data': data, 'batch_size': 5},
      }
    }
  )
  run = run_lib.Run(config)
  evaluator = run.evaluators()['heldout']
  assert evaluator.task is run.task and evaluator.mesh is run.mesh
  assert evaluator.batch_size == 8  # rounded up to fit the devices
  with config.unlocked():
    config.evals.heldout.kwargs.batchsize = 5
  message = "'batchsize' is unknown; did you mean 'batch_size'"
  with pytest.raises(ValueError, match=message):
    run_lib.Run(vc.finalize(config)).evaluators()


def test_phase_changes_only_through_the_task():
  run = run_lib.Run(tiny_config.changed())
  state = run.fresh_state()
  assert run.change_phase(state, 0, 1) is state
