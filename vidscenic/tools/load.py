"""A task with trained weights, in one call.

  from vidscenic.tools.load import load
  task, params = load('tapir')              # published: downloaded once
  task, params = load('runs/smoke')         # newest checkpoint of a run
  task, params = load('runs/smoke', params='ema')
  task, params = load('weights.npz', config='projects/rvm/configs/predict.py',
                      importer='projects.rvm.importer:load')

A published name comes first; write './tapir' for a folder that is called so. A
file that still has its published name needs neither config nor importer. The
weights lie on this process's first device.
"""

import contextlib
import json
import os
import pathlib
import runpy
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections as mlc

from vidscenic import config as vc
from vidscenic import task as task_lib
from vidscenic.importers import published
from vidscenic.tools import download
from vidscenic.tools import loaded as loaded_lib
from vidscenic.train import checkpoints as checkpoints_lib
from vidscenic.train import guard, report
from vidscenic.train import workdir as workdir_lib

_RUN = vc.base_config().init_from.factory  # reads runs, not files
_IMPORTED = 'imported'  # file of a run that was made of weights: which ones


def load(
  name_or_path: str | os.PathLike,
  *,
  params: str = 'params',
  config: mlc.ConfigDict | str | None = None,
  importer: str = '',
  **model_options,
) -> tuple[task_lib.Task, task_lib.Params]:
  """Loads a task and its parameters.

  Args:
    name_or_path: a published name, a weights file or a workdir.
    params: 'params', or 'ema' for the averages of a run.
    config: a config, or 'file.py:argument', whose task takes the weights in
      place of the run's or of the published one.
    importer: 'package.module:load' that reads a file; by default the one of
      `config.init_from`, or that of the published file of this name.
    **model_options: arguments of the task that replace those of the config, of
      the run or of the published weights; dicts are merged.

  Returns:
    (task, params).

  Raises:
    OSError: a missing path, an unreadable file, a failed download.
    ValueError: an unknown name, no task or importer, or weights that do not
      fit the task.
  """
  got = load_with_state(
    name_or_path,
    params=params,
    config=config,
    importer=importer,
    **model_options,
  )
  return got.task, got.params


def load_with_state(
  name_or_path: str | os.PathLike,
  *,
  params: str = 'params',
  config: mlc.ConfigDict | str | None = None,
  importer: str = '',
  **model_options,
) -> loaded_lib.Loaded:
  """As `load`, for models with batch statistics, and with the step of a run."""
  if params not in ('params', 'ema'):
    raise ValueError(f"params={params!r}: want 'params' or 'ema'")
  text = os.fspath(name_or_path)
  if not is_name(text) and not os.path.isfile(text):
    return _load_run(text, params, config, importer, model_options)
  if params == 'ema':
    raise ValueError(f"{text} holds one set of weights: leave out params='ema'")
  resolved = resolve(text, config, importer, model_options)
  run = loaded_lib.run_on_one_device(resolved)
  return loaded_lib.Loaded(run.task, *run.fresh_weights(), step=0)


def is_name(text: str) -> bool:
  """Whether this is the name of published weights."""
  return any(text == entry.name for entry in published.WEIGHTS)


def resolve(
  name_or_file: str,
  config: mlc.ConfigDict | str | None = None,
  importer: str = '',
  model_options: Mapping[str, Any] | None = None,
) -> mlc.ConfigDict:
  """The config of a run that starts from a weights file.

  Args:
    name_or_file: a published name, which is downloaded, or a file.
    config, importer, model_options: as in `load`.

  Returns:
    A finalized config whose `task` and `init_from` are set.

  Raises:
    As `load`.
  """
  entry = published.find_file(name_or_file)
  if is_name(name_or_file):
    entry = published.find(name_or_file)
  config = _copied(config)
  options = config.init_from.kwargs
  if not config.task.factory:
    if entry is None:
      raise ValueError(
        f'{name_or_file}: no published weights have this file name, so '
        "config='file.py' must say which task takes them"
      )
    config.task.factory = entry.task
    config.task.kwargs = mlc.ConfigDict(dict(entry.task_kwargs))
  elif entry is not None and config.task.factory == entry.task:
    config.task.kwargs = agreed(entry, config.task.kwargs)
  if not importer and config.init_from.factory != _RUN:
    importer = config.init_from.factory
  elif not importer and entry is not None:
    importer, options = entry.importer, entry.importer_options
  if not importer:
    raise ValueError(
      f'{name_or_file}: no published weights have this file name, so '
      "importer='package.module:load' or config.init_from.factory must say "
      'who reads it'
    )
  config.task.kwargs = _merged(config.task.kwargs, model_options or {})
  if entry and importer == entry.importer and not published.has_importer(entry):
    raise ValueError(
      f'{name_or_file!r}: there is no importer for projects/{entry.project} yet'
    )
  # Found before a download of gigabytes, not after it.
  vc.resolve(config.task.factory, f'task of {name_or_file}')
  vc.resolve(importer, f'importer of {name_or_file}')
  path = name_or_file
  if is_name(name_or_file):
    path = download.fetch(entry)
  config.init_from.path, config.init_from.factory = str(path), importer
  config.init_from.kwargs = mlc.ConfigDict(dict(options))
  return vc.finalize(config)


