"""The base evaluator and the mean loss: padding, batches, weights, protocol."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation import examples
from tests.train import tiny, tiny_config
from vidscenic import config as vc
from vidscenic import task as task_lib
from vidscenic.evaluation import evaluator
from vidscenic.train import run as run_lib
from vidscenic.train import sharding

MESH = {'data': -1, 'fsdp': 1, 'model': 1}


class Exact(tiny.Regression):
  """Also reports what a loss sees of its context."""

  def __init__(self, **kwargs):
    super().__init__(**kwargs)
    self.traced = 0

  def loss(self, params, model_state, batch, ctx):
    self.traced += 1
    out = super().loss(params, model_state, batch, ctx)
    mask = batch['mask'].astype(jnp.float32)
    own = (ctx.rows == batch['index']) * mask
    draws = jax.vmap(
      lambda r: jax.random.uniform(jax.random.fold_in(ctx.rng, r))
    )
    return out._replace(
      metrics={
        **out.metrics,
        'own_row': (own.sum(), mask.sum()),
        'draw': (jnp.sum(draws(ctx.rows) * mask), mask.sum()),
        'train': (jnp.float32(ctx.train), jnp.float32(1)),
        'phase': (jnp.float32(ctx.phase), jnp.float32(1)),
        'nothing': (jnp.float32(0), jnp.float32(0)),
        **{k: (v, jnp.float32(1)) for k, v in ctx.scheduled.items()},
      }
    )


def numbers(size=13):
  return vc.data_spec(
    source='tests.train.tiny:Numbers',
    source_kwargs={'size': size},
    transform='tests.evaluation.examples:AsIs',
  )


@pytest.fixture(scope='module')
def params():
  batch = {'x': jnp.zeros((1, 8))}
  return tiny.Regression().init(jax.random.key(0), batch)[0]


def mean_loss(task, state, devices=1, step=5, **kwargs):
  mesh = sharding.make_mesh(MESH, jax.devices()[:devices])
  one = evaluator.MeanLoss(task, mesh, **{'data': numbers(), **kwargs})
  with jax.set_mesh(mesh):
    figures, media = one.run(state, step)
  assert media == {}
  return figures


def reference(params, size=13, threshold=0.0):
  """The two terms of `tiny.Regression`, example by example."""
  source = tiny.Numbers(size=size)
  rows = [source[i] for i in range(size)]
  x = np.stack([row['x'] for row in rows])
  y = np.array([row['y'] for row in rows])
  model = tiny.Regression().model
  error = np.asarray(model.apply({'params': params}, x)) - y
  return np.mean(error**2), np.mean(np.abs(error)[y > threshold])


def test_loss_is_the_weighted_sum_of_means_over_the_whole_set(params):
  figures = mean_loss(Exact(), examples.state(params), batch_size=4)
  mse, mae = reference(params)
  assert figures['loss_mse'] == pytest.approx(mse, rel=1e-5)
  assert figures['loss_mae'] == pytest.approx(mae, rel=1e-5)
  assert figures['loss'] == pytest.approx(mse + 0.5 * mae, rel=1e-5)
  assert not any('scale' in name for name in figures)


@pytest.mark.parametrize(
  ('batch_size', 'devices'), [(1, 1), (5, 1), (13, 1), (16, 1), (3, 8), (8, 4)]
)
def test_figures_do_not_depend_on_batches_padding_or_devices(
  params, batch_size, devices
):
  state = examples.state(params)
  got = mean_loss(Exact(), state, devices=devices, batch_size=batch_size)
  want = mean_loss(Exact(), state, batch_size=32)
  # The train and phase metrics are means over batches: constants.
  assert got.keys() == want.keys()
  for name, value in want.items():
    assert got[name] == pytest.approx(value, rel=1e-5), name


def test_every_example_has_its_own_row_and_the_same_draws(params):
  figures = mean_loss(Exact(), examples.state(params), batch_size=4)
  assert figures['own_row'] == 1
  draws = [
    float(jax.random.uniform(jax.random.fold_in(jax.random.key(0), i)))
    for i in range(13)
  ]
  assert figures['draw'] == pytest.approx(np.mean(draws), rel=1e-5)
  assert figures['train'] == 0


def test_a_term_or_metric_that_counts_nothing_is_left_out(params):
  # No target reaches the threshold, so the second term has no weight.
  figures = mean_loss(Exact(threshold=1e9), examples.state(params))
  assert 'nothing' not in figures
  assert 'loss_mae' not in figures
  assert figures['loss'] == pytest.approx(reference(params)[0], rel=1e-5)


def test_only_the_first_examples_count(params):
  figures = mean_loss(Exact(), examples.state(params), limit=6, batch_size=4)
  assert figures['loss_mse'] == pytest.approx(reference(params, 6)[0], rel=1e-5)


def test_loss_is_that_of_the_phase_of_the_last_update(params):
  task = Exact(freeze_at=5)
  state = examples.state(params)
  assert mean_loss(task, state, step=5)['phase'] == 0
  assert mean_loss(task, state, step=6)['phase'] == 1
  assert mean_loss(task, state, step=0)['phase'] == 0


def test_scheduled_values_reach_the_loss(params):
  one = evaluator.MeanLoss(
    Exact(), sharding.make_mesh(MESH, jax.devices()[:1]), data=numbers()
  )
  one.bind('evals.x', {'ratio': lambda step: 0.25 * step})
  state = examples.state(params)._replace(step=jnp.int32(3))
  with jax.set_mesh(one.mesh):
    figures, _ = one.run(state, 3)
  assert figures['ratio'] == 0.75


def test_data_that_cannot_be_used_are_found_before_the_run():
  one = evaluator.MeanLoss(
    Exact(),
    sharding.make_mesh(MESH, jax.devices()[:1]),
    data=vc.data_spec(source='tests.train.tiny:Nubers'),
  )
  with pytest.raises(ValueError, match=r"evals.x.*'Nubers'.*'Numbers'"):
    one.bind('evals.x', {})


def test_a_phase_is_compiled_once(params):
  task = Exact(freeze_at=5)
  mesh = sharding.make_mesh(MESH, jax.devices()[:1])
  one = evaluator.MeanLoss(task, mesh, data=numbers(), batch_size=4)
  with jax.set_mesh(mesh):
    for step, traced in ((3, 1), (4, 1), (7, 2), (8, 2), (2, 2)):
      one.run(examples.state(params), step)
      assert task.traced == traced


def test_totals_are_sums_of_any_shape(params):
  mesh = sharding.make_mesh(MESH, jax.devices()[:1])
  one = evaluator.Evaluator(Exact(), mesh, data=numbers(), batch_size=4)
  with jax.set_mesh(mesh):
    totals = one.totals(
      lambda p, s, batch, ctx: {'x': jnp.sum(batch['x'], axis=0)},
      examples.state(params),
      1,
    )
  want = sum(tiny.Numbers()[i]['x'].astype(np.float64) for i in range(13))
  np.testing.assert_allclose(totals['x'], want, atol=1e-5)
  assert totals['x'].dtype == np.float64


def test_batch_size_is_rounded_up_to_the_devices():
  mesh = sharding.make_mesh(MESH, jax.devices()[:8])
  one = evaluator.Evaluator(Exact(), mesh, data=numbers(), batch_size=9)
  assert one.batch_size == 16


def test_protocol_says_what_is_measured():
  mesh = sharding.make_mesh(MESH, jax.devices()[:1])
  make = lambda **kw: evaluator.MeanLoss(Exact(), mesh, data=numbers(), **kw)
  what = "mean of the task's loss and metrics; "
  assert make().protocol() == what + 'all examples of Numbers(size=13)'
  assert make(limit=4).protocol() == (
    what + 'the first 4 examples of Numbers(size=13)'
  )


def ema_state(**changes):
  """(run, state) whose averages are zero where parameters are not."""
  config = tiny_config.get_config()
  with config.unlocked():
    config.ema.decay = 0.9
    config.update(changes)
  run = run_lib.Run(vc.finalize(config), devices=jax.devices()[:1])
  state = run.fresh_state()
  return run, state._replace(
    ema_params=jax.tree.map(jnp.zeros_like, state.ema_params)
  )


def test_averaged_weights_are_evaluated_when_asked_for():
  run, state = ema_state()
  figures = {
    name: mean_loss(run.task, run.state_to_evaluate(state, name))
    for name in ('params', 'ema')
  }
  # With weights of zero the prediction is zero.
  y = np.array([tiny.Numbers()[i]['y'] for i in range(13)])
  assert figures['ema']['loss_mse'] == pytest.approx(np.mean(y**2), rel=1e-5)
  mse, _ = reference(jax.device_get(state.params))
  assert figures['params']['loss_mse'] == pytest.approx(mse, rel=1e-5)


def test_averages_are_completed_with_what_is_never_trained():
  run, state = ema_state(optim={'frozen': ('layer0',)})
  assert 'layer0' not in state.ema_params
  for name in ('params', 'ema'):
    seen = run.state_to_evaluate(state, name)
    np.testing.assert_array_equal(
      seen.params['layer0']['kernel'], state.params['layer0']['kernel']
    )
    assert seen.ema_params.keys() == state.params.keys()
    is_average = not np.any(seen.params['layer1']['kernel'])
    assert is_average == (name == 'ema')


class Loss(task_lib.Task):
  """Not a number in padded rows, as a division by a norm would give."""

  def batch_spec(self):
    return {'x': jax.ShapeDtypeStruct((8,), jnp.float32)}

  def init(self, rng, batch):
    return {}, {}

  def loss(self, params, model_state, batch, ctx):
    norm = jnp.sqrt(jnp.sum(batch['x'] ** 2, -1))
    value = jnp.where(batch['mask'], norm / norm, 0)
    return task_lib.LossOut(
      {'ones': (value.sum(), batch['mask'].sum(), 2.0)}, {}, model_state
    )


def test_padded_rows_are_zeros_that_a_mask_removes():
  figures = mean_loss(Loss(), examples.state({}), batch_size=8)
  assert figures == {'loss_ones': 1.0, 'loss': 2.0}
