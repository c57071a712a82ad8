"""Opening video files with PyAV so that every failure names the file.

The file formats are decoded by FFmpeg's libraries inside PyAV. This module
holds what reading pictures, reading sound and writing share: the error type,
opening with safe options, and choosing the stream.
"""

import contextlib
import io
import os
import threading
from collections.abc import Iterator, Sequence

import av
from absl import logging

# A path, or the bytes of a whole file (an ArrayRecord entry).
File = str | os.PathLike | bytes | bytearray | memoryview

# What PyAV raises for damaged or odd files (seen while fuzzing): its own
# errors, plain OSError from the I/O layer, ValueError for absurd sizes and
# strings, LookupError for missing streams, ArithmeticError for bad rational
# numbers. Programming errors (TypeError, AttributeError) pass through.
ERRORS = (
  av.FFmpegError,
  OSError,
  ValueError,
  LookupError,
  ArithmeticError,
  MemoryError,
  EOFError,
  RuntimeError,
)

# Tags in old code pages are no damage. Since PyAV 19 that goes without saying,
# and the option is gone.
_TAGS = (
  {'metadata_errors': 'replace'}
  if int(av.__version__.split('.')[0]) < 19
  else {}
)

_warned = set()
_warned_lock = threading.Lock()


class VideoError(Exception):
  """A video cannot be read; carries what a log line needs and pickles.

  Attributes:
    file: path, or the name given for in-memory bytes.
    reason: one line.
  """

  def __init__(self, file: str, reason: str):
    super().__init__(file, reason)
    self.file = file
    self.reason = reason

  def __str__(self):
    return f'{self.file}: {self.reason}'


def display_name(file: File, name: str = '') -> str:
  """The name that errors use: `name` if given, else the path or byte count."""
  if name:
    return name
  if isinstance(file, (bytes, bytearray, memoryview)):
    return f'<video of {len(file)} bytes>'
  return os.fspath(file)


@contextlib.contextmanager
def opened(file: File, name: str = '') -> Iterator[av.container.InputContainer]:
  """Opens a container for reading.

  FFmpeg's errors in the body name the file too; what else PyAV raises there is
  told apart from our own mistakes by `reading` around its calls.

  Only regular local files are opened: a pipe would block for ever, and FFmpeg
    would treat `a:b.mp4` as an address, so the absolute path is passed and
    protocols other than files are refused.

  Raises:
    VideoError: missing, empty, no regular file, or damaged.
  """
  label = display_name(file, name)
  if isinstance(file, (bytes, bytearray, memoryview)):
    if not len(file):
      raise VideoError(label, 'empty')
    source = io.BytesIO(file)
  else:
    source = os.path.abspath(os.fspath(file))
    _check_regular(source, label)
  with reading(label):
    container = av.open(
      source,
      container_options={'protocol_whitelist': 'file'},
      **_TAGS,
    )
  try:
    with container:
      yield container
  except av.FFmpegError as error:
    raise VideoError(label, describe(error)) from error


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
  """Around calls of PyAV and nothing else: ERRORS become a VideoError."""
  try:
    yield
  except ERRORS as error:
    raise VideoError(name, describe(error)) from error


def packets(container, stream, name: str) -> Iterator[av.Packet]:
  """The stream's packets and an empty one at the end; VideoError if damaged."""
  with reading(name):
    source = iter(container.demux(stream))
  while True:
    try:
      packet = next(source, None)
    except ERRORS as error:
      raise VideoError(name, describe(error)) from error
    if packet is None:
      return
    yield packet


def frames(packet, name: str) -> Sequence[av.VideoFrame]:
  """What the decoder shows after a packet; VideoError if it is damaged."""
  try:
    return packet.decode()
  except ERRORS as error:
    raise VideoError(name, describe(error)) from error


def describe(error: BaseException) -> str:
  """One line for an exception of PyAV: its kind and message."""
  message = getattr(error, 'strerror', None) or str(error)
  return f'{type(error).__name__}: {message}'


def video_stream(container, name: str):
  """The first real video stream, set to decode with one thread.

  Cover pictures of sound files are video streams too; they are passed over.

  Raises:
    VideoError: no video stream, or no decoder for it.
  """
  cover = av.stream.Disposition.attached_pic
  for stream in container.streams.video:
    if stream.disposition & cover:
      continue
    if stream.codec_context is None:
      raise VideoError(name, 'no decoder for the video stream')
    # One thread per decode: loaders run one clip per thread, and at 240 rows a
    # second thread gains nothing.
    stream.thread_type = 'NONE'
    stream.codec_context.thread_count = 1
    return stream
  raise VideoError(name, 'no video stream')


def warn_once(kind: str, message: str, *args):
  """Logs a warning the first time that `kind` occurs in this process."""
  with _warned_lock:
    if kind in _warned:
      return
    _warned.add(kind)
  logging.warning(message, *args)


def _check_regular(path, label):
  if os.path.isdir(path):
    raise VideoError(label, 'is a directory')
  if not os.path.exists(path):
    raise VideoError(label, 'no such file')
  if not os.path.isfile(path):
    raise VideoError(label, 'not a regular file')
  try:
    size = os.path.getsize(path)
  except OSError as error:
    raise VideoError(label, describe(error)) from error
  if not size:
    raise VideoError(label, 'empty')
