"""Runs our models on stored reference results and compares name by name.

A golden is NAME.npz with NAME.json beside it, or a JSON file alone. The JSON's
`kind` says what is stored: it alone chooses the adapter, a function

  run(golden) -> {name: array}

in one of the modules of `tests/parity/adapters`, whose `ADAPTERS` is a dict
{kind: function}. Adapters import parameters with the project's own importer and
read every option from the JSON.

Every stored name whose first component starts with `outputs` or `grads` must be
returned, unless it matches `skip`; what is returned but not stored is left out,
so adapters return all they have. Of a JSON file alone the names are paths
inside it; those must be returned in which the expression is found that the
adapter's module gives the kind in its dict `REQUIRED`, and no others.
"""

import dataclasses
import importlib
import json
import pathlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from tests.parity import adapters
from vidscenic import config_checks

_COMPARED = r'^(outputs|grads)'


@dataclasses.dataclass(frozen=True)
class Golden:
  """A stored reference result.

  Attributes:
    path: of the npz, or of the JSON if that stands alone.
    meta: what the JSON says.
    arrays: {'params/...': array, 'inputs/...': ..., 'outputs/...': ...}; of a
      JSON alone its numbers and texts by their paths.
  """

  path: pathlib.Path
  meta: Mapping[str, Any]
  arrays: Mapping[str, np.ndarray]

  @property
  def kind(self) -> str:
    """What is stored, which chooses the adapter."""
    return self.meta['kind']

  def below(self, prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, without it."""
    return {
      name.removeprefix(prefix): value
      for name, value in self.arrays.items()
      if name.startswith(prefix)
    }

  @property
  def wanted(self) -> tuple[str, ...]:
    """Names that must be compared or skipped.

    Raises:
      ValueError: of a JSON alone nothing is required.
    """
    expression = _COMPARED
    if self.path.suffix == '.json':
      expression = required().get(self.kind)
    names = [n for n in self.arrays if expression and re.search(expression, n)]
    if not names and expression != _COMPARED:
      raise ValueError(
        f'{self.path}: REQUIRED of its adapter must give {self.kind!r} an '
        f'expression that finds paths inside it, got {expression!r}'
      )
    return tuple(names)

  def tolerance(self, name: str) -> Mapping[str, float]:
    """The first of the JSON's tolerances whose expression is in the name."""
    for regex, tolerance in self.meta['tol']:
      if re.search(regex, name):
        return tolerance
    raise ValueError(f'{self.path}: no tolerance for {name!r}')

  def skip_reason(self, name: str) -> str:
    """Why a name may be left out, '' if it may not."""
    for regex, reason in self.meta.get('skip') or ():
      if re.search(regex, name):
        return reason
    return ''


class Row(NamedTuple):
  """One line of the table; `verdict` is 'ok', 'skipped' or what is wrong."""

  name: str
  max_abs: float
  max_rel: float
  tolerance: Mapping[str, float]
  verdict: str

  @property
  def passed(self) -> bool:
    """Whether nothing is wrong."""
    return self.verdict in ('ok', 'skipped')


def load(path: str | pathlib.Path) -> Golden:
  """Reads a golden by its npz, or by a JSON that has none.

  Raises:
    FileNotFoundError: the file, or the JSON beside it, is missing.
    ValueError: the JSON says no kind, so there is nothing to run.
  """
  path = pathlib.Path(path)
  if path.suffix == '.json' and path.with_suffix('.npz').exists():
    path = path.with_suffix('.npz')
  meta = json.loads(path.with_suffix('.json').read_text())
  if 'kind' not in meta:
    raise ValueError(f'{path.with_suffix(".json")} has no `kind`')
  if path.suffix == '.json':
    return Golden(path, meta, dict(_leaves(meta, '')))
  with np.load(path, allow_pickle=False) as file:
    return Golden(path, meta, {name: file[name] for name in file.files})


def known() -> dict[str, Callable[[Golden], Mapping[str, Any]]]:
  """All adapters by kind.

  Raises:
    ValueError: two adapters for one kind.
  """
  found = {}
  for module in _adapter_modules():
    for kind, run in module.ADAPTERS.items():
      if kind in found:
        raise ValueError(
          f'{module.__name__}: there is an adapter for {kind!r} already'
        )
      found[kind] = run
  return found


def required() -> dict[str, str]:
  """What must be returned of a JSON alone: expression of its paths by kind."""
  found = {}
  for module in _adapter_modules():
    found |= getattr(module, 'REQUIRED', {})
  return found


def _adapter_modules():
  for module in pkgutil.iter_modules(adapters.__path__):
    yield importlib.import_module(f'{adapters.__name__}.{module.name}')


def check(golden: Golden) -> list[Row]:
  """Runs the adapter and compares.

  Raises:
    ValueError: no adapter for the kind, or it returns nothing that is stored,
      or, of a JSON alone, something that is not, such as a list too long.
  """
  runs = known()
  if golden.kind not in runs:
    what = f'{golden.path}: kind {golden.kind!r}'
    raise ValueError(config_checks.unknown(what, golden.kind, runs))
  # Products of float32 matrices in float32, on accelerators too.
  with jax.default_matmul_precision('highest'):
    outputs = dict(runs[golden.kind](golden))
  odd = sorted(outputs.keys() - golden.arrays.keys())
  if len(odd) == len(outputs) or (odd and golden.path.suffix == '.json'):
    raise ValueError(
      f'{golden.path}: the adapter of {golden.kind!r} returns names that are '
      f'not stored: {odd[:5]}'
    )
  wanted = {*outputs, *golden.wanted}
  names = [name for name in golden.arrays if name in wanted]
  return [_row(golden, name, outputs) for name in names]


def table(rows: list[Row]) -> str:
  """Aligned lines: name, errors, tolerance, verdict."""
  width = max(len(row.name) for row in rows)
  return '\n'.join(
    f'{row.name:{width}}  abs {row.max_abs:9.3g}  rel {row.max_rel:9.3g}  '
    f'{_short(row.tolerance):32}  {row.verdict}'
    for row in rows
  )


def _short(tolerance):
  return ' '.join(f'{k} {v:g}' for k, v in tolerance.items() if v) or 'exact'


def _row(golden, name, outputs):
  tolerance = golden.tolerance(name)
  if name not in outputs:
    verdict = 'skipped' if golden.skip_reason(name) else 'MISSING'
    return Row(name, np.nan, np.nan, tolerance, verdict)
  got, want = np.asarray(outputs[name]), golden.arrays[name]
  if got.shape != want.shape:
    verdict = f'SHAPE {list(got.shape)}, want {list(want.shape)}'
    return Row(name, np.nan, np.nan, tolerance, verdict)
  if want.dtype.kind in 'US':
    same = bool(np.all(got.astype(want.dtype) == want))
    return Row(name, np.nan, np.nan, tolerance, 'ok' if same else 'DIFFERS')
  return _compare(name, got, want, tolerance)


def _compare(name, got, want, tolerance):
  complex_ = np.iscomplexobj(got) or np.iscomplexobj(want)
  wide = np.complex128 if complex_ else np.float64
  got, want = got.astype(wide), want.astype(wide)
  if not want.size:
    return Row(name, 0.0, 0.0, tolerance, 'ok')
  if np.any(np.isnan(got) != np.isnan(want)):
    return Row(name, np.nan, np.nan, tolerance, 'NAN in other places')
  defined = ~np.isnan(want)
  same = ~defined | (got == want)  # of infinities too
  size = np.where(defined & np.isfinite(want), np.abs(want), 0.0)
  with np.errstate(invalid='ignore'):
    error = np.where(same, 0.0, np.abs(got - want))
  bound = (
    tolerance.get('atol', 0.0)
    + tolerance.get('rtol', 0.0) * size
    + tolerance.get('relmax', 0.0) * size.max()
  )
  wrong = int(np.sum(~(error <= bound)))  # an error of NaN is one
  with np.errstate(divide='ignore', invalid='ignore'):
    relative = np.where(error > 0, error / size, 0.0)
  allowed = int(tolerance.get('allow', 0.0) * want.size)
  verdict = 'ok' if wrong <= allowed else f'OFF in {wrong} of {want.size}'
  return Row(
    name, float(error.max()), float(relative.max()), tolerance, verdict
  )


def _leaves(value, path):
  """(path, array) of the numbers, truths, texts and nulls of a JSON value."""
  if isinstance(value, dict):
    for key, item in value.items():
      yield from _leaves(item, f'{path}/{key}' if path else key)
  elif isinstance(value, list):
    for i, item in enumerate(value):
      yield from _leaves(item, f'{path}/{i}')
  else:
    yield path, np.asarray('null' if value is None else value)
