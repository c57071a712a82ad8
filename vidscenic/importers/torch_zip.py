"""Reads the zip files of PyTorch (torch.save since version 1.6) without it.

Such a file has one pickle, `<prefix>/data.pkl`, whose tensors name entries
`<prefix>/data/<key>` by persistent ids, and size, stride and offset in them.
The pickle goes through `pickle_machine` with the few names that tensors need.
"""

import contextlib
import dataclasses
import zipfile
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from vidscenic.importers import pickle_machine, pickle_values, raw_arrays, zips

# torch.save before version 1.6: a pickle that begins with this number.
LEGACY_START = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
_PICKLE = '/data.pkl'
_STORAGES = {
  'DoubleStorage': 'f8',
  'FloatStorage': 'f4',
  'HalfStorage': 'f2',
  'BFloat16Storage': ml_dtypes.bfloat16,
  'LongStorage': 'i8',
  'IntStorage': 'i4',
  'ShortStorage': 'i2',
  'CharStorage': 'i1',
  'ByteStorage': 'u1',
  'BoolStorage': 'b1',
  'ComplexFloatStorage': 'c8',
  'ComplexDoubleStorage': 'c16',
}
# Types without a storage class of their own (_rebuild_tensor_v3).
_DTYPES = {
  'float8_e4m3fn': ml_dtypes.float8_e4m3fn,
  'float8_e5m2': ml_dtypes.float8_e5m2,
  'float8_e4m3fnuz': ml_dtypes.float8_e4m3fnuz,
  'float8_e5m2fnuz': ml_dtypes.float8_e5m2fnuz,
  'uint16': 'u2',
  'uint32': 'u4',
  'uint64': 'u8',
}


@dataclasses.dataclass(frozen=True)
class Storage:
  """One entry of the archive, seen as a row of `num_elements` elements."""

  key: str
  dtype: np.dtype
  num_elements: int


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A view of a storage; offset and stride count elements."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  stride: tuple[int, ...]

  @property
  def dtype(self) -> np.dtype:
    """Of the elements."""
    return self.storage.dtype


class Archive:
  """The contents of an open file.

  Attributes:
    tree: what was saved, with a Tensor for each tensor.
  """

  def __init__(self, archive: zipfile.ZipFile, path: str):
    self._archive = archive
    self._path = path
    self._rows = {}
    self._names = frozenset(archive.namelist())
    pickles = [name for name in self._names if is_pickle(name)]
    if len(pickles) != 1:
      raise raw_arrays.BadFile(path, 'is no PyTorch file: it has no data.pkl')
    self._prefix = pickles[0].removesuffix(_PICKLE)
    self._order = self._byte_order()
    data = zips.read(archive, pickles[0], path)
    values = _Values(path, len(data), self._storage)
    self.tree = pickle_machine.load(data, values)

  def array(self, tensor: Tensor) -> np.ndarray:
    """The array of a tensor; tensors of one storage share memory.

    Raises:
      BadFile: the entry is damaged.
    """
    row = self._row(tensor.storage)
    width = row.dtype.itemsize
    # as_strided does not know all types of ml_dtypes.
    return np.ndarray(
      tensor.shape,
      row.dtype,
      buffer=row.view(np.uint8),
      offset=tensor.offset * width,
      strides=[step * width for step in tensor.stride],
    )

  def _row(self, storage):
    """All elements of a storage; read once."""
    if storage not in self._rows:
      name = self._entry(storage.key)
      self._rows[storage] = raw_arrays.from_bytes(
        zips.read(self._archive, name, self._path),
        storage.dtype.newbyteorder(self._order),
        (storage.num_elements,),
        f'{self._path}: {name}',
      )
    return self._rows[storage]

  def _byte_order(self):
    name = f'{self._prefix}/byteorder'
    if name not in self._names:
      return '<'
    text = zips.read(self._archive, name, self._path, limit=8).tobytes()
    if text not in (b'little', b'big'):
      raise raw_arrays.BadFile(f'{self._path}: {name}', 'unknown byte order')
    return '<' if text == b'little' else '>'

  def _entry(self, key):
    return f'{self._prefix}/data/{key}'

  def _storage(self, key, dtype, num_elements):
    """A storage, after a look at whether the archive has that much."""
    name = self._entry(key)
    needed = raw_arrays.num_elements((num_elements,), self._path)
    if name not in self._names:
      raise raw_arrays.BadFile(self._path, f'lacks the entry {name[:80]!r}')
    size = self._archive.getinfo(name).file_size
    if size != needed * dtype.itemsize:
      raise raw_arrays.BadFile(
        f'{self._path}: {name}',
        f'has {size} bytes, {num_elements} {dtype} are expected',
      )
    return Storage(key, dtype, num_elements)


