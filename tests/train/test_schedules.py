"""Schedules against values worked out by hand and against optax."""

import math

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import optax
import pytest

from vidscenic import config as vc
from vidscenic import config_checks
from vidscenic.train import schedules


def values(steps, total, **spec):
  fn = schedules.make_schedule(spec, total)
  return [float(fn(step)) for step in steps]


def test_constant_after_warmup():
  got = values(
    [0, 1, 4, 5, 100],
    10,
    name='constant',
    value=2.0,
    warmup_steps=4,
    warmup_init=1.0,
  )
  np.testing.assert_allclose(got, [1.0, 1.25, 2.0, 2.0, 2.0])


def test_cosine_with_warmup_and_hold():
  # Warm-up to step 2, held to step 4, then 8 steps from 3 down to 1.
  got = values(
    [0, 1, 2, 4, 6, 8, 12, 20],
    12,
    name='cosine',
    value=3.0,
    end=1.0,
    warmup_steps=2,
    hold_steps=2,
  )
  quarter = 1 + (1 + math.cos(math.pi / 4))
  want = [0.0, 1.5, 3.0, 3.0, quarter, 2.0, 1.0, 1.0]
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_cosine_agrees_with_optax():
  want = optax.warmup_cosine_decay_schedule(0.1, 2.0, 10, 100, 0.05)
  spec = dict(
    name='cosine', value=2.0, end=0.05, warmup_steps=10, warmup_init=0.1
  )
  got = schedules.make_schedule(spec, 100)
  steps = jnp.arange(120)
  np.testing.assert_allclose(got(steps), want(steps), rtol=2e-6, atol=1e-6)


def test_cosine_keeps_its_digits_near_the_end():
  fn = schedules.make_schedule(dict(name='cosine'), 100_000)
  for step in (90_000, 99_000, 99_999):
    want = math.sin(0.5 * math.pi * (100_000 - step) / 100_000) ** 2
    np.testing.assert_allclose(fn(step), want, rtol=1e-6)


def test_warmup_keeps_its_digits_near_the_start():
  fn = jax.jit(
    schedules.make_schedule(dict(name='linear', warmup_steps=10_000), 30_000)
  )
  np.testing.assert_allclose(fn(1), 1e-4, rtol=1e-6)
  np.testing.assert_allclose(fn(29_999), 1 / 20_000, rtol=1e-6)


@pytest.mark.parametrize('name', ['cosine', 'linear', 'wsd'])
def test_compiled_decay_ends_exactly(name):
  # optax.linear_schedule(1.0, 0.0, 5) ends at -1.5e-8 under jit.
  for length in (5, 7, 1000):
    spec = dict(name=name, decay_steps=length)
    fn = jax.jit(schedules.make_schedule(spec, length))
    assert float(fn(length)) == 0.0 and float(fn(length + 3)) == 0.0


def test_cosine_may_rise_from_zero():
  got = values([0, 5, 10], 10, name='cosine', value=0.0, end=4.0)
  np.testing.assert_allclose(got, [0.0, 2.0, 4.0], rtol=1e-6)


def test_decay_may_be_longer_than_the_run():
  # V-JEPA: the schedule is 1.25 times longer than the run, so it stops early.
  got = values([80], 80, name='cosine', decay_steps=100)
  want = 0.5 * (1 + math.cos(math.pi * 0.8))
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_linear_to_an_early_end():
  got = values(
    [0, 2, 4, 6, 8, 10],
    10,
    name='linear',
    end=0.5,
    warmup_steps=4,
    decay_steps=8,
  )
  np.testing.assert_allclose(got, [0.0, 0.5, 1.0, 0.75, 0.5, 0.5])


def test_rsqrt_continues_from_the_warmup():
  # With timescale = warm-up, the schedule of the Transformer paper.
  spec = dict(name='rsqrt', warmup_steps=100, timescale=100, end=0.2)
  got = values([50, 100, 400, 10_000], 20_000, **spec)
  np.testing.assert_allclose(got, [0.5, 1.0, 0.5, 0.2], rtol=1e-6)


def test_wsd_decays_at_the_end():
  spec = dict(name='wsd', warmup_steps=2, decay_steps=4, end=0.2)
  got = values([0, 1, 2, 6, 8, 10, 11], 10, **spec)
  np.testing.assert_allclose(got, [0, 0.5, 1, 1, 0.6, 0.2, 0.2], rtol=1e-6)


