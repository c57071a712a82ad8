"""A control: what the mean colour of an image tells about its class."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vidscenic.data import pipeline
from vidscenic.evaluation import evaluator


class MeanColour(evaluator.Evaluator):
  """Accuracy of a linear model on the mean colour of each image.

  The model, a multinomial logistic regression on three numbers, is fitted to
  training data once and never changes, so its figures are constant.

  Figures: `top1`, and `chance`, the share of the most frequent class.
  """

  def __init__(
    self,
    task: Any,
    mesh: Any,
    *,
    fit_data: Mapping[str, Any],
    fit_examples: int = 2048,
    **kwargs,
  ):
    """Takes the arguments of `Evaluator`, and more.

    Args:
      task: a classification task.
      mesh: all devices.
      fit_data: what the linear model is fitted to.
      fit_examples: how many of it.
      **kwargs: of `Evaluator`.
    """
    super().__init__(task, mesh, **kwargs)
    self._fit = fit_data, fit_examples
    self._figures = None

  def bind(self, name, schedules) -> None:
    super().bind(name, schedules)
    pipeline.check_spec(self._fit[0], f'{name}.kwargs.fit_data')

  def measures(self) -> str:
    return 'top-1 accuracy of a linear model on the mean colour'

  def run(self, state: Any, step: int) -> evaluator.Figures:
    if self._figures is None:
      weights = fit(*self._read(*self._fit, 'fit_data'), self.task.num_classes)
      features, labels = self._read(self.data, self.limit, 'data')
      guesses = np.argmax(features @ weights, axis=1)
      self._figures = {
        'top1': float(np.mean(guesses == labels)),
        'chance': float(np.bincount(labels).max() / len(labels)),
      }
    return self._figures, {}

  def _read(self, data, limit, name):
    """(float64[N, 4] mean colours and a one, int[N] labels)."""
    features, labels = [], []
    batches = pipeline.make_eval_iter(
      data,
      batch_size=self.batch_size,
      limit=limit,
      name=f'{self.name}.kwargs.{name}',
    )
    for batch in batches:
      rows = batch['mask']
      colour = batch['video'][rows].mean(axis=(1, 2, 3)) / 255
      features.append(np.pad(colour, ((0, 0), (0, 1)), constant_values=1))
      labels.append(batch['label'][rows])
    batches.close()
    return np.concatenate(features), np.concatenate(labels)


def fit(
  features: np.ndarray, labels: np.ndarray, num_classes: int
) -> np.ndarray:
  """Multinomial logistic regression by gradient descent.

  Args:
    features: float[N, F], one of them constant.
    labels: int[N].
    num_classes: C.

  Returns:
    float64[F, C] weights.
  """
  scale = np.maximum(features.std(axis=0), 1e-3)
  scale[features.std(axis=0) == 0] = 1
  x, target = features / scale, np.eye(num_classes)[labels]
  weights = np.zeros((x.shape[1], num_classes))
  # The step is safe: the curvature is at most half of the greatest eigenvalue.
  step = 2 / np.linalg.eigvalsh(x.T @ x / len(x))[-1]
  for _ in range(2000):
    logits = x @ weights
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    weights -= step * (x.T @ (p - target)) / len(x)
  return weights / scale[:, None]
