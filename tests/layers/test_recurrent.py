"""The time scan equals a loop, chunks and streaming, with equal gradients."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.layers import norms, recurrent


class Step(nn.Module):
  """A gated update that also reads something constant."""

  width: int = 4

  @nn.compact
  def __call__(self, state, inputs, context, *, train=False):
    h, count = state['h'], state['count']
    x = nn.Dense(self.width, name='input')(inputs['x'])
    x = x + nn.Dense(self.width, name='context')(context)
    x = nn.Dropout(0.5, deterministic=not train, name='drop')(x)
    u = nn.sigmoid(nn.Dense(self.width, name='gate')(h) + x)
    h = (1 - u) * h + u * jnp.tanh(x)
    self.sow('intermediates', 'update', u)
    return {'h': h, 'count': count + 1}, (h, 2 * h)


class Model(nn.Module):
  """Owns the step."""

  mode: str = 'scan'  # or 'loop'
  time_axis: int = 1
  options: Any = nn.FrozenDict()

  @nn.compact
  def __call__(self, state, inputs, context, *, train=False):
    step = Step(name='step')
    if self.mode == 'scan':
      return recurrent.scan_time(
        step, state, inputs, broadcast=(context,), time_axis=self.time_axis,
        train=train, **self.options,
      )  # fmt: skip
    outputs = []
    for t in range(inputs['x'].shape[self.time_axis]):
      one = {'x': jnp.take(inputs['x'], t, axis=self.time_axis), 'no': None}
      state, output = step(state, one, context, train=train)
      outputs.append(output)
    stack = lambda *xs: jnp.stack(xs, axis=self.time_axis)
    return state, jax.tree.map(stack, *outputs)


@pytest.fixture
def example(normal, random):
  state = {'h': normal(2, 4), 'count': jnp.zeros((), jnp.int32)}
  inputs = {'x': normal(2, 5, 3), 'no': None}
  context = normal(2, 6)
  params = random(Model(), state, inputs, context)
  return params, state, inputs, context


@pytest.mark.parametrize('options', [{}, dict(remat=True)], ids=str)
def test_scan_equals_loop(example, jit, options):
  params, state, inputs, context = example
  assert set(params['params']) == {'step'}

  @functools.partial(jit, static_argnums=0)
  def grad(scan, params, h, x, context):
    module = Model('scan', options=options) if scan else Model('loop')

    def loss(params, h, x, context):
      last, (one, two) = module.apply(
        params, dict(state, h=h), {'x': x, 'no': None}, context
      )
      return jnp.sum(one**2) + jnp.sum(jnp.sin(two)), (last, one, two)

    return jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True)(
      params, h, x, context
    )

  args = (params, state['h'], inputs['x'], context)
  got, want = grad(True, *args), grad(False, *args)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want
  )
  last, one, _ = got[0][1]
  assert one.shape == (2, 5, 4) and last['count'] == 5
  assert all(leaf.any() for leaf in jax.tree.leaves(got[1]))


def test_chunks_and_single_frames_continue_exactly(example, run):
  params, state, inputs, context = example
  want_state, want = run(Model(), params, state, inputs, context)
  for sizes in ((2, 3), (1,) * 5):
    carry, parts, begin = state, [], 0
    for size in sizes:
      chunk = {'x': inputs['x'][:, begin : begin + size], 'no': None}
      carry, out = run(Model(), params, carry, chunk, context)
      parts.append(out)
      begin += size
    joined = jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=1), *parts)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
      (carry, joined), (want_state, want),
    )  # fmt: skip


@pytest.mark.parametrize('time_axis', [0, 1, 2])
def test_time_axis(example, run, time_axis):
  params, state, inputs, context = example
  x = inputs['x']
  if time_axis == 0:
    moved = {'x': jnp.moveaxis(x, 1, 0), 'no': None}
    args = (state, moved, context)
  elif time_axis == 1:
    args = (state, inputs, context)
  else:  # two leading axes
    args = (
      dict(state, h=state['h'][None]),
      {'x': x[None], 'no': None},
      context[None],
    )
  _, (got, _) = run(Model(time_axis=time_axis), params, *args)
  _, (want, _) = run(Model(), params, state, inputs, context)
  got = jnp.moveaxis(got, time_axis, -2).reshape(want.shape)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_dropout_differs_between_times_and_intermediates_stack(example, run):
  params, state, inputs, context = example
  same = {'x': jnp.broadcast_to(inputs['x'][:, :1], (2, 40, 3)), 'no': None}
  module = Model(options=dict(remat=True))
  (_, (h, _)), sown = run(
    module, params, state, same, context, train=True,
    mutable=['intermediates'], rngs={'dropout': jax.random.key(0)},
  )  # fmt: skip
  assert sown['intermediates']['step']['update'][0].shape == (40, 2, 4)
  # Without dropout a contraction would settle; with it, steps keep changing.
  changes = np.abs(np.diff(h[:, 20:], axis=1)).max((0, 2))
  assert (changes > 1e-4).all()


class NoisyStep(nn.Module):
  """Draws from a stream of its own, and normalises with running averages."""

  @nn.compact
  def __call__(self, state, x, *, train=False):
    noise = jax.random.normal(self.make_rng('samples'), state.shape)
    x = norms.BatchNorm(dtype=x.dtype, name='norm')(x, train=train)
    return (state + x).astype(state.dtype), noise


class NoisyModel(nn.Module):
  remat: bool = False

  @nn.compact
  def __call__(self, state, x, *, train=False):
    return recurrent.scan_time(
      NoisyStep(name='step'), state, x, carry=('batch_stats',),
      remat=self.remat, train=train,
    )  # fmt: skip


@pytest.mark.parametrize('remat', [False, True])
def test_steps_draw_numbers_and_carry_batch_statistics(normal, run, remat):
  x, state = 2 + normal(6, 5, 3), jnp.zeros((6, 3))
  rngs = {'samples': jax.random.key(1)}
  module = NoisyModel(remat)
  variables = module.init(
    {'params': jax.random.key(0), **rngs}, state, x, train=True
  )
  assert variables['batch_stats']['step']['norm']['counter'] == 0
  (last, noise), new = run(
    module, variables, state, x, train=True, mutable=['batch_stats'], rngs=rngs
  )
  assert noise.shape == (6, 5, 3)
  assert len(np.unique(np.asarray(noise))) == noise.size
  # The same as one frame after the other.
  step, stats = norms.BatchNorm(), variables['batch_stats']['step']['norm']
  params = variables['params']['step']['norm']
  want = state
  for t in range(5):
    y, changed = run(
      step, {'params': params, 'batch_stats': stats}, x[:, t], train=True,
      mutable=['batch_stats'],
    )  # fmt: skip
    want, stats = want + y, changed['batch_stats']
  assert stats['counter'] == 5
  got = new['batch_stats']['step']['norm']
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  jax.tree.map(close, (got, last), (stats, want))
  # In evaluation nothing needs to be mutable.
  run(module, dict(variables, **new), state, x, rngs=rngs)


def test_state_keeps_its_dtype(normal, run):
  x, state = normal(6, 5, 3), jnp.zeros((6, 3), jnp.bfloat16)
  rngs = {'samples': jax.random.key(1)}
  module = NoisyModel()
  variables = module.init({'params': jax.random.key(0), **rngs}, state, x)
  for inputs in (x, x.astype(jnp.bfloat16)):
    last, _ = run(module, variables, state, inputs, rngs=rngs)
    assert last.dtype == jnp.bfloat16
    want = np.asarray(x).sum(1)
    np.testing.assert_allclose(last.astype(jnp.float32), want, atol=0.1)


def test_memory_of_a_rematerialised_clip_grows_with_the_state_only(random, jit):
  state = {'h': jnp.zeros((8, 64)), 'count': jnp.zeros((), jnp.int32)}
  context = jnp.zeros((8, 6))

  def temporaries(num_frames, remat):
    inputs = {'x': jnp.zeros((8, num_frames, 3)), 'no': None}

    class Wide(nn.Module):
      @nn.compact
      def __call__(self, state, inputs, context):
        return recurrent.scan_time(
          Step(64, name='step'), state, inputs, broadcast=(context,),
          remat=remat,
        )  # fmt: skip

    def loss(params):
      last, _ = Wide().apply(params, state, inputs, context)
      return jnp.sum(last['h'] ** 2)

    params = random(Wide(), state, inputs, context)
    compiled = jit(jax.grad(loss)).lower(params).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  growth = {
    remat: (temporaries(64, remat) - temporaries(32, remat)) / 32
    for remat in (False, True)
  }
  one_state = 8 * 64 * 4
  assert growth[True] < 2.2 * one_state, growth[True] / one_state
  assert growth[False] > 3 * one_state, growth[False] / one_state
