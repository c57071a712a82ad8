"""What the classes and functions named by pickles stand for.

Each allowed name has a function here that checks its arguments and makes an
array, a dict or a tuple; nothing is imported or called by name. The names are
those of NumPy (arrays and scalars, also under the module names of NumPy 1), of
Haiku's and Flax's read-only dicts, of jax arrays and of the tuples that optax
keeps its state in. `torch_zip` adds those of PyTorch.
"""

import dataclasses
import re
from typing import Any

import ml_dtypes
import numpy as np

from vidscenic.importers import raw_arrays

MAX_DEPTH = 64
MAX_VALUES = 500_000

# Byte strings in a pickle: those read as they are, those made by `_encode`.
RAW = (memoryview, bytes)
_MOVED = {
  'numpy.core.multiarray': 'numpy._core.multiarray',
  'numpy.core.numeric': 'numpy._core.numeric',
  '__builtin__': 'builtins',
}
_SMALL_FLOATS = frozenset(
  name for name in dir(ml_dtypes) if re.fullmatch(r'b?float(16|8_\w+)', name)
)


@dataclasses.dataclass(frozen=True)
class Global:
  """The name of an allowed class or function."""

  module: str
  name: str


@dataclasses.dataclass
class _Dtype:
  """A NumPy type; its byte order comes in a later step of the pickle."""

  value: np.dtype


@dataclasses.dataclass
class _Array:
  """An array; its contents come in a later step of the pickle.

  Attributes:
    value: an array, a NumPy scalar, or the list of values of an array of
      objects.
  """

  shape: tuple[int, ...] = ()
  order: str = 'C'
  value: Any = None


class _OrderedDict(dict):
  """May get attributes (PyTorch's version numbers), which are not weights."""


def unsafe(file: str, name: str) -> raw_arrays.UnsafeFile:
  """The error for a name that is not on the list."""
  return raw_arrays.UnsafeFile(
    file,
    f'refused: the pickle asks for {name[:200]!r}, which is not among the '
    'names that arrays need and could run a program; where you trust the '
    'file, save its arrays alone as .npz or safetensors',
  )


class Values:
  """Makes the values of one pickle of a data set: NumPy's names only.

  Attributes:
    file: the name that errors use.
  """

  def __init__(self, file: str, num_bytes: int):
    """`num_bytes` is the size of the pickle; it bounds what is made of it."""
    self.file = file
    self._budget = 4 * num_bytes + 2**20

  def calls(self) -> dict:
    """The allowed names and what makes their values; see NUMPY."""
    return NUMPY

  def find(self, module: str, name: str) -> Global:
    """The inert stand-in for a name; UnsafeFile if it is not on the list."""
    key = (_MOVED.get(module, module), name)
    if key not in self.calls():
      raise unsafe(self.file, f'{module}.{name}')
    return Global(*key)

  def call(self, function, arguments: tuple):
    """What `function(*arguments)` stands for."""
    if type(function) is not Global:
      raise unsafe(self.file, f'a call of a {type(function).__name__}')
    make = self.calls().get((function.module, function.name))
    if make is None:
      raise unsafe(self.file, f'a call of {function.module}.{function.name}')
    return make(self, arguments)

  def new(self, kind, arguments: tuple):
    """What `kind.__new__(kind, *arguments)` stands for."""
    return self.call(kind, arguments)

  def build(self, target, state) -> None:
    """Puts stored state into a value made before."""
    if type(target) is _Array:
      _fill(self, target, state)
    elif type(target) is _Dtype:
      target.value = _ordered(self, target.value, state)
    elif type(target) is not _OrderedDict or type(state) is not dict:
      raise unsafe(self.file, f'state of a {type(target).__name__}')

  def persistent(self, name):
    """What lies outside the pickle; only PyTorch's files have that."""
    raise self.bad('a part of a PyTorch file, without its arrays')

  def leaf(self, node):
    """A value of a kind that only a subclass knows."""
    if type(node) is Global:
      raise self.bad(f'holds {node.module}.{node.name} itself as a value')
    raise self.bad(f'holds a {type(node).__name__.strip("_")} as a value')

  def finish(self, root):
    """Plain values for what is left on the stack.

    Refuses what would hang its reader: cycles, deep nests, and values that
    hold each other several times over so that walking them never ends.
    """
    return _Finisher(self).value(root)[0]

  def spend(self, num_bytes: int) -> None:
    """Counts memory that is taken beside the file itself.

    Two values may name the same bytes, so without a bound a small file could
    ask for any amount; honest files need two copies of each byte at most.
    """
    self._budget -= num_bytes
    if self._budget < 0:
      raise self.bad('asks for many times the memory of its own size')

  def typed(self, items: tuple, *kinds) -> tuple:
    """`items` if they have these types exactly; BadFile otherwise."""
    if type(items) is not tuple or len(items) != len(kinds):
      raise self.bad('damaged pickle: odd arguments')
    for item, kind in zip(items, kinds, strict=True):
      allowed = kind if type(kind) is tuple else (kind,)
      if object not in allowed and type(item) not in allowed:
        raise self.bad(f'damaged pickle: odd {type(item).__name__} argument')
    return items

  def bad(self, reason: str) -> raw_arrays.BadFile:
    """The error that names the file."""
    return raw_arrays.BadFile(self.file, reason)


