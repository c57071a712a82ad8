"""Starting a run from another one, whole or in part."""

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import orbax.checkpoint as ocp
from absl import logging

from vidscenic.train import checkpoints, paths


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
  folder = checkpoints.full_path(path) / checkpoints.FOLDER
  if not folder.exists():
    raise FileNotFoundError(
      f'init_from.path={path!r} has no {checkpoints.FOLDER!r} folder: want the '
      'workdir of a run'
    )
  options = ocp.CheckpointManagerOptions(read_only=True)
  with contextlib.closing(checkpoints.open_manager(folder, options)) as manager:
    step = manager.latest_step()
    if step is None:
      raise FileNotFoundError(f'init_from.path={path!r} holds no checkpoint')
    where = folder / str(step)
    stored = checkpoints.stored_tree(manager, step, where)
    if params == 'ema' and not stored.get('ema_params'):
      raise ValueError(f"init_from.params='ema' but {where} has no average")
    main = paths.named_leaves(stored['params'])
    average = (
      paths.named_leaves(stored['ema_params']) if params == 'ema' else {}
    )
    wanted = paths.named_leaves(target)
    names = _sources(wanted, main, rules, ignore, where)
    checkpoints.check_leaves(
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
    restored = checkpoints.read_items(manager, step, where, item, partial=True)[
      'state'
    ]
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
  checkpoints.check_leaves(
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


def _nested(flat):
  tree = {}
  for path, leaf in flat.items():
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree
