"""Checkpoints of a run: saving, resuming, and starting from another run.

Orbax writes them atomically and, by default, in the background. A checkpoint
holds the `TrainState` and a small JSON of host-side values. It restores onto
any mesh and any number of processes, because the restored tree takes its
shardings from the run that reads it.
"""

import contextlib
import errno
import logging as std_logging
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from vidscenic.train import distributed, paths
from vidscenic.train import state as state_lib

FOLDER = 'checkpoints'
BROKEN = 'checkpoints_unreadable'


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
    return _manager(folder, self._options)

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

    Unreadable checkpoints that are newer move to 'checkpoints_unreadable', so
    that their steps can be saved again; nothing moves before an older one was
    read, lest a fault that passes (a mount, a permission) discards a run.

    Args:
      target: ShapeDtypeStructs with the shardings to restore to.
      step: only this one; None: the newest.
      accept: says by its meta whether a checkpoint will do.

    Returns:
      (state, meta), or None if there is no checkpoint.

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
    unreadable = []
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
        continue
      if accept(found[1]):
        if not self._read_only:
          self._set_aside(unreadable)
        return found
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
    stored = paths.named_leaves(_stored_tree(self._manager, step, where))
    part = not jax.tree.leaves(target['opt_state'])
    if part:
      del target['opt_state']
      stored = {k: v for k, v in stored.items() if k.split('/')[0] in target}
    _compare(paths.named_leaves(target), stored, where)
    restored = _read(
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
    """Moves broken checkpoints away, so that their steps can be saved again."""
    if not steps:
      return
    self._manager.close()
    if jax.process_index() == 0:
      target = self._workdir / BROKEN
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
      text = f'cannot {action} in {self._workdir / FOLDER}: {_brief(e)}'
      if not _is_write_error(e):
        raise
      remedy = 'older checkpoints are kept'
      if _is_full(e):
        remedy += '; free some space and start the same command again'
      # Not `from e`: Orbax hands it through six threads, and two hundred lines
      # of their traces would hide this one.
      raise OSError(f'{text}; {remedy}') from None

  def close(self) -> None:
    """Waits for background writes and closes."""
    with self._explained('finish a save'):
      self._manager.close()


def load_run(
  path: str,
  target: Any,
  *,
  params: str = 'params',
  rules: Sequence[tuple[str, str]] = ((r'(.*)', r'\1'),),
  ignore: Sequence[str] = (),
  model_state: Any = None,
) -> Any:
  """Takes parameters from the newest checkpoint of another run.

  Args:
    path: the other run's workdir.
    target: nested dicts of ShapeDtypeStructs with shardings: this run.
    params: 'params' or 'ema' (averaged where there is an average).
    rules: (target regex, source name) pairs; the first regex that matches a
      whole target path names its source, with groups as in `re.sub`. Leaves
      that no rule matches keep their fresh values.
    ignore: regexes of source leaves that may stay unused.
    model_state: ShapeDtypeStructs of batch statistics and the like, by
      collection; the rules are for the paths below a collection. What the
      other run lacks keeps its fresh values.

  Returns:
    Nested dicts with the leaves that were found, the others are missing; with
    `model_state` a pair of such dicts.

  Raises:
    OSError: no checkpoint under path, or an unreadable one.
    ValueError: a matched leaf without source, of another shape or type, a
      source leaf that is neither used nor ignored, or an average that the run
      does not have.
  """
  folder = full_path(path) / FOLDER
  if not folder.exists():
    raise FileNotFoundError(
      f"init_from.path={path!r} has no {FOLDER!r} folder: want a run's workdir"
    )
  options = ocp.CheckpointManagerOptions(read_only=True)
  with contextlib.closing(_manager(folder, options)) as manager:
    step = manager.latest_step()
    if step is None:
      raise FileNotFoundError(f'init_from.path={path!r} holds no checkpoint')
    where = folder / str(step)
    stored = _stored_tree(manager, step, where)
    if params == 'ema' and not stored.get('ema_params'):
      raise ValueError(f"init_from.params='ema' but {where} has no average")
    main = paths.named_leaves(stored['params'])
    average = (
      paths.named_leaves(stored['ema_params']) if params == 'ema' else {}
    )
    wanted = paths.named_leaves(target)
    names = _sources(wanted, main, rules, ignore, where)
    _compare(
      {n: wanted[n] for n in names},
      {n: main[s] for n, s in names.items()},
      where,
    )
    states = paths.named_leaves(model_state or {})
    state_names = _state_sources(
      states, paths.named_leaves(stored.get('model_state') or {}), rules, where
    )
    # One source may serve several targets, so restore by source name.
    request = {'params': {}, 'ema_params': {}, 'model_state': {}}
    for name, source in names.items():
      group = 'ema_params' if source in average else 'params'
      request[group][source] = wanted[name]
    for name, source in state_names.items():
      request['model_state'][source] = states[name]
    item = {g: _nested(leaves) for g, leaves in request.items() if leaves}
    restored = _read(manager, step, where, item, partial=True)['state']
  state_leaves = paths.named_leaves(restored.pop('model_state', {}))
  flat = {}
  for group in restored.values():
    flat.update(paths.named_leaves(group))
  kept = sorted(wanted.keys() - names.keys())
  logging.info(
    'init_from %s: %d leaves loaded, %d kept fresh%s',
    where,
    len(names),
    len(kept),
    f' ({", ".join(kept[:5])}{", ..." if len(kept) > 5 else ""})' * bool(kept),
  )
  loaded = _nested({name: flat[source] for name, source in names.items()})
  if model_state is None:
    return loaded
  return loaded, _nested(
    {name: state_leaves[source] for name, source in state_names.items()}
  )


def _state_sources(wanted, stored, rules, where):
  """{target name: source name} of the model state that the other run has."""
  names = {}
  for name in wanted:
    collection, slash, path = name.partition('/')
    source = _renamed(path, rules) if path else ''
    if source is not None and f'{collection}{slash}{source}' in stored:
      names[name] = f'{collection}{slash}{source}'
  _compare(
    {n: wanted[n] for n in names},
    {n: stored[s] for n, s in names.items()},
    where,
  )
  return names


def _renamed(name, rules):
  """The source of a target by the first rule that matches it, else None."""
  for pattern, source in rules:
    if re.fullmatch(pattern, name):
      return re.sub(f'^(?:{pattern})$', source, name)
  return None


def _sources(wanted, stored, rules, ignore, where):
  """{target name: source name}; nothing may be missing or left over."""
  names = {name: _renamed(name, rules) for name in wanted}
  names = {name: s for name, s in names.items() if s is not None}
  if not names:
    raise ValueError(f'init_from.rules={rules} match no parameter')
  missing = sorted(set(names.values()) - stored.keys())
  if missing:
    raise ValueError(f'init_from: {where} has no {missing[:5]}')
  unused = sorted(
    s
    for s in stored.keys() - set(names.values())
    if not any(re.search(pattern, s) for pattern in ignore)
  )
  if unused:
    raise ValueError(
      f'init_from: {len(unused)} leaves of {where} are not used, such as '
      f'{unused[:5]}; name them in init_from.ignore'
    )
  return names


# --- private ---


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _is_write_error(error):
  # tensorstore's errors are ValueErrors whose text holds the system's number.
  return isinstance(error, OSError) or 'os_error_code' in str(error)


def _is_full(error):
  codes = [f"os_error_code='{code}'" for code in _FULL]
  return getattr(error, 'errno', None) in _FULL or any(
    code in str(error) for code in codes
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


def _manager(folder, options):
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


def _stored_tree(manager, step, where):
  """Shapes and types of a stored state, as nested dicts."""
  try:
    stored = manager.item_metadata(step)['state']
    if stored is None:
      raise OSError('its state is missing')
    return getattr(stored, 'tree', stored)
  except Exception as e:  # any damage shows up as some exception of Orbax
    raise OSError(f'{where} is unreadable: {_brief(e)}') from e


def _read(manager, step, where, state, *, partial=False, **items):
  """Restores the state, shaped as given, and other items."""
  restore_args = ocp.checkpoint_utils.construct_restore_args(state)
  state = ocp.args.PyTreeRestore(
    state, restore_args=restore_args, partial_restore=partial
  )
  try:
    return manager.restore(step, args=ocp.args.Composite(state=state, **items))
  except Exception as e:  # as above: truncated files, missing files, ...
    raise OSError(f'{where} is unreadable: {_brief(e)}') from e


def _brief(error):
  """The first line of an error without tensorstore's long spec."""
  return str(error).split(' [tensorstore_spec')[0].split('\n')[0]


def _nested(flat):
  tree = {}
  for path, leaf in flat.items():
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree


def _compare(wanted, stored, where):
  """Orbax fills absent leaves and casts types silently; this does not."""
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
