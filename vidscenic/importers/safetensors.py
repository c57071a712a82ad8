"""Reads safetensors files: a table in JSON, then the arrays.

Layout and rules of the format's own description
(github.com/huggingface/safetensors, README): an eight-byte length, the table,
then all arrays without gaps or overlaps, little-endian, row by row.
"""

import json
from typing import NamedTuple

import ml_dtypes
import numpy as np

from vidscenic.importers import raw_arrays

# A tenth of what the format allows; 50,000 arrays fit.
_MAX_TABLE = 10_000_000
# Beyond the three of each array: those in names and remarks.
_SPARE_BRACKETS = 100_000
_DTYPES = {
  'BOOL': 'b1',
  'U8': 'u1',
  'I8': 'i1',
  'U16': '<u2',
  'I16': '<i2',
  'F16': '<f2',
  'BF16': ml_dtypes.bfloat16,
  'U32': '<u4',
  'I32': '<i4',
  'F32': '<f4',
  'U64': '<u8',
  'I64': '<i8',
  'F64': '<f8',
  'C64': '<c8',
  'F8_E4M3': ml_dtypes.float8_e4m3fn,
  'F8_E5M2': ml_dtypes.float8_e5m2,
  'F8_E8M0': ml_dtypes.float8_e8m0fnu,
}


class Item(NamedTuple):
  """One array of the table; `begin` and `end` count from the file's start."""

  dtype: np.dtype
  shape: tuple[int, ...]
  begin: int
  end: int

  def array(self, data, file: str) -> np.ndarray:
    """The array, given the bytes of the whole file."""
    return raw_arrays.from_bytes(
      data[self.begin : self.end], self.dtype, self.shape, file
    )


def looks_like(start: bytes) -> bool:
  """Whether a file that begins with these 16 bytes could be one."""
  return len(start) > 8 and start[4:9] == b'\0\0\0\0{'


def table(data, file: str) -> dict[str, Item]:
  """Name -> Item for the bytes of a whole file.

  Raises:
    BadFile: damaged, truncated, or the arrays overlap, leave gaps or do not
      fit their shapes.
  """
  size = int.from_bytes(data[:8], 'little')
  if size > len(data) - 8:
    raise raw_arrays.BadFile(
      file, f'truncated or damaged: its table should have {size} bytes'
    )
  text = _checked_text(bytes(data[8 : 8 + min(size, _MAX_TABLE + 1)]), file)
  try:
    entries = json.loads(str(text, 'utf-8'), object_pairs_hook=_without_repeats)
  except (ValueError, RecursionError) as error:
    raise raw_arrays.BadFile(file, f'damaged table: {error}') from error
  if type(entries) is not dict:
    raise raw_arrays.BadFile(file, 'damaged table: it is no JSON object')
  entries.pop('__metadata__', None)
  for name in entries:
    if not name.isprintable():
      raise raw_arrays.BadFile(file, f'odd name {name[:80]!r}')
  items = {
    name: _item(entry, 8 + size, len(data), f'{file}: {name[:200]}')
    for name, entry in entries.items()
  }
  position = 8 + size
  for name, item in sorted(items.items(), key=lambda pair: pair[1][2:]):
    if item.begin != position:
      raise raw_arrays.BadFile(
        f'{file}: {name[:200]}', 'overlaps another array or leaves a gap'
      )
    position = item.end
  if position != len(data):
    raise raw_arrays.BadFile(
      file,
      f'truncated or damaged: its arrays end at byte {position}, the file at '
      f'{len(data)}',
    )
  return items


def _checked_text(text, file):
  """Refuses what would become much larger as Python objects."""
  if len(text) > _MAX_TABLE:
    raise raw_arrays.BadFile(
      file, f'its table has more than {_MAX_TABLE:,} bytes; split the file'
    )
  brackets = text.count(b'[') + text.count(b'{')
  arrays = text.count(b'"data_offsets"')
  if brackets > 3 * arrays + _SPARE_BRACKETS:
    raise raw_arrays.BadFile(
      file, f'damaged table: {brackets} brackets for {arrays} arrays'
    )
  return text


def _item(entry, base, num_bytes, label):
  fields = ('data_offsets', 'dtype', 'shape')
  if type(entry) is not dict or tuple(sorted(entry)) != fields:
    raise raw_arrays.BadFile(label, 'damaged table entry')
  offsets, name, shape = (entry[field] for field in fields)
  if type(name) is not str or name not in _DTYPES:
    raise raw_arrays.BadFile(label, f'type {str(name)[:80]!r} is not read')
  if (
    type(offsets) is not list
    or [type(offset) for offset in offsets] != [int, int]
    or not 0 <= offsets[0] <= offsets[1]
  ):
    raise raw_arrays.BadFile(label, 'damaged table entry: odd data_offsets')
  if base + offsets[1] > num_bytes:
    raise raw_arrays.BadFile(label, 'truncated: reaches beyond the file')
  dtype = np.dtype(_DTYPES[name])
  needed = raw_arrays.num_elements(shape, label) * dtype.itemsize
  if needed != offsets[1] - offsets[0]:
    raise raw_arrays.BadFile(
      label,
      f'{name} {tuple(shape)} needs {needed} bytes, the table gives '
      f'{offsets[1] - offsets[0]}',
    )
  return Item(dtype, tuple(shape), base + offsets[0], base + offsets[1])


def _without_repeats(pairs):
  result = dict(pairs)
  if len(result) != len(pairs):
    raise ValueError('a name comes twice')
  return result
