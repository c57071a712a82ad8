"""Writing H.264 mp4 files that players and our own decoder like."""

import fractions

import av
import numpy as np


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
  if not fps > 0:
    raise ValueError(f'fps must be > 0, got {fps}')
  rate = fractions.Fraction(fps).limit_denominator(1001)
  target = path if hasattr(path, 'write') else str(path)
  stream = None
  packets = []
  with av.open(target, 'w', format='mp4') as container:
    for number, frame in enumerate(frames):
      frame = _checked(frame)
      if stream is None:
        stream = container.add_stream(
          'libx264',
          rate=rate,
          options={'crf': str(crf), 'g': str(keyframe_every)},
        )
        stream.height, stream.width = frame.shape[:2]
        stream.pix_fmt = 'yuv420p'
        sound = _add_sound(container, audio, audio_rate)
      elif frame.shape[:2] != (stream.height, stream.width):
        raise ValueError(
          f'frame {number} has size {frame.shape[:2]}, expected'
          f' {(stream.height, stream.width)}'
        )
      picture = av.VideoFrame.from_ndarray(frame, format='rgb24')
      # Set both: a frame without them keeps an old time base and all frames
      # get one time stamp, which makes a file that nobody can seek.
      picture.pts = number
      picture.time_base = 1 / rate
      packets += stream.encode(picture)
    if stream is None:
      raise ValueError('frames is empty')
    packets += stream.encode(None)
    packets += sound
    for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
      container.mux(packet)


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


def _add_sound(container, audio, rate):
  """Encodes the sound; returns its packets."""
  if audio is None:
    return []
  audio = np.asarray(audio, np.float32)
  audio = audio[:, None] if audio.ndim == 1 else audio
  if audio.ndim != 2 or audio.shape[1] not in (1, 2):
    raise ValueError(
      f'audio must be float[S] or float[S, 1 or 2], got {list(audio.shape)}'
    )
  layout = 'mono' if audio.shape[1] == 1 else 'stereo'
  stream = container.add_stream(
    'aac', rate=rate, layout=layout, bit_rate=192_000
  )
  frame = av.AudioFrame.from_ndarray(
    np.ascontiguousarray(audio.T), format='fltp', layout=layout
  )
  frame.sample_rate = rate
  frame.pts = 0
  frame.time_base = fractions.Fraction(1, rate)
  return stream.encode(frame) + stream.encode(None)
