"""Point tracks on whole data sets: several first states, any number of tokens.

The random first state makes every figure a draw: `Tracks` reports its mean and
spread over seeds. Published figures that this is set up for (a table of
arXiv 2412.14294; none of them could be checked here): a recurrent readout on
frozen features, trained on MOVi-E, has an average Jaccard of 0.687 on the first
8 frames of the DAVIS videos of TAP-Vid and of 0.760 on the first 16 of
Perception Test's validation videos.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vidscenic import config as vc
from vidscenic import task as task_lib
from vidscenic.data import records, resize
from vidscenic.evaluation import evaluator, tracking
from vidscenic.ops import masking

_SCORED = (256, 256)  # size at which TAP-Vid counts pixels


class Tracks(evaluator.Evaluator):
  """TAP-Vid's scores of the head 'points', video by video.

  Records of the source: video, or whatever `records.open_video` opens, with
  query_points, target_points and occluded in pixels of the video. Only queries
  in frame 0 count, and the first `num_frames` frames.

  Figures: AJ, position accuracy and occlusion accuracy for each number of
  tokens, as means over videos and seeds, `.._std` over seeds; and those of a
  control whose points stay where they are.
  """

  def __init__(
    self,
    task: task_lib.Task,
    mesh: Mesh,
    *,
    source: str,
    source_kwargs: Mapping[str, Any] | None = None,
    num_frames: int = 8,
    num_tokens: Sequence[int] = (),
    seeds: Sequence[int] = (0, 1, 2),
    limit: int = 0,
  ):
    """See the class.

    Args:
      task: with a head 'points'.
      mesh: all devices.
      source: factory string of a source of videos with tracks.
      source_kwargs: its arguments.
      num_frames: of a video that are looked at.
      num_tokens: sizes of the state to compare; empty: that of the task.
      seeds: of the first state.
      limit: number of videos; 0: all.

    Raises:
      ValueError: no head of this name.
    """
    super().__init__(task, mesh, data={}, batch_size=1, limit=limit)
    heads = getattr(task, 'heads', {})
    if 'points' not in heads:
      raise ValueError(
        f"evaluation.Tracks needs a head 'points', the task has {sorted(heads)}"
      )
    self._make_source = vc.prepare(
      source, 0, field='evals.kwargs.source', **(source_kwargs or {})
    )
    self._name = source.split(':')[-1]
    self._num_frames, self._seeds = num_frames, tuple(seeds)
    self._num_tokens = tuple(num_tokens)
    if self._num_tokens and not hasattr(task.backbone, 'num_tokens'):
      raise ValueError(
        f'num_tokens={self._num_tokens}: {type(task.backbone).__name__} has '
        'tokens of its own; leave it out'
      )
    if not self._seeds or num_frames < 2:
      raise ValueError('seeds must not be empty, num_frames at least 2')

  def bind(self, name, schedules):
    self.name, self._schedules = name, schedules
    self._source = self._make_source()

  def protocol(self) -> str:
    return (
      f'TAP-Vid scores, mode first, queries in frame 0, first '
      f'{self._num_frames} frames, {len(self._seeds)} seeds of the first '
      f'state; {len(self)} videos of {self._name}'
    )

  def __len__(self) -> int:
    return min(self.limit or len(self._source), len(self._source))

  def run(self, state: Any, step: int) -> evaluator.Figures:
    figures = {}
    videos = list(self._videos())
    for count in self._num_tokens or (0,):
      track = self._tracker(state.params, state.model_state, count)
      suffix = f'_{count}_tokens' if count else ''
      means = []
      for seed in self._seeds:
        found = {
          video['path']: self._scores(video, track, seed) for video in videos
        }
        means.append(_shown(tracking.mean_scores(found)))
      for name in means[0]:
        values = np.array([mean[name] for mean in means])
        figures[f'{name}{suffix}'] = float(values.mean())
        figures[f'{name}{suffix}_std'] = float(values.std())
    still = {v['path']: self._scores(v, _still, 0) for v in videos}
    for name, value in _shown(tracking.mean_scores(still)).items():
      figures[f'{name}_still'] = value
    return figures, {}

  def _tracker(self, params, model_state, num_tokens):
    task = copy.copy(self.task)
    if num_tokens:
      task.backbone = task.backbone.clone(num_tokens=num_tokens)
    head = task.heads['points']

    @jax.jit
    def run(params, model_state, clip, queries, seed):
      keys = masking.row_keys(jax.random.key(seed), jnp.zeros(1, int))
      video = task.inputs({'video': clip})
      features = task.features(params, model_state, video, keys=keys)
      batch = {'video': clip, 'query_points': queries}
      return head.predict(params['heads']['points'], features, batch)[0]

    size = task.clip[1:]

    def track(video, queries, seed):
      clip = resize.resize_frames(video, size, method='bilinear')[None]
      queries = queries * np.float32(
        [1, size[0] / _SCORED[0], size[1] / _SCORED[1]]
      )
      found = run(params, model_state, clip, queries[None], seed)
      points = np.asarray(found['points'][0]) * (
        np.float32(_SCORED[::-1]) / np.float32(size[::-1])
      )
      return points, np.asarray(found['occluded'][0])

    return track

  def _videos(self):
    """Clips with queries in frame 0, coordinates at 256 x 256."""
    for i in range(len(self)):
      record = self._source[i]
      video = records.open_video(record)
      if video.length < self._num_frames:
        raise ValueError(
          f'{self.name}: {record["path"]} has {video.length} frames, want '
          f'{self._num_frames}: set num_frames'
        )
      frames = video.read(np.arange(self._num_frames))
      scale = np.float32(_SCORED) / np.float32(frames.shape[1:3])
      queries = record['query_points'] * np.insert(scale, 0, 1)
      chosen = np.round(queries[:, 0]) == 0
      if not chosen.any():
        continue
      yield {
        'path': record['path'],
        'video': frames,
        'query_points': queries[chosen].astype(np.float32),
        'target_points': record['target_points'][chosen, : self._num_frames]
        * scale[::-1],
        'occluded': record['occluded'][chosen, : self._num_frames],
      }

  def _scores(self, video, track, seed):
    points, occluded = tracking.track_in_chunks(
      video['query_points'], lambda q: track(video['video'], q, seed)
    )
    return tracking.video_scores(
      query_points=video['query_points'],
      target_points=video['target_points'],
      target_occluded=video['occluded'],
      points=points,
      occluded=occluded,
      mode='first',
    )


def _shown(scores):
  return {
    'aj': scores['average_jaccard'],
    'position_accuracy': scores['average_pts_within_thresh'],
    'occlusion_accuracy': scores['occlusion_accuracy'],
  }


def _still(video, queries, seed):
  """Points that stay, always visible."""
  del seed
  length = len(video)
  points = np.repeat(queries[:, None, :0:-1], length, axis=1)
  return points, np.zeros(points.shape[:2], bool)
