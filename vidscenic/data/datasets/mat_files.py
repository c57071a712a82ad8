"""One numeric array from a MATLAB 5 file.

SciPy's reader crashes the interpreter on some damaged files (a segmentation
fault within 1,500 random mutations, SciPy 1.17), so the one kind of variable
that data sets store is read here, from MathWorks' description of the format
('MAT-File Format', level 5): a header of 128 bytes, then elements of a tag
(type, number of bytes) and data, each perhaps packed by zlib.
"""

import math
import os
import zlib

import numpy as np

from vidscenic.data import containers

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
# Element types that hold numbers.
_TYPES = {
  1: 'i1',
  2: 'u1',
  3: 'i2',
  4: 'u2',
  5: 'i4',
  6: 'u4',
  7: 'f4',
  9: 'f8',
  12: 'i8',
  13: 'u8',
}
# Classes of arrays: double, single and the integers; no text, cells, structs.
_CLASSES = range(6, 16)
_COMPLEX = 0x0800
# Of the file and of each element unpacked; annotations have a few kilobytes.
_MAX_BYTES = 64 * 2**20


def read_array(path: str | os.PathLike, name: str) -> np.ndarray:
  """Reads a real numeric variable.

  Args:
    path: MAT file, level 5 (MATLAB's -v6 and -v7).
    name: of the variable.

  Returns:
    The array in MATLAB's shape; at least two axes. Integers may be stored for
    an array of doubles: the type is the stored one.

  Raises:
    VideoError: no such file, another format, a damaged file, or no such
      variable; names the file.
  """
  path = os.fspath(path)
  try:
    if os.path.getsize(path) > _MAX_BYTES:
      raise ValueError(f'more than {_MAX_BYTES} bytes')
    with open(path, 'rb') as f:
      return _find(memoryview(f.read()), name)
  except (OSError, ValueError, zlib.error) as error:
    raise containers.VideoError(path, containers.describe(error)) from error


def _find(data, name):
  marks = {b'IM': '<', b'MI': '>'}
  order = marks.get(bytes(data[126:_HEADER_BYTES]))
  if order is None or bytes(data[:6]) != b'MATLAB':
    raise ValueError('not a MATLAB 5 file')
  version = np.frombuffer(data, f'{order}u2', 1, 124)[0]
  if version != 0x0100:
    raise ValueError(f'version {version:#x}: save it with -v7')
  found = []
  for kind, content in _elements(data[_HEADER_BYTES:], order):
    if kind == _COMPRESSED:
      unpack = zlib.decompressobj()
      unpacked = unpack.decompress(content, _MAX_BYTES)
      if not unpack.eof:
        raise ValueError('a packed variable is cut off or too large')
      kind, content = next(_elements(memoryview(unpacked), order), (0, b''))
    if kind == _MATRIX:
      parts = list(_elements(content, order))
      if len(parts) >= 3 and bytes(parts[2][1]) == name.encode():
        return _array(parts, order)
      found += [bytes(parts[2][1])] if len(parts) >= 3 else []
  raise ValueError(f'no variable {name!r}, only {found}')


def _elements(data, order):
  """Yields (type, content) of the elements that follow each other in `data`."""
  position = 0
  while position < len(data):
    if position + 8 > len(data):
      raise ValueError('ends in the middle of a tag')
    kind, size = np.frombuffer(data, f'{order}u4', 2, position).tolist()
    if kind >> 16:  # up to 4 bytes stand in the tag itself
      kind, size, begin = kind & 0xFFFF, kind >> 16, position + 4
      step = 8
      if size > 4:
        raise ValueError(f'{size} bytes in a tag')
    else:
      begin = position + 8
      # Padded to 8 bytes, but for packed elements.
      step = 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)
    if begin + size > len(data):
      raise ValueError('ends in the middle of an element')
    yield kind, data[begin : begin + size]
    position += step


def _array(parts, order):
  """The array of a matrix element: flags, shape, name, real part."""
  flags, shape = (
    np.frombuffer(content, f'{order}{kind}')
    for (_, content), kind in zip(parts[:2], ('u4', 'i4'), strict=True)
  )
  if not len(flags) or int(flags[0]) & 0xFF not in _CLASSES:
    raise ValueError('the variable is no numeric array')
  if int(flags[0]) & _COMPLEX or len(parts) != 4 or parts[3][0] not in _TYPES:
    raise ValueError('the variable is no real array')
  values = np.frombuffer(parts[3][1], order + _TYPES[parts[3][0]])
  shape = shape.tolist()
  if len(shape) < 2 or min(shape) < 0 or math.prod(shape) != len(values):
    raise ValueError(f'{len(values)} numbers do not have the shape {shape}')
  values = values.reshape(shape, order='F')
  return values.astype(values.dtype.newbyteorder('='))
