"""Evaluators: TAP-Vid's benchmarks, and trackers that did not learn.

A benchmark's videos differ in length and number of points. Points are tracked
in chunks of a few sizes and frames are padded to a few lengths, which changes
no number, so a data set compiles a handful of programs. Scores are those of
`evaluation.tracking`, in pixels of a 256 x 256 frame.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from projects.tapir import baselines, offline, tracker
from vidscenic import config as vc
from vidscenic.data import decode, resize
from vidscenic.evaluation import evaluator, tracking
from vidscenic.ops import metrics
from vidscenic.ops import tracking as tracking_ops
from vidscenic.ops import video as video_ops

_SCORED = (256, 256)
_CHUNK = 64  # queries that TAP-Net compares with all frames at a time
_BLOCK = 32  # frames of a file that are decoded before they are made smaller
_SHOWN = {
  'AJ': 'average_jaccard',
  'delta_avg': 'average_pts_within_thresh',
  'OA': 'occlusion_accuracy',
}


class TapVid(evaluator.Evaluator):
  """Scores of a benchmark, in percent: AJ, delta_avg and OA.

  A table with one line per video is logged.
  """

  def __init__(
    self,
    task: Any,
    mesh: Any,
    *,
    data: Mapping[str, Any],
    mode: str = 'first',
    resolution: Sequence[int] = (256, 256),
    published: Mapping[str, float] | None = None,
    limit: int = 0,
    table: str = '',
  ):
    """Chooses the benchmark.

    Args:
      task: a `PointTracking` task.
      mesh: all devices; every process evaluates all videos.
      data: data spec whose source gives whole videos: dicts of video
        uint8[T, H, W, 3] or a `sources.VideoFile`, path, query_points [N, 3],
        target_points [N, T, 2] and occluded [N, T] in pixels of the video. Its
        transform is not used.
      mode: 'first' or 'strided', as the source's queries.
      resolution: (height, width) that the model sees.
      published: {score: percent} to print beside; 'AJ', or with more behind it,
        such as 'AJ_paper'.
      limit: number of videos; 0: all.
      table: file for the table; '' for none.
    """
    super().__init__(task, mesh, data=data, batch_size=1, limit=limit)
    if mode not in tracking_ops.MODES:
      raise ValueError(
        f'mode must be one of {tracking_ops.MODES}, got {mode!r}'
      )
    self._mode = mode
    self._resolution = tracker.check_resolution(resolution)
    self._published = dict(published or {})
    self._table = table

  def measures(self) -> str:
    height, width = self._resolution
    return f'TAP-Vid scores, queries {self._mode}, tracked at {height}x{width}'

  def run(self, state: Any, step: int) -> evaluator.Figures:
    del step
    source = vc.build(
      self.data['source'],
      field=f'{self.name}.kwargs.data.source',
      **self.data['source_kwargs'],
    )
    count = min(self.limit or len(source), len(source))
    if not count:
      raise ValueError(f'{self.name}: the data set holds no videos')
    # One device, whatever the mesh: queries, not videos, are the batch.
    device = jax.local_devices()[0]
    weights = jax.device_put(
      jax.tree.map(np.asarray, (state.params, state.model_state)), device
    )
    videos = {}
    for number in range(count):
      example = source[number]
      name = str(example.get('path', number))
      if not len(example['query_points']):
        logging.warning('%s: %s has no point to track', self.name, name)
        continue
      videos[name] = self._score(weights, example)
      logging.info(
        '%s: %d/%d %s AJ %.1f',
        self.name,
        number + 1,
        count,
        name,
        100 * videos[name]['average_jaccard'],
      )
    table = tracking.table(videos)
    if self._published:
      known = (f'{name} {value:.1f}' for name, value in self._published.items())
      table = f'{table}\npublished: {", ".join(known)}'
    logging.info('%s\n%s\n%s', self.name, self.protocol(), table)
    if self._table:
      epath.Path(self._table).write_text(f'{self.protocol()}\n{table}\n')
    means = tracking.mean_scores(videos)
    figures = {name: 100 * means[key] for name, key in _SHOWN.items()}
    for name, value in self._published.items():
      figures[f'published_{name}'] = float(value)
    return figures, {}

  def _score(self, weights, example):
    """{score: value} of a video."""
    count = example['target_points'].shape[1]
    video, size = _frames(example['video'], count, self._resolution)
    # (height, width), of what the model sees and of what is scored.
    seen = np.float32(np.divide(self._resolution, size))
    scored = np.float32(np.divide(_SCORED, size))
    queries = np.array(example['query_points'], np.float32)
    small = queries * np.float32([1, *seen])
    padding = offline.length_for(count) - count
    if getattr(self.task.model, 'extra_conv_shift', False):
      padding = 0  # it would show in the frames in front of it
    video = np.concatenate([video, np.repeat(video[-1:], padding, axis=0)])
    points, occluded = self._track(weights, video, small, count)
    return tracking.video_scores(
      query_points=queries * np.float32([1, *scored]),
      target_points=np.float32(example['target_points']) * scored[::-1],
      target_occluded=example['occluded'],
      points=points[:, :count] * (scored / seen)[::-1],
      occluded=occluded[:, :count],
      mode=self._mode,
    )

  def _track(self, weights, video, queries, count):
    params, model_state = weights
    if not self.task.is_tapnet:
      windows = offline.Windows(self.task.model, params, self._resolution)
      points, visible = windows.clip(video, queries, num_frames=count)
      return points, ~visible
    variables = {'params': params, **model_state}
    return tracking.track_in_chunks(
      queries,
      lambda chunk: _match(
        self.task.model, variables, video[None], chunk[None], count
      ),
    )


def _frames(video, count, resolution):
  """(uint8[count, *resolution, 3], (height, width)) of an array or a file."""
  if isinstance(video, np.ndarray):
    size = video.shape[1:3]
    if tuple(size) != resolution:
      video = resize.resize_frames(video, resolution, method='bilinear')
    return video, size
  index = video.index()
  frames = np.empty((count, *resolution, 3), np.uint8)
  for begin in range(0, count, _BLOCK):
    block = np.arange(begin, min(begin + _BLOCK, count))
    read = decode.read_frames(video.file, block, index, name=video.path)
    frames[block] = resize.resize_frames(read, resolution, method='bilinear')
  return frames, (index.height, index.width)


@functools.partial(jax.jit, static_argnums=0)
def _match(model, variables, frames, queries, num_frames):
  """(points [N, T, 2], occluded [N, T]) of a `tapnet.TapNet`."""
  found = model.apply(
    variables,
    video_ops.normalize(frames),
    queries,
    query_chunk_size=_CHUNK,
    num_frames=num_frames,
  )
  tracks = found.tracks.final(1)
  hidden = tracking_ops.predicted_occluded(tracks.occlusion)
  return tracks.points[0], hidden[0]


class Baselines(evaluator.Evaluator):
  """Average Jaccard of trackers without learning, in percent, on clips.

  Figures: static_AJ, of points that stay where they are; patch_AJ, of the best
  correlated patch. Queries count as in mode 'strided'.
  """

  def run(self, state: Any, step: int) -> evaluator.Figures:
    means = self.add_up(self._scores, state, step)
    return {name: 100 * value for name, value in means.items()}, {}

  def _scores(self, params, model_state, batch, context):
    del params, model_state, context
    video = video_ops.normalize(batch['video'])
    scale = np.divide(_SCORED, video.shape[2:4])
    figures = {}
    for name, track in baselines.TRACKERS.items():
      points, occluded = track(video, batch['query_points'])
      scores = tracking_ops.tap_vid(
        query_points=batch['query_points'],
        target_points=batch['target_points'] * scale[::-1],
        target_occluded=batch['occluded'],
        points=points * scale[::-1],
        occluded=occluded,
        mode='strided',
      )
      figures[f'{name}_AJ'] = metrics.mean_of_known(
        scores['average_jaccard'], mask=batch['mask']
      )
    return figures
