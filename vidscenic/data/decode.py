"""Exact frames from video files.

No library reads every file exactly by itself: arithmetic with the frame rate
fails for variable rates, for MPEG-4 in AVI and after a start offset, and
seeking lands one keyframe late in mp4 files with open GOPs. So the frame index
is ours: demux once without decoding, sort the time stamps, and call the i-th
smallest one frame i. Reading seeks to the last keyframe at or before the wanted
frame, checks where it landed and backs up if it must.

The pictures are those of FFmpeg (`rgb24` through swscale, one shared scaler per
thread: a new one per frame costs 40 ms per 250 frames), upright: turned as the
container asks for (videos of phones). Pixels that are not square are ignored
with one warning per process.

Damage is seen where FFmpeg's decoder reports it: H.264 and MPEG-4 do. Damaged
payload in HEVC, VP9 and AV1 decodes to wrong pictures without any sign.
"""

import io

import numpy as np
from absl import logging
from PIL import Image

from vidscenic.data import containers, orientation, video_index

# What callers of the decoder need besides, under one name.
VideoError = containers.VideoError
VideoIndex = video_index.VideoIndex
index_video = video_index.index_video

# Decoding on is cheaper than a seek unless the seek saves a few frames.
_MIN_FRAMES_SAVED = 4


def read_frames(
  file: containers.File,
  indices,
  index: VideoIndex | None = None,
  *,
  size: tuple[int, int] | None = None,
  name: str = '',
) -> np.ndarray:
  """Decodes the frames with the given numbers, exactly.

  Each distinct frame is decoded once; the order of the answer is that of
  `indices`, which may repeat. Gaps that hold a keyframe are jumped over.

  Args:
    file: path, or the bytes of a file.
    indices: int[n], each in [0, num_frames).
    index: from `index_video`; looked up if absent.
    size: (height, width) for scaling while decoding, 0.2 ms per frame. The
      filter equals nobody else's: never use it for parity.
    name: what errors call it; needed only for bytes.

  Returns:
    uint8[n, H, W, 3], RGB.

  Raises:
    VideoError: the file cannot be opened, a number is not below num_frames, or
      a frame cannot be delivered undamaged (truncated or corrupt file).
    ValueError: indices are not one-dimensional integers or are negative.
  """
  label = containers.display_name(file, name)
  indices = np.asarray(indices)
  if indices.ndim != 1 or (indices.size and indices.dtype.kind not in 'iu'):
    raise ValueError(
      f'indices must be int[n], got {indices.dtype}{list(indices.shape)}'
    )
  if index is None:
    index = index_video(file, name=name)
  height, width = size or (index.height, index.width)
  if not indices.size:
    return np.zeros((0, height, width, 3), np.uint8)
  numbers, inverse = np.unique(indices.astype(np.int64), return_inverse=True)
  if numbers[0] < 0:
    raise ValueError(f'{label}: indices must be >= 0, got {numbers[0]}')
  if numbers[-1] >= index.num_frames:
    raise VideoError(
      label, f'frame {numbers[-1]} asked for, has {index.num_frames}'
    )
  sink = _Sink(numbers, height, width, index.turn, label)
  if not index.sequential:
    with containers.opened(file, label) as container:
      stream = containers.video_stream(container, label)
      for run in _split_runs(index, numbers):
        _read_run(container, stream, index, run, sink)
  if sink.missing:
    with containers.opened(file, label) as container:
      _read_from_start(
        container, containers.video_stream(container, label), index, sink
      )
  if sink.missing:
    raise VideoError(
      label,
      f'frame {min(sink.missing)} of {index.num_frames} cannot be decoded'
      ' (truncated or corrupt)',
    )
  frames = sink.frames
  if len(numbers) == len(indices) and (np.diff(indices) > 0).all():
    return frames
  return frames[inverse]


def read_images(images, indices, *, name: str = '') -> np.ndarray:
  """Decodes some of a sequence of encoded pictures (JPEG, PNG, ...).

  Args:
    images: sequence of bytes, all of one picture size.
    indices: int[n], may repeat.
    name: what errors call the sequence.

  Returns:
    uint8[n, H, W, 3], RGB.

  Raises:
    VideoError: a picture is damaged or has another size than the first one.
  """
  numbers, inverse = np.unique(np.asarray(indices), return_inverse=True)
  frames = []
  for number in numbers:
    encoded = io.BytesIO(images[number])
    try:
      image = Image.open(encoded).convert('RGB')
    except (*containers.ERRORS, SyntaxError, Image.DecompressionBombError) as e:
      raise VideoError(name, f'image {number}: {containers.describe(e)}') from e
    frames.append(np.asarray(image))
    if frames[-1].shape != frames[0].shape:
      raise VideoError(
        name,
        f'image {number} has size {frames[-1].shape[:2]}, image {numbers[0]} '
        f'{frames[0].shape[:2]}',
      )
  return np.stack(frames)[inverse]


