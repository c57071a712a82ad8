"""TAPIR's training: which queries train what, and what counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.tapir import losses, tapnet
from projects.tapir import task as task_lib
from projects.tapir.configs import bootstap, kubric, synthetic_tiny
from tests.projects import tapir_models
from vidscenic import config as vc
from vidscenic import task as task_api
from vidscenic.data import device, pipeline
from vidscenic.ops import masking
from vidscenic.ops import video as video_ops
from vidscenic.train import sharding

ROWS, T, N = 2, 3, 6
CONTEXT = task_api.StepContext(
  step=jnp.int32(0),
  rng=jax.random.key(1),
  rows=jnp.arange(ROWS, dtype=jnp.int32),
)


def make_task(**options):
  return task_lib.PointTracking(
    tapir_models.SMALL,
    clip=(T, *tapir_models.SIZE),
    num_queries=N,
    **{'query_chunk_size': 2, 'grad_chunks': 1} | options,
  )


def make_batch(rows=ROWS):
  rng = np.random.default_rng(0)
  queries = [tapir_models.make_queries(N, T, seed=i) for i in range(rows)]
  return {
    'video': np.stack(
      [tapir_models.make_video(T, seed=i) for i in range(rows)]
    ),
    'query_points': np.stack(queries),
    'target_points': np.float32(rng.random((rows, N, T, 2)) * 32),
    'occluded': rng.random((rows, N, T)) < 0.3,
    'mask': np.ones(rows, bool),
  }


def total(out):
  return sum(s * a / n for a, n, s in out.terms.values())


@functools.cache
def program(**options):
  """fn(params, batch) -> ((loss, LossOut), gradients), compiled."""
  task = make_task(**options)

  def objective(params, batch):
    out = task.loss(params, {}, batch, CONTEXT)
    return total(out), (out.terms, out.metrics)

  return jax.jit(
    jax.value_and_grad(objective, has_aux=True),
    compiler_options=tapir_models.FAST,
  )


def shuffled(batch):
  """The batch in the order that the task draws."""
  keys = masking.row_keys(jax.random.fold_in(CONTEXT.rng, 1), CONTEXT.rows)
  orders = [np.asarray(jax.random.permutation(key, N)) for key in keys]
  names = ('query_points', 'target_points', 'occluded')
  return batch | {
    name: np.stack([x[o] for x, o in zip(batch[name], orders, strict=True)])
    for name in names
  }


def released_loss(params, batch):
  """As the released code: all are refined, most without gradient."""
  model, _ = tapir_models.make_params()
  tracks = model.apply(
    {'params': params},
    video_ops.normalize(batch['video']),
    batch['query_points'],
    query_chunk_size=2,
    grad_chunks=1,
  )
  terms = losses.trajectory_losses(
    tracks,
    model.num_pips_iter,
    target_points=batch['target_points'],
    target_occluded=batch['occluded'],
    size=tapir_models.SIZE,
  )
  return sum(s * a / n for a, n, s in terms.values())


def test_gradients_are_those_of_the_released_rule():
  _, params = tapir_models.make_params()
  _, grads = program()(params, make_batch())
  want = jax.jit(jax.grad(released_loss), compiler_options=tapir_models.FAST)(
    params, shuffled(make_batch())
  )
  for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(b).max() + 1e-6)


def test_padded_rows_count_nothing():
  _, params = tapir_models.make_params()
  batch = make_batch()
  batch['mask'][1] = False
  (first, (_, figures)), grads = program()(params, batch)
  batch['target_points'] = batch['target_points'].copy()
  batch['target_points'][1] = np.nan
  (second, _), same = program()(params, batch)
  assert first == second
  for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(same), strict=True):
    np.testing.assert_array_equal(a, b)
  assert figures['occlusion_accuracy'][1] == 1


def test_eight_devices_give_the_losses_of_one():
  _, params = tapir_models.make_params()
  task = make_task()
  batch = make_batch(rows=8)
  context = CONTEXT._replace(rows=jnp.arange(8, dtype=jnp.int32))
  fn = jax.jit(
    lambda batch: task.loss(params, {}, batch, context)[:2],
    compiler_options=tapir_models.FAST,
  )
  one = fn(batch)
  mesh = sharding.make_mesh({'data': 8, 'fsdp': 1, 'model': 1})
  with jax.set_mesh(mesh):
    many = fn(jax.device_put(batch, sharding.batch_sharding(mesh)))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_tapnet_trains_and_keeps_averages():
  options = {
    'name': 'tapnet',
    'stem_channels': 8,
    'channels_per_group': (8, 8, 16),
    'blocks_per_group': (1, 1, 1),
  }
  task = task_lib.PointTracking(
    options, clip=(T, *tapir_models.SIZE), num_queries=N
  )
  assert isinstance(task.model, tapnet.TapNet)
  params, state = jax.jit(
    lambda key: task.init(key, {}), compiler_options=tapir_models.FAST
  )(jax.random.key(0))
  out = jax.jit(
    lambda p, s, b: task.loss(p, s, b, CONTEXT),
    compiler_options=tapir_models.FAST,
  )(params, state, make_batch())
  assert set(out.terms) == {'position', 'occlusion'}
  counter = out.model_state['batch_stats']['backbone']['group0_unit0']['norm_0']
  assert int(counter['counter']) == 1


@pytest.mark.parametrize(
  ('t', 'message'),
  [(np.nan, 'not finite'), (T, f'frames from .* to {T}, want 0 to {T - 1}')],
)
def test_impossible_queries_are_refused(t, message):
  batch = make_batch()
  batch['query_points'][0, 0, 0] = t
  with pytest.raises(ValueError, match=message):
    make_task().check_batch(batch)


def test_a_position_is_off_from_the_chosen_distance_on():
  """In pixels of 256 x 256: 2.5 of a clip of 64 x 64 are 10."""
  points = np.float32([[[[10, 12.5], [10, 10]]]])
  given = dict(
    points=points,
    occlusion=jnp.zeros((1, 1, 2)),
    expected_dist=jnp.full((1, 1, 2), 3.0),
    target_points=np.full_like(points, 10),
    target_occluded=np.zeros((1, 1, 2), bool),
    size=(64, 64),
  )
  off, right = np.log1p(np.exp(-3.0)), np.log1p(np.exp(3.0))
  for thresh, want in ((9.9, off + right), (10.1, 2 * right)):
    found = losses.point_losses(**given, expected_dist_thresh=thresh)
    np.testing.assert_allclose(found['uncertainty'][0], want, rtol=1e-5)
  # Published: 6 pixels.
  found = losses.point_losses(**given)['uncertainty'][0]
  np.testing.assert_allclose(found, off + right, rtol=1e-5)
  with pytest.raises(ValueError, match='expected_dist_thresh=0 must be posit'):
    make_task(expected_dist_thresh=0)


def test_synthetic_clips_fit_the_task():
  config = synthetic_tiny.get_config('steps=12')
  task = vc.build(config.task.factory, **config.task.kwargs)
  batches = pipeline.make_train_iter(config.data.train, batch_size=2, seed=0)
  batch = device.check(next(batches), task.batch_spec(), where='data')
  task.check_batch(batch)
  batches.close()


def test_published_models_do_not_decay_biases_and_norms_of_layers():
  rules = {
    config.optim.decay_exclude
    for config in (
      kubric.get_config(),
      bootstap.get_config('synthetic'),
      synthetic_tiny.get_config(),
    )
  }
  assert len(rules) == 1


def test_drawn_clips_can_be_mixed_with_those_of_kubric():
  mixture = kubric.get_config('synthetic=0.25').data.train.mixture
  assert {k: part.weight for k, part in mixture.items()} == {
    'kubric': 0.75,
    'synthetic': 0.25,
  }
  with pytest.raises(ValueError, match='synthetic=2.0: want a share'):
    kubric.get_config('synthetic=2')


def test_accumulation_keeps_the_batch():
  config = kubric.get_config('small,accum=64')
  assert config.batch_size == kubric.get_config().batch_size == 64
  assert config.accum_steps == 64
