"""A video file or a folder of pictures as a stream of chunks.

For models that go through one long video: frames are decoded once, in order and
ahead of their use, and no more than about three chunks are in memory. Frames
are those of `decode`: upright, and exact for variable rates, open GOPs and edit
lists; pixel aspect ratios are ignored, with a warning.
"""

import fractions
import os
import re
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import NamedTuple

import numpy as np
from absl import logging
from PIL import Image

from vidscenic.data import (
  containers,
  decode,
  orientation,
  resize,
  video_index,
)

IMAGES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.ppm', '.tif', '.tiff')

# Frames that the exact reader decodes at once, where it is needed.
_BLOCK = 8


class Chunk(NamedTuple):
  """Some frames in a row.

  Attributes:
    frames: uint8[length, H, W, 3], RGB; behind `count` the last frame repeated.
    first: number of frames[0] in the video.
    count: how many are frames of the video.
    times: float64[count], seconds from the video's first frame.
    source: the same at the video's own size, if asked for.
  """

  frames: np.ndarray
  first: int
  count: int
  times: np.ndarray
  source: np.ndarray | None = None


class VideoStream:
  """A video file, or a folder of pictures in natural order (2.png, 10.png).

  A stream ends in front of the first frame that cannot be decoded undamaged:
  then there is a warning, `damage` says why, and `num_frames`, `pts` and
  `times` become shorter, all while `chunks` runs.

  Args:
    path: of the file or folder.
    fps: frames per second of a folder; files know theirs.

  Attributes:
    path: as given, as a string.
    name: last part of the path, a file's without extension.
    height, width: in pixels.
    num_frames: exact.
    fps: frames per second, on average; 25 for a single frame.
    pts: int64[num_frames], when frames are shown, in units of time_base from
      frame 0, as exact as the file says it.
    time_base: Fraction, seconds per unit.
    times: float64[num_frames], seconds from frame 0.
    start: seconds on the file's clock at which frame 0 is shown.
    has_audio: the file has a sound stream.
    damage: why the stream ends early, '' if it does not.
    progress: may be set to a function of (frames done, frames of this pass),
      called with (0, ...) and after every chunk that the consumer is done with.

  Raises:
    VideoError: no such file, no video, no pictures, pictures of several sizes,
      or not even the first frame can be decoded.
  """

  def __init__(self, path: str | os.PathLike, *, fps: float = 25.0):
    self.path = os.fspath(path)
    self.damage = ''
    self.progress: Callable[[int, int], None] = lambda done, total: None
    base = os.path.basename(os.path.abspath(self.path))
    if os.path.isdir(self.path):
      self.name = base
      self._open_folder(fps)
    else:
      self.name = os.path.splitext(base)[0]
      self._open_file()
    next(self._read(0, 1))  # better now than after the model is loaded

  def _open_file(self):
    if self.path.lower().endswith('.txt'):  # FFmpeg would draw it
      raise containers.VideoError(self.path, 'a text file, not a video')
    index = video_index.index_video(self.path)
    self._read = lambda start, stop: _read_file(self.path, index, start, stop)
    self.height, self.width = index.height, index.width
    self.num_frames = index.num_frames
    self.fps = index.fps or 25.0
    self.start, self.has_audio = index.start, index.has_audio
    self.times = index.times
    if index.sequential:
      self._count_time(self.fps)
    else:
      self.pts = index.pts - index.pts[0]
      # Containers store a quotient of two 32-bit numbers.
      unit = fractions.Fraction(index.time_base)
      self.time_base = unit.limit_denominator(2**31 - 1)

  def _open_folder(self, fps):
    if not fps > 0:
      raise ValueError(f'fps must be > 0, got {fps}')
    images = _list_images(self.path)
    self._read = lambda start, stop: _read_images(images[start:stop])
    self.height, self.width = _common_size(images)
    self.num_frames = len(images)
    self.fps = float(fps)
    self.start, self.has_audio = 0.0, False
    self._count_time(fps)
    self.times = self.pts * float(self.time_base)

  def _count_time(self, fps):
    self.pts = np.arange(self.num_frames, dtype=np.int64)
    self.time_base = 1 / fractions.Fraction(fps).limit_denominator(1_000_000)

  def chunks(
    self,
    length: int,
    *,
    hop: int = 0,
    size: tuple[int, int] | None = None,
    method: str = 'bilinear',
    pad: bool = True,
    with_source: bool = False,
    start: int = 0,
    stop: int | None = None,
  ) -> Iterator[Chunk]:
    """Yields the frames in chunks; may be called again for another pass.

    The last chunk is the first one that reaches the end, so frame pairs
    (length=2, hop=1) are num_frames - 1 chunks.

    Args:
      length: frames of a chunk.
      hop: frames from the beginning of a chunk to that of the next; 0: length.
      size: (height, width) that frames are resized to; None: as they are.
      method: of `resize.resize_frames`.
      pad: repeat the last frame until the last chunk is full, so that compiled
        programs see one shape; else it may be shorter.
      with_source: also give the frames at their own size.
      start, stop: frame numbers; stop None: to the end. Frames before `start`
        are decoded too: that is exact in every file.

    Raises:
      ValueError: length < 1, hop < 0, or not 0 <= start < stop <= num_frames.
      VideoError: frame `start` cannot be decoded.
    """
    end = self.num_frames if stop is None else stop
    if length < 1 or hop < 0:
      raise ValueError(f'got length={length} (>= 1), hop={hop} (>= 0)')
    if not 0 <= start < end <= self.num_frames:
      raise ValueError(
        f'{self.path}: got start={start} stop={end}, want 0 <= start < stop <= '
        f'{self.num_frames}'
      )

    def resized(frame):
      small = frame
      if size is not None:
        small = resize.resize_frames(frame[None], size, method=method)[0]
      return small, frame if with_source else None

    frames = self._frames(start, end)
    windows = _cut(frames, resized, length, hop or length, start)
    built = (self._build(*window, length if pad else 0) for window in windows)
    return self._hand_out(built, start, end)

  def _frames(self, start, end):
    """Yields (number, frame) up to the end or to damage."""
    number = start
    try:
      for frame in self._read(start, end):
        yield number, frame
        number += 1
    except containers.VideoError as error:
      if number == start:
        raise
      self.damage = error.reason
      self.num_frames = number
      self.pts, self.times = self.pts[:number], self.times[:number]
      logging.warning(
        '%s: the video ends at frame %d. A re-encoded copy has a guess in place'
        ' of damaged frames: ffmpeg -i IN OUT.mp4',
        error,
        number,
      )

  def _build(self, window, first, padded_length):
    count = len(window)
    window = window + window[-1:] * (padded_length - count)
    small, source = zip(*window, strict=True)
    return Chunk(
      np.stack(small),
      first,
      count,
      self.times[first : first + count],
      None if source[0] is None else np.stack(source),
    )

  def _hand_out(self, built, start, end):
    self.progress(0, end - start)
    for chunk in _read_ahead(built):
      yield chunk
      self.progress(chunk.first + chunk.count - start, end - start)