class WeightValues(Values):
  """Adds what Haiku, Flax, jax and optax put into files of weights."""

  def calls(self):
    """Constructors of arrays, mappings and configs, as in `Values`."""
    return _WEIGHTS

  def find(self, module, name):
    """As in `Values`; the state of optimizers is known by its name only."""
    # Optimizer state is a nest of named tuples, read as plain ones.
    if re.fullmatch(r'\w*State|MaskedNode', name):
      parts = module.split('.')
      if parts[0] == 'optax' or module == 'tapnet.utils.optimizers':
        return Global('optax', 'State')
    return super().find(module, name)


class _Finisher:
  """Turns inert stand-ins into arrays; equal parts stay shared.

  Values come with (number of values in them, levels of nesting).
  """

  def __init__(self, values):
    self._values = values
    self._done = {}  # by id; the root keeps all nodes alive
    self._active = set()

  def value(self, node):
    if node is None or type(node) in (bool, int, float, str):
      return node, 1, 1
    if id(node) not in self._done:
      if id(node) in self._active or len(self._active) > MAX_DEPTH:
        raise self._too_deep()
      self._active.add(id(node))
      self._done[id(node)] = self._make(node)
      self._active.remove(id(node))
    return self._done[id(node)]

  def _make(self, node):
    if type(node) in RAW:
      self._values.spend(len(node))
      return bytes(node), 1, 1
    if type(node) in (tuple, list):
      items, *measures = self._all(node)
      return type(node)(items), *measures
    if isinstance(node, dict):
      items, *measures = self._all(node.values())
      return dict(zip(node, items, strict=True)), *measures
    if type(node) is _Array:
      return self._array(node)
    return self._values.leaf(node), 1, 1

  def _all(self, nodes):
    items, total, deepest = [], 1, 0
    for node in nodes:
      item, size, depth = self.value(node)
      items.append(item)
      total += size
      deepest = max(deepest, depth)
      if total > MAX_VALUES:
        raise self._values.bad(f'holds more than {MAX_VALUES} values')
    # Parts that were made before can be deep without being active now.
    if deepest >= MAX_DEPTH:
      raise self._too_deep()
    return items, total, deepest + 1

  def _array(self, node):
    if isinstance(node.value, (np.ndarray, np.generic)):
      return node.value, 1, 1
    if node.value is None:
      raise self._values.bad('damaged pickle: an array without contents')
    # Checked here because the pickle may go on filling the list.
    size = raw_arrays.num_elements(node.shape, self._values.file)
    if len(node.value) != size:
      raise self._values.bad('damaged pickle: an array of objects of odd size')
    self._values.spend(8 * size)
    items, *measures = self._all(node.value)
    # One by one: NumPy would take lists of equal length for more dimensions.
    array = np.empty(len(items), object)
    for index, item in enumerate(items):
      array[index] = item
    return array.reshape(node.shape, order=node.order), *measures

  def _too_deep(self):
    return self._values.bad(
      f'holds itself, or is nested more than {MAX_DEPTH} deep'
    )


def _empty_array(values, arguments):
  """numpy._reconstruct(ndarray, (0,), b'b')."""
  kind, _, _ = values.typed(arguments, Global, tuple, RAW)
  if kind != Global('numpy', 'ndarray'):
    raise unsafe(values.file, f'an array of class {kind.module}.{kind.name}')
  return _Array()


def _fill(values, array, state):
  """Contents of an array: version, shape, type, column order, data."""
  _, shape, dtype, fortran, data = values.typed(
    state, int, tuple, _Dtype, bool, (*RAW, list)
  )
  array.shape = shape
  array.order = 'F' if fortran else 'C'
  if type(data) is not list:
    array.value = _numbers(values, data, dtype, shape, array.order)
  elif not dtype.value.hasobject:
    raise values.bad(f'damaged pickle: an array of {dtype.value} as a list')
  else:
    array.value = data


