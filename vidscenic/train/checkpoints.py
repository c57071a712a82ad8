"""Checkpoints of a run: saving, resuming, and starting from another run.

Orbax writes them atomically and, by default, in the background. A checkpoint
holds the `TrainState` and a small JSON of host-side values. It restores onto
any mesh and any number of processes, because the restored tree takes its
shardings from the run that reads it.
"""

import contextlib
import logging as std_logging
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from vidscenic.train import disk_errors, distributed, paths
from vidscenic.train import state as state_lib

FOLDER = 'checkpoints'
ASIDE = 'checkpoints_aside'


def full_path(path: epath.PathLike) -> epath.Path:
  """An absolute path, which is what Orbax writes to, or an address as it is.

  Shells leave the ~ of --workdir=~/run alone: it becomes the home folder.
  """
  text = os.fspath(path)
  if '://' in text:
    return epath.Path(text)
  return epath.Path(os.path.abspath(os.path.expanduser(text)))


class Checkpoints:
  """The checkpoints in a workdir."""

  def __init__(
    self,
    workdir: epath.PathLike,
    *,
    keep_last: int = 2,
    keep_best: int = 0,
    best_metric: str = '',
    best_mode: str = 'max',
    asynchronous: bool = True,
    read_only: bool = False,
  ):
    """Opens the folder; see `config.checkpoint` for the arguments."""
    _hush_orbax()
    self._workdir = full_path(workdir)
    self._best_metric = best_metric
    keep = [policies.LatestN(keep_last)]
    if keep_best:
      sign = 1.0 if best_mode == 'max' else -1.0
      keep.append(
        policies.BestN(
          get_metric_fn=lambda metrics: sign * metrics[best_metric],
          n=keep_best,
          keep_checkpoints_without_metrics=False,
        )
      )
    self._options = ocp.CheckpointManagerOptions(
      preservation_policy=policies.AnyPreservationPolicy(keep),
      enable_async_checkpointing=asynchronous,
      cleanup_tmp_directories=not read_only,
      read_only=read_only,
    )
    self._read_only = read_only
    self._manager = self._open()

  def _open(self):
    folder = self._workdir / FOLDER
    if not self._read_only:
      folder.mkdir(parents=True, exist_ok=True)
    return open_manager(folder, self._options)

  def steps(self) -> list[int]:
    """Steps of the checkpoints on disk, ascending."""
    self._manager.reload()
    return sorted(self._manager.all_steps())

  def save(
    self,
    state: state_lib.TrainState,
    meta: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Saves, in the background if asynchronous.

    Args:
      state: the state after its `step` updates.
      meta: JSON-serialisable host-side values.
      metrics: evaluation figures; `best_metric` is looked up there.

    Raises:
      OSError: the folder cannot be written; older checkpoints are kept. A
        failure in the background is raised by the next `save` or `wait`.
    """
    step = int(state.step)
    best = (metrics or {}).get(self._best_metric, math.nan)
    arguments = ocp.args.Composite(
      state=ocp.args.PyTreeSave(state._asdict()),
      meta=ocp.args.JsonSave(dict(meta)),
    )
    with self._explained(f'save step {step}'):
      self._manager.save(
        step,
        args=arguments,
        # A checkpoint without a figure never counts as the best.
        metrics={self._best_metric: float(best)}
        if math.isfinite(best)
        else None,
        force=True,
      )

  def wait(self) -> None:
    """Waits for background writes.

    Raises:
      OSError: a background write failed.
    """
    with self._explained('finish a save'):
      self._manager.wait_until_finished()

  def restore(
    self,
    target: state_lib.TrainState,
    step: int | None = None,
    *,
    accept: Callable[[dict[str, Any]], bool] = lambda meta: True,
  ) -> tuple[state_lib.TrainState, dict[str, Any]] | None:
    """Restores the newest readable checkpoint, the same on every process.

    Newer ones that are unreadable or not accepted move to 'checkpoints_aside',
    so that their steps can be saved again and no restart finds them; nothing
    moves before an older one was read, lest a fault that passes (a mount, a
    permission) discards a run.

    Args:
      target: ShapeDtypeStructs with the shardings to restore to.
      step: only this one; None: the newest.
      accept: says by its meta whether a checkpoint will do.

    Returns:
      (state, meta), or None if there is no checkpoint, or none is accepted.

    Raises:
      ValueError: the checkpoint is readable but has other leaves, shapes or
        types than the target.
      OSError: no readable checkpoint is left although some were there, or the
        requested one is unreadable.
    """
    if not self._read_only:
      self.wait()  # or the list below would lack what is being written
    if step is not None:
      if step not in self.steps():
        raise FileNotFoundError(
          f'{self._workdir / FOLDER}: no checkpoint of step {step}, there are '
          f'{self.steps()}'
        )
      return self._restore_step(step, target)
    unreadable, passed = [], []
    steps = self.steps()
    distributed.barrier('checkpoints_listed')
    for candidate in reversed(steps):
      error, found = None, None
      try:
        found = self._restore_step(candidate, target)
      except OSError as e:
        error = e
      if not distributed.all_agree(error is None):
        logging.error('%s; trying the one before', error or 'a peer failed')
        unreadable.append(candidate)
        passed.append(candidate)
        continue
      if accept(found[1]):
        if not self._read_only:
          self._set_aside(passed)
        return found
      passed.append(candidate)
      del found  # or two states would lie on the devices
    if unreadable:
      raise OSError(
        f'{self._workdir / FOLDER}: no readable checkpoint among {steps}; the '
        'log says why. Repair or remove them, or choose another --workdir'
      )
    return None

  def restore_weights(
    self, target: state_lib.TrainState, step: int | None = None
  ) -> state_lib.TrainState:
    """Restores what evaluations need: all but the optimizer's state.

    Args:
      target: as in `restore`; its `opt_state` is not looked at.
      step: as in `restore`.

    Raises:
      As `restore`.
    """
    weights = target._replace(opt_state=())
    return self.restore(weights, step)[0]

  def _restore_step(self, step, target):
    where = self._workdir / FOLDER / str(step)
    target = target._asdict()
    stored = paths.named_leaves(stored_tree(self._manager, step, where))
    part = not jax.tree.leaves(target['opt_state'])
    if part:
      del target['opt_state']
      stored = {k: v for k, v in stored.items() if k.split('/')[0] in target}
    check_leaves(paths.named_leaves(target), stored, where)
    restored = read_items(
      self._manager,
      step,
      where,
      target,
      partial=part,
      meta=ocp.args.JsonRestore(),
    )
    state = {'opt_state': (), **restored['state']}
    return state_lib.TrainState(**state), restored['meta']

  def _set_aside(self, steps):
    """Moves checkpoints away, so that their steps can be saved again."""
    if not steps:
      return
    self._manager.close()
    if jax.process_index() == 0:
      target = self._workdir / ASIDE
      target.mkdir(parents=True, exist_ok=True)
      for step in steps:
        number = 0
        while (target / f'{step}_{number}').exists():
          number += 1
        (self._workdir / FOLDER / str(step)).rename(target / f'{step}_{number}')
    distributed.barrier('checkpoints_set_aside')
    self._manager = self._open()

  @contextlib.contextmanager
  def _explained(self, action):
    """Says which folder could not be written, and what to do about it."""
    try:
      yield
    except Exception as e:
      if not disk_errors.is_disk_error(e):
        raise
      text = f'cannot {action} in {self._workdir / FOLDER}: {_brief(e)}'
      remedy = disk_errors.remedy(e)
      # Not `from e`: Orbax hands it through six threads, and two hundred lines
      # of their traces would hide this one.
      raise OSError(f'{text}; older checkpoints are kept. {remedy}.') from None

  def close(self) -> None:
    """Waits for background writes and closes."""
    with self._explained('finish a save'):
      self._manager.close()


def open_manager(folder, options):
  """Orbax's manager of a folder of checkpoints, without its chatter."""
  _hush_orbax()
  # With handlers named here, metadata can be read before the first save.
  return ocp.CheckpointManager(
    folder,
    options=options,
    item_handlers={
      'state': ocp.PyTreeCheckpointHandler(),
      'meta': ocp.JsonCheckpointHandler(),
    },
  )


def stored_tree(manager, step, where):
  """Shapes and types of a stored state, as nested dicts.

  Raises:
    OSError: the checkpoint is damaged.
  """
  try:
    stored = manager.item_metadata(step)['state']
    if stored is None:
      raise OSError('its state is missing')
    return getattr(stored, 'tree', stored)
  except Exception as e:  # any damage shows up as some exception of Orbax
    raise OSError(f'{where} is unreadable: {_brief(e)}') from e


def read_items(manager, step, where, state, *, partial=False, **items):
  """Restores the state, shaped as given, and other items.

  Raises:
    OSError: the checkpoint is damaged.
  """
  restore_args = ocp.checkpoint_utils.construct_restore_args(state)
  state = ocp.args.PyTreeRestore(
    state, restore_args=restore_args, partial_restore=partial
  )
  try:
    return manager.restore(step, args=ocp.args.Composite(state=state, **items))
  except Exception as e:  # as above: truncated files, missing files, ...
    if isinstance(e, MemoryError) or 'RESOURCE_EXHAUSTED' in str(e):
      raise  # nothing is wrong with the file
    raise OSError(f'{where} is unreadable: {_brief(e)}') from e


def check_leaves(wanted, stored, where):
  """Compares {name: leaf}: Orbax fills absent ones and casts types silently.

  Raises:
    ValueError: other names, shapes or types, by name.
  """
  absent = sorted(wanted.keys() - stored.keys())
  surplus = sorted(stored.keys() - wanted.keys())
  if absent or surplus:
    raise ValueError(
      f'{where} belongs to another model or optimizer: it lacks {absent[:5]} '
      f'({len(absent)} leaves) and has {surplus[:5]} ({len(surplus)} leaves) '
      'that this config does not; check task, optim and ema, or use init_from'
    )
  for name, want in wanted.items():
    have = stored[name]
    if tuple(have.shape) != tuple(want.shape):
      raise ValueError(
        f'{where}: {name} has shape {tuple(have.shape)}, this config wants '
        f'{tuple(want.shape)}'
      )
    if np.dtype(have.dtype) != np.dtype(want.dtype):
      raise ValueError(
        f'{where}: {name} is {have.dtype}, this config wants {want.dtype}'
      )


def _not_orbax_chatter(record):
  if 'orbax' not in record.pathname:
    return True
  text = str(record.msg)
  return (
    record.levelno >= std_logging.WARNING
    and 'read_only=True' not in text
    and 'directory is read only' not in text
  )


def _hush_orbax():
  """Drops Orbax's forty lines of information per save from the log."""
  handler = logging.get_absl_handler()
  if _not_orbax_chatter not in handler.filters:
    handler.addFilter(_not_orbax_chatter)


def _brief(error):
  """The first line of an error without tensorstore's long spec."""
  return str(error).split(' [tensorstore_spec')[0].split('\n')[0]