def _cut(frames, prepare, length, hop, start):
  """Yields (list of frames, first) of windows; the last may be shorter."""
  window, first, reached = [], start, start
  for number, frame in frames:
    if number < first:
      continue  # between windows
    window.append(prepare(frame))
    if len(window) == length:
      yield window, first
      reached = number + 1
      window = window[hop:]
      first += hop
  if window and first + len(window) > reached:
    yield window, first


def _read_ahead(items):
  """Runs a generator in a thread, one item ahead."""
  end = object()
  with futures.ThreadPoolExecutor(1, 'decode') as pool:
    try:
      ahead = pool.submit(next, items, end)
      while (item := ahead.result()) is not end:
        ahead = pool.submit(next, items, end)
        yield item
    finally:
      pool.submit(items.close)  # closes the file, in the thread that reads it


# --- files ---


def _read_file(path, index, start, stop):
  """Yields the frames from start to stop; VideoError at damage."""
  number = 0
  for frame in _decode(path, index):
    if number >= start:
      picture = orientation.to_rgb(
        frame, index.turn, index.height, index.width, path
      )
      yield np.ascontiguousarray(picture)
    number += 1
    if number == stop:
      return
  # Damage, or a decoder that does not keep to the order of the time stamps: the
  # exact reader knows.
  for begin in range(max(number, start), stop, _BLOCK):
    yield from _read_exactly(path, index, begin, min(begin + _BLOCK, stop))


def _decode(path, index):
  """Yields decoded frames 0, 1, ... and ends where anything is odd."""
  number = 0
  with containers.opened(path) as container:
    stream = containers.video_stream(container, path)
    try:
      for packet in containers.packets(container, stream, path):
        for frame in _shown(packet, index, path):
          if frame.is_corrupt or (
            not index.sequential and frame.pts != index.pts[number]
          ):
            return
          yield frame
          number += 1
          if number == index.num_frames:
            return
    except containers.VideoError as error:
      logging.debug('after frame %d: %s', number, error)


def _shown(packet, index, path):
  """Frames that a packet completes, without those in front of frame 0."""
  if index.sequential:
    return containers.frames(packet, path)
  begin = index.pts[0]
  try:
    frames = containers.frames(packet, path)
  except containers.VideoError:
    if packet.pts is None or packet.pts >= begin:
      raise
    return []  # its references were cut away
  return [f for f in frames if f.pts is None or f.pts >= begin]


def _read_exactly(path, index, start, stop):
  try:
    yield from decode.read_frames(path, np.arange(start, stop), index)
  except containers.VideoError:
    for number in range(start, stop):  # up to the damaged one
      yield decode.read_frames(path, [number], index)[0]


# --- folders ---


def _list_images(folder):
  names = [
    name
    for name in os.listdir(folder)
    if name.lower().endswith(IMAGES) and not name.startswith('.')
  ]
  if not names:
    raise containers.VideoError(
      folder,
      f'a folder without pictures ({", ".join(IMAGES)}); for a folder of videos'
      f' write {os.path.join(folder, "*.mp4")!r}',
    )
  return [os.path.join(folder, name) for name in sorted(names, key=_natural)]


def _natural(name):
  """Sorts numbers in names by their value: 2.png before 10.png."""
  parts = re.split(r'(\d+)', name)
  return [int(p) if p.isdecimal() else p for p in parts], name


def _common_size(paths):
  """(height, width) of the pictures, from their headers."""
  sizes = []
  for path in paths:
    try:
      with Image.open(path) as image:
        sizes.append((image.height, image.width))
    except (*containers.ERRORS, SyntaxError, Image.DecompressionBombError) as e:
      raise containers.VideoError(path, containers.describe(e)) from e
    if sizes[-1] != sizes[0]:
      height, width = sizes[-1]
      raise containers.VideoError(
        path,
        f'has {height}x{width} pixels, but {os.path.basename(paths[0])} has '
        f'{sizes[0][0]}x{sizes[0][1]}',
      )
  return sizes[0]


def _read_images(paths):
  for path in paths:
    with open(path, 'rb') as file:
      yield decode.read_images([file.read()], [0], name=path)[0]
