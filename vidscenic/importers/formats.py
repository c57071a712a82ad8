"""Reads files of published weights without running anything in them.

NumPy's .npz and .npy (also with a pickle inside, as TAPIR is published),
pickles of Haiku and Flax trees (Perceiver), safetensors, and PyTorch's zip
files. Which one a file is shows in its first bytes; its name only decides for
pickles without a mark. Sizes that a file claims are compared with the size of
the file before memory is taken.

  for key, dtype, shape in formats.describe('weights.npz'):
    print(key, dtype, shape)
  arrays = formats.read('weights.npz')   # {'encoder/layers_0/kernel': ...}
"""

import contextlib
import functools
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from vidscenic.importers import (
  npy,
  pickle_machine,
  pickle_values,
  raw_arrays,
  safetensors,
  torch_zip,
  zips,
)

BadFile = raw_arrays.BadFile
UnsafeFile = raw_arrays.UnsafeFile

_MAX_KEY = 1000
# Of all keys of a file. A pickle can name one dict many times, so that a small
# file stands for half a million long keys.
_MAX_LETTERS = 20_000_000
_PICKLE_NAMES = ('.pkl', '.pickle', '.pystate')
# What people have in place of the weights that they wanted.
_OTHER_FILES = {
  b'version https://': 'is a Git LFS pointer; run `git lfs pull`',
  b'<': 'is a web page; download the file itself',
  b'\x1f\x8b': 'is compressed; unpack it with gunzip',
  b'{': 'is JSON; give the files with the arrays that it names',
}


def read(path: str | os.PathLike, *, kind: str = '') -> dict[str, np.ndarray]:
  """All arrays of a file of weights, under flat keys.

  Nested dicts and lists are joined by '/': Haiku's {'net/~/linear': {'w': x}}
  gives 'net/~/linear/w', a file of several trees 'params/...' and 'state/...'.
  Names in PyTorch and safetensors files stay as they are. Numbers become
  arrays without axes; strings, None and empty dicts are no weights and are
  left out (`describe` lists them).

  Args:
    path: a local file.
    kind: one of 'npz', 'npy', 'npy_pickle', 'pickle', 'safetensors' and
      'torch'; found from the file's first bytes if empty.

  Returns:
    Arrays in native byte order; those of one byte per element may be
    read-only views of the file. bfloat16 and float8 have the types of
    `ml_dtypes`.

  Raises:
    FileNotFoundError: no such file.
    BadFile: damaged, truncated, absurd, or of no known kind.
    UnsafeFile: it asks for classes or functions that arrays do not need.
  """
  path = os.fspath(path)
  with _opened(path, kind) as entries:
    return {
      entry.key: entry.load() for entry in entries if entry.load is not None
    }


def describe(path: str | os.PathLike) -> list[tuple[str, str, tuple[int, ...]]]:
  """(key, type, shape) of all that is in a file of weights, in its order.

  The arrays themselves are only read where a pickle holds them. What `read`
  leaves out is listed with the type 'str', 'bytes', 'None' or 'empty'.

  Raises:
    FileNotFoundError, BadFile, UnsafeFile: as `read`.
  """
  path = os.fspath(path)
  with _opened(path, '') as entries:
    return [(entry.key, entry.dtype, entry.shape) for entry in entries]


def unpickle(source: str | os.PathLike | bytes, *, name: str = ''):
  """Reads a pickle of a data set, such as those of TAP-Vid.

  Args:
    source: a local file, or its bytes.
    name: what errors call it; the path if empty.

  Returns:
    Dicts, lists, tuples, strings, bytes, numbers and arrays. Arrays of single
    bytes and of byte strings are read-only views of the file, which must not
    be changed while they are in use; so a large file of videos costs memory
    only as it is looked at.

  Raises:
    FileNotFoundError: no such file.
    BadFile: no pickle of protocol 2 to 5, damaged, or absurd.
    UnsafeFile: it names anything but NumPy's arrays.
  """
  if isinstance(source, bytes):
    name, data = name or f'<pickle of {len(source)} bytes>', source
  else:
    path = os.fspath(source)
    _check_regular(path)
    name, data = name or path, _mapped(path)
  return pickle_machine.load(data, pickle_values.Values(name, len(data)))


class _Entry(NamedTuple):
  """`load` gives the array and is None if there is none."""

  key: str
  dtype: str
  shape: tuple[int, ...]
  load: Callable[[], np.ndarray] | None


@contextlib.contextmanager
def _opened(path: str, kind: str) -> Iterator[list[_Entry]]:
  """The entries of a file, which can be loaded inside the `with` only."""
  if kind and kind not in _READERS:
    raise ValueError(f'kind={kind!r} is none of {", ".join(_READERS)}')
  _check_regular(path)
  with _READERS[kind or _find_kind(path)](path) as entries:
    found, letters = {}, 0
    for entry in entries:
      if entry.key in found:
        raise BadFile(path, f'two values are called {entry.key[:200]!r}')
      letters += len(entry.key)
      if letters > _MAX_LETTERS:
        raise BadFile(path, f'its keys have more than {_MAX_LETTERS:,} letters')
      found[entry.key] = entry
    yield list(found.values())


