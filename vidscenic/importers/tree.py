"""Renames and reshapes weights of any layout into a model's parameter tree.

A project's importer is `load(path, target, **options)`, which returns nested
dicts for the shapes in `target`; `config.init_from.factory` names it. If it
takes `model_state=None` too, models with batch statistics hand over the shapes
of those, and it returns a pair. Inside, it is a list of rules.

Nothing is dropped or left over in silence: every source key and every target
leaf is used exactly once or is named in `ignore` or `keep`; anything else is
one error that lists all that is wrong.

  params, report = tree.convert(
    formats.read(path),
    target,
    rules=(
      (r'blocks\\.(\\d+)\\.norm1\\.weight', r'vit/block_\\1/self_norm/scale'),
      (r'blocks\\.(\\d+)\\.mlp\\.fc1\\.weight',
       r'vit/block_\\1/mlp/up/kernel', transforms.LINEAR),
    ),
    ignore=(r'head\\..*',),
  )

Layers are always written one by one, as `block_3`. Where the model stacks them
(`blocks`, leaves with a leading layer axis) they are stacked, and a source that
is stacked itself is written as `blocks` and taken apart, so one list of rules
serves models with and without scan. Batch statistics convert in the same call:
target={'params': target, 'state': model_state}.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vidscenic.importers import accounting, transforms

Array = np.ndarray


class Rule(NamedTuple):
  r"""Where source keys go; plain tuples of these fields do as well.

  Attributes:
    source: regex that a whole source key must match; the first rule that does
      counts.
    target: path of the target as a template of the match (r'block_\1/kernel'),
      or a function of the match. 'path[1]' is part 1 of a target that several
      sources make together.
    transform: function of the array, or several, applied in order; see
      `transforms`. For stacked sources they see one layer.
    join: function of the list of parts; without it parts are stacked along a
      new first axis.
  """

  source: str
  target: str | Callable[[re.Match], str]
  transform: Callable[[Array], Any] | Sequence[Callable[[Array], Any]] = ()
  join: Callable[[list[Array]], Array] | None = None


def convert(
  source: Mapping[str, Array],
  target: Mapping[str, Any],
  rules: Sequence[Rule | tuple],
  *,
  ignore: Sequence[str] = (),
  keep: Sequence[str] = (),
  resize: Sequence[tuple[str, Callable[[Array, tuple], Array]]] = (),
) -> tuple[dict[str, Any], accounting.Report]:
  """Makes the target's tree out of source arrays.

  Args:
    source: {key: array}, as `formats.read` returns it.
    target: nested dicts of things with shape and dtype.
    rules: see `Rule`.
    ignore: regexes of whole source keys that are not needed; they come before
      the rules.
    keep: regexes of whole target paths that need no source. They are missing
      in the result, so that the caller's own values stay.
    resize: (regex of a whole target path, function of (array, wanted shape))
      pairs for arrays of another shape, such as position tables.

  Returns:
    (nested dicts of arrays with the target's shapes and dtypes, report). Floats
    are cast to the target's type; arrays may be views of the source.

  Raises:
    ValueError: a rule that is no regex, keys without place, leaves without
      source, leaves with several, shapes or types that do not fit.
  """
  rules = [Rule(*rule) for rule in rules]
  patterns = _compiled([rule.source for rule in rules])
  ignore, keep = _compiled(ignore), _compiled(keep)
  resize = list(
    zip(_compiled([r for r, _ in resize]), [f for _, f in resize], strict=True)
  )
  wanted = _flat_target(target)
  problems = {}
  places: dict[str, list[_Part]] = {}
  ignored = []
  for key, array in source.items():
    if any(pattern.fullmatch(key) for pattern in ignore):
      ignored.append(key)
      continue
    found = zip(rules, (p.fullmatch(key) for p in patterns), strict=True)
    rule, match = next(((r, m) for r, m in found if m), (None, None))
    array = np.asarray(array)
    if rule is None:
      problems.setdefault('unmatched', []).append((key, array.shape))
      continue
    path = rule.target
    path = path(match) if callable(path) else match.expand(path)
    try:
      for name, piece in _pieces(path, array, _steps(rule)):
        base, _, index = name.removesuffix(']').partition('[')
        places.setdefault(base, []).append(_Part(index, key, rule, piece))
    except ValueError as e:  # of a transform that wants another shape
      problems.setdefault('failed', []).append((key, array.shape, str(e)))
  made, cast, lossy, resized = {}, {}, [], {}
  for name, parts in places.items():
    if name not in wanted:
      problems.setdefault('unknown', []).append((name, parts[0].key))
      continue
    try:
      array, old_shape = _assembled(name, parts, wanted[name].shape, resize)
      if old_shape is not None:
        resized[name] = old_shape, array.shape
      made[name], lost = _typed(array, np.dtype(wanted[name].dtype))
    except ValueError as e:
      keys = ', '.join(part.key for part in parts[:3])
      problems.setdefault('unfit', []).append(f'{name}: {e} (from {keys})')
      continue
    if array.dtype != made[name].dtype:
      cast[name] = f'{array.dtype} -> {made[name].dtype}'
    if lost:
      lossy.append(name)
  absent = [name for name in wanted if name not in places]
  kept = [n for n in absent if any(p.fullmatch(n) for p in keep)]
  missing = set(absent) - set(kept)
  if missing:
    problems['missing'] = [n for n in absent if n in missing]
  if problems:
    raise ValueError(accounting.explain(problems, wanted))
  return _stacked(made, target, kept), accounting.Report(
    sources=len(source) - len(ignored),
    targets=len(made),
    parameters=sum(math.prod(array.shape) for array in made.values()),
    ignored=tuple(ignored),
    kept=tuple(kept),
    cast=cast,
    lossy=tuple(lossy),
    resized=resized,
  )


class _Part(NamedTuple):
  index: str  # '' or a number
  key: str
  rule: Rule
  array: Array


def _compiled(regexes: Iterable[str]) -> list[re.Pattern]:
  if isinstance(regexes, str):
    raise ValueError(f'want a sequence of regexes, got the string {regexes!r}')
  compiled = []
  for regex in regexes:
    try:
      compiled.append(re.compile(regex))
    except re.error as e:
      raise ValueError(f'{regex!r} is not a regular expression: {e}') from e
  return compiled


def _steps(rule):
  steps = rule.transform
  steps = (steps,) if callable(steps) else tuple(steps)
  if transforms.to_target in steps[:-1]:
    raise ValueError('to_target must be the last transform')
  return steps


def _pieces(path, array, steps):
  """(path, array) of everything that one source gives, layer by layer."""
  parents, stacked, rest = _cut_at_blocks(path)
  if stacked:
    if not array.ndim:
      raise ValueError('a scalar has no layers')
    for i, layer in enumerate(array):
      yield from _pieces(f'{parents}block_{i}{rest}', layer, steps)
    return
  pieces = {'': array}
  for step in steps:
    changed = {}
    for name, piece in pieces.items():
      result = step(piece)
      if isinstance(result, Mapping):
        changed.update({f'{name}/{k}': v for k, v in result.items()})
      else:
        changed[name] = result
    pieces = changed
  for name, piece in pieces.items():
    yield f'{path}{name}', piece


def _cut_at_blocks(path):
  """'a/blocks/b' -> ('a/', True, '/b'); (path, False, '') without `blocks`."""
  match = re.search(r'(^|(?<=/))blocks(?=/|$)', path)
  if match is None:
    return path, False, ''
  return path[: match.start()], True, path[match.end() :]


class _Leaf(NamedTuple):
  shape: tuple[int, ...]
  dtype: Any


def _flat_target(target):
  """{path: _Leaf}, layers of stacks one by one."""
  return {
    name: _Leaf(shape, leaf.dtype)
    for path, leaf in _leaves(target)
    for name, shape in _layers(path, tuple(leaf.shape))
  }


def _leaves(tree, prefix=''):
  for name, child in tree.items():
    if isinstance(child, Mapping):
      yield from _leaves(child, f'{prefix}{name}/')
    else:
      yield f'{prefix}{name}', child


def _layers(path, shape):
  parents, stacked, rest = _cut_at_blocks(path)
  if not stacked:
    yield path, shape
    return
  for i in range(shape[0]):
    yield from _layers(f'{parents}block_{i}{rest}', shape[1:])


def _assembled(name, parts, shape, resize):
  """The array of a target; (array, its old shape if it was resized)."""
  if len(parts) == 1 and not parts[0].index:
    array = parts[0].array
  else:
    array = _joined(parts)
  array = np.asarray(array)
  if array.shape == shape:
    return array, None
  for pattern, function in resize:
    if pattern.fullmatch(name):
      result = np.asarray(function(array, shape))
      if result.shape != shape:
        raise ValueError(
          f'resized to {list(result.shape)}, the model wants {list(shape)}'
        )
      return result, array.shape
  reshapes = all(transforms.to_target in _steps(part.rule) for part in parts)
  if not reshapes or array.size != math.prod(shape):
    raise ValueError(
      f'shape {list(array.shape)}, the model wants {list(shape)}'
    )
  return array.reshape(shape), None


def _joined(parts):
  indices = [part.index for part in parts]
  if not all(indices):
    raise ValueError(f'given {len(parts)} times')
  if sorted(indices) != sorted(str(i) for i in range(len(parts))):
    raise ValueError(f'given in parts {sorted(indices)}, want 0, 1, ...')
  joins = list({id(p.rule.join): p.rule.join for p in parts}.values())
  joins = [join for join in joins if join is not None]
  if len(joins) > 1:
    raise ValueError('its parts have rules with different joins')
  parts = sorted(parts, key=lambda part: int(part.index))
  return (joins[0] if joins else np.stack)([part.array for part in parts])


def _typed(array, dtype):
  """(array of the type, whether digits were lost)."""
  if array.dtype == dtype:
    return array, False
  floats = _is_float(array.dtype), _is_float(dtype)
  integers = array.dtype.kind in 'iu', dtype.kind in 'iu'
  if not all(floats) and not all(integers):
    raise ValueError(f'type {array.dtype}, the model wants {dtype}')
  with np.errstate(over='ignore'):
    result = array.astype(dtype)
  if np.can_cast(array.dtype, dtype, 'safe'):
    return result, False
  back = result.astype(array.dtype)
  lost = not np.array_equal(back, array, equal_nan=all(floats))
  if all(integers) and lost:
    raise ValueError(f'{array.dtype} values that {dtype} cannot hold')
  if lost and np.any(np.isfinite(array) & ~np.isfinite(result)):
    raise ValueError(f'{array.dtype} values too large for {dtype}')
  return result, lost


def _is_float(dtype):
  # bfloat16 and its kin are no subtypes of np.floating.
  return dtype.kind == 'f' or dtype.name.startswith(('bfloat', 'float'))


def _stacked(made, target, kept):
  """Nested dicts as in the target; leaves that were kept are missing."""
  tree = {}
  for path, leaf in _leaves(target):
    names = [name for name, _ in _layers(path, tuple(leaf.shape))]
    given = [name for name in names if name in made]
    if not given:
      continue
    if len(given) < len(names):
      raise ValueError(
        f'{path} is one stack, but keep names only some of its layers: '
        f'{accounting.some([name for name in names if name in kept])}'
      )
    array = (
      made[path] if names == [path] else np.stack([made[n] for n in names])
    )
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = array.reshape(leaf.shape)
  return tree