def make_run(
  name_or_file: str,
  workdir: str | os.PathLike,
  *,
  config: mlc.ConfigDict | str | None = None,
  importer: str = '',
) -> str:
  """Makes a run at step 0 that holds the weights of a file.

  It is finished (DONE), so everything that takes a workdir takes it. Training
  there with the same config goes on from these weights with a new optimizer
  state.

  Args:
    name_or_file: a published name, which is downloaded, or a file.
    workdir: where the run goes.
    config, importer: as in `load`.

  Returns:
    What was done, in a line or two.

  Raises:
    OSError, ValueError: as `load`; or workdir is a run already. Nothing is
      written then.
  """
  path = checkpoints_lib.full_path(workdir)
  if (path / 'config.json').exists():
    raise ValueError(f'{path} is a run already; choose another --workdir')
  resolved = resolve(name_or_file, config, importer)
  stored = _copied(resolved)
  stored.init_from = _copied(config).init_from
  state = loaded_lib.run_on_one_device(resolved).fresh_state()
  path = workdir_lib.prepare(path, vc.finalize(stored))
  meta = {
    'meter': report.Meter().state(),
    'guard': guard.Guard(resolved.guard).meta(),
    'bad_steps': 0.0,
  }
  with contextlib.closing(
    checkpoints_lib.Checkpoints(path, asynchronous=False)
  ) as checkpoints:
    checkpoints.save(state, meta)
  (path / _IMPORTED).write_text(str(name_or_file))
  workdir_lib.mark_finished(path, 0)
  count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  return f'{path}: {count:,} parameters of {resolved.init_from.path}'


def ensure_run(
  name_or_file: str, workdir: str | os.PathLike, config: mlc.ConfigDict
) -> None:
  """`make_run`, unless the workdir is the run that it would make.

  Raises:
    OSError, ValueError: as `make_run`; workdir is a run of other weights; or
      there are several processes and no such run.
  """
  path = checkpoints_lib.full_path(workdir)
  made = (path / 'config.json').exists()
  if not made and jax.process_count() > 1:
    raise ValueError(
      '--weights: with several processes first make a run of them by `python '
      '-m vidscenic.tools.weights import`'
    )
  if not made:
    make_run(name_or_file, workdir, config=config)
    return
  source = path / _IMPORTED
  found = source.read_text() if source.exists() else 'weights of its own'
  if found != str(name_or_file):
    raise ValueError(
      f'--weights={name_or_file}: {path} is a run with {found}; choose another '
      '--workdir, or leave out --weights to evaluate that run'
    )


def read_config(text: str) -> mlc.ConfigDict:
  """The config of 'file.py' or 'file.py:argument'.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a config file, or a config with mistakes.
  """
  path, colon, argument = text.partition(':')
  if not os.path.isfile(path):
    raise FileNotFoundError(f'config={text!r}: no such file')
  get_config = runpy.run_path(path).get('get_config')
  if get_config is None:
    raise ValueError(f'config={text!r}: the file has no get_config')
  return vc.finalize(get_config(argument) if colon else get_config())


