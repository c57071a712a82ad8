"""The display matrix in the header of an mp4 or mov file (ISO/IEC 14496-12).

PyAV 18 has it on decoded frames only, and decoding one doubles the time that
the index of a file takes.
"""

import io
import struct

import numpy as np

from vidscenic.data import containers


def display_matrix(file: containers.File, track: int) -> np.ndarray | None:
  """Linear part of the matrix that a track is shown with.

  Args:
    file: path, or the bytes of a file.
    track: number of the track, which FFmpeg calls the stream's id.

  Returns:
    float[2, 2] M: pixel (x, y) goes to (x, y) @ M plus a shift; None if the
    file has no such track.

  Raises:
    OSError: the file cannot be read.
  """
  is_data = isinstance(file, (bytes, bytearray, memoryview))
  movie = None
  with io.BytesIO(file) if is_data else open(file, 'rb') as f:
    for kind, end in _boxes(f, f.seek(0, io.SEEK_END), 0):
      if kind != b'moov':
        continue
      for inner, inner_end in _boxes(f, end, f.tell()):
        if inner == b'mvhd':
          movie = _matrix(f.read(inner_end - f.tell()), (36, 48))
        elif inner == b'trak':
          matrix = _of_track(f, inner_end, track)
          if matrix is not None:
            return matrix if movie is None else matrix @ movie
  return None


def _boxes(f, end, start):
  """Yields (kind, end of the box) with the file at the box's content."""
  while start + 8 <= end:
    f.seek(start)
    size, kind = struct.unpack('>I4s', f.read(8))
    if size == 1:
      size = int.from_bytes(f.read(8), 'big')
    size = size or end - start  # 0: up to the end
    if start + size < f.tell():
      return  # damaged
    yield kind, min(start + size, end)
    start += size


def _of_track(f, end, track):
  for kind, inner_end in _boxes(f, end, f.tell()):
    if kind == b'tkhd':
      header = f.read(inner_end - f.tell())
      place = (12, 20)[header[:1] == b'\1']
      if header[place : place + 4] == track.to_bytes(4, 'big'):
        return _matrix(header, (40, 52))
  return None


def _matrix(header, places):
  """From a header of version 0 or 1; None if it is cut off."""
  place = places[header[:1] == b'\1']
  if len(header) < place + 36:
    return None
  numbers = np.frombuffer(header, '>i4', 9, place).reshape(3, 3)
  return numbers[:2, :2] / 65536
