"""The step: exact accumulation, sharding, freezing, guard, averages."""

import jax
import ml_collections as mlc
import numpy as np
import pytest

from tests.train import tiny_config
from vidscenic.data import device, pipeline
from vidscenic.train import inspect
from vidscenic.train import run as run_lib


def make_config(**changes):
  return tiny_config.changed(**{'optim__momentum': 0.9, **changes})


def train(config, num_steps=5, devices=8):
  """Runs a few steps; returns (losses, state, metrics of the last step)."""
  run = run_lib.Run(config, devices=jax.devices()[:devices])
  state = run.fresh_state()
  batches = pipeline.make_train_iter(
    config.data.train, batch_size=config.batch_size, seed=config.seed
  )
  compiled = {}
  losses = []
  for i in range(num_steps):
    phase = run.task.phase(i)
    if phase not in compiled:
      compiled[phase] = run.compile_step(phase)
    batch = device.check(
      next(batches), run.task.batch_spec(), where='data.train'
    )
    batch = device.to_global(batch, run.batch_sharding)
    state, metrics = compiled[phase].run(state, batch)
    metrics = jax.device_get(metrics)
    losses.append(float(metrics['loss'][0]))
  batches.close()
  return np.array(losses), jax.device_get(state), metrics


def close(a, b, tolerance=1e-5):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance)


@pytest.fixture(scope='module')
def reference():
  """Five steps on one device."""
  return train(make_config(), devices=1)


@pytest.mark.parametrize(('data', 'fsdp'), [(8, 1), (1, 8), (4, 2)])
def test_eight_devices_equal_one(reference, data, fsdp):
  config = make_config(
    mesh__data=data, mesh__fsdp=fsdp, sharding=((r'.*', 'fsdp'),)
  )
  losses, state, _ = train(config)
  np.testing.assert_allclose(losses, reference[0], rtol=1e-5)
  close(state.params, reference[1].params)


@pytest.mark.parametrize('accum', [2, 4])
def test_accumulation_equals_one_batch(accum):
  # 64 rows, so that 4 microbatches still have 2 rows on each of 8 devices.
  one = train(make_config(batch_size=64))
  many = train(make_config(batch_size=64, accum_steps=accum))
  np.testing.assert_allclose(many[0], one[0], rtol=1e-5)
  close(many[1].params, one[1].params)
  close(many[2], one[2], 1e-4)


def test_accumulation_with_a_microbatch_without_targets():
  # At this threshold a batch of 16 holds one or two rows of the second term,
  # so some of the two microbatches hold none.
  changes = {'task__kwargs__threshold': 4.5, 'task__kwargs__noise': 0.0}
  config = make_config(batch_size=16, **changes)
  batches = pipeline.make_train_iter(config.data.train, batch_size=16, seed=0)
  # As the step divides a batch: every second row.
  targets = [next(batches)['y'].reshape(8, 2) > 4.5 for _ in range(5)]
  batches.close()
  assert any((t.sum(0) == 0).any() and t.any() for t in targets)
  one = train(config)
  many = train(make_config(batch_size=16, accum_steps=2, **changes))
  assert np.isfinite(many[0]).all()
  np.testing.assert_allclose(many[0], one[0], rtol=1e-5)
  close(many[1].params, one[1].params)


def test_accumulation_costs_no_further_products():
  flops = [
    run_lib.Run(make_config(batch_size=64, accum_steps=n)).compile_step(0).flops
    for n in (1, 4)
  ]
  assert flops[0] == flops[1] and sum(flops[0].values()) > 0


def test_loss_divides_once_over_the_whole_batch():
  config = make_config(steps=1, task__kwargs__noise=0.0)
  run = run_lib.Run(config)
  state = run.fresh_state()
  batches = pipeline.make_train_iter(config.data.train, batch_size=16, seed=0)
  batch = next(batches)
  batches.close()
  params = jax.device_get(state.params)
  error = run.task.model.apply({'params': params}, batch['x']) - batch['y']
  some = batch['y'] > 0
  want = np.mean(error**2) + 0.5 * np.mean(np.abs(error)[some])
  losses, _, _ = train(config, 1)
  np.testing.assert_allclose(losses[0], want, rtol=1e-6)


def test_rows_of_context_are_global_under_accumulation():
  one = train(make_config(batch_size=64), 1)[2]
  many = train(make_config(batch_size=64, accum_steps=4), 1)[2]
  # Sum of index * row over the batch: any permutation would change it.
  assert one['index'][0] == many['index'][0]


