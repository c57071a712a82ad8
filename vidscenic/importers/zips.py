"""Zip archives from strangers, as NumPy and PyTorch write them.

Nothing is ever extracted to disk. The table of contents is checked before
anything is read: odd names, sizes that the archive cannot hold, bombs.
"""

import contextlib
import posixpath
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

from vidscenic.importers import raw_arrays

# What zipfile raises for damaged archives (seen while fuzzing).
_ERRORS = (
  zipfile.BadZipFile,
  zlib.error,
  struct.error,
  EOFError,
  OSError,
  ValueError,
  NotImplementedError,
)
# Deflate cannot do better than this, whatever its input.
_MAX_DEFLATE = 1032
# Trained weights shrink by half at most; masks and zeros by more.
_MAX_RATIO = 100
_FREE_BYTES = 64 * 2**20
_CHUNK = 2**20


@contextlib.contextmanager
def opened(path: str) -> Iterator[zipfile.ZipFile]:
  """An archive whose table of contents has been checked.

  Raises:
    BadFile: no zip file, or one that nobody writes for arrays.
  """
  with open(path, 'rb') as file:
    with _reading(path):
      archive = zipfile.ZipFile(file)
    with archive:
      file.seek(0, 2)
      _check(archive.infolist(), file.tell(), path)
      yield archive


def read(
  archive: zipfile.ZipFile, name: str, path: str, *, limit: int = -1
) -> np.ndarray:
  """The bytes of one entry, uint8[N]; the first `limit` of them if given.

  Raises:
    BadFile: truncated, or the check sum is wrong (whole entries only).
  """
  size = archive.getinfo(name).file_size
  whole = limit < 0 or limit >= size
  result = np.empty(size if whole else limit, np.uint8)
  with _reading(f'{path}: {name}'), archive.open(name) as entry:
    filled = 0
    while filled < len(result):
      chunk = entry.read(min(_CHUNK, len(result) - filled))
      if not chunk:
        raise EOFError('the entry ends early')
      result[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
      filled += len(chunk)
    # Reading past the end is what makes zipfile compare the check sum.
    if whole and entry.read(1):
      raise EOFError('the entry goes on after its end')
  return result


@contextlib.contextmanager
def _reading(label):
  try:
    yield
  except _ERRORS as error:
    message = str(error) or type(error).__name__
    raise raw_arrays.BadFile(label, f'damaged zip file: {message}') from error


def _check(entries, num_bytes, path):
  names = set()
  for entry in entries:
    _check_name(entry.filename, names, path)
    label = f'{path}: {entry.filename}'
    if entry.flag_bits & 1:
      raise raw_arrays.BadFile(label, 'encrypted; save it without a password')
    if entry.compress_type == zipfile.ZIP_STORED:
      possible = entry.compress_size
    elif entry.compress_type == zipfile.ZIP_DEFLATED:
      possible = _MAX_DEFLATE * entry.compress_size
    else:
      raise raw_arrays.BadFile(
        label, 'compressed in a way that neither NumPy nor PyTorch uses'
      )
    if entry.file_size > possible:
      raise raw_arrays.BadFile(
        label,
        f'claims {entry.file_size} bytes out of {entry.compress_size}',
      )
  packed = sum(entry.compress_size for entry in entries)
  total = sum(entry.file_size for entry in entries)
  if packed > num_bytes:
    raise raw_arrays.BadFile(
      path, f'its entries claim {packed} bytes, the file has {num_bytes}'
    )
  if total > _MAX_RATIO * num_bytes + _FREE_BYTES:
    raise raw_arrays.BadFile(
      path,
      f'{num_bytes} bytes would unpack to {total}, like a zip bomb; if the '
      'file is your own, save it uncompressed (numpy.savez)',
    )


def _check_name(name, names, path):
  odd = (
    not name
    or name.startswith('/')
    or '\\' in name
    or re.match('[A-Za-z]:', name)
    or not name.isprintable()
    or '..' in name.split('/')
    or name != posixpath.normpath(name)
  )
  if odd:
    raise raw_arrays.BadFile(path, f'odd entry name {name[:80]!r}')
  if name in names:
    raise raw_arrays.BadFile(path, f'two entries are called {name[:80]!r}')
  names.add(name)
