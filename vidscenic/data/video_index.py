"""The frame index of a video file: which frames it shows, and when.

Demuxes the video stream once without decoding, sorts the time stamps and calls
the i-th smallest one frame i. Frame numbers from the header or from duration x
rate are wrong for variable rates, start offsets and B frames in AVI. Only what
stands before the first keyframe of a cut stream is decoded, to see how much of
it can be shown.
"""

import collections
import dataclasses
import os
import threading

import numpy as np
from absl import logging

from vidscenic.data import containers, orientation

VideoError = containers.VideoError

# Index entries kept per process, counted in frames (8 bytes each).
_CACHED_FRAMES = 4_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class VideoIndex:
  """What is known about a video's frames without decoding them.

  Attributes:
    num_frames: frames that are shown, counted from packets (not from the header
      or from duration x rate).
    fps: average frames per second; the header's rate if it agrees with the time
      stamps to 1 %, 0.0 if unknown.
    height, width: picture size in pixels, upright; every frame is delivered in
      this size.
    pts: int64[num_frames] ascending time stamps in units of time_base; frame i
      is the one shown at pts[i]. Empty if sequential.
    key_pts: int64[K] ascending time stamps of keyframes, empty if sequential.
    time_base: seconds per unit of pts.
    sequential: the stamps are missing or repeated; frames are counted by
      decoding from the start.
    has_audio: there is a sound stream.
    start: seconds on the container's clock at which frame 0 is shown.
    turn: what makes stored pictures upright.
  """

  num_frames: int
  fps: float
  height: int
  width: int
  pts: np.ndarray
  key_pts: np.ndarray
  time_base: float
  sequential: bool
  has_audio: bool
  start: float = 0.0
  turn: orientation.Turn = orientation.Turn()

  @property
  def times(self) -> np.ndarray:
    """float64[num_frames]: seconds from frame 0; i / fps if sequential."""
    if self.sequential:
      return np.arange(self.num_frames) / (self.fps or 1.0)
    return (self.pts - self.pts[0]) * self.time_base

  @property
  def duration(self) -> float:
    """Seconds from the first frame to the end of the last one."""
    last = 1 / self.fps if self.fps else 0.0
    return float(self.times[-1]) + last


def index_video(file: containers.File, *, name: str = '') -> VideoIndex:
  """Builds the frame index of a file, without decoding where possible.

  Costs 1-6 ms per 250 frames; sequential files are decoded once here and from
  the start at every reading, so re-encode a data set of them. Indices of paths
  are cached per process, keyed by path, modification time and size; bytes are
  indexed every time.

  Args:
    file: path, or the bytes of a file.
    name: what errors call it; needed only for bytes.

  Raises:
    VideoError: the file is missing, a directory, empty, damaged, or holds no
      video frame.
  """
  label = containers.display_name(file, name)
  if isinstance(file, (bytes, bytearray, memoryview)):
    return _build_index(file, label)
  try:
    stat = os.stat(file)
  except (OSError, ValueError) as error:
    raise VideoError(label, containers.describe(error)) from error
  key = (os.path.abspath(os.fspath(file)), stat.st_mtime_ns, stat.st_size)
  index = _cache.get(key)
  if index is None:
    index = _build_index(file, label)
    _cache.put(key, index)
  return index


