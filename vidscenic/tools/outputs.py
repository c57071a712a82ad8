"""What a prediction leaves behind: videos, arrays, tables and pictures.

Everything is written while the video is read, so that memory does not grow with
its length, and under names that end in `.part` until all is complete.
"""

import csv
import errno
import fractions
import functools
import os
import pathlib
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vidscenic.data import soundtrack, stream, writer
from vidscenic.train import disk_errors

ARRAYS = 'results.npz'

_PART = '.part'
_REMEDIES = {
  errno.ENOSPC: 'Free some space or choose another --output',
  errno.EDQUOT: 'Free some space or choose another --output',
  errno.EFBIG: 'Raise the limit on file sizes (ulimit -f)',
  None: 'Choose another --output',
}
_writing = functools.partial(disk_errors.explained, remedies=_REMEDIES)


class Outputs:
  """Files in one folder that belong to one video.

  A context manager: leaving it completes the files and gives them their names;
  after an exception it removes what was written. Names are given without their
  extension, and of letters, digits, '_', '-' and '.'.

  Args:
    folder: where to write; made if it does not exist.
    video: the source, whose time stamps and sound go into videos.
    overwrite: allows to replace files in a folder that holds some.

  Attributes:
    written: paths of the complete files, once there are any.

  Raises:
    FileExistsError: the folder holds files and `overwrite` is False.
    OSError: a file cannot be written, the disk is full, ...; from any method,
      with path and remedy.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    video: stream.VideoStream,
    *,
    overwrite: bool = False,
  ):
    check_folder(folder, overwrite=overwrite)
    self._folder = pathlib.Path(folder)
    self._video = video
    self._made = not self._folder.exists()
    self._videos: dict[str, _Video] = {}
    self._arrays: dict[str, _Spool] = {}
    self._tables: dict[str, _Table] = {}
    self._parts: list[pathlib.Path] = []
    self.written: list[pathlib.Path] = []
    with _writing(self._folder):
      self._folder.mkdir(parents=True, exist_ok=True)

  def frames(
    self,
    name: str,
    frames: np.ndarray,
    *,
    first: int | None = None,
    sound: Callable[..., Any] | None = None,
  ) -> None:
    """Appends frames to `name`.mp4.

    Each is shown when its frame of the source is, and the file has the source's
    sound: packet by packet where mp4 players know its codec, else as AAC. A
    part of a source gets that part of the sound.

    Args:
      name: of the file.
      frames: uint8[T, H, W, 3] RGB of any size, the same in all calls; an odd
        last row or column is cropped away.
      first: number of the source's frame that frames[0] belongs to; None: the
        one after the last, or frame 0. Frames may be left out.
      sound: in place of the source's, see `soundtrack.encoded`; of the first
        call, and ahead of the frames of all calls by at least 0.1 s.

    Raises:
      ValueError: wrong type or shape, or frames that the source does not have.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
      raise ValueError(
        f'{name}: frames must be uint8[T, H, W, 3], got '
        f'{frames.dtype}{list(frames.shape)}'
      )
    if not len(frames):
      return
    path = self._path(name, '.mp4')
    with _writing(path):
      if name not in self._videos:
        start = 0 if first is None else first
        self._videos[name] = _Video(self._part(path), self._video, start, sound)
      self._videos[name].write(frames, first)

  def arrays(self, name: str, array: Any) -> None:
    """Appends numbers to the array `name` in results.npz.

    `np.load(folder / 'results.npz')[name]` is what one concatenation of all
    calls along the first axis would be. The file is an uncompressed zip file of
    npy files.

    Args:
      name: of the array.
      array: any numbers, [T, ...]; type and further axes as in the first call.

    Raises:
      ValueError: no axis, another type or shape, or a type that NumPy files do
        not have (bfloat16).
    """
    array = np.asarray(array)
    if not array.ndim or array.dtype.kind not in 'biufcSU':
      raise ValueError(
        f'{name}: got {array.dtype}{list(array.shape)}, want numbers [T, ...];'
        ' convert bfloat16 to float32 first'
      )
    path = self._path(name, '.npy')
    with _writing(path):
      if name not in self._arrays:
        self._arrays[name] = _Spool(self._part(path), name, array)
      self._arrays[name].write(array)

  def table(
    self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]
  ) -> None:
    """Appends rows to `name`.csv.

    Args:
      name: of the file.
      header: names of the columns, the same in all calls.
      rows: a number or text for each column.

    Raises:
      ValueError: another header, or a row that does not fit it.
    """
    path = self._path(name, '.csv')
    with _writing(path):
      if name not in self._tables:
        self._tables[name] = _Table(self._part(path), name, header)
      self._tables[name].write(header, rows)

  def picture(self, name: str, image: np.ndarray) -> None:
    """Writes `name`.png.

    Args:
      name: of the file.
      image: uint8[H, W, 3] RGB or uint8[H, W].

    Raises:
      ValueError: wrong type or shape, or written already.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.shape[2:] not in ((), (3,)):
      raise ValueError(
        f'{name}: a picture must be uint8[H, W, 3] or uint8[H, W], got '
        f'{image.dtype}{list(image.shape)}'
      )
    path = self._path(name, '.png')
    part = path.with_name(path.name + _PART)
    if part in self._parts:
      raise ValueError(f'{path} is written already')
    with _writing(path):
      Image.fromarray(image).save(self._part(path), format='PNG')

  def file(self, name: str) -> pathlib.Path:
    """Where to write a file of another kind, all at once.

    Args:
      name: of the file, with its extension: 'flow.flo'.

    Raises:
      ValueError: written already.
    """
    path = self._path(name, '')
    if path.with_name(path.name + _PART) in self._parts:
      raise ValueError(f'{path} is written already')
    return self._part(path)

  def close(self) -> None:
    """Completes all files, then gives them their names."""
    for part in (*self._videos.values(), *self._tables.values()):
      with _writing(part.path):
        part.close()
    if self._arrays:
      self._pack_arrays()
    for part in self._parts:
      path = part.with_name(part.name.removesuffix(_PART))
      with _writing(path):
        part.replace(path)
      self.written.append(path)
    self._parts = []

  def abandon(self) -> None:
    """Removes what was written and not completed."""
    open_files = self._videos | self._arrays | self._tables
    for output in open_files.values():
      output.abandon()
    for part in self._parts:
      part.unlink(missing_ok=True)
    if self._made and not any(self._folder.iterdir()):
      self._folder.rmdir()

  def __enter__(self) -> 'Outputs':
    return self

  def __exit__(self, exception_type, exception, traceback) -> None:
    if exception_type is not None:
      self.abandon()
      return
    try:
      self.close()
    except BaseException:
      self.abandon()
      raise

  def _path(self, name, extension):
    if not re.fullmatch(r'\w[\w.-]*', name):
      raise ValueError(
        f"{name!r}: want a name of letters, digits, '_', '-' and '.'"
      )
    return self._folder / f'{name}{extension}'

  def _part(self, path):
    """Where a file is written until it is complete."""
    self._parts.append(path.with_name(path.name + _PART))
    return self._parts[-1]

  def _pack_arrays(self):
    """Moves the spooled arrays into one file."""
    path = self._folder / ARRAYS
    with (
      _writing(path),
      zipfile.ZipFile(self._part(path), 'w') as archive,
    ):
      for name, spool in self._arrays.items():
        with archive.open(f'{name}.npy', 'w', force_zip64=True) as target:
          spool.copy_to(target)
        spool.path.unlink()
        self._parts.remove(spool.path)


def check_folder(folder: str | os.PathLike, *, overwrite: bool) -> None:
  """Refuses a folder that cannot be written to, or holds files.

  Raises:
    FileExistsError: it holds files and `overwrite` is False.
    OSError: it is no folder, or an address such as gs://.
  """
  folder = os.fspath(folder)
  if '://' in folder:
    raise OSError(f'--output={folder}: want a local folder')
  if not os.path.exists(folder):
    return
  if not os.path.isdir(folder):
    raise NotADirectoryError(f'{folder} is a file; choose another --output')
  held = sorted(n for n in os.listdir(folder) if not n.endswith(_PART))
  if held and not overwrite:
    raise FileExistsError(
      f'{folder} holds {held[0]} already: choose another --output, or pass '
      '--overwrite to replace files'
    )


class _Video:
  """An mp4 file that is growing."""

  def __init__(self, path, video, first, sound):
    self.path = path
    self._video = video
    self._first, self._next = first, max(first, 0)
    own = sound is not None
    if not own and video.has_audio and 0 <= first < video.num_frames:
      since = float(video.times[first])
      sound = soundtrack.copied(
        video.path,
        video.start + since,
        float(video.times[-1]) - since + 1 / video.fps,
        whole=first == 0,
      )
    self._writer = writer.VideoWriter(
      path,
      video.fps,
      time_base=video.time_base,
      sound=sound,
      preset='veryfast',
    )

  def write(self, frames, first):
    number = self._next if first is None else first
    stop = number + len(frames)
    if number < self._next or stop > self._video.num_frames:
      raise ValueError(
        f'{self.path.name.removesuffix(_PART)}: got frames {number} to '
        f'{stop - 1}, want frames from {self._next} on, of a video of '
        f'{self._video.num_frames}'
      )
    pts = self._video.pts
    for frame in frames:
      self._writer.write(frame, int(pts[number] - pts[self._first]))
      number += 1
    self._next = number

  def close(self):
    video = self._video
    pts = video.pts
    if self._next < len(pts):
      duration = int(pts[self._next] - pts[self._next - 1])
    else:
      duration = round(1 / (fractions.Fraction(video.fps) * video.time_base))
    end = int(pts[self._next - 1] - pts[self._first]) + duration
    whole = self._next == video.num_frames and not video.damage
    self._writer.close(
      duration=duration,
      sound_end=None if whole else float(end * video.time_base),
    )

  def abandon(self):
    self._writer.abandon()


class _Spool:
  """An array that is growing, as raw bytes in a file."""

  def __init__(self, path, name, array):
    self.path = path
    self._name = name
    self._dtype, self._shape = array.dtype, array.shape[1:]
    self._length = 0
    self._file = open(path, 'wb')

  def write(self, array):
    if (array.dtype, array.shape[1:]) != (self._dtype, self._shape):
      raise ValueError(
        f'{self._name}: got {array.dtype}{list(array.shape)}, before '
        f'{self._dtype}{["T", *self._shape]}'
      )
    self._file.write(array.tobytes())
    self._length += len(array)

  def copy_to(self, target):
    """Writes an npy file."""
    self._file.close()
    header = {
      'descr': np.lib.format.dtype_to_descr(self._dtype),
      'fortran_order': False,
      'shape': (self._length, *self._shape),
    }
    np.lib.format.write_array_header_2_0(target, header)
    with open(self.path, 'rb') as source:
      shutil.copyfileobj(source, target, 1 << 20)

  def abandon(self):
    self._file.close()


class _Table:
  """A CSV file that is growing."""

  def __init__(self, path, name, header):
    self.path = path
    self._name, self._header = name, list(header)
    self._file = open(path, 'w', newline='', encoding='utf-8')
    self._csv = csv.writer(self._file, lineterminator='\n')
    self._csv.writerow(self._header)

  def write(self, header, rows):
    if list(header) != self._header:
      raise ValueError(
        f'{self._name}: got the columns {list(header)}, before {self._header}'
      )
    for row in rows:
      row = list(row)
      if len(row) != len(self._header):
        raise ValueError(
          f'{self._name}: got the row {row} for the columns {self._header}'
        )
      self._csv.writerow(row)

  def close(self):
    self._file.close()

  def abandon(self):
    self._file.close()
