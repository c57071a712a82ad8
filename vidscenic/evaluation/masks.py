"""Scores of masks: J and F of DAVIS, and mean IoU from a confusion matrix.

J and F are those of the DAVIS benchmarks (1704.00675): how much the regions
overlap, and how well their outlines match within 0.8 % of the frame's diagonal.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

# Largest distance of matching outlines, as a share of the frame's diagonal.
BOUND = 0.008


def davis(
  videos: Iterable[tuple[np.ndarray, np.ndarray]],
) -> tuple[dict[str, float], list[tuple[np.ndarray, np.ndarray]]]:
  """Mean J, mean F and their mean J&F over the objects of all videos.

  Args:
    videos: (prediction, target) of each, integers [T, H, W], objects are
      numbered from 1.

  Returns:
    ({'j', 'f', 'jf'}, fractions in [0, 1]; the scores of every video, as
    `video_scores` gives them).

  Raises:
    ValueError: no video holds an object.
  """
  tables = [video_scores(prediction, target) for prediction, target in videos]
  means = [
    np.concatenate([np.zeros(0), *(table[i].mean(1) for table in tables)])
    for i in range(2)
  ]
  if not means[0].size:
    raise ValueError('no objects in any of the videos')
  j, f = (float(x.mean()) for x in means)
  return {'j': j, 'f': f, 'jf': (j + f) / 2}, tables


def video_scores(
  prediction: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """J and F of every object in every scored frame.

  The first frame, whose mask is given, and the last one are not scored.

  Args:
    prediction: integers [T, H, W].
    target: the same shape. Objects are 1 ... its largest number.

  Returns:
    (J, F), float64[objects, T - 2].

  Raises:
    ValueError: the shapes differ or there are fewer than three frames.
  """
  if prediction.shape != target.shape or target.ndim != 3 or len(target) < 3:
    raise ValueError(
      f'prediction {prediction.shape} and target {target.shape}: want the same '
      'shape [T, H, W] with 3 frames or more'
    )
  # All frames tell how many objects there are, also those not scored.
  objects = range(1, int(target.max()) + 1)
  shape = (len(objects), len(target) - 2)
  j, f = np.zeros(shape), np.zeros(shape)
  for row, number in enumerate(objects):
    for t in range(shape[1]):
      pair = prediction[t + 1] == number, target[t + 1] == number
      j[row, t] = region_similarity(*pair)
      f[row, t] = boundary_f(*pair)
  return j, f


def region_similarity(prediction: np.ndarray, target: np.ndarray) -> float:
  """J: intersection over union of bool[H, W]; 1 if both are empty."""
  union = np.sum(prediction | target)
  return float(np.sum(prediction & target) / union) if union else 1.0


def boundary_f(
  prediction: np.ndarray, target: np.ndarray, *, bound: float = BOUND
) -> float:
  """F: harmonic mean of precision and recall of the outlines.

  A pixel of one outline matches if one of the other lies within the bound,
  rounded up to pixels.

  Args:
    prediction: bool[H, W].
    target: bool[H, W].
    bound: share of the diagonal.

  Returns:
    In [0, 1]; 1 if both have no outline, 0 if one of them has none.
  """
  outlines = boundary(prediction), boundary(target)
  numbers = [int(outline.sum()) for outline in outlines]
  if not all(numbers):
    return float(not any(numbers))
  reach = radius(target.shape, bound=bound)
  precision = _near(*outlines, reach) / numbers[0]
  recall = _near(*outlines[::-1], reach) / numbers[1]
  total = precision + recall
  return float(2 * precision * recall / total) if total else 0.0


def radius(size: Sequence[int], *, bound: float = BOUND) -> int:
  """Pixels within which outlines of a frame of (H, W) match."""
  return math.ceil(bound * math.hypot(*size))


def boundary(mask: np.ndarray) -> np.ndarray:
  """Pixels whose right, lower or lower right neighbour is on the other side.

  Args:
    mask: bool[H, W].

  Returns:
    bool[H, W], an outline one pixel wide.
  """
  # Behind the border stands the border's own value.
  padded = np.pad(mask, ((0, 1), (0, 1)), mode='edge')
  here = padded[:-1, :-1]
  outline = here != padded[:-1, 1:]
  outline |= here != padded[1:, :-1]
  outline |= here != padded[1:, 1:]
  return outline


def _near(points, others, reach):
  """How many points have one of the others within a disc around them.

  Counts along rows, made once, answer for every row of a disc: far cheaper
  than to draw a disc around every pixel.
  """
  height, width = others.shape
  counts = np.zeros((height, width + 1), np.int32)
  np.cumsum(others, axis=1, out=counts[:, 1:])
  y, x = np.nonzero(points)
  found = np.zeros(len(y), bool)
  for step in range(-reach, reach + 1):
    half = math.isqrt(reach**2 - step**2)
    row = y + step
    inside = (row >= 0) & (row < height)
    row = np.clip(row, 0, height - 1)
    last = counts[row, np.minimum(x + half + 1, width)]
    found |= inside & (last > counts[row, np.maximum(x - half, 0)])
  return int(found.sum())


def confusion(
  prediction: np.ndarray, target: np.ndarray, num_classes: int
) -> np.ndarray:
  """Counts of pixels by class: add them up over frames and videos.

  Args:
    prediction: integers, any shape.
    target: the same shape; pixels outside [0, num_classes) are ignored.
    num_classes: C.

  Returns:
    int64[C, C], [target, prediction].

  Raises:
    ValueError: the shapes differ, or a prediction that is no class where the
      target is one.
  """
  if prediction.shape != target.shape:
    raise ValueError(
      f'prediction {prediction.shape} and target {target.shape} differ in shape'
    )
  known = (target >= 0) & (target < num_classes)
  prediction = prediction[known].astype(np.int64)
  target = target[known].astype(np.int64)
  if prediction.size and not (
    prediction.min() >= 0 and prediction.max() < num_classes
  ):
    raise ValueError(
      f'predictions are outside [0, {num_classes}): {prediction.min()} to '
      f'{prediction.max()}'
    )
  pairs = np.bincount(
    target * num_classes + prediction, minlength=num_classes**2
  )
  return pairs.reshape(num_classes, num_classes)


def mean_iou(matrix: np.ndarray) -> tuple[float, np.ndarray]:
  """Mean intersection over union of classes, as in VIP and VOC.

  Args:
    matrix: [C, C] of `confusion`, of a whole data set.

  Returns:
    (mean over the classes that occur in targets or predictions, float64[C] with
    NaN for the others). NaN if no class occurs.
  """
  matrix = np.asarray(matrix, np.float64)
  both = np.diag(matrix)
  union = matrix.sum(0) + matrix.sum(1) - both
  ious = np.full(len(both), np.nan)
  np.divide(both, union, out=ious, where=union > 0)
  known = ious[union > 0]
  return float(known.mean()) if known.size else math.nan, ious
