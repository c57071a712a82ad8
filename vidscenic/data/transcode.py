"""Re-encoding videos for training: small, upright and quick to search.

x264 puts keyframes 250 frames apart unless told otherwise, so that a random
clip costs decoding most of a 10 s video. One every 32 frames costs 21 % more
bytes and less than half the time (measured at 320x240). Results are upright,
and pixels that are not square, which our decoder ignores, become so.
"""

import contextlib
import fractions
import math
import shutil
from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np

from vidscenic.data import containers, orientation, soundtrack, video_index

KEYFRAME_EVERY = 32

_PRESET = 'fast'
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_AAC_BITS_PER_CHANNEL = 64_000
# Sound is read in stretches of this length, so that memory stays bounded.
_SOUND_S = 60.0


class Settings(NamedTuple):
  """How videos are re-encoded.

  Attributes:
    short_side: pixels; smaller videos keep their size (less an odd row or
      column), none is enlarged.
    fps: constant frames per second; 0 keeps every frame and its time.
    crf: quality of x264, 0 (lossless) to 51.
    sound: False drops it.
    only_if_needed: copies files that are as wanted but for crf: H.264 in mp4,
      not larger, upright, a keyframe every 32 frames or more often.
  """

  short_side: int = 256
  fps: float = 0.0
  crf: int = 23
  sound: bool = True
  only_if_needed: bool = False


def check_settings(settings: Settings) -> None:
  """Raises a ValueError that names the setting that is out of range."""
  if settings.short_side < 2:
    raise ValueError(f'short_side must be >= 2, got {settings.short_side}')
  if not 0 <= settings.fps < 1000:
    raise ValueError(f'fps must be in [0, 1000), got {settings.fps}')
  if not 0 <= settings.crf <= 51:
    raise ValueError(f'crf must be in [0, 51], got {settings.crf}')


def transcode(source: str, target: str, settings: Settings) -> bool:
  """Writes H.264 mp4 with AAC sound, one thread; reads every frame once.

  Without `fps` frame i of the result is frame i of the source at the same time
  after the first frame, for variable rates too. Files without time stamps get
  a constant rate. The same file and settings give the same bytes again.

  Args:
    source: path of a video file.
    target: path to write to; not cleaned up if anything fails.
    settings: see the class.

  Returns:
    Whether it was re-encoded; False: copied.

  Raises:
    VideoError: a frame or the sound of `source` cannot be read.
    OSError: `target` cannot be written.
    ValueError: settings out of range.
  """
  check_settings(settings)
  index = video_index.index_video(source)
  facts = _probe(source)
  if settings.only_if_needed and _is_suitable(source, index, facts, settings):
    for _ in _frames(source, index):  # a damaged file must not get through
      pass
    shutil.copyfile(source, target)
    return False
  with av.open(target, 'w', format='mp4') as output:
    _encode(source, index, facts, output, settings)
  return True


def describe(path: str) -> dict[str, int | float]:
  """What a manifest says of a file, read from the file itself.

  Returns:
    dict(num_frames, fps, height, width, and audio_rate if there is sound).

  Raises:
    VideoError: the file cannot be read.
  """
  index = video_index.index_video(path)
  facts = {
    'num_frames': index.num_frames,
    'fps': round(index.fps, 6),
    'height': index.height,
    'width': index.width,
  }
  if index.has_audio:
    facts['audio_rate'] = _probe(path).sound_rate
  return facts


# --- private ---


class _Facts(NamedTuple):
  """What the containers of a file say."""

  codec: str
  pix_fmt: str
  aspect: fractions.Fraction  # width / height of a pixel
  has_sound: bool
  sound_rate: int = 0
  sound_channels: int = 0
  sound_codec: str = ''


