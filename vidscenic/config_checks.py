"""Checks of config values, behind `config.finalize`.

Every function takes fields that already have their names and types and raises
a ValueError that names the field, the value found and what is allowed. Nothing
here imports jax: a wrong config is refused at once.
"""

import difflib
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections as mlc

OPTIMIZERS = ('adamw', 'lamb', 'sgd', 'muon')
SCHEDULES = ('constant', 'cosine', 'linear', 'rsqrt', 'wsd', 'piecewise')


def unknown(what: str, name: Any, known: Iterable[str]) -> str:
  """A message that offers the known name nearest to `name`, else all."""
  known = sorted(known)
  near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
  hint = f'did you mean {near[0]!r}?' if near else f'valid: {", ".join(known)}'
  return f'{what} is unknown; {hint}'


def completed(
  given: Mapping[str, Any] | mlc.ConfigDict,
  defaults: Mapping[str, Any] | mlc.ConfigDict,
  where: str,
) -> dict[str, Any]:
  """The given fields over the defaults.

  Raises:
    ValueError: a field that has no default, with the nearest valid name.
  """
  given, defaults = dict(given.items()), dict(defaults.items())
  for field, value in given.items():
    if field not in defaults:
      raise ValueError(unknown(f'{where}.{field}={value!r}', field, defaults))
  return defaults | given


def get_field(config: mlc.ConfigDict, field: str) -> Any:
  """The value of a dotted field such as 'optim.schedule.name'.

  Raises:
    ValueError: no such field, with the nearest valid name.
  """
  value, prefix = config, ''
  for name in field.split('.'):
    if not isinstance(value, mlc.ConfigDict):
      raise ValueError(
        f'config field {field!r}: {prefix[:-1]}={value!r} has no fields'
      )
    if name not in value:
      raise ValueError(unknown(f'config field {prefix + name!r}', name, value))
    value = value[name]
    prefix += f'{name}.'
  return value


def check_values(config: mlc.ConfigDict) -> None:
  """Checks everything but data specs."""
  _check_numbers(config)
  check_optimizer(config.optim)
  _choice(config, 'checkpoint.best_mode', ('max', 'min'))
  _choice(config, 'init_from.params', ('params', 'ema'))
  _choice(config, 'predict.params', ('params', 'ema'))
  _check_sizes(config)
  for name, spec in config.evals.items():
    _check_eval(spec, f'evals.{name}', averaging=bool(config.ema.decay))
  if config.predict.params == 'ema' and not config.ema.decay:
    raise ValueError("predict.params='ema' but ema.decay=0: no averaging")
  best = config.checkpoint.best_metric
  if bool(best) != bool(config.checkpoint.keep_best):
    raise ValueError(
      f'checkpoint.best_metric={best!r} and checkpoint.keep_best='
      f'{config.checkpoint.keep_best} go together: set both or none'
    )
  evaluator = best.split('/')[0]
  if best and evaluator not in config.evals:
    what = f'checkpoint.best_metric={best!r}: evaluator {evaluator!r}'
    raise ValueError(unknown(what, evaluator, config.evals))
  if (
    best and config.checkpoint.every_steps % config.evals[evaluator].every_steps
  ):
    raise ValueError(
      f'checkpoint.every_steps={config.checkpoint.every_steps} is not a '
      f'multiple of evals.{evaluator}.every_steps='
      f'{config.evals[evaluator].every_steps}: some checkpoints would have no '
      f'{best!r} to be chosen by'
    )
  fields = ('optim.schedule', 'optim.weight_decay_schedule', 'ema.schedule')
  for field in (*fields, *(f'schedules.{name}' for name in config.schedules)):
    check_schedule(get_field(config, field), field, config.steps)


def _check_numbers(config):
  positive = ('steps', 'batch_size', 'accum_steps', 'log.every_steps')
  for field in positive + ('checkpoint.every_steps', 'checkpoint.keep_last'):
    _want(config, field, lambda v: v >= 1, '1 or more')
  for field in (
    'seed',
    'checkpoint.keep_best',
    'guard.max_bad_steps',
    'guard.max_rollbacks',
    'profile.start',
    'profile.steps',
    'compile_ahead_steps',
    'preempted_exit_code',
  ):
    _want(config, field, lambda v: v >= 0, '0 or more')
  for field in ('ema.decay', 'guard.max_replaced'):
    _want(config, field, lambda v: 0 <= v <= 1, 'a number in [0, 1]')