class _Sink:
  """Collects the wanted frames, upright RGB; `missing` shrinks to {}."""

  def __init__(self, numbers, height, width, turn, name):
    try:
      self.frames = np.empty((len(numbers), height, width, 3), np.uint8)
    except (MemoryError, ValueError) as error:
      raise VideoError(name, containers.describe(error)) from error
    self.missing = {int(number): row for row, number in enumerate(numbers)}
    self.name = name
    self._turn = turn

  def put(self, number, frame):
    height, width = self.frames.shape[1:3]
    self.frames[self.missing[number]] = orientation.to_rgb(
      frame, self._turn, height, width, self.name
    )
    del self.missing[number]


class _Damage:
  """Remembers in which groups of pictures the decoder reported damage.

  A frame that refers to a damaged one is not flagged itself, so from the first
  report on nothing is trusted up to the next keyframe.
  """

  def __init__(self, key_pts):
    self._key_pts = key_pts
    self._groups = set()

  def report(self, pts):
    self._groups.add(self._group(pts))

  def covers(self, pts):
    return bool(self._groups) and self._group(pts) in self._groups

  def _group(self, pts):
    return int(np.searchsorted(self._key_pts, pts, side='right'))


def _split_runs(index, numbers):
  """Cuts ascending frame numbers where seeking saves decoding."""
  key_frames = np.searchsorted(index.pts, index.key_pts)
  if not len(key_frames):
    return []
  before = np.searchsorted(key_frames, numbers, side='right') - 1
  key_of = np.where(before >= 0, key_frames[before], 0)
  cuts = np.flatnonzero(key_of[1:] - numbers[:-1] > _MIN_FRAMES_SAVED) + 1
  return np.split(numbers, cuts)


def _read_run(container, stream, index, run, sink):
  """Reads ascending frames after one seek; leaves in `missing` what failed.

  Backs up by 1, 2, 4, ... keyframes, so that a damaged file costs at most about
  two passes.
  """
  key = int(np.searchsorted(index.key_pts, index.pts[run[0]], 'right')) - 1
  step = 1
  while key >= 0:
    todo = [number for number in run if int(number) in sink.missing]
    if _read_from_key(container, stream, index, key, todo, sink):
      return
    key -= step
    step *= 2


def _read_from_key(container, stream, index, key, todo, sink):
  """Decodes from keyframe `key` up to the last of todo; True if complete."""
  key_pts = int(index.key_pts[key])
  position = 0
  damage = _Damage(index.key_pts)
  landed = False
  try:
    with containers.reading(sink.name):
      container.seek(key_pts, stream=stream, backward=True, any_frame=False)
    for packet in containers.packets(container, stream, sink.name):
      if not landed and packet.size:
        # mp4 seeks in decoding order, so with open GOPs this may be the next
        # keyframe, whose leading pictures would be decoded without their
        # references.
        if not packet.is_keyframe or packet.pts is None:
          return False
        if packet.pts > key_pts:
          return False
        landed = True
      for frame in containers.frames(packet, sink.name):
        if frame.pts is None:
          return False
        if frame.is_corrupt:
          damage.report(frame.pts)
        wanted = index.pts[todo[position]]
        if frame.pts < wanted:
          continue
        if frame.pts > wanted or damage.covers(frame.pts):
          return False
        sink.put(int(todo[position]), frame)
        position += 1
        if position == len(todo):
          return True
  except VideoError as error:
    logging.debug('seeking to %d failed: %s', key_pts, error)
  return False


def _read_from_start(container, stream, index, sink):
  """Decodes from the first packet until nothing is missing or the end."""
  if index.sequential:
    # Frames are told apart by counting, so damage ends the search.
    number = 0
    for packet in containers.packets(container, stream, sink.name):
      for frame in containers.frames(packet, sink.name):
        if frame.is_corrupt:
          return
        if number in sink.missing:
          sink.put(number, frame)
        if not sink.missing:
          return
        number += 1
    return
  damage = _Damage(index.key_pts)
  number_of = {int(index.pts[number]): number for number in sink.missing}
  for packet in containers.packets(container, stream, sink.name):
    try:
      frames = containers.frames(packet, sink.name)
    except VideoError as error:
      logging.debug('a packet cannot be decoded: %s', error)
      if packet.pts is not None:
        damage.report(packet.pts)
      continue
    for frame in frames:
      if frame.pts is None:
        continue
      if frame.is_corrupt:
        damage.report(frame.pts)
      number = number_of.get(frame.pts)
      if number in sink.missing and not damage.covers(frame.pts):
        sink.put(number, frame)
      if not sink.missing:
        return
