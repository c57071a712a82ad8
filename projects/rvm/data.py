"""Clips for RVM: some frames in a row, and targets at random gaps behind them.

Only the frames that a step needs are decoded and sent to the device, 8 of 52 in
the published recipe.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidscenic.data import augment, clip_indices, clips, containers, records

# Arguments of `ClipTransform` about which frames a clip has.
_REPLACED = ('num_frames', 'protocol', 'pad', 'num_views', 'spread_ends')


class SourcesAndTargets(clips.ClipTransform):
  """Draws source frames and targets; crops and flips all of them alike.

  Examples have, besides what `ClipTransform` gives:
    video: uint8[S + K, H, W, 3], sources in order, then targets in any order.
    frame_ids: int32[S + K], when these frames are, in steps from the first
      source; sources are 0, ..., S - 1.

  Evaluation draws gaps too: those of an example are always the same.

  Args:
    num_sources: S, frames in a row.
    num_targets: K, each drawn by itself.
    gaps: (least, most) steps from the last source to a target.
    stride: frames of the video in a step.
    fps: steps per second divided by stride, 0: those of the video.
    **pictures: arguments of `ClipTransform` about pictures, such as size.

  Raises:
    ValueError: names the argument that cannot be used.
  """

  def __init__(
    self,
    num_sources: int = 4,
    num_targets: int = 4,
    gaps: Sequence[int] = (4, 48),
    stride: int = 1,
    fps: float = 0.0,
    **pictures: Any,
  ):
    for name in _REPLACED:
      if name in pictures:
        raise ValueError(
          f'transform_kwargs.{name}: num_sources, num_targets and gaps say '
          'which frames a clip has'
        )
    if num_sources < 1 or num_targets < 1:
      raise ValueError(
        f'transform_kwargs.num_sources={num_sources} and num_targets='
        f'{num_targets}: want 1 or more'
      )
    if len(gaps) != 2 or not 0 < gaps[0] <= gaps[1]:
      raise ValueError(
        f'transform_kwargs.gaps={tuple(gaps)}: want (least, most), both 1 or '
        'more'
      )
    super().__init__(
      num_frames=num_sources + num_targets, stride=stride, fps=fps, **pictures
    )
    self._num_sources, self._num_targets = num_sources, num_targets
    self._gaps = tuple(gaps)
    self._stride, self._fps = stride, fps

  def sample(
    self, record: Mapping[str, Any], rng: np.random.Generator
  ) -> clips.Clip:
    """See `ClipTransform.sample`.

    Raises:
      VideoError: the video cannot be read, or is shorter than the largest gap
        needs.
    """
    video = records.open_video(record)
    step = clip_indices.frame_step(
      self._stride, protocol='dmvr', file_fps=video.fps, fps=self._fps
    )
    last = self._num_sources - 1
    needed = _nearest((last + self._gaps[1]) * step) + 1
    if video.length < needed:
      name = str(record.get('path', 'a video'))
      raise containers.VideoError(
        name,
        f'has {video.length} frames, but num_sources={self._num_sources} and '
        f'gaps={self._gaps} need {needed}: lower transform_kwargs.gaps or '
        'leave out short videos',
      )
    gaps = rng.integers(
      self._gaps[0], self._gaps[1], self._num_targets, endpoint=True
    )
    ids = np.concatenate([np.arange(self._num_sources), last + gaps])
    start = int(rng.integers(video.length - needed, endpoint=True))
    numbers = start + _nearest(ids * step)
    labels = {k: v for k, v in record.items() if k != 'video'}
    pictures, labels = self._read(video, numbers, labels)
    clip = records.take_labels(
      labels, numbers, length=video.length, keep_flow=False
    )
    clip['video'] = pictures
    clip['frame_ids'] = ids.astype(np.int32)
    return augment.redraw_queries(clip, rng)


def _nearest(positions):
  return np.floor(np.asarray(positions) + 0.5).astype(np.int64)
