"""Errors of dense predictions over a data set: depth, flow, segmentation.

A task predicts 'depth', 'flow' or 'segmentation' at the size of the targets.
All means are over the known pixels of the whole data set.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vidscenic import task as task_lib
from vidscenic.evaluation import evaluator, masks
from vidscenic.ops import depth, losses, metrics


class _Dense(evaluator.Evaluator):
  """Hands the targets to the devices beside what the task reads."""

  prediction = ''
  targets: tuple[str, ...] = ()

  def place(self, batch):
    placed = super().place(batch)
    missing = [name for name in self.targets if name not in batch]
    if missing:
      raise ValueError(
        f'{self.name}.kwargs.data: {type(self).__name__} needs {missing}, the '
        f'data give {sorted(batch)}'
      )
    return placed | self.put({name: batch[name] for name in self.targets})

  def _predict(self, params, model_state, batch, context):
    outputs, _ = self.task.predict(params, model_state, batch, context)
    if self.prediction not in outputs:
      raise ValueError(
        f'{type(self.task).__name__} predicts no {self.prediction!r}; there '
        f'are {sorted(outputs)}'
      )
    return outputs[self.prediction].astype(jnp.float32)

  def _require_shape(self, got, want):
    if got.shape != want:
      raise ValueError(
        f'{type(self.task).__name__} predicts {self.prediction!r} of shape '
        f'{got.shape}, {self.name}.kwargs.data give targets for {want}'
      )


class Depth(_Dense):
  """Errors of metric depth (`ops.depth`); nothing is fitted to the targets.

  Examples: depth float[T, H, W, 1] and depth_mask bool of the same shape. The
  task predicts 'depth' [B, T, H, W, 1] in the same unit.

  Figures: `abs_rel`, `rmse`, `delta1`, `delta2`, `delta3`, and `pixels`, the
  number of known ones.
  """

  prediction = 'depth'
  targets = ('depth', 'depth_mask')

  def measures(self) -> str:
    """Names the errors, and that unknown pixels do not count."""
    return 'AbsRel, RMSE and delta < 1.25^n of metric depth over known pixels'

  def run(self, state: Any, step: int) -> evaluator.Figures:
    """Figures as in the class; no media.

    Raises:
      ValueError: no pixel of the data has a known depth.
    """
    totals = self.totals(self._errors, state, step)
    _require_pixels(self, totals['abs_rel'][1])
    figures = {k: float(s / n) for k, (s, n) in totals.items()}
    figures['rmse'] = math.sqrt(figures.pop('mse'))
    return figures | {'pixels': float(totals['abs_rel'][1])}, {}

  def _errors(self, params, model_state, batch, context):
    predicted = self._predict(params, model_state, batch, context)
    target = batch['depth']
    self._require_shape(predicted, target.shape)
    mask = batch['depth_mask'] * losses.align(batch['mask'], target)
    return depth.errors(predicted, target, mask=mask)


class Flow(_Dense):
  """Errors of optical flow from each frame to the next.

  Examples: forward_flow float[T, H, W, 2], (dx, dy) in pixels, and a mask bool
  [T, H, W]. The task predicts 'flow' [B, T, H, W, 2] or, as the last frame has
  no next one, [B, T - 1, H, W, 2].

  Figures: `epe`, the mean end-point error in pixels; `above_1px`, `above_3px`,
  `above_5px`, the share of pixels with a larger one; `fl_all` of KITTI 2015,
  the share above 3 pixels and 5 %; and `pixels`, the number of known ones.
  """

  prediction = 'flow'

  def __init__(
    self,
    task: task_lib.Task,
    mesh: Mesh,
    *,
    mask: str = 'flow_mask',
    **kwargs,
  ):
    """Takes the arguments of `Evaluator`, and more.

    Args:
      task: predicts 'flow'.
      mesh: all devices.
      mask: field that is True where the flow counts: 'flow_mask', without
        pixels that are hidden in the next frame, or 'flow_known', which the
        published figures of Sintel and KITTI are about.
      **kwargs: of `Evaluator`.
    """
    super().__init__(task, mesh, **kwargs)
    self.targets = ('forward_flow', mask)

  def measures(self) -> str:
    """Names the errors and the mask, on which published figures differ."""
    return (
      'end-point error, share above 1, 3 and 5 pixels and Fl-all of flow over '
      f'the pixels of {self.targets[1]}'
    )

  def run(self, state: Any, step: int) -> evaluator.Figures:
    """Figures as in the class; no media.

    Raises:
      ValueError: no pixel of the data has a known flow.
    """
    totals = self.totals(self._errors, state, step)
    _require_pixels(self, totals['epe'][1])
    figures = {k: float(s / n) for k, (s, n) in totals.items()}
    return figures | {'pixels': float(totals['epe'][1])}, {}

  def _errors(self, params, model_state, batch, context):
    predicted = self._predict(params, model_state, batch, context)
    target, known = (batch[name] for name in self.targets)
    if target.shape[1] > 1 and predicted.shape[1] == target.shape[1] - 1:
      target, known = target[:, :-1], known[:, :-1]
    self._require_shape(predicted, target.shape)
    mask = known * losses.align(batch['mask'], known)
    figures = {
      f'above_{pixels}px': metrics.flow_outliers(
        predicted, target, mask=mask, pixels=pixels, relative=0.0
      )
      for pixels in (1, 3, 5)
    }
    figures['epe'] = metrics.end_point_error(predicted, target, mask=mask)
    figures['fl_all'] = metrics.flow_outliers(predicted, target, mask=mask)
    return figures


class Segmentation(_Dense):
  """Overlap of predicted classes, from one confusion matrix over all pixels.

  Examples: segmentations uint8[T, H, W, 1], class numbers; those that the task
  has no class for are ignored. The task predicts 'segmentation', logits
  [B, T, H, W, C].

  Figures: `miou`, mean over the classes that occur; `accuracy`, share of
  pixels; `majority`, the accuracy of always guessing the most frequent class;
  and `pixels`.
  """

  prediction = 'segmentation'
  targets = ('segmentations',)

  def measures(self) -> str:
    """Names the figures, over all pixels of all clips together."""
    return 'mean IoU and accuracy of classes over all pixels'

  def run(self, state: Any, step: int) -> evaluator.Figures:
    """Figures as in the class; no media.

    Raises:
      ValueError: no pixel of the data has a class.
    """
    matrix = self.totals(self._confusion, state, step)['matrix']
    total = matrix.sum()
    _require_pixels(self, total)
    return {
      'miou': masks.mean_iou(matrix)[0],
      'accuracy': float(np.trace(matrix) / total),
      'majority': float(matrix.sum(1).max() / total),
      'pixels': float(total),
    }, {}

  def _confusion(self, params, model_state, batch, context):
    logits = self._predict(params, model_state, batch, context)
    target = batch['segmentations'][..., 0].astype(jnp.int32)
    num_classes = logits.shape[-1]
    self._require_shape(logits, (*target.shape, num_classes))
    known = (target >= 0) & (target < num_classes)
    known &= losses.align(batch['mask'], target)
    pairs = target * num_classes + jnp.argmax(logits, axis=-1)
    # Whole numbers: float32 would stop counting at 16 million pixels.
    counts = jnp.zeros(num_classes**2, jnp.int32)
    counts = counts.at[jnp.where(known, pairs, 0)].add(known.astype(jnp.int32))
    return {'matrix': counts.reshape(num_classes, num_classes)}


def _require_pixels(source, count):
  if not count:
    raise ValueError(f'{source.name}.kwargs.data: no pixel is known')
