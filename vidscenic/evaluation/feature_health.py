"""Figures that tell whether features are alive or have collapsed.

A self-supervised model can lower its loss by making its features constant, or
by letting them depend on the position in the clip alone. These figures fall
long before a benchmark tells: dimensions that do not vary, the effective rank
(Roy and Vetterli, 2007; RankMe, arXiv 2210.02885), the cosine between different
clips, and the share of the variance that is due to the input.
"""

import math

import numpy as np

# A dimension is dead if it varies less than this, relative to the RMS of all
# features: far above rounding, far below what any downstream head could use.
DEAD = 1e-3


def health(tokens: np.ndarray, means: np.ndarray) -> dict[str, float]:
  """Health figures of the features of some clips.

    std_median, std_min, std_max: standard deviation of a dimension over all
      tokens of all clips; median, least and largest over dimensions.
    dead: share of dimensions that do not vary (see `DEAD`).
    effective_rank: exp of the entropy of the singular values of the centred
      tokens, divided by their sum; 1 to D, 0 for constant features. Not more
      than E K - 1, so give enough tokens.
    effective_rank_share: the same divided by D. Below 0.05 is a warning.
    mean_cosine: mean cosine between clip means of different clips. Above 0.99
      all clips look the same.
    input_variance_share: variance that is left without the mean of each
      position over the clips, divided by the variance; below 0.02 features
      tell where they are and not what is there. Like any such share it
      is biased by few clips: with E clips of pure noise it is 1 - 1 / E.

  Args:
    tokens: float[E, K, D]: K tokens of each of E clips, at the same positions
      in all clips.
    means: float[E, D]: mean over *all* tokens of a clip.

  Returns:
    {name: figure}; all NaN if any feature is not finite, mean_cosine also for
    fewer than two clips.

  Raises:
    ValueError: shapes that do not fit, or no tokens.
  """
  if (
    tokens.ndim != 3
    or means.shape != (len(tokens), tokens.shape[2])
    or not tokens.size
  ):
    raise ValueError(
      f'tokens {tokens.shape} and means {means.shape}: want [E, K, D] and '
      '[E, D], not empty'
    )
  tokens = np.asarray(tokens, np.float64)
  width = tokens.shape[2]
  finite = np.all(np.isfinite(tokens)) and np.all(np.isfinite(means))
  if not finite:
    tokens, means = np.zeros_like(tokens), np.zeros_like(means)
  centred = tokens - tokens.mean((0, 1))
  std = np.sqrt(np.mean(centred**2, axis=(0, 1)))
  # Not below: constant features have no variance at all, hence all are dead.
  alive = std > DEAD * math.sqrt(np.mean(tokens**2))
  rank = effective_rank(centred.reshape(-1, width))
  total = np.sum(centred**2)
  of_input = np.sum((tokens - tokens.mean(0)) ** 2)
  figures = {
    'std_median': np.median(std),
    'std_min': std.min(),
    'std_max': std.max(),
    'dead': 1 - np.mean(alive),
    'effective_rank': rank,
    'effective_rank_share': rank / width,
    'mean_cosine': mean_cosine(means),
    'input_variance_share': of_input / total if total > 0 else 0.0,
  }
  return {k: float(v) if finite else math.nan for k, v in figures.items()}


def effective_rank(matrix: np.ndarray) -> float:
  """exp(entropy) of the singular values, normalised to sum 1.

  Args:
    matrix: [N, D], centred if the mean is not to count.

  Returns:
    Between 1 and min(N, D); 0 for a matrix of zeros.
  """
  values = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
  total = values.sum()
  if not total > 0:
    return 0.0
  share = values / total
  share = share[share > 0]
  return float(np.exp(-np.sum(share * np.log(share))))


def mean_cosine(features: np.ndarray) -> float:
  """Mean cosine over all pairs of different rows of [E, D]; NaN for E < 2."""
  features = np.asarray(features, np.float64)
  count = len(features)
  if count < 2:
    return math.nan
  norm = np.linalg.norm(features, axis=1, keepdims=True)
  unit = features / np.maximum(norm, np.finfo(np.float64).tiny)
  pairs = np.sum(unit.sum(0) ** 2) - np.sum(unit**2)
  return float(pairs / (count * (count - 1)))
