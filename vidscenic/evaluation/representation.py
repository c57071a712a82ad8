"""Evaluators of frozen features: are they alive, and what do they know.

They take `outputs['features']` of `Task.predict`, float[B, ..., D]: tokens, a
map or one vector per clip. That is all a task needs to offer; what else its
`predict` computes is not run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vidscenic import config as vc
from vidscenic import task as task_lib
from vidscenic.evaluation import evaluator, feature_health, probes
from vidscenic.ops import metrics


class FeatureHealth(evaluator.Evaluator):
  """Tells whether the features have collapsed; needs no labels.

  Figures: those of `feature_health.health`, and `tokens`, the number that they
  were taken from.
  """

  def __init__(
    self,
    task: task_lib.Task,
    mesh: Mesh,
    *,
    limit: int = 64,
    tokens_per_clip: int = 64,
    **kwargs,
  ):
    """Takes the arguments of `Evaluator`, and more.

    Args:
      task: predicts 'features'.
      mesh: all devices.
      limit: number of clips; 0: all. Their features are held in memory.
      tokens_per_clip: evenly spaced, the same in every clip; all if there are
        fewer. The effective rank cannot exceed the number of tokens.
      **kwargs: of `Evaluator`.

    Raises:
      ValueError: tokens_per_clip below 1.
    """
    super().__init__(task, mesh, limit=limit, **kwargs)
    if tokens_per_clip < 1:
      raise ValueError(f'tokens_per_clip={tokens_per_clip}: want 1 or more')
    self._tokens_per_clip = tokens_per_clip

  def measures(self) -> str:
    """Names the figures and the number of tokens, which bounds the rank."""
    return (
      'variance, effective rank and cosine of features, at most '
      f'{self._tokens_per_clip} tokens per clip'
    )

  def run(self, state: Any, step: int) -> evaluator.Figures:
    """Figures as in the class; no media.

    Raises:
      ValueError: the task gives no features, or there are no examples.
    """
    tokens, means = _collect(self, self.program(self._some, step), state)
    figures = feature_health.health(tokens, means)
    figures['tokens'] = float(np.prod(tokens.shape[:2]))
    return figures, {}

  def _some(self, params, model_state, batch, context):
    tokens = _tokens(self.task, params, model_state, batch, context)
    count = tokens.shape[1]
    number = min(self._tokens_per_clip, count)
    # The middles of equal parts, so that no row or frame is preferred.
    places = ((np.arange(number) + 0.5) * count / number).astype(int)
    return batch['mask'], (tokens[:, places], tokens.mean(1))


class Probe(evaluator.Evaluator):
  """Accuracy of nearest neighbours and of a linear classifier on features.

  Features are averaged over all but their first and last axis. Both classifiers
  see the features of `train_data` with their labels, and are scored on `data`.

  Figures, fractions in [0, 1]: `knn10`, ... top-1 of the k nearest neighbours;
  `linear`, `linear_top5`, of the linear probe, and `linear_l2`, its penalty;
  `majority`, the accuracy of always guessing the most frequent label of `data`;
  `examples` and `train_examples`, the numbers of examples.
  """

  def __init__(
    self,
    task: task_lib.Task,
    mesh: Mesh,
    *,
    data: Mapping[str, Any],
    train_data: Mapping[str, Any],
    train_limit: int = 0,
    k: Sequence[int] = (10, 20),
    temperature: float = 0.07,
    linear: bool = True,
    l2: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1),
    label: str = 'label',
    batch_size: int = 8,
    limit: int = 0,
  ):
    """Takes the arguments of `Evaluator`, and more.

    Args:
      task: predicts 'features'.
      mesh: all devices.
      data: a data spec with a label, int32[], that is scored.
      train_data: another one, that the classifiers learn from; give it the
        transform of an evaluation. Read in order, without augmentation.
      train_limit: number of its examples; 0: all.
      k: numbers of neighbours; (): no nearest neighbours.
      temperature: of their votes.
      linear: whether to fit a linear classifier.
      l2: penalties that it chooses from.
      label: the field of both data that holds it.
      batch_size: rows of a global batch.
      limit: number of scored examples; 0: all.

    Raises:
      ValueError: an argument that cannot be used.
    """
    super().__init__(task, mesh, data=data, batch_size=batch_size, limit=limit)
    if any(n < 1 for n in k) or not temperature > 0:
      raise ValueError(
        f'k={tuple(k)}, temperature={temperature}: want numbers of neighbours '
        'and a temperature above 0'
      )
    if not k and not linear:
      raise ValueError('k=() and linear=False: nothing to measure')
    if linear and not l2:
      raise ValueError('l2=(): want at least one penalty')
    self._bank = evaluator.Evaluator(
      task,
      mesh,
      data=vc.data_spec(**train_data),
      batch_size=batch_size,
      limit=train_limit,
    )
    self._k = tuple(sorted(set(k)))
    self._temperature = temperature
    self._linear = linear
    self._l2 = tuple(l2)
    self._label = label

  def bind(self, name: str, schedules: Mapping[str, Any]) -> None:
    """As in `Evaluator`; checks both data.

    Raises:
      ValueError, OSError: data that cannot be used.
    """
    super().bind(name, schedules)
    self._bank.bind(f'{name} (train_data)', schedules)

  def measures(self) -> str:
    """Names the classifiers and the data that they learn from."""
    parts = []
    if self._k:
      numbers = ', '.join(map(str, self._k))
      parts.append(f'{numbers} nearest neighbours (cosine)')
    if self._linear:
      parts.append('linear probe (L-BFGS)')
    # The bank's protocol names its data.
    data = self._bank.protocol().partition('; ')[2]
    return f'top-1 of frozen features, {" and ".join(parts)}, given {data}'

  def run(self, state: Any, step: int) -> evaluator.Figures:
    """Figures as in the class; no media.

    Raises:
      ValueError: no features, no examples, no labels or one below 0.
    """
    program = self.program(self._labelled, step)
    label = self._label
    known, known_labels = _collect(self._bank, program, state, label=label)
    features, labels = _collect(self, program, state, label=label)
    for name, values in (('train_data', known_labels), ('data', labels)):
      if values.min() < 0:
        raise ValueError(
          f'{self.name}.kwargs.{name}: label {values.min()} is below 0'
        )
    num_classes = int(max(known_labels.max(), labels.max())) + 1
    figures = {}
    k = [n for n in self._k if n <= len(known)]
    if k:
      scores = probes.knn_scores(
        known,
        known_labels,
        features,
        k=k,
        num_classes=num_classes,
        temperature=self._temperature,
      )
      for n, each in zip(k, scores, strict=True):
        figures[f'knn{n}'] = _accuracy(each, labels, 1)
    if self._linear:
      scores, l2 = probes.linear_scores(
        known, known_labels, features, num_classes=num_classes, l2=self._l2
      )
      figures['linear'] = _accuracy(scores, labels, 1)
      if num_classes > 5:
        figures['linear_top5'] = _accuracy(scores, labels, 5)
      figures['linear_l2'] = float(l2)
    figures['majority'] = float(np.bincount(labels).max() / len(labels))
    figures['examples'] = float(len(labels))
    figures['train_examples'] = float(len(known_labels))
    return figures, {}

  def _labelled(self, params, model_state, batch, context):
    tokens = _tokens(self.task, params, model_state, batch, context)
    return batch['mask'], (tokens.mean(1), batch[self._label])


def _tokens(task, params, model_state, batch, context):
  """float32[B, N, D] of a batch."""
  outputs, _ = task.predict(params, model_state, batch, context)
  if 'features' not in outputs or outputs['features'].ndim < 2:
    found = {name: value.shape for name, value in outputs.items()}
    raise ValueError(
      f"{type(task).__name__}.predict must give 'features' [B, ..., D]; it "
      f'gives {found}'
    )
  features = outputs['features'].astype(jnp.float32)
  return features.reshape(len(features), -1, features.shape[-1])


def _collect(source, program, state, *, label=''):
  """Results of a program on all examples, without the rows of padding."""
  weights = state._replace(opt_state=())
  parts = []
  for batch, number in source.batches():
    placed = source.place(batch)
    if label and label not in placed:
      if label not in batch:
        raise ValueError(
          f'{source.name}: Probe needs {label!r}, the data give {sorted(batch)}'
        )
      placed |= source.put({label: batch[label]})
    mask, values = jax.device_get(program(weights, placed, number))
    parts.append([value[mask] for value in values])
  if not parts:
    raise ValueError(f'{source.name}: no examples')
  return [np.concatenate(values) for values in zip(*parts, strict=True)]


def _accuracy(scores, labels, k):
  total, count = metrics.topk_accuracy(scores, labels, k=k)
  return float(total) / float(count)
