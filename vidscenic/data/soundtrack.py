"""Sound for a file that is being written: encoded, or copied from a video.

What is returned here goes to `writer.VideoWriter(sound=...)`: a function that
adds a sound stream to an output container and returns its packets, in the order
of time and lazily, so that memory does not grow with the length.
"""

import contextlib
import fractions
from collections.abc import Callable, Iterable, Iterator

import av
import numpy as np
from absl import logging

from vidscenic.data import audio, containers

# Codecs that players expect in an mp4 file. Vorbis, say, is allowed there too,
# but hardly anything plays it.
_COPIED = ('aac', 'mp3', 'ac3', 'eac3', 'opus', 'flac', 'alac')
# What is not copied is encoded anew, in pieces of this length.
_PIECE_S = 10
_RATE = 48_000

Packets = Iterator[av.Packet]


def encoded(
  pieces: Iterable[np.ndarray], rate: int, *, bit_rate: int = 192_000
) -> Callable[[av.container.OutputContainer], Packets | None]:
  """Sound from samples, as AAC.

  Args:
    pieces: float[S] or float[S, 1 or 2] in [-1, 1], one after the other, all
      with the same number of channels.
    rate: samples per second.
    bit_rate: bits per second of the result.

  Raises:
    ValueError: another shape; raised when the stream is added.
  """

  def add(container):
    rest = iter(pieces)
    first = next(rest, None)
    if first is None:
      return None
    first = _checked(first)
    layout = 'mono' if first.shape[1] == 1 else 'stereo'
    stream = container.add_stream(
      'aac', rate=rate, layout=layout, bit_rate=bit_rate
    )
    return _encode(stream, first, rest, rate, layout)

  return add


def copied(
  file: containers.File,
  origin_s: float,
  duration_s: float,
  *,
  whole: bool,
  name: str = '',
) -> Callable[[av.container.OutputContainer], Packets | None]:
  """Sound of a video file.

  Its packets are copied untouched if players expect their codec in mp4 files;
  other sound is encoded anew. Damaged sound ends where the damage begins, with
  a warning.

  Args:
    file: path, or the bytes of a file.
    origin_s: seconds on the container's clock that become 0, say the time of
      the first frame.
    duration_s: as much as is needed at most; copying has no such limit.
    whole: also copy what lies before `origin_s`.
    name: what warnings call the file; needed only for bytes.
  """
  label = containers.display_name(file, name)

  def add(container):
    with contextlib.ExitStack() as stack:
      source = stack.enter_context(containers.opened(file, label))
      if not source.streams.audio:
        return None
      stream = source.streams.audio[0]
      if stream.codec_context is None:
        logging.warning('%s: no decoder for its sound; left out', label)
        return None
      if stream.codec_context.codec.canonical_name in _COPIED:
        copy = container.add_stream_from_template(stream)
        begin = -np.inf if whole else origin_s
        keep_open = stack.pop_all()
        return _copy(keep_open, source, stream, copy, origin_s, begin, label)
    sound = pieces(
      file,
      origin_s,
      duration_s,
      _RATE,
      mono=False,
      piece_s=_PIECE_S,
      name=label,
    )
    return encoded(_up_to_damage(sound), _RATE)(container)

  return add


def pieces(
  file: containers.File,
  origin_s: float,
  duration_s: float,
  rate: int,
  *,
  mono: bool,
  piece_s: float,
  name: str = '',
) -> Iterator[np.ndarray]:
  """Yields the sound of a video file for `encoded`, piece by piece.

  Args:
    file: path, or the bytes of a file.
    origin_s: seconds on the container's clock at which the sound begins.
    duration_s: its length.
    rate: samples per second.
    mono: one channel, not two.
    piece_s: seconds that are in memory at once.
    name: what errors call the file; needed only for bytes.

  Raises:
    VideoError: no sound stream, or it is damaged.
  """
  start = 0.0
  while duration_s - start >= 1 / rate:
    end = min(start + piece_s, duration_s)
    yield audio.read_audio(
      file, start, end, rate, mono, origin_s=origin_s, name=name
    )
    start = end


def _copy(stack, source, stream, copy, origin_s, begin_s, label):
  unit = stream.time_base
  shift = round(fractions.Fraction(origin_s) / unit)
  last = None
  with stack:
    try:
      for packet in containers.packets(source, stream, label):
        if not packet.size or packet.dts is None or packet.pts is None:
          continue
        if float((packet.pts + packet.duration) * unit) <= begin_s:
          continue
        if last is not None and packet.dts <= last:
          continue  # the clock jumps back; an mp4 file cannot
        last = packet.dts
        packet.pts -= shift
        packet.dts -= shift
        packet.stream = copy
        yield packet
    except containers.VideoError as error:
      logging.warning('%s; the sound ends there', error)


def _up_to_damage(pieces):
  try:
    yield from pieces
  except containers.VideoError as error:
    logging.warning('%s; the sound ends there', error)


def _encode(stream, first, rest, rate, layout):
  position = 0
  for samples in _chain(first, rest):
    frame = av.AudioFrame.from_ndarray(
      np.ascontiguousarray(samples.T), format='fltp', layout=layout
    )
    frame.sample_rate = rate
    frame.pts, frame.time_base = position, fractions.Fraction(1, rate)
    position += len(samples)
    yield from stream.encode(frame)
  yield from stream.encode(None)


def _chain(first, rest):
  yield first
  for piece in rest:
    yield _checked(piece)


def _checked(samples):
  samples = np.asarray(samples, np.float32)
  samples = samples[:, None] if samples.ndim == 1 else samples
  if samples.ndim != 2 or samples.shape[1] not in (1, 2):
    raise ValueError(
      f'audio must be float[S] or float[S, 1 or 2], got {list(samples.shape)}'
    )
  return samples
