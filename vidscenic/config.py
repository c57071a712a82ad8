"""The experiment config: every core field, its default, and the checks.

A config file starts from `base_config()`, sets what differs and returns
`finalize(config)`. Command line overrides come later, so `main.py` finalizes
once more: the second pass re-checks everything and changes nothing.
"""

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import ml_collections as mlc

from vidscenic import config_checks as checks
from vidscenic import config_fields


def base_config() -> mlc.ConfigDict:
  """Returns an unlocked config that holds every core field.

  Free-form parts, filled by each experiment: `task.kwargs`, the `*_kwargs` of
  data specs, and the named entries of `evals`, `schedules`, `data.*.mixture`
  and `data.*.streams` (whose own fields are checked by `finalize`).
  """
  config = mlc.ConfigDict()
  config.seed = 0  # fixes initial weights, data order and every random draw
  config.steps = 1000  # optimizer updates in the whole run
  config.batch_size = 8  # examples per update, over all devices
  config.accum_steps = 1  # microbatches per update; gradients stay exact

  config.task = mlc.ConfigDict()
  config.task.factory = ''  # 'package.module:TaskClass'
  config.task.kwargs = mlc.ConfigDict()  # arguments of the task's class

  config.data = mlc.ConfigDict()
  config.data.train = data_spec()  # what is trained on

  config.optim = optim = mlc.ConfigDict()
  optim.name = 'adamw'  # adamw, lamb, sgd or muon
  optim.lr = 1e-3  # peak learning rate
  optim.schedule = schedule_spec()  # multiplies lr
  optim.weight_decay = 0.0  # decoupled: added to the update before lr
  optim.weight_decay_schedule = schedule_spec()  # multiplies weight_decay
  optim.decay_exclude = (r'(^|/)(bias|scale)$',)  # not decayed
  optim.b1 = 0.9  # decay of the first moment (adamw, lamb, muon's adam)
  optim.b2 = 0.999  # decay of the second moment
  optim.eps = 1e-8  # added to the root of the second moment
  optim.momentum = 0.9  # sgd and muon
  optim.nesterov = False  # sgd and muon
  optim.clip_norm = 0.0  # global gradient norm over trained leaves; 0: off
  optim.lr_mult = ()  # ((regex, factor), ...): first match wins
  optim.layer_decay = 1.0  # lr factor per block, counted from the top
  optim.layer_stem = r'(?:^|/)(?:embedding|position|class_token)'  # layer 0
  optim.layer_block = r'(?:^|/)block_(\d+)/'  # block index if unrolled
  optim.muon_exclude = (r'embed', r'token', r'head')  # trained by Adam
  optim.frozen = ()  # regexes of parameters that are never trained

  config.ema = mlc.ConfigDict()
  config.ema.decay = 0.0  # decay of the averaged weights; 0: off
  config.ema.schedule = schedule_spec()  # multiplies decay

  config.schedules = mlc.ConfigDict()  # name: schedule_spec, ctx.scheduled

  config.mesh = mlc.ConfigDict()
  config.mesh.data = -1  # devices that hold copies of the state; -1: the rest
  config.mesh.fsdp = 1  # devices that share one copy of the state
  config.mesh.model = 1  # reserved: no layer is split over it yet
  config.sharding = ((r'.*', 'replicate'),)  # (regex, 'replicate' | 'fsdp')

  config.init_from = init = mlc.ConfigDict()
  init.path = ''  # a run's workdir or a weights file; empty: random init
  init.factory = 'vidscenic.train.init_from:load_run'  # reads path
  init.params = 'params'  # 'params' or 'ema' of the run
  init.rules = ((r'(.*)', r'\1'),)  # (target regex, source name)
  init.ignore = ()  # regexes of source leaves that may stay unused
  init.kwargs = mlc.ConfigDict()  # further arguments of the factory

  config.evals = mlc.ConfigDict()  # name: eval_spec

  config.predict = mlc.ConfigDict()
  config.predict.factory = ''  # 'package.module:function', --mode=predict
  config.predict.kwargs = mlc.ConfigDict()  # further arguments of it
  config.predict.params = 'params'  # 'params' or 'ema' of the run

  config.log = mlc.ConfigDict()
  config.log.every_steps = 50  # also sets how often failures are noticed
  config.log.tensorboard = True  # TensorBoard event files in the workdir

  config.checkpoint = ckpt = mlc.ConfigDict()
  ckpt.every_steps = 1000  # the last step is always saved
  ckpt.keep_last = 2  # newest checkpoints kept
  ckpt.keep_best = 0  # best checkpoints kept besides
  ckpt.best_metric = ''  # for example 'heldout/psnr'
  ckpt.best_mode = 'max'  # max or min
  ckpt.asynchronous = True  # write while training goes on

  config.guard = mlc.ConfigDict()
  config.guard.max_bad_steps = 10  # discarded updates in a row: roll back
  config.guard.max_rollbacks = 3  # then stop
  config.guard.max_replaced = 0.01  # share of unreadable examples: stop

  config.profile = mlc.ConfigDict()
  config.profile.start = 0  # first profiled step
  config.profile.steps = 0  # number of profiled steps; 0: off

  config.compile_ahead_steps = 200  # how early the next phase is compiled
  config.preempted_exit_code = 0  # exit status after SIGTERM and saving
  return config


