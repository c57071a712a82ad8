"""Arrays from the bytes of files that nobody vouches for.

What all readers of this package share: the two errors, the data types that
are read, and the checks that come before memory is taken.
"""

import math
import re
from collections.abc import Sequence

import ml_dtypes
import numpy as np

_MAX_DIMS = 32
_MAX_ITEM_BYTES = 2**31 - 1  # NumPy's own limit
# Bounds the product of sides and element of an array without elements, too,
# such as (2**40, 0); NumPy fails at 2**63.
_MAX_BYTES = 2**52

_NUMBERS = frozenset('b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16'.split())


class BadFile(ValueError):
  """A file cannot be read; pickles, and says file and reason in one line.

  Attributes:
    file: path, perhaps followed by the entry inside the file.
    reason: what is wrong and, where there is one, the remedy.
  """

  def __init__(self, file: str, reason: str):
    super().__init__(file, reason)
    self.file = file
    self.reason = reason

  def __str__(self):
    return f'{self.file}: {self.reason}'


class UnsafeFile(BadFile):
  """A pickle asks for a class or function that is not on the allow-list."""


def parse_dtype(text: str, file: str) -> np.dtype:
  """The type that NumPy writes as '<f4', '|b1', 'S12', '|O8' or '<V2'.

  NumPy knows bfloat16 only as two bytes without meaning; a two-byte void is
  therefore read as bfloat16 (jnp.save and numpy.savez of such arrays).

  Raises:
    BadFile: dates, records, long doubles and whatever else is no weight.
  """
  match = re.fullmatch(r'([<>|=]?)([biufcSUVO])([0-9]{0,10})', text)
  if match:
    order, kind, size = match.groups()
    order = order.replace('|', '')
    if kind + size in _NUMBERS:
      return np.dtype(order + kind + size)
    if kind == 'O':
      return np.dtype(object)
    if kind == 'V' and size == '2' and order != '>':
      return np.dtype(ml_dtypes.bfloat16)
    width = 4 if kind == 'U' else 1
    if kind in 'SU' and 0 < int(size or 0) <= _MAX_ITEM_BYTES // width:
      return np.dtype(order + kind + size)
  raise BadFile(
    file, f'arrays of type {text[:80]!r} are not read; save plain numbers'
  )


def num_elements(shape: Sequence[int], file: str, *, itemsize: int = 16) -> int:
  """The number of elements of `shape`.

  Args:
    shape: as a file gives it.
    file: the name for errors.
    itemsize: bytes of an element; the default is that of the largest number.

  Raises:
    BadFile: no sequence of integers, a negative or an absurd size.
  """
  if type(shape) not in (tuple, list) or len(shape) > _MAX_DIMS:
    raise BadFile(file, f'absurd shape {_short(shape)}')
  if any(type(size) is not int or size < 0 for size in shape):
    raise BadFile(file, f'absurd shape {_short(shape)}')
  if math.prod(max(size, 1) for size in shape) * itemsize > _MAX_BYTES:
    raise BadFile(file, f'absurd shape {_short(shape)}')
  return math.prod(shape)


def from_bytes(
  raw, dtype: np.dtype, shape: Sequence[int], file: str, *, order: str = 'C'
) -> np.ndarray:
  """An array in native byte order from exactly the bytes that it needs.

  Elements of several bytes come out aligned and writable, which copies when
  `raw` is neither. Arrays of single bytes and of byte strings (the pictures
  of a data set) stay views of `raw`, so that they cost no second copy.

  Args:
    raw: bytes-like.
    order: 'C' or 'F', how `raw` is laid out.

  Raises:
    BadFile: the size differs, or bytes are no value of the type.
  """
  size = num_elements(shape, file, itemsize=dtype.itemsize)
  needed = size * dtype.itemsize
  if dtype.hasobject or len(raw) != needed:
    raise BadFile(
      file,
      f'an array {tuple(shape)} of {dtype} needs {needed} bytes, '
      f'{len(raw)} are there',
    )
  array = np.frombuffer(raw, dtype) if needed else np.empty(0, dtype)
  if dtype.kind == 'b' and needed and array.view(np.uint8).max() > 1:
    raise BadFile(file, 'a bool array holds other bytes than 0 and 1')
  if not dtype.isnative:
    array = array.astype(dtype.newbyteorder('='))
  elif dtype.alignment > 1 and not array.flags.behaved:
    array = array.copy()
  # Python fails on such characters only when an element is looked at.
  if dtype.kind == 'U' and needed and array.view(np.uint32).max() > 0x10FFFF:
    raise BadFile(file, 'a string array holds bytes that are no text')
  return array.reshape(shape, order=order)


def _short(value) -> str:
  """The first few entries of what claims to be a shape, never all."""
  if type(value) not in (tuple, list):
    return f'of type {type(value).__name__}'
  entries = ', '.join(
    f'{entry:#x}'[:20] if type(entry) is int else type(entry).__name__
    for entry in value[:4]
  )
  return f'({entries}{", ..." if len(value) > 4 else ""})'
