"""Point tracks of whole videos: any number of points and frames, few programs.

Videos of a tracking benchmark differ in length and in the number of points. A
compiled model wants few shapes: points go through it in chunks of a handful of
sizes, which is exact as long as the prediction for a point does not depend on
the other points. Frames are never padded for the model, only for the scores.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from vidscenic.ops import tracking

# Numbers of points that a model is compiled for.
SIZES = (16, 64, 256)
# Scores are compiled for multiples of it.
_FRAMES = 64

# float32[size, 3] queries -> (float[size, T, 2] points, bool[size, T] occluded)
TrackFn = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def track_in_chunks(
  query_points: np.ndarray, track: TrackFn, *, sizes: Sequence[int] = SIZES
) -> tuple[np.ndarray, np.ndarray]:
  """Tracks any number of points with a function for a few numbers of them.

  Args:
    query_points: [N, 3], (t, y, x).
    track: see `TrackFn`; called with as many queries as one of the sizes says.
      What fills a chunk up is a copy of its first query.
    sizes: ascending. All chunks but the last have the largest.

  Returns:
    (float32[N, T, 2], bool[N, T]).

  Raises:
    ValueError: no queries, or sizes that are not ascending.
  """
  query_points = np.asarray(query_points, np.float32)
  sizes = tuple(sizes)
  if not sizes or min(sizes) < 1 or sizes != tuple(sorted(set(sizes))):
    raise ValueError(f'sizes={sizes}: want ascending numbers of points')
  if (
    query_points.ndim != 2
    or query_points.shape[1] != 3
    or not query_points.size
  ):
    raise ValueError(f'query_points {query_points.shape}: want [N, 3], N > 0')
  points, occluded = [], []
  for start in range(0, len(query_points), sizes[-1]):
    chunk = query_points[start : start + sizes[-1]]
    padded = np.repeat(chunk[:1], _fitting(len(chunk), sizes), axis=0)
    padded[: len(chunk)] = chunk
    for parts, part in zip((points, occluded), track(padded), strict=True):
      parts.append(np.asarray(part)[: len(chunk)])
  return (
    np.concatenate(points).astype(np.float32),
    np.concatenate(occluded).astype(bool),
  )


def _fitting(count, sizes):
  """The smallest size that holds `count`, or a multiple of the largest."""
  for size in sizes:
    if count <= size:
      return size
  return math.ceil(count / sizes[-1]) * sizes[-1]


def video_scores(
  *,
  query_points: np.ndarray,
  target_points: np.ndarray,
  target_occluded: np.ndarray,
  points: np.ndarray,
  occluded: np.ndarray,
  mode: str,
) -> dict[str, float]:
  """TAP-Vid scores of one video; see `ops.tracking.tap_vid`.

  Args:
    query_points: [N, 3], (t, y, x).
    target_points: [N, T, 2], (x, y) in pixels of a 256 x 256 frame.
    target_occluded: bool[N, T].
    points: [N, T, 2], predicted.
    occluded: bool[N, T], predicted.
    mode: 'first' or 'strided'.

  Returns:
    {name: score}; NaN where there is nothing to score.
  """
  count, frames = np.shape(target_points)[:2]
  size = _fitting(count, SIZES), _fitting(frames, (_FRAMES,))

  def pad(values):
    values = np.asarray(values)
    widths = [(0, n - m) for n, m in zip(size, values.shape[:2], strict=True)]
    return np.pad(values, [*widths, *[(0, 0)] * (values.ndim - 2)])[None]

  padding = np.zeros((size[0] - count, 3))
  scores = _tap_vid(
    query_points=np.concatenate([query_points, padding])[None],
    target_points=pad(target_points),
    target_occluded=pad(target_occluded),
    points=pad(points),
    occluded=pad(occluded),
    mode=mode,
    mask=pad(np.ones((count, frames), bool)),
  )
  return {name: float(value[0]) for name, value in scores.items()}


_tap_vid = jax.jit(tracking.tap_vid, static_argnames='mode')


def mean_scores(
  videos: Mapping[str, Mapping[str, float]],
) -> dict[str, float]:
  """Plain mean over videos, every video counting the same.

  Args:
    videos: {name of the video: {score: value}}.

  Returns:
    {score: mean over the videos that have it}; NaN if none has it.

  Raises:
    ValueError: no videos.
  """
  if not videos:
    raise ValueError('no videos to average over')
  names = next(iter(videos.values()))
  means = {}
  for name in names:
    values = np.array([scores[name] for scores in videos.values()])
    known = values[~np.isnan(values)]
    means[name] = float(known.mean()) if known.size else math.nan
  return means


def table(videos: Mapping[str, Mapping[str, float]]) -> str:
  """A line per video and one for the mean, in percent.

  Args:
    videos: {name of the video: {score: value}}, of `video_scores`.

  Returns:
    Aligned columns: average Jaccard, average position accuracy, occlusion
    accuracy, then the Jaccards by threshold.
  """
  columns = {
    'AJ': 'average_jaccard',
    'delta_avg': 'average_pts_within_thresh',
    'OA': 'occlusion_accuracy',
    **{f'J{t}': f'jaccard_{t}' for t in tracking.THRESHOLDS},
  }
  rows = [*videos.items(), ('mean', mean_scores(videos))]
  width = max(len(name) for name, _ in rows)
  head = ' '.join(f'{name:>9}' for name in columns)
  lines = [f'{"":{width}} {head}']
  for name, scores in rows:
    cells = ' '.join(f'{100 * scores[key]:9.1f}' for key in columns.values())
    lines.append(f'{name:{width}} {cells}')
  return '\n'.join(lines)
