"""Sound of a stretch of a video file, cut by time.

The number of samples that FFmpeg delivers for one file differs by about 1,000
between versions (AAC padding), so samples are placed by their time stamps and
never by counting from the start of the file.
"""

import av
import numpy as np

from vidscenic.data import containers

# Compressed sound needs a run-up: AAC one packet (21 ms), Opus 80 ms.
_RUN_UP_S = 0.5
# Time stamps rounded to milliseconds jitter; only a larger step is a real gap.
_GAP_S = 0.02
# Extra input on both sides of the cut, for the resampling filter.
_FILTER_S = 0.05
# What FFmpeg takes a number of channels for.
_USUAL_LAYOUTS = {
  1: 'mono',
  2: 'stereo',
  3: '2.1',
  4: '4.0',
  5: '5.0',
  6: '5.1',
  7: '6.1',
  8: '7.1',
}


def read_audio(
  file: containers.File,
  start_s: float,
  end_s: float,
  rate: int,
  mono: bool = True,
  *,
  origin_s: float = 0.0,
  name: str = '',
) -> np.ndarray:
  """Reads the sound between two times.

  Args:
    file: path, or the bytes of a file.
    start_s, end_s: seconds after `origin_s`; start_s < end_s. May reach outside
      the file: silence there.
    rate: samples per second of the result.
    mono: average all channels; else two: mono is doubled, surround is mixed as
      in ITU-R BS.775 (centre and rear at 0.71, no bass effects), attenuated so
      that it cannot clip.
    origin_s: zero of start_s and end_s on the container's clock. Pass
      `VideoIndex.start` to count from the first video frame.
    name: what errors call it; needed only for bytes.

  Returns:
    float32[S, 1 or 2] in [-1, 1], S = round((end_s - start_s) * rate).

  Raises:
    VideoError: no sound stream, or the file cannot be read.
    ValueError: end_s <= start_s or rate < 1.
  """
  if not end_s > start_s:
    raise ValueError(f'end_s must exceed start_s, got {start_s} to {end_s}')
  if rate < 1:
    raise ValueError(f'rate must be >= 1, got {rate}')
  label = containers.display_name(file, name)
  begin = origin_s + start_s
  length = round((end_s - start_s) * rate)
  samples, native, layout = _read_native(
    file, label, begin - _FILTER_S, begin + length / rate + _FILTER_S
  )
  if mono:  # FFmpeg's own mix has gains of 0.7 and would clip
    samples, layout = samples.mean(0, keepdims=True), 'mono'
  else:
    samples, layout = _to_stereo(samples, layout), 'stereo'
  if native != rate:
    with containers.reading(label):
      samples = _resample(samples, native, rate, layout)
  offset = round(_FILTER_S * rate)
  cut = samples[:, offset : offset + length]
  out = np.zeros((length, samples.shape[0]), np.float32)
  out[: cut.shape[1]] = cut.T
  return np.clip(out, -1.0, 1.0)


def _read_native(file, label, begin, end):
  """Sound in [begin, end) at the file's rate: ([C, S], rate, layout)."""
  for run_up in (_RUN_UP_S, None):
    with containers.opened(file, label) as container:
      if not container.streams.audio:
        raise containers.VideoError(label, 'no sound stream')
      stream = container.streams.audio[0]
      if stream.codec_context is None:
        raise containers.VideoError(label, 'no decoder for the sound stream')
      native = stream.codec_context.sample_rate
      layout = stream.codec_context.layout.name
      seeks = run_up is not None and begin > run_up
      with containers.reading(label):
        if seeks:
          unit = float(stream.time_base)
          container.seek(
            int((begin - run_up) / unit), stream=stream, backward=True
          )
        samples, first = _place(container, stream, native, layout, begin, end)
      # Some containers seek too far; decode those from the start.
      if not seeks or (first is not None and first <= begin):
        return samples, native, layout
  raise AssertionError('unreachable')


def _place(container, stream, native, layout, begin, end):
  """Decodes until `end`, writing samples where their time stamps say.

  Returns:
    (float32[C, S] with silence in gaps, time of the first decoded sample).
  """
  channels = av.AudioLayout(layout).nb_channels
  out = np.zeros((channels, round((end - begin) * native)), np.float32)
  resampler = av.AudioResampler(format='fltp', layout=layout, rate=native)
  first = None
  expected = None
  for frame in container.decode(stream):
    if frame.time is not None:
      position = round((frame.time - begin) * native)
      if first is None:
        first = frame.time
      if expected is None or abs(position - expected) > _GAP_S * native:
        expected = position
    if expected is None:
      expected = round(-begin * native)
    for part in resampler.resample(frame):
      block = part.to_ndarray()
      low = max(expected, 0)
      high = min(expected + block.shape[1], out.shape[1])
      if high > low:
        out[:, low:high] = block[:, low - expected : high - expected]
      expected += block.shape[1]
    if expected >= out.shape[1]:
      break
  return out, first


def _to_stereo(samples, layout):
  """[C, S] -> [2, S]."""
  if layout == f'{len(samples)} channels':  # the file does not say
    layout = _USUAL_LAYOUTS.get(len(samples), layout)
  names = [channel.name for channel in av.AudioLayout(layout).channels]
  gains = np.array([_gains(name) for name in names], np.float32).T
  if not gains.any():
    gains = np.ones_like(gains)
  return gains / gains.sum(1).max() @ samples


def _gains(name):
  """Gains of a channel in (left, right)."""
  if name in ('FL', 'DL'):
    return 1.0, 0.0
  if name in ('FR', 'DR'):
    return 0.0, 1.0
  if name.startswith('LFE'):
    return 0.0, 0.0
  # Rear, side and top channels; the front ones between centre and corner.
  sides = name.removesuffix('C')
  if sides.endswith('L'):
    return 0.71, 0.0
  if sides.endswith('R'):
    return 0.0, 0.71
  return 0.71, 0.71


def _resample(samples, native, rate, layout):
  resampler = av.AudioResampler(format='fltp', layout=layout, rate=rate)
  frame = av.AudioFrame.from_ndarray(
    np.ascontiguousarray(samples), format='fltp', layout=layout
  )
  frame.sample_rate = native
  parts = resampler.resample(frame) + resampler.resample(None)
  return np.concatenate([part.to_ndarray() for part in parts], axis=1)
