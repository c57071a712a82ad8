"""What a run leaves in its workdir besides checkpoints and logs.

config.json   the resolved config of the latest start
DONE          exists when the run has finished; holds the number of updates
compiled/     XLA's compilation cache
"""

import json
import re

import jax
import ml_collections as mlc
from absl import logging
from etils import epath

from vidscenic import config as vc
from vidscenic.train import checkpoints, disk_errors, distributed

# Changing these in a restart makes another experiment of it ...
_IDENTITY = re.compile(r'^(task|data|seed|batch_size|init_from)(\.|$)')
# ... but these only change how fast the same data arrive.
_HARMLESS = re.compile(r'\.(num_threads|num_workers)$')


def prepare(
  workdir: epath.PathLike,
  config: mlc.ConfigDict,
  *,
  allow_config_change: bool = False,
) -> epath.Path:
  """Makes the folder, compares the config with the one there and stores it.

  Raises:
    OSError: the folder cannot be written.
    ValueError: a restart with another model, data, seed or batch size.
  """
  path = checkpoints.full_path(workdir)
  resolved = json.loads(json.dumps(vc.plain(config), default=str))
  stored = path / 'config.json'
  old = json.loads(stored.read_text()) if stored.exists() else None
  distributed.barrier('config_read')  # before process 0 replaces it
  if old is not None:
    # Before its first checkpoint there is nothing that a change could spoil,
    # and a mistyped path should not cost another workdir.
    nothing_yet = not _has_checkpoint(path)
    _compare(old, resolved, path, allow_config_change or nothing_yet)
  if jax.process_index() == 0:
    with disk_errors.explained(path):
      path.mkdir(parents=True, exist_ok=True)
      part = path / 'config.json.part'
      part.write_text(json.dumps(resolved, indent=2, sort_keys=True) + '\n')
      part.replace(stored)
  distributed.barrier('config_written')
  _set_compilation_cache(path)
  return path


def _has_checkpoint(path):
  folder = path / checkpoints.FOLDER
  return folder.exists() and any(p.name.isdigit() for p in folder.iterdir())


def _compare(old, new, path, allowed):
  changes = vc.difference(old, new)
  if not changes:
    return
  lines = '\n'.join(f'  {k}: {a!r} -> {b!r}' for k, (a, b) in changes.items())
  logging.warning('the config differs from the one in %s:\n%s', path, lines)
  identity = [
    k for k in changes if _IDENTITY.search(k) and not _HARMLESS.search(k)
  ]
  if identity and not allowed:
    raise ValueError(
      f'{path} holds a run with other {", ".join(identity)}:\n{lines}\n'
      'choose another --workdir, or pass --allow_config_change to go on'
    )


def load_config(workdir: epath.PathLike) -> dict:
  """The resolved config that a run was started with, as plain dicts.

  Raises:
    FileNotFoundError: not the workdir of a run.
  """
  path = checkpoints.full_path(workdir) / 'config.json'
  if not path.exists():
    raise FileNotFoundError(f'{path} is missing: want the workdir of a run')
  return json.loads(path.read_text())


def warn_of_another_task(workdir: epath.PathLike, config: mlc.ConfigDict):
  """Logs in what `config.task` differs from the one the run trains.

  Raises:
    FileNotFoundError: not the workdir of a run.
  """
  wanted = json.loads(json.dumps(vc.plain(config.task)))  # tuples as lists
  changes = vc.difference(load_config(workdir)['task'], wanted)
  if changes:
    logging.warning('other task than the run was trained with: %s', changes)


def finished_steps(workdir: epath.PathLike) -> int | None:
  """Updates of a finished run, None while it is not finished."""
  path = checkpoints.full_path(workdir) / 'DONE'
  steps = int(path.read_text()) if path.exists() else None
  distributed.barrier('done_read')  # before process 0 may remove it
  return steps


def mark_finished(workdir: epath.PathLike, steps: int) -> None:
  """Writes DONE, once the last checkpoint is complete on every process."""
  distributed.barrier('finished')
  if jax.process_index() == 0:
    path = checkpoints.full_path(workdir) / 'DONE'
    with disk_errors.explained(path):
      part = path.with_name('DONE.part')
      part.write_text(f'{steps}\n')
      part.replace(path)


def mark_unfinished(workdir: epath.PathLike) -> None:
  """Removes DONE: the run was extended."""
  if jax.process_index() == 0:
    (checkpoints.full_path(workdir) / 'DONE').unlink(missing_ok=True)
  distributed.barrier('unfinished')


def _set_compilation_cache(path):
  if jax.config.jax_compilation_cache_dir is None:
    jax.config.update('jax_compilation_cache_dir', str(path / 'compiled'))