def _numbers(values, data, dtype, shape, order):
  values.spend(len(data))
  return raw_arrays.from_bytes(
    data, dtype.value, shape, values.file, order=order
  )


def _scalar(values, arguments):
  """numpy scalar(dtype, bytes)."""
  dtype, data = values.typed(arguments, _Dtype, RAW)
  return _Array(value=_numbers(values, data, dtype, (), 'C')[()])


def _from_buffer(values, arguments):
  """numpy _frombuffer(bytes, dtype, shape, order[, axes]), protocol 5."""
  data, dtype, shape, order = values.typed(
    arguments[:4], RAW, _Dtype, tuple, str
  )
  axes = arguments[4:] or (None,)
  if order not in ('C', 'F', 'K'):
    raise values.bad(f'damaged pickle: array order {order[:8]!r}')
  array = _numbers(values, data, dtype, shape, 'F' if order == 'F' else 'C')
  if axes != (None,):
    [axes] = values.typed(axes, tuple)
    if any(type(axis) is not int for axis in axes) or (
      sorted(axes) != list(range(array.ndim))
    ):
      raise values.bad('damaged pickle: odd axes of an array')
    array = array.transpose(axes)
  return _Array(value=array)


def _dtype(values, arguments):
  """numpy.dtype(text or small float class, align, copy)."""
  kind, _, _ = values.typed(arguments, (str, Global), object, object)
  if type(kind) is str:
    return _Dtype(raw_arrays.parse_dtype(kind, values.file))
  if kind.module != 'ml_dtypes':
    raise unsafe(values.file, f'a type of {kind.module}.{kind.name}')
  return _Dtype(np.dtype(getattr(ml_dtypes, kind.name)))


def _ordered(values, dtype, state):
  """The type in the byte order of its state; records have more state."""
  if type(state) is not tuple or len(state) < 8 or type(state[1]) is not str:
    raise values.bad('damaged pickle: odd state of a type')
  if state[1] not in ('<', '>', '|', '=') or state[2:5] != (None,) * 3:
    raise values.bad('arrays of records are not read; save plain numbers')
  return dtype.newbyteorder(state[1])


def _encode(values, arguments):
  """_codecs.encode(text, 'latin1'): bytes in protocol 2."""
  text, codec = values.typed(arguments, str, str)
  if codec not in ('latin1', 'latin-1'):
    raise unsafe(values.file, f'the codec {codec}')
  values.spend(len(text))
  try:
    return text.encode('latin-1')
  except UnicodeEncodeError as error:
    raise values.bad('damaged pickle: bytes beyond 255') from error


def _no_bytes(values, arguments):
  """bytes(): the empty byte string in protocol 2."""
  values.typed(arguments)
  return b''


def _ordered_dict(values, arguments):
  values.typed(arguments)
  return _OrderedDict()


def _mapping(values, arguments):
  """A read-only dict around a dict."""
  [content] = values.typed(arguments, (dict, _OrderedDict))
  return content


def _jax_array(values, arguments):
  """A jax array: the three parts of its NumPy array, and what jax adds."""
  function, inner, state, _ = values.typed(
    arguments, Global, tuple, tuple, dict
  )
  if function != Global('numpy._core.multiarray', '_reconstruct'):
    raise unsafe(values.file, f'a jax array of {function.module}')
  array = _empty_array(values, inner)
  _fill(values, array, state)
  return array


def _state_tuple(values, arguments):
  return arguments


# (module, name) -> function(values, arguments), None if never called.
NUMPY = {
  ('numpy._core.multiarray', '_reconstruct'): _empty_array,
  ('numpy._core.multiarray', 'scalar'): _scalar,
  ('numpy._core.numeric', '_frombuffer'): _from_buffer,
  ('numpy', 'dtype'): _dtype,
  ('numpy', 'ndarray'): None,
  ('_codecs', 'encode'): _encode,
  ('builtins', 'bytes'): _no_bytes,
  ('collections', 'OrderedDict'): _ordered_dict,
}
_WEIGHTS = {
  **NUMPY,
  **{('ml_dtypes', name): None for name in _SMALL_FLOATS},
  ('haiku._src.data_structures', 'FlatMapping'): _mapping,
  ('haiku._src.data_structures', 'FlatMap'): _mapping,
  ('haiku._src.data_structures', 'frozendict'): _mapping,
  ('flax.core.frozen_dict', 'FrozenDict'): _mapping,
  ('jax._src.array', '_reconstruct_array'): _jax_array,
  ('jax._src.device_array', 'reconstruct_device_array'): _jax_array,
  ('optax', 'State'): _state_tuple,
}
