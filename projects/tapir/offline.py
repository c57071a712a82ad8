"""Tracking points through whole videos, in windows where they are long.

A window sees a video's frames at once, so points are followed forwards and
backwards. Features of the points come from their own frames and serve all
windows; cutting a video only takes context from the frames at the cut, and
neighbouring windows overlap, each being trusted up to the middle of that.
"""

import functools
import math
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from projects.tapir import features as features_lib
from projects.tapir import model as model_lib
from projects.tapir import tracker
from vidscenic.data import stream
from vidscenic.ops import tracking
from vidscenic.ops import video as video_ops

# Frames that the model looks at around each, about.
_CONTEXT = 32
# Share of the memory that is free which may be used.
_SHARE = 0.5
_CHUNK = 64  # points that are refined at a time
_STEP = 64  # frames from one length of programs to the next


class Windows:
  """Tracks points through a video with any TAPIR.

  Args:
    model: a `model.Tapir`.
    params: its parameters.
    resolution: (height, width) that frames are resized to.
    window: frames at once; 0: as many as memory allows.

  Raises:
    ValueError: no TAPIR, a window that is too short, or a wrong resolution.
  """

  def __init__(
    self,
    model: model_lib.Tapir,
    params: Any,
    resolution: Sequence[int] = (256, 256),
    window: int = 0,
  ):
    if not isinstance(model, model_lib.Tapir):
      raise ValueError('these weights are TAP-Net, a baseline: take TAPIR')
    if window and window < 2 * _CONTEXT:
      raise ValueError(
        f'window={window}: want at least {2 * _CONTEXT} frames, or 0 for as '
        'many as memory allows'
      )
    self.model, self.params = model, params
    self.resolution = tracker.check_resolution(resolution)
    self.window = window

  def track(
    self, video: stream.VideoStream, queries: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Goes through a video once, and before that to the last query.

    Args:
      video: a stream.
      queries: [N, 3], (t, y, x), whole t, raster pixels of the video.

    Returns:
      (points float32[N, T, 2], (x, y) in raster pixels of the video, visible
      bool[N, T]).

    Raises:
      ValueError: the video ends in front of a query, or a model whose features
        are not those of single frames.
    """
    if self.model.extra_conv_shift:
      raise ValueError(
        'extra_conv_shift=True: this model sees neighbour frames and tracks '
        'whole clips only; take newer weights, such as bootstapir'
      )
    scale = np.divide(self.resolution, (video.height, video.width))
    small = np.asarray(queries, np.float32) * np.float32([1, *scale])
    features = self._look_up(video, small)
    length, overlap = self._length(video)
    points = np.zeros((len(queries), video.num_frames, 2), np.float32)
    visible = np.zeros(points.shape[:2], bool)
    chunks = video.chunks(length, hop=length - overlap, size=self.resolution)
    for chunk in chunks:
      begin = overlap // 2 if chunk.first else 0
      place = slice(chunk.first + begin, chunk.first + chunk.count)
      found = self.clip(
        chunk.frames, small - np.float32([chunk.first, 0, 0]), features,
        num_frames=chunk.count,
      )  # fmt: skip
      for whole, part in zip((points, visible), found, strict=True):
        whole[:, place] = part[:, begin : chunk.count]
    points = points[:, : video.num_frames] / np.float32(scale[::-1])
    return points, visible[:, : video.num_frames]

  def clip(
    self,
    frames: np.ndarray,
    queries: np.ndarray,
    features: Any = None,
    *,
    num_frames: int | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Tracks through frames that are all there.

    Args:
      frames: uint8[T, h, w, 3], of any size.
      queries: [N, 3], (t, y, x) in raster pixels of these frames. Outside of
        them only with `features`.
      features: of the queries; None: looked up in the frames.
      num_frames: how many frames are real; None: all. The number of frames
        decides which program runs, this one does not.

    Returns:
      (points float32[N, T, 2], visible bool[N, T]).
    """
    count = len(frames) if num_frames is None else num_frames
    grids = _grids(self.model, self.params, frames[None])
    points, visible = [], []
    step = tracker.SLOTS[-1]
    for begin in range(0, len(queries), step):
      part = slice(begin, begin + step)
      chunk = np.asarray(queries[part], np.float32)
      slots = tracker.slots_for(len(chunk))
      padded = np.zeros((1, slots, 3), np.float32)
      padded[0, : len(chunk)] = chunk
      own = None
      if features is not None:
        own = jax.tree.map(
          lambda x, p=part, s=slots: _padded(x[:, p], s), features
        )
      found = _trajectories(self.model, self.params, grids, padded, own, count)
      for parts, values in zip((points, visible), found, strict=True):
        parts.append(np.asarray(values)[: len(chunk)])
    return np.concatenate(points), np.concatenate(visible)

  def _look_up(self, video, queries):
    """Features of the queries, from the frames that they are in."""
    wanted = np.unique(queries[:, 0]).astype(int)
    features = None
    for number, frame in _frames_at(video, wanted, self.resolution):
      here = np.flatnonzero(queries[:, 0] == number)
      slots = tracker.slots_for(len(here))
      places = np.zeros((1, slots, 3), np.float32)
      places[0, : len(here), 1:] = queries[here, 1:]
      found = _features(self.model, self.params, frame[None, None], places)
      count = len(here)
      found = jax.tree.map(lambda x, n=count: np.asarray(x)[:, :n], found)
      if features is None:
        features = jax.tree.map(
          lambda x: np.zeros((1, len(queries), x.shape[2]), np.float32), found
        )
      for whole, part in zip(
        jax.tree.leaves(features), jax.tree.leaves(found), strict=True
      ):
        whole[:, here] = part
    last = int(wanted[-1])
    if last >= video.num_frames:
      raise ValueError(
        f'{video.path} ends at frame {video.num_frames} ({video.damage}), but '
        f'a point is in frame {last}: choose an earlier frame'
      )
    return features

  def _length(self, video):
    """(frames of a window, frames that two windows share)."""
    frame = bytes_per_frame(self.model, self.resolution)
    free = _SHARE * _free_bytes()
    # Whole steps of `length_for`: few programs, however much memory is free.
    fitting = int(free / frame) // _STEP * _STEP
    longest = self.window or max(2 * _CONTEXT, fitting)
    if video.num_frames <= longest:
      return length_for(video.num_frames), 0
    overlap = _CONTEXT
    count = math.ceil((video.num_frames - overlap) / (longest - overlap))
    why = f'window={self.window}'
    if not self.window:
      why = (
        f'its {video.num_frames} frames at once would need about '
        f'{video.num_frames * frame / 1e9:.1f} GB, and {free / 1e9:.1f} GB may '
        'be used'
      )
    logging.warning(
      '%s: %s: tracking in %d windows of %d frames that overlap by %d. Points '
      'that are hidden at a cut may get lost; a smaller resolution needs less '
      'memory, and online=True next to none.',
      video.path,
      why,
      count,
      longest,
      overlap,
    )
    return longest, overlap


def length_for(num_frames: int) -> int:
  """Frames of the programs that track through so many."""
  step = 16 if num_frames <= _STEP else _STEP
  return -(-num_frames // step) * step


def bytes_per_frame(model: model_lib.Tapir, resolution: Sequence[int]) -> int:
  """Memory that a frame of a window needs, about, while points are refined."""
  levels = {
    tuple(model.initial_resolution),
    *features_lib.default_resolutions(resolution, model.initial_resolution),
  }
  cells = sum(h * w // 64 for h, w in levels)
  most = max(h * w // 64 for h, w in levels)
  groups = model.channels_per_group
  grids = cells * (groups[3] + 4 * groups[1])
  head = _CHUNK * math.prod(model.initial_resolution) // 64 * 2 * 16
  mixer = _CHUNK * 6 * 4 * model.mixer_hidden_dim
  # Features of a resolution while the backbone runs.
  backbone = most * 16 * 3 * model.stem_channels
  return 4 * (
    grids + max(head + mixer + _CHUNK * 4 * min(most, 1024), backbone)
  )


def _free_bytes():
  """Memory that can still be taken: of the device, else of this machine."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'bytes_limit' in stats:
    return stats['bytes_limit'] - stats.get('bytes_in_use', 0)
  free = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  # Linux knows better, and may give a container less than the machine has.
  found = re.search(r'MemAvailable: +(\d+) kB', _text('/proc/meminfo'))
  if found:
    free = 1024 * int(found[1])
  group = '/sys/fs/cgroup/memory'
  limit = _text(f'{group}.max').strip()
  if limit.isdecimal():
    files = re.search(r'^inactive_file (\d+)', _text(f'{group}.stat'), re.M)
    used = int(_text(f'{group}.current')) - (int(files[1]) if files else 0)
    free = min(free, int(limit) - used)
  return max(free, 0)


def _text(path):
  path = pathlib.Path(path)
  return path.read_text() if path.exists() else ''


def _frames_at(
  video: stream.VideoStream, wanted: Sequence[int], size: Sequence[int]
) -> Iterable[tuple[int, np.ndarray]]:
  """(number, frame) of some frames, in order, read once."""
  wanted = set(wanted)
  stop = min(max(wanted) + 1, video.num_frames)
  for chunk in video.chunks(1, size=size, stop=stop):
    if chunk.first in wanted:
      yield chunk.first, chunk.frames[0]


def _padded(x, count):
  return np.pad(x, [(0, 0), (0, count - x.shape[1]), (0, 0)])


@functools.partial(jax.jit, static_argnums=0)
def _grids(model, params, frames):
  video = video_ops.normalize(frames)
  return model.apply({'params': params}, video, method=model.feature_grids)


@functools.partial(jax.jit, static_argnums=0)
def _features(model, params, frame, queries):
  def stages(model, video):
    return model.query_features(model.feature_grids(video), queries)

  video = video_ops.normalize(frame)
  return model.apply({'params': params}, video, method=stages)


@functools.partial(jax.jit, static_argnums=0)
def _trajectories(model, params, grids, queries, features, num_frames):
  def stages(model):
    found = features
    if found is None:
      found = model.query_features(grids, queries)
    return model.trajectories(
      grids,
      found,
      queries=queries,
      query_chunk_size=_CHUNK,
      num_frames=num_frames,
    )

  tracks, _ = model.apply({'params': params}, method=stages)
  last = tracks.final(model.num_pips_iter)
  hidden = tracking.predicted_occluded(last.occlusion, last.expected_dist)
  return last.points[0], ~hidden[0]