def data_spec(**overrides) -> mlc.ConfigDict:
  """One stream of examples: a source, a mixture of them, or named streams."""
  spec = mlc.ConfigDict()
  spec.source = ''  # 'package.module:Source'
  spec.source_kwargs = mlc.ConfigDict()  # arguments of the source
  spec.transform = 'vidscenic.data.clips:ClipTransform'  # decode, augment
  spec.transform_kwargs = mlc.ConfigDict()  # arguments of the transform
  spec.repeats = 1  # examples made of one decoded clip (repeated augmentation)
  spec.shuffle = True  # training only
  spec.weight = 1.0  # share of examples when inside a mixture
  spec.mixture = mlc.ConfigDict()  # name: data_spec, mixed by weight
  spec.streams = mlc.ConfigDict()  # name: data_spec, gives batch[name]
  spec.batch_size = 0  # rows of this stream; only inside streams
  spec.num_threads = 0  # reading threads per process; 0: min(16, cores)
  spec.num_workers = 0  # reading processes; 0: threads of this process
  return config_fields.fill(spec, overrides, 'data')


def schedule_spec(**overrides) -> mlc.ConfigDict:
  """A value over the steps of a run; see `train.schedules.make_schedule`."""
  spec = mlc.ConfigDict()
  spec.name = 'constant'  # constant, cosine, linear, rsqrt, wsd, piecewise
  spec.value = 1.0  # after the warm-up
  spec.end = 0.0  # at the end of the decay
  spec.warmup_steps = 0  # linear warm-up from warmup_init to value
  spec.warmup_init = 0.0  # value at step 0 of the warm-up
  spec.hold_steps = 0  # steps at value between warm-up and decay
  spec.decay_steps = 0  # end of the decay; 0: the run's last step
  spec.timescale = 10_000  # rsqrt: value falls as sqrt(timescale / step)
  spec.boundaries = ()  # piecewise: steps at which the value changes
  spec.values = ()  # piecewise: one more value than boundaries
  return config_fields.fill(spec, overrides, 'schedule')


def eval_spec(**overrides) -> mlc.ConfigDict:
  """One evaluator and its cadence."""
  spec = mlc.ConfigDict()
  spec.factory = ''  # 'vidscenic.evaluation.evaluator:MeanLoss'
  spec.every_steps = 1000  # the last step is always evaluated
  spec.params = 'params'  # 'params' or 'ema'
  spec.kwargs = mlc.ConfigDict()  # arguments of the evaluator
  return config_fields.fill(spec, overrides, 'evals')


def finalize(config: mlc.ConfigDict) -> mlc.ConfigDict:
  """Fills the defaults of named specs, checks every field and locks.

  Args:
    config: as made by `base_config` and changed by an experiment.

  Returns:
    The same object, locked.

  Raises:
    ValueError: unknown field (with the nearest valid name), wrong type, or
      values that contradict each other; the message names the field.
  """
  config.unlock()
  config_fields.check(config, base_config())
  for name in config.data:
    if name != 'train':
      raise ValueError(
        checks.unknown(f'config field {f"data.{name}"!r}', name, ('train',))
        + ' (data of evaluators are in evals.NAME.kwargs.data)'
      )
    config.data[name] = _finalize_data(config.data[name], f'data.{name}')
  for name in config.evals:
    where = f'evals.{name}'
    spec = config.evals[name] = config_fields.fill(
      eval_spec(), config.evals[name], where
    )
    for field in spec.kwargs:
      if field == 'data' or field.endswith('_data'):
        spec.kwargs[field] = _finalize_data(
          spec.kwargs[field], f'{where}.kwargs.{field}'
        )
  for name in config.schedules:
    config.schedules[name] = config_fields.fill(
      schedule_spec(), config.schedules[name], f'schedules.{name}'
    )
  checks.check_values(config)
  config.lock()
  return config


