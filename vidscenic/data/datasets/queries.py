"""Which points of a video a tracker is asked for: TAP-Vid's two query modes.

arXiv 2211.03726, section 3. In mode 'first' every track is asked for once, at
the first frame in which it is visible; in mode 'strided' at every 5th frame in
which it is visible.
"""

from typing import NamedTuple

import numpy as np

MODES = ('first', 'strided')


class Queries(NamedTuple):
  """Q queries and the tracks that answer them.

  Attributes:
    query_points: float[Q, 3], (t, y, x).
    target_points: float[Q, T, 2], (x, y).
    occluded: bool[Q, T].
    track: int64[Q], number of the annotated track behind each query.
  """

  query_points: np.ndarray
  target_points: np.ndarray
  occluded: np.ndarray
  track: np.ndarray


def sample_queries(
  points: np.ndarray, occluded: np.ndarray, mode: str, *, stride: int = 5
) -> Queries:
  """Turns annotated tracks into queries and targets.

  Args:
    points: float[N, T, 2], (x, y) in any unit; the queries have it too.
    occluded: bool[N, T].
    mode: 'first': one query per track, tracks that are never visible are left
      out; 'strided': for the frames 0, stride, 2 stride, ... in turn, one query
      for every track visible there, so tracks repeat.
    stride: frames.

  Raises:
    ValueError: unknown mode, or shapes that do not fit.
  """
  if mode not in MODES:
    raise ValueError(f'the query mode must be one of {MODES}, got {mode!r}')
  points, occluded = np.asarray(points), np.asarray(occluded, bool)
  if points.shape != (*occluded.shape, 2) or occluded.ndim != 2:
    raise ValueError(
      'expected points[N, T, 2] and occluded[N, T], got '
      f'{list(points.shape)} and {list(occluded.shape)}'
    )
  visible = ~occluded
  if mode == 'first':
    track = np.flatnonzero(visible.any(1))
    frame = visible[track].argmax(1)
  else:
    step, track = np.nonzero(visible[:, ::stride].T)
    frame = step * stride
  x, y = points[track, frame].T
  return Queries(
    np.stack([frame.astype(points.dtype), y, x], axis=-1),
    points[track],
    occluded[track],
    track,
  )
