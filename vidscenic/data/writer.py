"""Writing H.264 mp4 files that players and our own decoder like."""

import fractions
from collections.abc import Callable, Iterator

import av
import numpy as np
from absl import logging

from vidscenic.data import containers, soundtrack


def write_video(
  path,
  frames,
  fps: float,
  audio: np.ndarray | None = None,
  *,
  audio_rate: int = 48_000,
  crf: int = 18,
  keyframe_every: int = 32,
) -> None:
  """Writes an mp4 file: libx264, yuv420p, AAC sound.

  Args:
    path: where to write; a writable binary file object works too.
    frames: uint8[T, H, W, 3] RGB, or any iterable of uint8[H, W, 3] of one
      size. An odd last row or column is cropped away (4:2:0 colour).
    fps: frames per second, constant.
    audio: float[S] or float[S, channels] in [-1, 1] with 1 or 2 channels,
      starting with the first frame.
    audio_rate: samples per second of audio.
    crf: quality, 0 (lossless) to 51; 18 is visually close to the input.
    keyframe_every: largest distance of keyframes; short for random access.

  Raises:
    ValueError: no frames, wrong type or shape, fps <= 0, too small pictures.
  """
  sound = None
  if audio is not None:
    sound = soundtrack.encoded([audio], audio_rate)
  with VideoWriter(
    path, fps, sound=sound, crf=crf, keyframe_every=keyframe_every
  ) as output:
    for frame in frames:
      output.write(frame)


class VideoWriter:
  """Writes an mp4 file frame by frame, in constant memory.

  A context manager: leaving it completes the file. After an exception the file
  is closed as it is, for the caller to remove.

  Args:
    target: path, or a writable binary file object.
    fps: frames per second, nominal where time stamps are given.
    time_base: seconds per unit of time stamps; None: 1 / fps.
    sound: adds a sound stream to the container and returns its packets in the
      order of time, or None; see `soundtrack`.
    crf, keyframe_every: as in `write_video`.
    preset: of libx264. 'medium' compresses better, 'veryfast' takes a quarter
      of the time and memory.

  Raises:
    ValueError: fps <= 0.
  """

  def __init__(
    self,
    target,
    fps: float,
    *,
    time_base: fractions.Fraction | None = None,
    sound: Callable[..., Iterator[av.Packet] | None] | None = None,
    crf: int = 18,
    keyframe_every: int = 32,
    preset: str = 'medium',
  ):
    if not fps > 0:
      raise ValueError(f'fps must be > 0, got {fps}')
    largest = 1001 if fps >= 1 else 1_000_000  # time lapses
    self._rate = fractions.Fraction(fps).limit_denominator(largest)
    self._time_base = time_base or 1 / self._rate
    self._options = {
      'crf': str(crf),
      'g': str(keyframe_every),
      'preset': preset,
    }
    self._add_sound = sound
    target = target if hasattr(target, 'write') else str(target)
    self._container = av.open(target, 'w', format='mp4')
    self._stream = None
    self._sound = iter(())
    self._next_sound = None  # read but not written yet
    self._held = None  # the newest packet of the video
    self._stamp = -1  # of the newest frame
    self._count = 0
    self._durations = {}  # of frames whose packets are not written yet

  def write(self, frame: np.ndarray, stamp: int | None = None) -> None:
    """Appends a frame.

    Args:
      frame: uint8[H, W, 3] RGB; an odd last row or column is cropped away.
      stamp: when it is shown, in units of time_base; the first frame has 0.
        None: one unit after the frame before.

    Raises:
      ValueError: wrong type, shape or size, or a stamp that does not grow.
    """
    frame = _checked(frame)
    stamp = self._stamp + 1 if stamp is None else int(stamp)
    if stamp <= self._stamp or (not self._count and stamp):
      raise ValueError(
        f'frame {self._count} has time stamp {stamp}, the one before '
        f'{self._stamp}: want 0 first, then growing ones'
      )
    if self._stream is None:
      self._start(*frame.shape[:2])
    elif frame.shape[:2] != (self._stream.height, self._stream.width):
      raise ValueError(
        f'frame {self._count} has size {frame.shape[:2]}, expected'
        f' {(self._stream.height, self._stream.width)}'
      )
    picture = av.VideoFrame.from_ndarray(frame, format='rgb24')
    # Set both: a frame without them keeps an old time base and all frames get
    # one time stamp, which makes a file that nobody can seek.
    picture.pts, picture.time_base = stamp, self._time_base
    if self._count:
      self._durations[self._stamp] = stamp - self._stamp
    self._stamp = stamp
    self._count += 1
    for packet in self._stream.encode(picture):
      self._hold(packet)

  def close(
    self, *, duration: int | None = None, sound_end: float | None = None
  ) -> None:
    """Completes the file.

    Args:
      duration: for how long the last frame is shown, in units of time_base;
        None: for 1 / fps.
      sound_end: seconds; sound from there on is left out. None: all is kept.

    Raises:
      ValueError: no frame was written.
    """
    if self._stream is None:
      self.abandon()
      raise ValueError('frames is empty')
    if duration is None:
      duration = max(round(1 / (self._rate * self._time_base)), 1)
    self._durations[self._stamp] = duration
    for packet in self._stream.encode(None):
      self._hold(packet)
    self._mux(self._held)
    self._mux_sound(float('inf') if sound_end is None else sound_end)
    self._container.close()

  def abandon(self) -> None:
    """Closes the file as it is, after an error."""
    self._next_sound, self._sound = None, iter(())
    try:
      self._container.close()
    except containers.ERRORS as error:  # the disk is still full
      logging.debug('closing an incomplete file: %s', error)

  def __enter__(self) -> 'VideoWriter':
    return self

  def __exit__(self, exception_type, exception, traceback) -> None:
    if exception_type is None:
      self.close()
    else:
      self.abandon()

  def _start(self, height, width):
    self._stream = self._container.add_stream(
      'libx264', rate=self._rate, options=self._options
    )
    self._stream.height, self._stream.width = height, width
    self._stream.pix_fmt = 'yuv420p'
    self._stream.time_base = self._time_base
    self._stream.codec_context.time_base = self._time_base
    if self._add_sound is not None:
      self._sound = self._add_sound(self._container) or iter(())

  def _hold(self, packet):
    """Writes the packet before this one, whose frame is followed by another."""
    if self._held is not None:
      self._mux(self._held)
    self._held = packet

  def _mux(self, packet):
    # The encoder does not pass it on, and players cut the file where the last
    # frame is said to end.
    packet.duration = self._durations.pop(packet.pts)
    self._mux_sound(float(packet.dts * packet.time_base))
    self._container.mux(packet)

  def _mux_sound(self, end):
    """Writes the sound before `end` in seconds."""
    while True:
      if self._next_sound is None:
        self._next_sound = next(self._sound, None)
      packet = self._next_sound
      if packet is None or float(packet.pts * packet.time_base) >= end:
        return
      self._container.mux(packet)
      self._next_sound = None


def _checked(frame):
  frame = np.asarray(frame)
  if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
    raise ValueError(
      f'frames must be uint8[H, W, 3], got {frame.dtype}{list(frame.shape)}'
    )
  height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
  if not height or not width:
    raise ValueError(f'frames must be at least 2x2, got {frame.shape[:2]}')
  return np.ascontiguousarray(frame[:height, :width])
