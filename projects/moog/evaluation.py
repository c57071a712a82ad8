"""Figures over several first states and any number of tokens.

The random first state makes every figure a draw, so both evaluators report mean
and spread over seeds: `Seeds` of what the task reports on clips (PSNR of next
frames, points, boxes, depth), `Tracks` of TAP-Vid's scores on whole videos.
Published figures that `Tracks` is set up for (a table of arXiv 2412.14294; none
of them could be checked here): a recurrent readout on frozen features, trained
on MOVi-E, has an average Jaccard of 0.687 on the first 8 frames of the DAVIS
videos of TAP-Vid and of 0.760 on the first 16 of Perception Test's validation
videos.
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


class Seeds(evaluator.MeanLoss):
  """The task's losses and figures, as mean and spread over first states.

  Figures: those of `MeanLoss` for each number of tokens, `.._std` beside them.
  """

  def __init__(
    self,
    task: task_lib.Task,
    mesh: Mesh,
    *,
    num_tokens: Sequence[int] = (),
    seeds: Sequence[int] = (0, 1, 2),
    **kwargs,
  ):
    """See the class.

    Args:
      task: of MooG, with a backbone.
      mesh: all devices.
      num_tokens: sizes of the state to compare; empty: that of the task.
      seeds: of the first state.
      **kwargs: of `Evaluator`.

    Raises:
      ValueError: no seeds, or tokens of another number do not fit.
    """
    super().__init__(task, mesh, **kwargs)
    self._seeds, self._seed = _check_seeds(seeds), 0
    self._tasks = {
      count: _with_tokens(task, count) for count in num_tokens or (0,)
    }

  def measures(self) -> str:
    return f'{super().measures()}, over {len(self._seeds)} seeds'

  def batches(self):
    for batch, number in super().batches():
      yield batch, (self._seed, number)

  def context(self, state, number, phase=0):
    seed, number = number
    return (
      super().context(state, number, phase)._replace(rng=jax.random.key(seed))
    )

  def run(self, state: Any, step: int) -> evaluator.Figures:
    figures = {}
    for count, task in self._tasks.items():
      self.task, self._programs = task, {}
      found = []
      for seed in self._seeds:
        self._seed = seed
        found.append(super().run(state, step)[0])
      figures |= _mean_and_spread(found, count)
    return figures, {}


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
    self._num_frames, self._seeds = num_frames, _check_seeds(seeds)
    self._tasks = {
      count: _with_tokens(task, count) for count in num_tokens or (0,)
    }
    if num_frames < 2:
      raise ValueError(f'num_frames={num_frames}: want at least 2')

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
    trackers = {
      count: self._tracker(task, state.params, state.model_state)
      for count, task in self._tasks.items()
    }
    found = {(count, seed): {} for count in trackers for seed in self._seeds}
    still = {}
    for video in self._videos():  # one at a time: frames may be large
      path = video['path']
      still[path] = self._scores(video, _still, 0)
      for count, seed in found:
        scores = self._scores(video, trackers[count], seed)
        found[count, seed][path] = scores
    if not still:
      raise ValueError(
        f'{self.name}: no video of {self._name} has a query in frame 0: '
        "want queries='first' of its source"
      )
    figures = {}
    for count in trackers:
      means = [_shown(found[count, seed]) for seed in self._seeds]
      figures |= _mean_and_spread(means, count)
    for name, value in _shown(still).items():
      figures[f'{name}_still'] = value
    return figures, {}

  def _tracker(self, task, params, model_state):
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


def _check_seeds(seeds):
  if not seeds:
    raise ValueError('seeds must not be empty')
  return tuple(seeds)


def _with_tokens(task, count):
  """The task with another number of tokens; 0: as it is."""
  if not count:
    return task
  kind = getattr(task.backbone, 'initial_state', None)
  if kind is None or kind == 'learned':
    name = type(task.backbone).__name__
    raise ValueError(
      f'num_tokens: the tokens of this {name} are fixed; leave num_tokens out'
    )
  task = copy.copy(task)
  task.backbone = task.backbone.clone(num_tokens=count)
  return task


def _mean_and_spread(found, count):
  """{name: mean, name_std: spread} of figures by seed."""
  suffix = f'_{count}_tokens' if count else ''
  figures = {}
  for name in found[0]:
    values = np.array([one[name] for one in found])
    figures[f'{name}{suffix}'] = float(values.mean())
    figures[f'{name}{suffix}_std'] = float(values.std())
  return figures


def _shown(videos):
  scores = tracking.mean_scores(videos)
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