def _probe(path):
  with containers.opened(path) as container:
    stream = containers.video_stream(container, path)
    with containers.reading(path):
      facts = _Facts(
        stream.codec_context.name,
        stream.codec_context.pix_fmt,
        stream.sample_aspect_ratio or fractions.Fraction(1),
        bool(container.streams.audio),
      )
      if not facts.has_sound:
        return facts
      context = container.streams.audio[0].codec_context
      if context is None:  # no decoder for it
        return facts
      return facts._replace(
        sound_rate=context.sample_rate,
        sound_channels=context.layout.nb_channels,
        sound_codec=context.name,
      )


def _frames(source, index) -> Iterator[av.VideoFrame]:
  """All frames in order, counted against the index; pts begin at 0."""
  known = None if index.sequential else set(index.pts.tolist())
  count = 0
  with containers.opened(source) as container:
    stream = containers.video_stream(container, source)
    for packet in containers.packets(container, stream, source):
      for frame in containers.frames(packet, source):
        # Frames that no index counts stand before the first keyframe.
        if known is not None and frame.pts not in known:
          continue
        if frame.is_corrupt:
          raise containers.VideoError(source, f'frame {count} is damaged')
        if known is None:
          frame.pts = count
          frame.time_base = 1 / _rate(index.fps or 25.0)
        else:
          frame.pts = frame.pts - int(index.pts[0])
        count += 1
        yield frame
  if count != index.num_frames:
    raise containers.VideoError(
      source,
      f'{count} of {index.num_frames} frames can be decoded (truncated?)',
    )


def _encode(source, index, facts, output, settings):
  picture = sound = None
  for frame in _frames(source, index):
    if picture is None:
      filters = _filters(frame, facts.aspect, settings, source)
      rate = _rate(settings.fps or index.fps or 25.0)
      picture = _Picture(source, filters, rate, settings.crf, output)
      if settings.sound and facts.has_sound:
        sound = _sound(source, index, facts, output)
    time = float(frame.pts * frame.time_base)
    picture.write(frame)
    # The file begins with whatever is written first, and needs both codecs.
    if sound and picture.is_open:
      _mux_sound(source, sound, output, time + _SOUND_S)
  picture.write(None)
  if sound:
    _mux_sound(source, sound, output, math.inf)


class _Picture:
  """Turns, scales and encodes frames."""

  def __init__(self, source, filters, rate, crf, output):
    self._source, self._output = source, output
    self._graph, self._entry, self._exit = filters
    self._stream = output.add_stream(
      'libx264',
      rate=rate,
      options={
        'crf': str(crf),
        'preset': _PRESET,
        'g': str(KEYFRAME_EVERY),
        # Else the same input gives files that differ a little from run to
        # run, even with one thread (seen).
        'x264-params': 'cpu-independent=1',
      },
    )
    self._encoder = self._stream.codec_context
    self._encoder.thread_count = 1
    self.is_open = False

  def write(self, frame):
    """Encodes a frame; None: there is no other."""
    with containers.reading(self._source):
      self._entry.push(frame)
    while True:
      with _writing(self._source):
        try:
          out = self._exit.pull()
        except (av.BlockingIOError, av.EOFError):
          break
        if not self.is_open:
          self._open(out)
        # Else x264 takes over the source's kinds of pictures.
        out.pict_type = 0
        self._output.mux(self._stream.encode(out))
    if frame is None:
      with _writing(self._source):
        self._output.mux(self._stream.encode(None))

  def _open(self, frame):
    """Takes over size, clock and the meaning of colours."""
    self._encoder.width, self._encoder.height = frame.width, frame.height
    self._encoder.pix_fmt = 'yuv420p'
    self._stream.time_base = self._encoder.time_base = frame.time_base
    for name in ('colorspace', 'color_range', 'color_trc', 'color_primaries'):
      setattr(self._encoder, name, getattr(frame, name))
    self.is_open = True