@contextlib.contextmanager
def opened(path: str) -> Iterator[Archive]:
  """Reads the tree of a file; arrays are read as they are asked for.

  Raises:
    BadFile, UnsafeFile.
  """
  with zips.opened(path) as archive:
    yield Archive(archive, path)


def is_pickle(name: str) -> bool:
  """Whether a zip entry is the pickle of a PyTorch file."""
  return name.endswith(_PICKLE) and name.count('/') == 1


class _Values(pickle_values.Values):
  """Adds tensors, and the parsed arguments that training scripts save."""

  def __init__(self, file, num_bytes, storage):
    super().__init__(file, num_bytes)
    self._storage = storage

  def calls(self):
    return _TORCH

  def persistent(self, name):
    tag, kind, key, place, size = self.typed(
      name, str, pickle_values.Global, str, str, int
    )
    del place  # the device that the tensor was on
    if tag != 'storage' or kind.module not in ('torch', 'torch.storage'):
      raise self.bad('damaged pickle: odd reference to an entry')
    if kind.name == 'UntypedStorage':
      return self._storage(key, np.dtype(np.uint8), size)
    if kind.name not in _STORAGES:
      raise self.bad(f'storages of kind {kind.name} are not read')
    return self._storage(key, np.dtype(_STORAGES[kind.name]), size)

  def build(self, target, state):
    if type(target) is _Namespace and type(state) is dict:
      self.spend(64 * len(state))
      target.update(state)
    else:
      super().build(target, state)

  def leaf(self, node):
    if type(node) is Tensor:
      return node
    return super().leaf(node)


class _Namespace(dict):
  """An argparse.Namespace; its contents come in a later step."""


def _namespace(values, arguments):
  values.typed(arguments)
  return _Namespace()


def _size(values, arguments):
  """torch.Size(sides)."""
  return values.typed(arguments, tuple)[0]


def _parameter(values, arguments):
  """torch._utils._rebuild_parameter(tensor, requires_grad, hooks)."""
  tensor, _, _ = values.typed(arguments, Tensor, bool, object)
  return tensor


def _tensor_v2(values, arguments):
  """torch._utils._rebuild_tensor_v2, with or without its last argument."""
  return _tensor(values, arguments[:6], *arguments[6:])


def _tensor_v3(values, arguments):
  """torch._utils._rebuild_tensor_v3: an untyped storage and a type."""
  storage, _, _, _, _, _, dtype = values.typed(
    arguments[:7], Storage, *[object] * 5, pickle_values.Global
  )
  if dtype.module != 'torch' or dtype.name not in _DTYPES:
    raise values.bad(f'tensors of type {dtype.name} are not read')
  dtype = np.dtype(_DTYPES[dtype.name])
  count, rest = divmod(
    storage.num_elements * storage.dtype.itemsize, dtype.itemsize
  )
  if rest:
    raise values.bad(f'damaged: a storage that holds no whole {dtype}')
  typed = dataclasses.replace(storage, dtype=dtype, num_elements=count)
  return _tensor(values, (typed, *arguments[1:6]), *arguments[7:])


def _tensor(values, arguments, metadata=None, *others):
  """A tensor that lies inside its storage."""
  storage, offset, shape, stride, _, _ = values.typed(
    arguments, Storage, int, tuple, tuple, bool, object
  )
  if metadata or others:
    raise values.bad('conjugated or negated tensors are not read')
  size = raw_arrays.num_elements(shape, values.file)
  odd = len(stride) != len(shape) or any(
    type(step) is not int or step < 0 for step in stride
  )
  if odd or offset < 0:
    raise values.bad('damaged: odd strides or offset of a tensor')
  if size > storage.num_elements:
    raise values.bad(
      f'a tensor {shape} repeats a storage of {storage.num_elements} '
      'elements; save it with .contiguous()'
    )
  # Steps along sides of one element mean nothing and may be anything.
  steps = tuple(
    step if side > 1 else 0 for side, step in zip(shape, stride, strict=True)
  )
  last = offset + sum(
    (side - 1) * step for side, step in zip(shape, steps, strict=True)
  )
  if size and last >= storage.num_elements:
    raise values.bad(f'damaged: a tensor {shape} reaches beyond its storage')
  if not size:
    offset, steps = 0, (0,) * len(shape)
  return Tensor(storage, offset, shape, steps)


_TORCH = {
  **pickle_values.NUMPY,
  **{('torch', name): None for name in (*_STORAGES, *_DTYPES)},
  ('torch', 'UntypedStorage'): None,
  ('torch.storage', 'UntypedStorage'): None,
  ('torch._utils', '_rebuild_tensor_v2'): _tensor_v2,
  ('torch._utils', '_rebuild_tensor_v3'): _tensor_v3,
  ('torch._utils', '_rebuild_parameter'): _parameter,
  ('torch', 'Size'): _size,
  ('argparse', 'Namespace'): _namespace,
}