def check_optimizer(optim: Mapping[str, Any]) -> None:
  """Checks the fields of `config.optim` that are no expressions on paths."""

  def want(field, ok, wanted):
    if not ok(optim[field]):
      raise ValueError(f'optim.{field}={optim[field]!r}: want {wanted}')

  name = optim['name']
  if name not in OPTIMIZERS:
    raise ValueError(unknown(f'optim.name={name!r}', name, OPTIMIZERS))
  for field in ('lr', 'weight_decay', 'clip_norm'):
    want(field, lambda v: 0 <= v < math.inf, '0 or more')
  for field in ('b1', 'b2', 'momentum'):
    want(field, lambda v: 0 <= v < 1, 'a number in [0, 1)')
  want('eps', lambda v: 0 < v < math.inf, 'more than 0')
  want('layer_decay', lambda v: 0 < v <= 1, 'a number in (0, 1]')
  heavy = name in ('sgd', 'muon') and (name == 'muon' or optim['momentum'] > 0)
  want('nesterov', lambda v: heavy or not v, 'muon, or sgd with momentum')
  want('lr_mult', _are_factors, '((regex, factor of 0 or more), ...)')


def _are_factors(pairs):
  return all(
    isinstance(pair, tuple | list)
    and len(pair) == 2
    and isinstance(pair[0], str)
    and 0 <= pair[1] < math.inf
    for pair in pairs
  )


def _check_sizes(config):
  if config.batch_size % config.accum_steps:
    raise ValueError(
      f'batch_size={config.batch_size} is not a multiple of '
      f'accum_steps={config.accum_steps}'
    )
  streams = config.data.train.streams
  if len(streams):
    total = sum(part.batch_size for part in streams.values())
    if total != config.batch_size:
      raise ValueError(
        f'batch_size={config.batch_size} but the streams of data.train add up '
        f'to {total}'
      )
  sizes = [config.mesh[name] for name in ('data', 'fsdp', 'model')]
  if sizes.count(-1) > 1 or any(s != -1 and s < 1 for s in sizes):
    raise ValueError(f'mesh={config.mesh.to_dict()}: want sizes >= 1, one -1')
  if config.mesh.model != 1:
    raise ValueError('mesh.model is reserved: no layer is split over it yet')


def _check_eval(spec, where, *, averaging):
  if spec.every_steps < 1:
    raise ValueError(f'{where}.every_steps={spec.every_steps}: want >= 1')
  if spec.params not in ('params', 'ema'):
    raise ValueError(f"{where}.params={spec.params!r}: want 'params' or 'ema'")
  if spec.params == 'ema' and not averaging:
    raise ValueError(f"{where}.params='ema' but ema.decay=0: no averaging")


def _want(config, field, ok, wanted):
  value = get_field(config, field)
  if not ok(value):
    raise ValueError(f'{field}={value}: want {wanted}')


def _choice(config, field, allowed):
  value = get_field(config, field)
  if value not in allowed:
    raise ValueError(unknown(f'{field}={value!r}', value, allowed))


def check_data(spec: mlc.ConfigDict, where: str) -> None:
  """Checks a data spec whose mixture and streams were checked before."""
  kinds = [bool(spec.source), bool(len(spec.mixture)), bool(len(spec.streams))]
  if sum(kinds) > 1:
    raise ValueError(
      f'{where}: set only one of source, mixture and streams, got '
      f'source={spec.source!r}, mixture={list(spec.mixture)}, '
      f'streams={list(spec.streams)}'
    )
  if spec.repeats < 1:
    raise ValueError(f'{where}.repeats={spec.repeats}: want 1 or more')
  if spec.weight <= 0:
    raise ValueError(f'{where}.weight={spec.weight}: want more than 0')
  for name in ('num_threads', 'num_workers', 'batch_size'):
    if spec[name] < 0:
      raise ValueError(f'{where}.{name}={spec[name]}: want 0 or more')
  if spec.batch_size and where.split('.')[-2] != 'streams':
    raise ValueError(
      f'{where}.batch_size={spec.batch_size}: only streams have one; for '
      'training set batch_size, for an evaluator its kwargs.batch_size'
    )
  for name, part in spec.mixture.items():
    if len(part.streams):
      raise ValueError(
        f'{where}.mixture.{name}: a part of a mixture has no streams'
      )
    for field in ('num_threads', 'num_workers'):
      if part[field]:
        raise ValueError(
          f'{where}.mixture.{name}.{field}={part[field]}: set {where}.{field}, '
          'a mixture is read as one'
        )
    if part.repeats != spec.repeats:
      raise ValueError(
        f'{where}.mixture.{name}.repeats={part.repeats} but {where}.repeats='
        f'{spec.repeats}: a mixture needs one value'
      )
  for name, part in spec.streams.items():
    if part.batch_size < 1 or len(part.streams):
      raise ValueError(
        f'{where}.streams.{name}: want batch_size >= 1 and no inner streams, '
        f'got batch_size={part.batch_size}, streams={list(part.streams)}'
      )


