"""Gradients of a model of ours in the layout of the published parameters."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np


def to_source(
  convert: Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]],
  arrays: Mapping[str, np.ndarray],
  gradients: Mapping[str, Any],
  names: Iterable[str],
) -> dict[str, np.ndarray]:
  """Takes gradients back through an importer.

  An importer only moves numbers or adds them up, so it is followed with an
  array of numbers 1, 2, ... in the place of one parameter and 0 elsewhere: what
  arrives says where each entry went.

  Args:
    convert: arrays of the published layout -> our nested dicts.
    arrays: all published parameters.
    gradients: nested dicts as `convert` gives them.
    names: published parameters whose gradient is wanted.

  Returns:
    {name: gradient, of the shape of arrays[name]}.
  """
  zeros = {key: np.zeros(a.shape, np.float32) for key, a in arrays.items()}
  found = {}
  for name in names:
    size = arrays[name].size
    numbers = np.arange(1, size + 1, dtype=np.float32)
    made = convert(zeros | {name: numbers.reshape(arrays[name].shape)})
    total = np.zeros(size)
    for place, gradient in _pairs(made, gradients):
      index = np.asarray(place).astype(int).reshape(-1)
      values = np.asarray(gradient, np.float64).reshape(-1)
      np.add.at(total, index[index > 0] - 1, values[index > 0])
    found[name] = total.reshape(arrays[name].shape)
  return found


def stored(
  golden: Any,
  convert: Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]],
  arrays: Mapping[str, np.ndarray],
  gradients: Mapping[str, Any],
) -> dict[str, np.ndarray]:
  """`to_source` for all gradients of a golden, under the names it has."""
  found = to_source(convert, arrays, gradients, golden.below('grads/'))
  return {f'grads/{name}': value for name, value in found.items()}


def _pairs(first, second):
  for key, value in first.items():
    if isinstance(value, Mapping):
      yield from _pairs(value, second[key])
    else:
      yield value, second[key]