def _find_kind(path):
  with open(path, 'rb') as file:
    start = file.read(64)
  if start.startswith(b'PK'):
    with zips.opened(path) as archive:
      pickles = [n for n in archive.namelist() if torch_zip.is_pickle(n)]
    return 'torch' if pickles else 'npz'
  if start.startswith(npy.MAGIC):
    return 'npy'
  if safetensors.looks_like(start):
    return 'safetensors'
  if start.startswith(torch_zip.LEGACY_START):
    raise BadFile(
      path,
      'is in the format of PyTorch before 1.6; load it with PyTorch and '
      'torch.save it again',
    )
  if start.startswith(b'\x80') or path.lower().endswith(_PICKLE_NAMES):
    return 'pickle'
  for mark, remedy in _OTHER_FILES.items():
    if start.startswith(mark):
      raise BadFile(path, remedy)
  raise BadFile(
    path,
    f'is no file of weights that is read here ({", ".join(_READERS)}); it '
    f'begins with {start[:8]!r}',
  )


def _check_regular(path):
  """Refuses folders, and pipes, which would block for ever when opened."""
  mode = os.stat(path).st_mode
  if not stat.S_ISREG(mode):
    kind = 'a folder' if stat.S_ISDIR(mode) else 'no regular file'
    raise BadFile(path, f'is {kind}; give a file of weights')


def _mapped(path):
  """The bytes of a file, read as they are looked at."""
  with open(path, 'rb') as file:
    if not os.fstat(file.fileno()).st_size:
      raise BadFile(path, 'is empty')
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


@contextlib.contextmanager
def _npz(path):
  with zips.opened(path) as archive:
    yield _npz_entries(archive, path)


def _npz_entries(archive, path):
  for key, name in npy.entry_names(archive, path).items():
    dtype, shape, _, _ = npy.entry_header(archive, name, path)
    if dtype.hasobject:
      yield from _flat(npy.read_entry(archive, name, path), path, key)
    else:
      load = functools.partial(npy.read_entry, archive, name, path)
      yield _Entry(key, str(dtype), shape, load)


@contextlib.contextmanager
def _npy(path):
  yield _flat(npy.parse(_mapped(path), path), path)


@contextlib.contextmanager
def _pickle(path):
  data = _mapped(path)
  values = pickle_values.WeightValues(path, len(data))
  yield _flat(pickle_machine.load(data, values), path)


@contextlib.contextmanager
def _safetensors(path):
  data = _mapped(path)
  yield [
    _Entry(
      name,
      str(item.dtype),
      item.shape,
      functools.partial(item.array, data, f'{path}: {name[:200]}'),
    )
    for name, item in safetensors.table(data, path).items()
  ]


@contextlib.contextmanager
def _torch(path):
  with torch_zip.opened(path) as archive:
    yield _flat(archive.tree, path, array=archive.array)


_READERS = {
  'npz': _npz,
  'npy': _npy,
  'npy_pickle': _npy,
  'pickle': _pickle,
  'safetensors': _safetensors,
  'torch': _torch,
}


def _flat(tree, path, prefix='', array=None):
  """Yields entries of a tree whose size and depth its reader has bounded."""
  if len(prefix) > _MAX_KEY or not prefix.isprintable():
    raise BadFile(path, f'odd key {prefix[:80]!r} of {len(prefix)} letters')
  if isinstance(tree, (dict, list, tuple)) and tree:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in pairs:
      name = f'{prefix}/{key}' if prefix else str(key)
      yield from _flat(value, path, name, array)
  else:
    # A file that is one array has no name for it.
    yield _leaf(tree, path, prefix or 'array', array)


def _leaf(leaf, path, key, array):
  if isinstance(leaf, (dict, list, tuple)):
    return _Entry(key, 'empty', (), None)
  if leaf is None or isinstance(leaf, (str, bytes)):
    kind = 'None' if leaf is None else type(leaf).__name__
    return _Entry(key, kind, (), None)
  if isinstance(leaf, torch_zip.Tensor):
    load = functools.partial(array, leaf)
    return _Entry(key, str(leaf.dtype), leaf.shape, load)
  if type(leaf) is int and not -(2**63) <= leaf < 2**63:
    raise BadFile(f'{path}: {key}', 'an integer of more than 64 bits')
  value = np.asarray(leaf)
  if value.dtype.hasobject:
    raise BadFile(
      f'{path}: {key}', 'an array of objects; weights are plain arrays'
    )
  return _Entry(key, str(value.dtype), value.shape, lambda: value)
