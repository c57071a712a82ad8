"""Numbers that change over a run: learning rate, weight decay, mask ratio.

A schedule is described by a `config.schedule_spec` and becomes a function of
the number of completed updates (`make_schedule`). All of them start with an
optional linear warm-up:

  constant   warm-up, then `value`
  cosine     warm-up, `value` for `hold_steps`, half a cosine down to `end`
  linear     warm-up, `value` for `hold_steps`, straight line down to `end`
  rsqrt      warm-up, `value` for `hold_steps`, then
             value * sqrt(timescale / (timescale + steps since)), at least `end`
  wsd        warm-up, `value` up to `decay_steps` before the end of the run,
             then a straight line down to `end` (warm-up, stable, decay)
  piecewise  `values[i]` up to, not including, step `boundaries[i]`

Optax joins the pieces but its lines and cosines are not used: they subtract
nearly equal float32 numbers at their small end. After the first of 10,000
warm-up steps the line is off by 2e-4 of its value, under jit a decay to 0 can
end slightly below 0, and a cosine written as 1 + cos loses all digits before
its end. Here the small end is counted in whole steps. Unlike optax's cosine,
whose end is a fraction of its start, this one may also rise from 0.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections as mlc
import optax

from vidscenic import config as config_lib
from vidscenic import config_checks

Schedule = Callable[[Any], jax.Array]


def make_schedule(
  spec: Mapping[str, Any] | mlc.ConfigDict,
  total_steps: int,
  where: str = 'schedule',
) -> Schedule:
  """Builds the function that a description stands for.

  Args:
    spec: any of the fields of `config.schedule_spec`; others take their
      defaults.
      value: after the warm-up.
      end: for 'rsqrt' a lower bound.
      warmup_steps: updates before `value` (or `values[0]`) is reached.
      warmup_init: the value at step 0 of the warm-up.
      decay_steps: the step, counted from 0 and so including the warm-up, at
        which `end` is reached; 0 means the length of the run, and more than
        that stops on the way down (V-JEPA stretches by 1.25). For 'wsd' the
        number of updates of the final decay, which has no default.
      hold_steps: updates at `value` between warm-up and decay.
      timescale: updates after which 'rsqrt' has fallen by sqrt(2).
      boundaries, values: for 'piecewise', absolute steps and values; one value
        more than boundaries.
    total_steps: length of the run in updates.
    where: the name of the description in error messages.

  Returns:
    fn(step) -> float32[]: the value for the update that follows `step`
    completed ones. `step` is a Python integer or a (traced) integer array, for
    which the result has its shape. Steps beyond the end keep the last value.

  Raises:
    ValueError: an unknown field, or values that contradict each other; names
      `where.field`, the value found and what is allowed.
  """
  spec = config_checks.completed(spec, config_lib.schedule_spec(), where)
  config_checks.check_schedule(spec, where, total_steps)
  parts = _parts(spec, total_steps)
  starts = [start for start, _ in parts]
  joined = optax.join_schedules([part for _, part in parts], starts[1:])

  def schedule(step):
    step = jnp.asarray(step)
    value = jnp.asarray(joined(step), jnp.float32)
    return jnp.broadcast_to(value, step.shape)

  return schedule


def _parts(spec, total_steps) -> list[tuple[int, Callable]]:
  """(first step, function of the steps since then), in order."""
  value, end = float(spec['value']), float(spec['end'])
  warmup = spec['warmup_steps']
  plateau = warmup + spec['hold_steps']
  first = value
  if spec['name'] == 'piecewise':
    first = float(spec['values'][0])
    later = zip(spec['boundaries'], spec['values'][1:], strict=True)
    tail = [(at, optax.constant_schedule(float(v))) for at, v in later]
  elif spec['name'] == 'constant':
    tail = []
  elif spec['name'] == 'rsqrt':
    tail = [(plateau, _rsqrt(value, end, spec['timescale']))]
  elif spec['name'] == 'wsd':
    length = spec['decay_steps']
    tail = [(total_steps - length, _line_down(value, end, length))]
  else:
    length = (spec['decay_steps'] or total_steps) - plateau
    shape = _cosine if spec['name'] == 'cosine' else _line_down
    tail = [(plateau, shape(value, end, length))]

  parts = [(warmup, optax.constant_schedule(first)), *tail]
  if warmup:
    parts = [(0, _line_up(spec['warmup_init'], first, warmup)), *parts]
  return parts


def _line_up(start, value, length):
  def schedule(count):
    return start + (value - start) * (jnp.clip(count, 0, length) / length)

  return schedule


def _line_down(value, end, length):
  def schedule(count):
    return end + (value - end) * (_left(count, length) / length)

  return schedule


def _cosine(value, end, length):
  # (1 + cos(pi * t)) / 2 = sin(pi * (1 - t) / 2) ** 2.
  def schedule(count):
    left = _left(count, length) / length
    return end + (value - end) * jnp.sin(0.5 * jnp.pi * left) ** 2

  return schedule


def _left(count, length):
  return jnp.clip(length - count, 0, length)


def _rsqrt(value, end, timescale):
  def schedule(count):
    count = jnp.maximum(count, 0)
    return jnp.maximum(value * jnp.sqrt(timescale / (timescale + count)), end)

  return schedule