def _filters(frame, aspect, settings, source):
  """(graph, entry, exit) of FFmpeg filters for pictures like `frame`."""
  turn = orientation.of_frame(frame, source)
  chain = turn.filters()
  chain += _scaling(frame, turn, aspect, settings.short_side)
  chain += [('fps', f'{_rate(settings.fps)}')] if settings.fps else []
  with containers.reading(source):
    graph = av.filter.Graph()
    # add_buffer of PyAV drops what the colours mean.
    entry = last = graph.add(
      'buffer',
      f'width={frame.width}:height={frame.height}:pix_fmt={frame.format.name}:'
      f'time_base={frame.time_base}:colorspace={int(frame.colorspace)}:'
      f'range={int(frame.color_range)}',
    )
    for name, argument in [*chain, ('format', 'yuv420p'), ('buffersink', '')]:
      node = graph.add(name, argument)
      last.link_to(node)
      last = node
    graph.configure()
  return graph, entry, last


def _scaling(frame, turn, aspect, short_side):
  """Filters that make pixels square and the short side as wanted."""
  height, width = turn.size(frame.height, frame.width)
  aspect = 1 / aspect if turn.transposed else aspect
  square = width * aspect
  factor = min(short_side / min(square, height), 1)
  if factor == 1 and aspect == 1:
    # Pictures that need not shrink are not touched but for an odd edge.
    sides = [max(side // 2 * 2, 2) for side in (width, height)]
    return [('crop', f'{sides[0]}:{sides[1]}:0:0')]
  sides = [max(round(side * factor / 2) * 2, 2) for side in (square, height)]
  return [('scale', f'{sides[0]}:{sides[1]}:flags=bicubic'), ('setsar', '1')]


def _sound(source, index, facts, output):
  """Packets of the sound that belongs to the pictures, made when asked for."""
  if not facts.sound_rate:
    raise containers.VideoError(
      source, 'no decoder for the sound stream, which may be dropped'
    )
  rate = facts.sound_rate if facts.sound_rate in _AAC_RATES else 48_000
  channels = min(facts.sound_channels, 2)
  pieces = soundtrack.pieces(
    source,
    index.start,
    index.duration,
    rate,
    mono=channels == 1,
    piece_s=_SOUND_S,
  )
  add = soundtrack.encoded(
    pieces, rate, bit_rate=_AAC_BITS_PER_CHANNEL * channels
  )
  with _writing(source):
    return add(output) or iter(())


def _mux_sound(source, packets, output, end):
  """Writes packets up to the first one at or behind `end`, in seconds."""
  with _writing(source):
    for packet in packets:
      output.mux(packet)
      if float(packet.pts * packet.time_base) >= end:
        break


def _is_suitable(source, index, facts, settings):
  """Whether re-encoding could only lose quality."""
  if index.sequential or not source.lower().endswith('.mp4'):
    return False
  key_frames = np.searchsorted(index.pts, index.key_pts)
  right_rate = not settings.fps or (
    abs(index.fps - settings.fps) < 1e-3
    and np.ptp(np.diff(index.times)) < 1e-3 / settings.fps
  )
  right_sound = not facts.has_sound or (
    settings.sound and facts.sound_codec.startswith('aac')
  )
  return bool(
    (facts.codec, facts.pix_fmt, facts.aspect) == ('h264', 'yuv420p', 1)
    and min(index.height, index.width) <= settings.short_side
    and key_frames[0] == 0
    and np.diff([*key_frames, index.num_frames]).max() <= KEYFRAME_EVERY
    and right_rate
    and right_sound
    and not any(orientation.of_frame(next(_frames(source, index)), source))
  )


@contextlib.contextmanager
def _writing(source):
  """Around encoding and writing: tells a bad video from a full disk."""
  try:
    yield
  except OSError:
    raise
  except containers.ERRORS as e:
    reason = f'cannot be encoded: {containers.describe(e)}'
    raise containers.VideoError(source, reason) from e


def _rate(fps):
  """30000/1001 for 29.97, as containers store it."""
  return fractions.Fraction(fps).limit_denominator(1001)
