"""Average precision of multi-label classification (AudioSet's mAP).

Needs the scores of the whole data set at once: a ranking does not add up over
batches.
"""

import numpy as np


def mean_average_precision(
  scores: np.ndarray, labels: np.ndarray
) -> tuple[float, np.ndarray]:
  """Mean of the classes' average precisions.

  Args:
    scores: float[N, C]; only their order within a class counts.
    labels: bool or 0 and 1, [N, C].

  Returns:
    (mean over the classes that have a positive example, float64[C] with NaN for
    the others). NaN if no class has one.

  Raises:
    ValueError: the shapes differ, labels besides 0 and 1, or a NaN score.
  """
  scores, labels = np.asarray(scores), np.asarray(labels)
  if scores.shape != labels.shape or scores.ndim != 2:
    raise ValueError(
      f'scores {scores.shape} and labels {labels.shape}: want the same shape '
      '[N, C]'
    )
  each = np.array(
    [average_precision(*pair) for pair in zip(scores.T, labels.T, strict=True)]
  )
  known = each[~np.isnan(each)]
  return float(known.mean()) if known.size else float('nan'), each


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
  """Area under the precision-recall steps of one class.

  Sum over the distinct scores, from the largest down, of the gain in recall
  times the precision there; examples with equal scores come in at once, so
  their order does not matter (as in scikit-learn; not VOC's interpolation).

  Args:
    scores: float[N].
    labels: bool or 0 and 1, [N].

  Returns:
    In [0, 1]; NaN without a positive example.

  Raises:
    ValueError: labels besides 0 and 1, or a NaN score.
  """
  if not np.all((labels == 0) | (labels == 1)):
    raise ValueError(f'labels must be 0 or 1, got {np.unique(labels)[:5]}')
  if np.any(np.isnan(scores)):
    raise ValueError(f'{np.isnan(scores).sum()} scores are NaN')
  total = np.sum(labels, dtype=np.int64)
  if not total:
    return float('nan')
  order = np.argsort(-scores, kind='stable')
  ranked = scores[order]
  # The last example of every run of equal scores.
  ends = np.append(np.nonzero(np.diff(ranked))[0], len(ranked) - 1)
  hits = np.cumsum(labels[order], dtype=np.float64)[ends]
  gained = np.diff(hits, prepend=0.0)
  return float(np.sum(gained * hits / (ends + 1)) / total)
