"""Names and types of config fields, and defaults for those that are absent.

What the values may be is the business of `config_checks`.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections as mlc

from vidscenic import config_checks as checks

# Parts whose names belong to the experiment.
_FREE = ('data', 'evals', 'schedules')


def check(given: mlc.ConfigDict, known: mlc.ConfigDict) -> None:
  """Checks a config against one with every field, and fills in what it lacks.

  Args:
    given: changed in place; numbers get the type of their default.
    known: the defaults.

  Raises:
    ValueError: an unknown field (with the nearest valid name), or a value of
      another type; names the field.
  """
  for name, value in given.items():
    if name not in known:
      raise ValueError(checks.unknown(f'config field {name!r}', name, known))
    if not isinstance(known[name], mlc.ConfigDict):
      given[name] = _typed(value, known[name], name)
    elif not isinstance(value, mlc.ConfigDict):
      raise ValueError(f'{name} must be a ConfigDict, got {value!r}')
    elif name not in _FREE:
      given[name] = fill(known[name], value, name)


def fill(
  defaults: mlc.ConfigDict, overrides: Mapping[str, Any], where: str
) -> mlc.ConfigDict:
  """Puts overrides over defaults.

  Args:
    defaults: changed; empty parts take any names.
    overrides: a ConfigDict or a dict.
    where: name of the part in the config, for messages.

  Returns:
    `defaults`.

  Raises:
    ValueError: as `check`.
  """
  for name, value in dict(overrides).items():
    field = f'{where}.{name}'
    if name not in defaults:
      raise ValueError(checks.unknown(field, name, defaults))
    default = defaults[name]
    if not isinstance(default, mlc.ConfigDict):
      defaults[name] = _typed(value, default, field)
    elif not isinstance(value, (mlc.ConfigDict, dict)):
      raise ValueError(f'{field} must be a ConfigDict, got {value!r}')
    elif len(default):
      defaults[name] = fill(default, value, field)
    else:
      is_config = isinstance(value, mlc.ConfigDict)
      defaults[name] = mlc.ConfigDict(value.to_dict() if is_config else value)
  return defaults


def _typed(value, default, where):
  kind = type(default)
  if kind is float and type(value) is int:
    return float(value)
  if kind is tuple and isinstance(value, list):
    return tuple(value)
  if type(value) is not kind:
    raise ValueError(
      f'{where}={value!r} is a {type(value).__name__}, want {kind.__name__}'
    )
  return value