def stored_config(workdir: str | os.PathLike) -> mlc.ConfigDict:
  """The config that a run was started with, to be finalized.

  Raises:
    FileNotFoundError: not the workdir of a run.
    ValueError: a folder of Hugging Face.
  """
  _refuse_hugging_face(workdir)
  stored = vc.base_config()  # a run that is older may lack fields
  stored.update(_tuples(workdir_lib.load_config(workdir)))
  return stored


def find_config(workdir: str, weights: str) -> mlc.ConfigDict:
  """The config to predict with where none is given.

  Args:
    workdir: of a run, which has its own; or ''.
    weights: a published name, or a file of that name.

  Raises:
    FileNotFoundError: not the workdir of a run.
    ValueError: weights that no published config is known for.
  """
  if workdir:
    return vc.finalize(stored_config(workdir))
  entry = published.find_file(weights)
  if is_name(weights):
    entry = published.find(weights)
  if entry is None or not entry.predict:
    raise ValueError(
      '--config is missing, such as --config=projects/tapir/configs/predict.py'
    )
  root = pathlib.Path(__file__).parents[2]
  return read_config(os.fspath(root / entry.predict))


def _refuse_hugging_face(workdir):
  """Their folders hold a config.json, too."""
  folder = pathlib.Path(workdir)
  stored, config = {}, folder / 'config.json'
  if config.is_file():
    stored = json.loads(config.read_text())
  files = [
    *sorted(folder.glob('*.safetensors')),
    *sorted(folder.glob('*model*.bin')),
  ]
  if 'task' not in stored and (files or 'model_type' in stored):
    name = files[0].name if files else '*.safetensors or *.bin'
    raise ValueError(
      f'{folder} is a folder of Hugging Face and no run; pass the file with '
      f"the weights: load('{folder / name}', config='file.py', "
      "importer='package.module:load')"
    )


def _load_run(path, params, config, importer, model_options):
  if importer:
    raise ValueError(f'importer={importer!r} but {path!r} is no file')
  if '://' not in path and not os.path.isdir(path):
    raise ValueError(
      f'{path!r} is no file, no folder and no name{published.hint(path)}'
    )
  stored = stored_config(path)
  if config is not None:
    stored.task = _copied(config).task
  stored.task.kwargs = _merged(stored.task.kwargs, model_options)
  stored.predict.params = params
  if params == 'ema' and not stored.ema.decay:
    raise ValueError(f"params='ema' but {path} was trained without ema.decay")
  return loaded_lib.from_workdir(vc.finalize(stored), path)


def agreed(
  entry: published.Weights,
  kwargs: Mapping[str, Any],
  path: str = 'task.kwargs',
  wanted: Mapping[str, Any] | None = None,
) -> mlc.ConfigDict:
  """Arguments of a task with those of the model that published weights need.

  Shapes alone do not tell all of them: causal and other convolutions are alike.
  What is not under `model` may be chosen freely.

  Args:
    entry: the weights.
    kwargs: arguments from a config, of the same task.
    path: where they stand, for messages.
    wanted: of the entry, at this depth.

  Raises:
    ValueError: an argument that has another value in the config.
  """
  result = vc.plain(kwargs)
  for name, need in (entry.task_kwargs if wanted is None else wanted).items():
    where, have = f'{path}.{name}', result.get(name, need)
    if isinstance(need, Mapping) and isinstance(have, Mapping):
      result[name] = agreed(entry, have, where, need)
    elif vc.plain(have) != vc.plain(need) and path != 'task.kwargs':
      raise ValueError(
        f'{where}={have!r} in the config, but {entry.name} needs {need!r}'
        + (f': use --config={entry.predict}' if entry.predict else '')
      )
    else:
      result[name] = have
  return mlc.ConfigDict(result)


def _copied(config):
  if config is None:
    return vc.base_config()
  if isinstance(config, str):
    config = read_config(config)
  return mlc.ConfigDict(vc.plain(config))


def _merged(kwargs, options):
  """kwargs with options over them; dicts inside are merged, not replaced."""
  result = vc.plain(kwargs)
  for name, value in options.items():
    if isinstance(value, Mapping) and isinstance(result.get(name), Mapping):
      value = _merged(result[name], value)
    result[name] = value
  return mlc.ConfigDict(result)


def _tuples(value):
  """JSON knows lists only; sequences of configs are tuples."""
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  if isinstance(value, list):
    return tuple(_tuples(v) for v in value)
  return value
