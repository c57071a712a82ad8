"""Percentage of correct keypoints (PCK) of pose tracking."""

from collections.abc import Iterable, Sequence

import numpy as np

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)


def pck(
  videos: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
  *,
  thresholds: Sequence[float] = THRESHOLDS,
) -> tuple[dict[float, float], np.ndarray]:
  """PCK as it is taken on JHMDB, in percent.

  A joint is right at threshold a if its distance to the target is at most a
  times the size of the person, which is 0.6 times the diagonal of the box
  around the joints. The first frame, whose joints are given, does not count.

  Two traits of the published evaluation are kept: joints that the model does
  not find are left out, not wrong; and the box is that of the targets whose
  joints *are* found.

  Args:
    videos: (prediction [T, J, 2], found [T, J], target [T, J, 2]) of each, (x,
      y) in pixels; T differs, J does not.
    thresholds: a.

  Returns:
    ({a: mean over the joints that were ever found}, float64[thresholds, J],
    NaN for a joint never found).

  Raises:
    ValueError: no video, or shapes that differ.
  """
  errors, known = [], []
  for prediction, found, target in videos:
    if prediction.shape != target.shape or found.shape != target.shape[:2]:
      raise ValueError(
        f'prediction {prediction.shape}, found {found.shape} and target '
        f'{target.shape} do not fit: want [T, J, 2], [T, J], [T, J, 2]'
      )
    found = np.asarray(found, bool)
    distance = np.linalg.norm(
      np.asarray(prediction, np.float64) - np.asarray(target, np.float64),
      axis=-1,
    )
    with np.errstate(divide='ignore', invalid='ignore'):
      relative = distance / box_size(target, found)[:, None]
    errors.append(relative[1:])
    known.append(found[1:])
  if not errors:
    raise ValueError('no videos')
  errors, known = np.concatenate(errors), np.concatenate(known)
  count = known.sum(0)
  right = np.stack([(known & (errors <= a)).sum(0) for a in thresholds])
  table = np.full(right.shape, np.nan)
  np.divide(100.0 * right, count, out=table, where=count > 0)
  means = table[:, count > 0].mean(1) if np.any(count) else table[:, 0]
  return dict(zip(thresholds, map(float, means), strict=True)), table


def box_size(target: np.ndarray, found: np.ndarray) -> np.ndarray:
  """0.6 times the diagonal of the box around joints, frame by frame.

  Args:
    target: [T, J, 2].
    found: bool[T, J], joints that count.

  Returns:
    float64[T]; NaN for a frame without any.
  """
  target = np.asarray(target, np.float64)
  found = np.asarray(found, bool)[..., None]
  low = np.where(found, target, np.inf).min(1)
  high = np.where(found, target, -np.inf).max(1)
  with np.errstate(invalid='ignore'):
    size = 0.6 * np.linalg.norm(high - low, axis=-1)
  return np.where(found.any(axis=(1, 2)), size, np.nan)