def test_piecewise_changes_at_its_boundaries():
  spec = dict(name='piecewise', boundaries=(3, 5), values=(1.0, 0.1, 0.0))
  got = values([0, 2, 3, 4, 5, 9], 10, **spec)
  np.testing.assert_allclose(got, [1, 1, 0.1, 0.1, 0, 0], rtol=1e-6)
  got = values([0, 1, 2, 3], 10, **spec, warmup_steps=2)
  np.testing.assert_allclose(got, [0, 0.5, 1, 0.1], rtol=1e-6)


@pytest.mark.parametrize('name', config_checks.SCHEDULES)
def test_traced_steps_give_the_values_of_python_steps(name):
  extra = dict(
    wsd=dict(decay_steps=5),
    piecewise=dict(boundaries=(7,), values=(2.0, 1.0)),
  )
  spec = dict(name=name, warmup_steps=3, **extra.get(name, {}))
  fn = schedules.make_schedule(spec, 20)
  steps = np.arange(25)
  traced = jax.jit(jax.vmap(fn))(steps)
  assert traced.dtype == jnp.float32 and fn(3).dtype == jnp.float32
  assert fn(3).shape == ()
  np.testing.assert_allclose(traced, [fn(int(s)) for s in steps], rtol=1e-6)
  np.testing.assert_allclose(traced, fn(jnp.asarray(steps)), rtol=1e-6)


def test_spec_is_typed_and_complete():
  spec = vc.schedule_spec(name='wsd', decay_steps=5)
  assert isinstance(spec, mlc.ConfigDict) and spec.decay_steps == 5
  with pytest.raises(TypeError):
    spec.warmup_steps = 'ten'
  assert float(schedules.make_schedule(spec, 10)(10)) == 0.0


@pytest.mark.parametrize(
  'spec, total, message',
  [
    (dict(name='cosin'), 10, r"s\.name='cosin'.*did you mean 'cosine'"),
    (dict(warmup=3), 10, r"s\.warmup=3.*did you mean 'warmup_"),
    (dict(warmup_steps=-1), 10, r's\.warmup_steps=-1.*at least 0'),
    (dict(warmup_steps=1.5), 10, r's\.warmup_steps=1\.5.*integer'),
    (dict(value=math.nan), 10, r's\.value=nan.*finite'),
    (dict(end='0'), 10, r"s\.end='0'.*finite"),
    (dict(warmup_steps=11), 10, r's\.warmup_steps=11.*run of 10'),
    (dict(name='cosine', warmup_steps=10), 10, r's\.warmup_steps=10.*nothing'),
    (
      dict(name='linear', warmup_steps=2, hold_steps=3, decay_steps=5),
      10,
      r's\.hold_steps=3.*5 steps',
    ),
    (dict(name='wsd'), 10, r's\.decay_steps=0.*needs the length'),
    (
      dict(name='wsd', warmup_steps=6, decay_steps=5),
      10,
      r's\.decay_steps=5.*run of 10',
    ),
    (dict(name='wsd', decay_steps=5, hold_steps=1), 10, r's\.hold_steps=1'),
    (dict(name='rsqrt', timescale=0), 10, r's\.timescale=0.*at least 1'),
    (dict(name='rsqrt', decay_steps=5), 10, r's\.decay_steps=5'),
    (dict(boundaries=(3,)), 10, r"s\.boundaries=\(3,\).*'piecewise'"),
    (
      dict(name='piecewise', boundaries=(3,), values=(1.0,)),
      10,
      r's\.values=.*need 2 values, got 1',
    ),
    (
      dict(name='piecewise', boundaries=(3, 3), values=(1.0, 2.0, 3.0)),
      10,
      r's\.boundaries=\(3, 3\): must increase',
    ),
    (
      dict(name='piecewise', values=(1.0,), value=2.0),
      10,
      r's\.value=2\.0.*`values`',
    ),
    (
      dict(
        name='piecewise', boundaries=(3,), values=(1.0, 2.0), warmup_steps=4
      ),
      10,
      r's\.warmup_steps=4.*first boundary, 3',
    ),
    (dict(), 0, r'total_steps=0'),
  ],
)
def test_contradictions_name_the_field(spec, total, message):
  with pytest.raises(ValueError, match=message):
    schedules.make_schedule(spec, total, 's')