def _build_index(file, name):
  pts, keys = [], []
  decodable = None  # stamp of the first keyframe if the stream begins with it
  begun = False
  with containers.opened(file, name) as container:
    stream = containers.video_stream(container, name)
    with containers.reading(name):
      height, width = stream.codec_context.height, stream.codec_context.width
      codec = stream.codec_context.name
      time_base = stream.time_base
      guessed = (
        container.format.name == 'avi' and stream.codec_context.has_b_frames
      )
      header_fps = float(stream.average_rate or stream.guessed_rate or 0)
      announced = stream.frames
      has_audio = bool(container.streams.audio)
      aspect = stream.sample_aspect_ratio
    turn = orientation.of_stream(container, stream, file, name)
    discarded = 0
    for packet in containers.packets(container, stream, name):
      if not packet.size:
        continue
      if not begun and packet.is_keyframe:
        decodable = packet.pts
      begun = True
      if packet.is_discard or packet.is_corrupt or _hidden(codec, packet):
        discarded += packet.is_discard
        continue
      pts.append(packet.pts)
      if packet.is_keyframe:
        keys.append(packet.pts)
  if not pts:
    raise VideoError(name, 'the video stream holds no frame')
  if height < 1 or width < 1:
    raise VideoError(name, 'the picture size is unknown')
  sequential = not _stamps_are_usable(pts, guessed)
  if not sequential and (decodable is None or min(pts) < decodable):
    pts, keys = _without_lost_beginning(file, name, pts, keys)
  count = _count_by_decoding(file, name) if sequential else len(pts)
  if count + discarded < announced:
    logging.log_first_n(
      logging.WARNING,
      '%s announces %d frames but holds %d: truncated?',
      10,
      name,
      announced,
      count,
    )
  if aspect and aspect != 1:
    containers.warn_once(
      'aspect',
      '%s has pixels of aspect ratio %s; it is ignored, frames keep their'
      ' stored size.',
      name,
      aspect,
    )
  stamps = np.array([] if sequential else sorted(pts), np.int64)
  unit = float(time_base) if time_base else 1.0
  height, width = turn.size(height, width)
  return VideoIndex(
    num_frames=count,
    fps=_frame_rate(header_fps, stamps, unit),
    height=height,
    width=width,
    pts=stamps,
    key_pts=np.array([] if sequential else sorted(keys), np.int64),
    time_base=unit,
    sequential=sequential,
    has_audio=has_audio,
    start=float(stamps[0]) * unit if len(stamps) else 0.0,
    turn=turn,
  )


def _stamps_are_usable(pts, guessed):
  """Whether packets and frames agree on their time stamps.

  AVI stores decoding order only. With B frames FFmpeg guesses the stamps:
  exactly for MPEG-4 with its B frames in packets of their own, but wrongly for
  H.264 (up to 3 frames swapped) and for DivX's "packed bitstream", where B
  frames hide inside other packets. Then no packet seems out of order although
  the decoder reports B frames.
  """
  if None in pts or len(set(pts)) < len(pts):
    return False
  return not guessed or sorted(pts) != pts


def _without_lost_beginning(file, name, pts, keys):
  """Drops frames in front of the first keyframe that no decoder shows.

  Streams that were cut begin in the middle of a group of pictures, or with
  leading B frames that refer to what was cut away.
  """
  first_key = min(keys) if keys else max(pts) + 1
  shown = _shown_before(first_key, file, name)
  pts = [stamp for stamp in pts if stamp >= first_key or stamp in shown]
  if not pts:
    raise VideoError(name, 'the video stream holds no frame that can be shown')
  return pts, keys


def _shown_before(stamp, file, name):
  shown = set()
  with containers.opened(file, name) as container:
    stream = containers.video_stream(container, name)
    for packet in containers.packets(container, stream, name):
      try:
        frames = containers.frames(packet, name)
      except VideoError:
        if packet.pts is None or packet.pts < stamp:
          break  # as the decoder, which trusts nothing up to the next keyframe
        continue
      for frame in frames:
        if frame.pts is None:
          continue
        if frame.is_corrupt or frame.pts >= stamp:
          return shown
        shown.add(frame.pts)
  return shown


def _hidden(codec, packet):
  """VP8 packets may hold a reference picture that is never shown."""
  return codec == 'vp8' and not bytes(packet)[0] & 0x10


def _count_by_decoding(file, name):
  with containers.opened(file, name) as container:
    stream = containers.video_stream(container, name)
    count = sum(
      len(containers.frames(packet, name))
      for packet in containers.packets(container, stream, name)
    )
  if not count:
    raise VideoError(name, 'the video stream holds no frame')
  return count


def _frame_rate(header, stamps, unit):
  if len(stamps) < 2:
    return header
  measured = (len(stamps) - 1) / (float(stamps[-1] - stamps[0]) * unit)
  # Containers with millisecond stamps measure 29.9998; the header's 30000/1001
  # is what was meant.
  if header and abs(measured - header) <= 0.01 * header:
    return header
  return measured


class _IndexCache:
  """Least recently used indices up to a total number of frames."""

  def __init__(self, max_frames):
    self._max_frames = max_frames
    self._frames = 0
    self._entries = collections.OrderedDict()
    self._lock = threading.Lock()

  def get(self, key):
    with self._lock:
      if key in self._entries:
        self._entries.move_to_end(key)
      return self._entries.get(key)

  def put(self, key, index):
    with self._lock:
      if key not in self._entries:
        self._frames += index.num_frames
      self._entries[key] = index
      while self._frames > self._max_frames and len(self._entries) > 1:
        _, oldest = self._entries.popitem(last=False)
        self._frames -= oldest.num_frames


_cache = _IndexCache(_CACHED_FRAMES)
