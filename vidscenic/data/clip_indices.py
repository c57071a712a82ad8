"""Which frames of a video make up a clip: three published protocols.

dmvr: Scenic and DMVR (deepmind/dmvr, processors.py). Training draws the offset
  from [0, max(L - (n - 1) s, 1)), evaluation counts n s frames per clip.
slowfast: PySlowFast (datasets/decoder.py). A real-valued start, then n points
  over a span of n s frames, both ends included; so with stride s the distance
  of frames is slightly above s.
vjepa: V-JEPA (datasets/video_dataset.py). The file is cut into as many parts
  as there are clips, one clip from each.

Below, L is the number of frames in the file, n num_frames, s stride, W
num_views.
"""

import math

import numpy as np

PROTOCOLS = ('dmvr', 'slowfast', 'vjepa')
PADS = ('', 'loop', 'hold')


def sample_indices(
  length: int,
  *,
  num_frames: int,
  stride: int = 1,
  protocol: str = 'dmvr',
  pad: str = '',
  num_views: int = 1,
  file_fps: float = 0.0,
  fps: float = 0.0,
  spread_ends: bool = False,
  rng: np.random.Generator | None = None,
) -> np.ndarray:
  """Frame numbers of all clips of one example.

  Args:
    length: L, at least 1.
    num_frames: n, frames per clip.
    stride: s, frames (of a video at `fps`, if given) from one to the next.
    protocol: one of PROTOCOLS.
    pad: for videos that are too short: 'loop' starts again at frame 0, 'hold'
      repeats the last frame; '' is what the protocol does (dmvr loops, the
      others hold).
    num_views: W, clips per video.
    file_fps: frame rate of the file; used only with fps.
    fps: frame rate that the clip should have; 0: that of the file. dmvr takes
      the nearest frame at multiples of s file_fps / fps, slowfast widens the
      span by file_fps / fps, and vjepa replaces the stride by
      ceil(file_fps) // fps, at least 1.
    spread_ends: slowfast evaluation only: clips reach to the end of the video
      (its `use_offset`) instead of starting at i / W of the free space.
    rng: draws the offsets, one per clip; None is the evaluation rule.

  Returns:
    int64[W, n], each in [0, L).

  Raises:
    ValueError: length < 1, or fps without file_fps.
  """
  if length < 1:
    raise ValueError(f'a clip needs a video with frames, got length {length}')
  step = frame_step(stride, protocol=protocol, file_fps=file_fps, fps=fps)
  shape = dict(num_frames=num_frames, num_views=num_views, rng=rng)
  if protocol == 'dmvr':
    positions = _dmvr(length, step=step, **shape)
    pad = pad or 'loop'
  elif protocol == 'slowfast':
    span = num_frames * step
    positions = _slowfast(length, span=span, spread_ends=spread_ends, **shape)
    pad = pad or 'hold'
  else:
    positions = _vjepa(length, stride=step, loop=pad == 'loop', **shape)
    pad = pad or 'hold'
  if pad == 'loop':
    return positions % length
  return np.clip(positions, 0, length - 1)


def frame_step(
  stride: int, *, protocol: str, file_fps: float, fps: float
) -> float:
  """Frames of the file from one frame of a clip to the next.

  Args: as of `sample_indices`.

  Returns:
    An integer for vjepa and without fps.

  Raises:
    ValueError: fps is asked for but the rate of the file is unknown.
  """
  if not fps:
    return stride
  if not file_fps > 0:
    raise ValueError(
      f'fps={fps} needs the frame rate of the video, which is unknown: give '
      "the record an 'fps', or set fps=0"
    )
  if protocol == 'vjepa':
    # Rates measured from time stamps may read 25.000001.
    return max(1, math.floor(math.ceil(file_fps - 1e-3) / fps))
  return stride * file_fps / fps


def _dmvr(length, *, num_frames, step, num_views, rng):
  # floor(x + 0.5) takes the nearest frame for real steps (29.97 -> 30 fps must
  # not repeat frame 0) and changes nothing for whole ones.
  offsets_in_clip = np.floor(np.arange(num_frames) * step + 0.5)
  if rng is not None:
    high = max(length - int(offsets_in_clip[-1]), 1)
    starts = rng.integers(high, size=num_views)
  else:
    room = max(0, length - math.floor(num_frames * step + 0.5))
    if num_views == 1:
      starts = np.array([room // 2])
    else:
      # int(linspace(0, room, W)) without its rounding errors.
      starts = room * np.arange(num_views) // (num_views - 1)
  return starts[:, None] + offsets_in_clip.astype(np.int64)


def _slowfast(length, *, num_frames, span, num_views, spread_ends, rng):
  room = max(length - span, 0)
  if rng is not None:
    starts = rng.uniform(0, room, size=num_views)
  elif not spread_ends:
    starts = room * np.arange(num_views) / num_views
  elif num_views == 1:
    starts = np.array([math.floor(room / 2)])
  else:
    starts = np.arange(num_views) * math.floor(room / (num_views - 1))
  points = np.linspace(starts, starts + span - 1, num_frames, axis=1)
  return np.floor(points).astype(np.int64)


def _vjepa(length, *, num_frames, stride, num_views, loop, rng):
  # Videos with fewer frames than clips: every part is one frame.
  part = max(length // num_views, 1)
  clip = num_frames * stride
  rows = []
  for view in range(num_views):
    if part > clip:
      # The exclusive upper bound leaves the part's last window out.
      start = 0 if rng is None else int(rng.integers(part - clip))
      points = np.linspace(start, start + clip, num_frames)
      points = np.clip(points, start, start + clip - 1)
    elif loop:
      points = np.linspace(0, clip, num_frames)
      points = np.clip(points, 0, clip - 1) % part
    else:
      points = np.full(num_frames, part - 1.0)
      distinct = part // stride
      points[:distinct] = np.linspace(0, part, distinct)
      points = np.clip(points, 0, part - 1)
    first = min(view * part, length - 1)
    rows.append(first + points.astype(np.int64))
  return np.stack(rows)