def check_schedule(
  spec: Mapping[str, Any] | mlc.ConfigDict,
  where: str,
  total_steps: int,
) -> None:
  """Checks a schedule; see `train.schedules` for what the fields mean.

  Args:
    spec: all fields of `config.schedule_spec`, of any type.
    where: its name in the config, such as 'optim.schedule'.
    total_steps: length of the run in updates.
  """

  def refuse(field, allowed):
    raise ValueError(f'{where}.{field}={spec[field]!r}: {allowed}')

  name = spec['name']
  if name not in SCHEDULES:
    raise ValueError(unknown(f'{where}.name={name!r}', name, SCHEDULES))
  for field in ('value', 'end', 'warmup_init'):
    if not _is_finite(spec[field]):
      refuse(field, 'must be a finite number')
  for field in ('warmup_steps', 'decay_steps', 'hold_steps', 'timescale'):
    lowest = 1 if field == 'timescale' else 0
    if not _is_count(spec[field]) or spec[field] < lowest:
      refuse(field, f'must be an integer of at least {lowest}')
  if not _is_count(total_steps) or total_steps < 1:
    raise ValueError(
      f'{where}: total_steps={total_steps!r} must be an integer of at least 1'
    )
  if name == 'piecewise':
    _check_piecewise(spec, refuse)
  else:
    for field in ('boundaries', 'values'):
      if len(spec[field]):
        refuse(field, f"only 'piecewise' reads it, name is {name!r}")
  if name in ('rsqrt', 'piecewise') and spec['decay_steps']:
    refuse('decay_steps', f'must stay 0, {name!r} has no last step')
  if name in ('wsd', 'piecewise') and spec['hold_steps']:
    refuse('hold_steps', f'must stay 0, {name!r} fixes the length itself')
  _check_lengths(spec, total_steps, refuse)


def _check_piecewise(spec, refuse):
  boundaries, values = tuple(spec['boundaries']), tuple(spec['values'])
  if spec['value'] != 1.0:
    refuse('value', "'piecewise' does not read it, write it into `values`")
  if not all(_is_count(b) and b > 0 for b in boundaries):
    refuse('boundaries', 'must be positive integers')
  if any(b <= a for a, b in zip(boundaries, boundaries[1:], strict=False)):
    refuse('boundaries', 'must increase')
  if not all(_is_finite(v) for v in values):
    refuse('values', 'must be finite numbers')
  if len(values) != len(boundaries) + 1:
    refuse(
      'values',
      f'{len(boundaries)} boundaries need {len(boundaries) + 1} values, '
      f'got {len(values)}',
    )
  if boundaries and spec['warmup_steps'] > boundaries[0]:
    refuse('warmup_steps', f'passes the first boundary, {boundaries[0]}')


def _check_lengths(spec, total_steps, refuse):
  name = spec['name']
  if name == 'wsd' and not spec['decay_steps']:
    refuse('decay_steps', "'wsd' needs the length of its final decay")
  if spec['warmup_steps'] > total_steps:
    refuse(
      'warmup_steps',
      f'longer than the run of {total_steps} steps; set it too, or give the '
      'length to the config file (--config=FILE.py:steps=...) if it takes one',
    )
  plateau = spec['warmup_steps'] + spec['hold_steps']
  if name in ('cosine', 'linear'):
    last = spec['decay_steps'] or total_steps
    if plateau >= last:
      field = 'hold_steps' if spec['hold_steps'] else 'warmup_steps'
      refuse(
        field,
        f'warm-up and hold take {plateau} steps, nothing is left of the '
        f'{last} steps that the decay ends at',
      )
  if name == 'wsd' and plateau + spec['decay_steps'] > total_steps:
    refuse(
      'decay_steps',
      f'with a warm-up of {plateau} steps it exceeds the run of '
      f'{total_steps} steps',
    )


def _is_count(x) -> bool:
  return isinstance(x, numbers.Integral) and not isinstance(x, bool)


def _is_finite(x) -> bool:
  real = isinstance(x, numbers.Real) and not isinstance(x, bool)
  return real and math.isfinite(x)
