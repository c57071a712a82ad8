"""Classifiers on frozen features: weighted nearest neighbours and linear.

Both are deterministic and have next to nothing to tune, so that they compare
features and not recipes.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Queries that are compared with the whole bank at once.
_CHUNK = 256
# Every fifth training example chooses the strength of the penalty.
_HELD_OUT = 5
_LBFGS = optax.scale_by_lbfgs()
_first_memory = jax.jit(_LBFGS.init)


def knn_scores(
  bank: np.ndarray,
  labels: np.ndarray,
  queries: np.ndarray,
  *,
  k: Sequence[int],
  num_classes: int,
  temperature: float = 0.07,
) -> np.ndarray:
  """Votes of the nearest neighbours, weighted as in DINO (arXiv 2104.14294).

  A neighbour with cosine similarity s votes exp(s / temperature) for its
  class (Wu et al., 1805.01978).

  Args:
    bank: float[N, D], features with known labels.
    labels: int[N] in [0, num_classes).
    queries: float[Q, D].
    k: numbers of neighbours, each at most N.
    num_classes: C.
    temperature: of the weights.

  Returns:
    float32[len(k), Q, C].

  Raises:
    ValueError: a k outside [1, N].
  """
  if not k or min(k) < 1 or max(k) > len(bank):
    raise ValueError(f'k={tuple(k)}: want numbers in [1, {len(bank)}]')
  bank, labels = _unit(jnp.asarray(bank)), jnp.asarray(labels)
  scores = []
  for start in range(0, len(queries), _CHUNK):
    chunk = queries[start : start + _CHUNK]
    # All chunks of one size, so that there is one program.
    padded = np.zeros((_CHUNK, *chunk.shape[1:]), np.float32)
    padded[: len(chunk)] = chunk
    votes = _votes(
      bank,
      labels,
      padded,
      k=tuple(k),
      num_classes=num_classes,
      temperature=temperature,
    )
    scores.append(np.asarray(votes)[:, : len(chunk)])
  return np.concatenate(scores, axis=1)


@functools.partial(jax.jit, static_argnames=('k', 'num_classes', 'temperature'))
def _votes(bank, labels, queries, *, k, num_classes, temperature):
  similar = jnp.matmul(_unit(queries), bank.T, precision='highest')
  best, ids = jax.lax.top_k(similar, max(k))
  weights = jnp.exp(best / temperature)
  nearest = jax.nn.one_hot(labels[ids], num_classes) * weights[..., None]
  return jnp.stack([nearest[:, :n].sum(1) for n in k])


def _unit(features):
  features = features.astype(jnp.float32)
  norm = jnp.linalg.norm(features, axis=-1, keepdims=True)
  return features / jnp.maximum(norm, 1e-12)


def linear_scores(
  features: np.ndarray,
  labels: np.ndarray,
  queries: np.ndarray,
  *,
  num_classes: int,
  l2: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1),
  steps: int = 200,
) -> tuple[np.ndarray, float]:
  """Logits of a linear classifier fitted to frozen features.

  Multinomial logistic regression, fitted by L-BFGS over the whole training set
  as in CLIP (arXiv 2103.00020): convex, so there is no learning rate, no
  schedule and no seed. Features are standardised with the training set's mean
  and deviation (the batch norm of MAE's probe, 2111.06377). The penalty is
  chosen on every fifth training example; then all are fitted.

  Args:
    features: float[N, D], for training.
    labels: int[N] in [0, num_classes).
    queries: float[Q, D].
    num_classes: C.
    l2: factors of |kernel|**2 / 2 beside the mean cross-entropy to choose from.
    steps: of L-BFGS, at most; fewer if the gradient vanishes.

  Returns:
    (float32[Q, C], the chosen l2).

  Raises:
    ValueError: no l2 to choose from.
  """
  if not l2:
    raise ValueError('l2 is empty: give at least one factor')
  # In float64: numpy adds up along the first axis number by number.
  mean = features.mean(0, dtype=np.float64).astype(np.float32)
  std = features.std(0, dtype=np.float64).astype(np.float32)
  # A dimension that does not vary stays near 0 instead of amplifying noise.
  scale = 1 / np.maximum(std, 1e-6 * max(float(std.max()), 1e-30))
  features = jnp.asarray((features - mean) * scale, jnp.float32)
  labels = jnp.asarray(labels, jnp.int32)
  fit = functools.partial(
    _fit, features, labels, num_classes=num_classes, steps=steps
  )
  held_out = np.arange(len(features)) % _HELD_OUT == _HELD_OUT - 1
  chosen = l2[0]
  if len(l2) > 1 and held_out.any():
    costs = []
    for factor in l2:
      weights = fit((~held_out).astype(np.float32), factor)
      costs.append(float(_cost(weights, features, labels, held_out)))
    chosen = l2[int(np.argmin(costs))]
  weights = fit(np.ones(len(features), np.float32), chosen)
  queries = jnp.asarray((queries - mean) * scale, jnp.float32)
  return np.asarray(_logits(weights, queries)), chosen


def _fit(features, labels, rows, factor, *, num_classes, steps):
  """Minimises the mean over the rows with weight 1, plus the penalty."""
  problem = features, labels, jnp.asarray(rows), factor
  start = {
    'kernel': np.zeros((features.shape[1], num_classes), np.float32),
    'bias': np.zeros(num_classes, np.float32),
  }
  memory = _first_memory(start)
  weights, value, grad = _move(start, start, 0.0, *problem)
  # The loops run here and not in the program: compiling a line search takes far
  # longer than the fit. The objective is convex, so halving the step until it
  # descends is all the search that L-BFGS needs.
  for _ in range(steps):
    direction, memory, slope, size = _direction(grad, memory, weights)
    if size < 1e-5:
      break
    scale = 1.0
    while scale > 1e-4:
      trial = _move(weights, direction, scale, *problem)
      if trial[1] <= value + 1e-4 * scale * slope:
        break
      scale /= 2
    else:
      break  # as low as float32 goes
    weights, value, grad = trial
  return weights


@jax.jit
def _direction(grad, memory, weights):
  """Descent direction, new memory of L-BFGS, slope and norm of the gradient."""
  updates, memory = _LBFGS.update(grad, memory, weights)
  direction = optax.tree.scale(-1.0, updates)
  slope = optax.tree.vdot(direction, grad)
  return direction, memory, slope, optax.tree.norm(grad)


@jax.jit
def _move(weights, direction, scale, features, labels, rows, factor):
  """(weights + scale * direction, objective there, gradient there)."""

  def objective(weights):
    penalty = 0.5 * factor * jnp.sum(jnp.square(weights['kernel']))
    return _cost(weights, features, labels, rows) + penalty

  weights = optax.tree.add_scale(weights, scale, direction)
  return weights, *jax.value_and_grad(objective)(weights)


@jax.jit
def _cost(weights, features, labels, rows):
  """Mean cross-entropy over the rows with weight 1."""
  each = optax.softmax_cross_entropy_with_integer_labels(
    _logits(weights, features), labels
  )
  rows = jnp.asarray(rows, jnp.float32)
  return jnp.sum(each * rows) / jnp.maximum(jnp.sum(rows), 1.0)


@jax.jit
def _logits(weights, features):
  product = jnp.matmul(features, weights['kernel'], precision='highest')
  return product + weights['bias']