def parse_arg(arg: str, **defaults) -> mlc.ConfigDict:
  """Parses what follows the colon in `--config=file.py:smoke,size=128`.

  Args:
    arg: comma separated `name=value`; a bare boolean name means True.
    **defaults: the allowed names; a value takes the default's type.

  Returns:
    The defaults with the given values.

  Raises:
    ValueError: unknown name or a value that does not fit the type.
  """
  result = mlc.ConfigDict(defaults)
  for item in filter(None, (part.strip() for part in (arg or '').split(','))):
    name, given, text = item.partition('=')
    if name not in defaults:
      raise ValueError(
        checks.unknown(f'config argument {name!r}', name, defaults)
      )
    kind = type(defaults[name])
    if kind is bool:
      values = {'': True, 'true': True, '1': True, 'false': False, '0': False}
      if text.lower() not in values:
        raise ValueError(f'config argument {name}={text!r}: want true or false')
      result[name] = values[text.lower()]
      continue
    if not given:
      raise ValueError(f'config argument {name!r} needs a value: {name}=...')
    try:
      result[name] = kind(text)
    except ValueError as e:
      raise ValueError(
        f'config argument {name}={text!r}: want {kind.__name__}'
      ) from e
  return result


def resolve(factory: str, field: str = 'factory') -> Any:
  """Returns the object that a factory string such as 'a.b:Name' points at.

  Raises:
    ValueError: malformed string, missing module or missing name; the message
      starts with `field`.
  """
  module_name, colon, name = factory.partition(':')
  if not colon or not module_name or not name:
    raise ValueError(f"{field}={factory!r}: want 'package.module:Name'")
  try:
    module = importlib.import_module(module_name)
  except ModuleNotFoundError as e:
    if e.name and module_name.startswith(e.name):
      raise ValueError(f'{field}={factory!r}: no module {e.name!r}') from e
    raise  # the module exists but one of its own imports is missing
  if not hasattr(module, name):
    public = [n for n in vars(module) if not n.startswith('_')]
    raise ValueError(
      checks.unknown(f'{field}={factory!r}: {name!r}', name, public)
    )
  return getattr(module, name)


def build(factory: str, *args, field: str = 'factory', **kwargs) -> Any:
  """Calls what a factory string points at.

  Args:
    factory: 'package.module:Name'.
    *args: positional arguments given by the core.
    field: config field that holds the string, for messages.
    **kwargs: arguments from the config; ConfigDicts become plain dicts.

  Raises:
    ValueError: unknown or missing arguments, named with the nearest valid one.
  """
  return prepare(factory, len(args), field=field, **kwargs)(*args)


def prepare(
  factory: str, num_args: int, /, *, field: str = 'factory', **kwargs
) -> Callable[..., Any]:
  """`build` in two steps: checks arguments now, for a call later.

  Args:
    factory: 'package.module:Name'.
    num_args: how many positional arguments the core is going to give.
    field: config field that holds the string, for messages.
    **kwargs: arguments from the config; ConfigDicts become plain dicts.

  Returns:
    A function of the positional arguments.

  Raises:
    ValueError: as `build`.
  """
  target = resolve(factory, field)
  kwargs = {k: plain(v) for k, v in kwargs.items()}
  parameters = list(inspect.signature(target).parameters.values())
  positional = {p.name for p in parameters[:num_args]}
  known = _argument_names(target)
  for name in kwargs:
    if known is not None and name not in known - positional:
      raise ValueError(
        checks.unknown(f'{factory} argument {name!r}', name, known - positional)
      )
  missing = [
    p.name
    for p in parameters
    if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    and p.default is p.empty
    and p.name not in positional | kwargs.keys()
  ]
  if missing:
    raise ValueError(f'{factory} ({field}) needs arguments {missing}')
  return functools.partial(target, **kwargs)


def _argument_names(target) -> set[str] | None:
  """Names that a callable takes; None if it takes any.

  **kwargs of a class go on to its base, as evaluators do it.
  """
  callables = [target]
  if inspect.isclass(target):
    callables += [c.__init__ for c in target.__mro__ if '__init__' in vars(c)]
  names = set()
  for function in callables:
    parameters = inspect.signature(function).parameters.values()
    names |= {
      p.name
      for p in parameters
      if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    if not any(p.kind == p.VAR_KEYWORD for p in parameters):
      return names - {'self'}
  return None


def plain(value: Any) -> Any:
  """Turns ConfigDicts, also nested ones, into dicts."""
  if isinstance(value, mlc.ConfigDict):
    return {k: plain(v) for k, v in value.items()}
  return value


def difference(old: dict, new: dict, prefix: str = '') -> dict[str, tuple]:
  """Returns {dotted field: (old, new)} where two resolved configs differ."""
  changes = {}
  for name in sorted(old.keys() | new.keys()):
    a, b = old.get(name), new.get(name)
    if isinstance(a, dict) or isinstance(b, dict):
      a = a if isinstance(a, dict) else {}
      b = b if isinstance(b, dict) else {}
      changes.update(difference(a, b, f'{prefix}{name}.'))
    elif a != b:
      changes[f'{prefix}{name}'] = (a, b)
  return changes


def _finalize_data(spec, where):
  spec = config_fields.fill(data_spec(), spec, where)
  for group in ('mixture', 'streams'):
    for name in spec[group]:
      spec[group][name] = _finalize_data(
        spec[group][name], f'{where}.{group}.{name}'
      )
  checks.check_data(spec, where)
  return spec