@pytest.mark.parametrize('name', ['adamw', 'sgd', 'lamb'])
def test_frozen_parameters_stay_bit_identical(name):
  config = make_config(
    optim__name=name,
    optim__weight_decay=0.1,
    ema__decay=0.9,
    task__kwargs__freeze_at=2,
  )
  _, before, _ = train(config, 2)
  _, after, _ = train(config, 5)

  def layer(tree):
    return [
      leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
      if 'layer0' in jax.tree_util.keystr(path)
    ]

  for part in ('params', 'opt_state', 'ema_params'):
    old, new = layer(getattr(before, part)), layer(getattr(after, part))
    assert old
    for a, b in zip(old, new, strict=True):
      np.testing.assert_array_equal(a, b)
  assert np.any(
    before.params['layer1']['kernel'] != after.params['layer1']['kernel']
  )


def test_phase_that_freezes_compiles_to_fewer_flops():
  run = run_lib.Run(make_config(task__kwargs__freeze_at=2))
  free, frozen = run.compile_step(0), run.compile_step(1)
  assert inspect.cost(frozen.run)['flops'] < inspect.cost(free.run)['flops']
  assert frozen.flops['float32'] < free.flops['float32']


def test_never_trained_parameters_have_no_state():
  config = make_config(
    optim__name='adamw', optim__frozen=('layer0',), ema__decay=0.9
  )
  run = run_lib.Run(config)
  names = [
    jax.tree_util.keystr(p)
    for p, _ in jax.tree_util.tree_leaves_with_path(
      (run.state_shapes.opt_state, run.state_shapes.ema_params)
    )
  ]
  assert not any('layer0' in n for n in names)
  assert any('layer1' in n for n in names)


def test_non_finite_batch_changes_only_the_counters():
  config = make_config(optim__name='adamw', ema__decay=0.9)
  _, before, _ = train(config, 1)
  config.data.train.source_kwargs.nan_from = 0
  config.data.train.source_kwargs.nan_to = 64
  _, start, _ = train(config, 0 + 1)
  fresh = jax.device_get(run_lib.Run(config).fresh_state())
  assert start.step == 1
  assert start.bad_steps == 1
  for part in ('params', 'opt_state', 'ema_params'):
    for a, b in zip(
      jax.tree.leaves(getattr(start, part)),
      jax.tree.leaves(getattr(fresh, part)),
      strict=True,
    ):
      np.testing.assert_array_equal(a, b)
  assert before.bad_steps == 0


def test_discarded_step_counts_nothing_in_the_metrics():
  config = make_config(
    data__train__source_kwargs=mlc.ConfigDict(
      {'size': 64, 'nan_from': 0, 'nan_to': 64}
    )
  )
  _, _, metrics = train(config, 1)
  assert metrics['loss'] == (0.0, 0.0)
  assert metrics['discarded'] == (1.0, 1.0)


def test_average_follows_its_equation():
  config = make_config(ema__decay=0.75)
  _, one, _ = train(config, 1)
  _, two, _ = train(config, 2)
  want = jax.tree.map(
    lambda a, p: 0.75 * a + 0.25 * p, one.ema_params, two.params
  )
  close(two.ema_params, want, 1e-6)


def test_clipping_bounds_the_update():
  config = make_config(
    optim__clip_norm=1e-3, optim__lr=1.0, optim__momentum=0.0
  )
  run = run_lib.Run(config)
  before = jax.device_get(run.fresh_state().params)
  _, after, metrics = train(config, 1)
  moved = jax.tree.map(lambda a, b: a - b, after.params, before)
  norm = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(moved)))
  assert metrics['grad_norm'][0] > 1e-3
  np.testing.assert_allclose(norm, 1e-3, rtol=1e-3)


def test_fsdp_step_gathers_parameters_and_keeps_an_eighth_of_them():
  config = make_config(
    mesh__data=1,
    mesh__fsdp=8,
    sharding=((r'kernel', 'fsdp'), (r'.*', 'replicate')),
    task__kwargs__width=64,
  )
  run = run_lib.Run(config)
  text = run.compile_step(0).run.as_text()
  counts = {
    op: text.count(f' {op}(') + text.count(f' {op}-start(')
    for op in ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all')
  }
  params = run.state_shapes.params
  kernel = params['layer1']['kernel'].sharding
  assert np.prod(kernel.shard_shape((64, 64))) == 64 * 64 // 8
  # Pinned, because one gather too many is how sharding gets slow without any
  # test failing: a parameter gathered twice, a whole batch or state on every
  # device. Four are in the two passes: the head's kernel, and rows where the
  # compiler finds them smaller than the kernel that they meet. Four more make
  # whole what it updates in parts though it is replicated: the biases of two
  # layers and their momenta. jax 0.10 and 0.12 agree. If a new version gathers
  # more, look at the program before changing the number.
  assert counts['all-gather'] == 8
  assert counts['all-reduce'] + counts['reduce-scatter'] >= 1
  assert counts['all-to-all'] <= 3
