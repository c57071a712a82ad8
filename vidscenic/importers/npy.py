"""Reads .npy and .npz files without NumPy's unpickling loader.

The format is that of `numpy.lib.format`: a magic, a Python dict as text, the
bytes of the array. The dict is matched as text instead of being evaluated,
which no header can make slow or fail in a new way. Arrays of objects hold a
pickle; it goes to `pickle_machine`.
"""

import re
import zipfile

import numpy as np

from vidscenic.importers import pickle_machine, pickle_values, raw_arrays, zips

MAGIC = b'\x93NUMPY'
_MAX_HEADER = 4096
_HEADER = re.compile(
  rb"\{'descr': '([^']*)', 'fortran_order': (True|False), "
  # NumPy under Python 2 wrote sizes such as 3L.
  rb"'shape': \(((?:[0-9]{1,18}L?(?:, ?|(?=\))))*)\),? *\} *\n?"
)


def parse(data, file: str):
  """The array in the bytes of a .npy file, or the tree of its pickle.

  Args:
    data: bytes-like, the whole file.
    file: the name for errors.

  Raises:
    BadFile, UnsafeFile.
  """
  data = memoryview(data).cast('B')
  dtype, shape, order, start = header(data, file)
  if not dtype.hasobject:
    return raw_arrays.from_bytes(data[start:], dtype, shape, file, order=order)
  values = pickle_values.WeightValues(file, len(data))
  tree = pickle_machine.load(data[start:], values)
  if not isinstance(tree, np.ndarray) or tree.shape != shape:
    raise raw_arrays.BadFile(file, 'its pickle is not the array it announces')
  # numpy.save wraps a dict into an array without axes.
  return tree.item() if shape == () else tree


def header(data, file: str) -> tuple[np.dtype, tuple[int, ...], str, int]:
  """(type, shape, 'C' or 'F', first byte of the data) of a .npy file.

  Raises:
    BadFile: no plain array of numbers, strings or objects.
  """
  start = bytes(data[: _MAX_HEADER + 12])
  if start[:6] != MAGIC or start[6:7] not in (b'\x01', b'\x02'):
    raise raw_arrays.BadFile(file, 'is no .npy file of version 1 or 2')
  width = 2 if start[6] == 1 else 4
  size = int.from_bytes(start[8 : 8 + width], 'little')
  end = 8 + width + size
  if size > _MAX_HEADER or end > len(start):
    raise raw_arrays.BadFile(file, f'has a .npy header of {size} bytes')
  match = _HEADER.fullmatch(start[8 + width : end])
  if not match:
    raise raw_arrays.BadFile(
      file, 'its .npy header is damaged or describes records'
    )
  dtype = raw_arrays.parse_dtype(match[1].decode('latin-1'), file)
  shape = tuple(
    int(side.strip(b' L')) for side in match[3].split(b',') if side.strip()
  )
  raw_arrays.num_elements(shape, file, itemsize=dtype.itemsize)
  return dtype, shape, 'F' if match[2] == b'True' else 'C', end


def entry_names(archive: zipfile.ZipFile, path: str) -> dict[str, str]:
  """Array name -> entry of a .npz file."""
  names = archive.namelist()
  for name in names:
    if not name.endswith('.npy') or name == '.npy':
      raise raw_arrays.BadFile(
        path, f'holds {name[:80]!r}, which is no array of a .npz file'
      )
  if not names:
    raise raw_arrays.BadFile(path, 'is a .npz file without arrays')
  return {name.removesuffix('.npy'): name for name in names}


def read_entry(archive: zipfile.ZipFile, name: str, path: str):
  """`parse` for one entry of a .npz file."""
  return parse(zips.read(archive, name, path), f'{path}: {name}')


def entry_header(archive: zipfile.ZipFile, name: str, path: str):
  """`header` for one entry, reading no more than that."""
  start = zips.read(archive, name, path, limit=_MAX_HEADER + 12)
  return header(start, f'{path}: {name}')
