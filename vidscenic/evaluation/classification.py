"""Top-k accuracy of clips, averaged over the views of an example.

The multi-view protocol of Kinetics and its like (SlowFast, arXiv 1812.03982,
section 4): every example gives several clips over time, several crops of each
in space; a model classifies every one of them, the scores are averaged and the
average is ranked. `data.clips.ClipTransform(train=False, num_views=...,
crop='three')` makes such examples.

Beside the accuracy stand two controls that look at no pixel: always guessing
the most frequent classes of this evaluation set, and guessing at random.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vidscenic import config as vc
from vidscenic import task as task_lib
from vidscenic.evaluation import evaluator
from vidscenic.ops import metrics

AVERAGES = ('probabilities', 'logits')


class TopK(evaluator.Evaluator):
  """Accuracy of `Task.predict`, with any number of views.

  Examples: label int32[], and video uint8[V, T, H, W, 3] with V views,
  [T, H, W, 3], or an image [H, W, 3], which becomes a clip of one frame. Other
  fields that `Task.batch_spec` names are handed on, the same for every view.

  Figures, fractions in [0, 1]: `top1`, `top5`, ...; `mean_class_top1`, the
  mean over the classes that occur of the accuracy within each; `majority`
  (`majority_top5`, ...), the accuracy of always guessing the most frequent
  classes of this set; `chance` (`chance_top5`, ...); and `examples`, the number
  of examples. A k that is not below the number of classes is left out.
  """

  def __init__(
    self,
    task: task_lib.Task,
    mesh: Mesh,
    *,
    k: Sequence[int] = (1, 5),
    average: str = 'probabilities',
    views: Sequence[int] = (),
    views_per_pass: int = 1,
    per_class: bool = False,
    **kwargs,
  ):
    """Takes the arguments of `Evaluator`, and more.

    Args:
      task: predicts 'logits' and 'probabilities', float[B, C].
      mesh: all devices.
      k: numbers of guesses.
      average: what is averaged over the views, 'probabilities' or 'logits'.
      views: (over time, in space) that the data give; (): what the arguments
        num_views and crop of the data's transform say. Checked against the
        data, so that the printed protocol holds.
      views_per_pass: views of an example that go through the model at once,
        lowered to a divisor of their number. Costs memory, changes no figure.
      per_class: also report mean_class_top1.
      **kwargs: of `Evaluator`.

    Raises:
      ValueError: an argument that cannot be used.
    """
    super().__init__(task, mesh, **kwargs)
    if not k or any(n < 1 for n in k):
      raise ValueError(f'k={k}: want numbers of guesses, 1 or more')
    if average not in AVERAGES:
      raise ValueError(f'average={average!r}: want one of {AVERAGES}')
    if views_per_pass < 1:
      raise ValueError(f'views_per_pass={views_per_pass}: want 1 or more')
    views = tuple(views) or _views(self.data['transform_kwargs'])
    if len(views) != 2 or any(n < 1 for n in views):
      raise ValueError(f'views={views}: want (over time, in space)')
    self._k = tuple(sorted(set(k)))
    self._average = average
    self._views = views
    self._views_per_pass = views_per_pass
    self._per_class = per_class

  def measures(self) -> str:
    """Which accuracies, averaged over which views."""
    names = [f'top-{k}' for k in self._k]
    names += ['mean class'] if self._per_class else []
    time, space = self._views
    views = f'{time} x {space} views (time x crops)'
    if time * space == 1:
      views = 'one view'
    return (
      f'{", ".join(names)} accuracy, {self._average} averaged over {views} '
      'per example'
    )

  def protocol(self) -> str:
    """One line: figures, averaging, views, data and number of examples."""
    source = vc.build(
      self.data['source'],
      field='data.source',
      **self.data['source_kwargs'],
    )
    count = min(self.limit or len(source), len(source))
    return f'{super().protocol()}: {count} in all'

  def place(self, batch):
    """As in `Evaluator`; clips may have views, shapes that training lacks.

    Raises:
      ValueError: no video or no label.
    """
    wanted = {'video', 'label', 'mask', *self.task.batch_spec()}
    for name in ('video', 'label'):
      if name not in batch:
        raise ValueError(
          f'{self.name}.kwargs.data: TopK needs {name!r}, the data give '
          f'{sorted(batch)}'
        )
    return self.put({k: v for k, v in batch.items() if k in wanted})

  def run(self, state: Any, step: int) -> evaluator.Figures:
    """Figures as in the class; no media.

    Raises:
      ValueError: labels that the model has no class for, or no example at all.
    """
    totals = self.totals(self._count, state, step)
    count, per_class = totals['count'], totals['class_count']
    num_classes = len(per_class)
    if totals['outside']:
      raise ValueError(
        f'{self.name}.kwargs.data: {int(totals["outside"])} of {int(count)} '
        f'labels are outside [0, {num_classes}), the classes of the model'
      )
    figures = {f'top{k}': totals[f'top{k}'] / count for k in self._ks(totals)}
    if self._per_class:
      seen = per_class > 0
      within = totals['class_hits'][seen] / per_class[seen]
      figures['mean_class_top1'] = within.mean()
    frequent = sorted(per_class, reverse=True)
    for k in self._ks(totals):
      suffix = '' if k == 1 else f'_top{k}'
      figures[f'majority{suffix}'] = sum(frequent[:k]) / count
      figures[f'chance{suffix}'] = k / num_classes
    figures['examples'] = count
    return {name: float(value) for name, value in figures.items()}, {}

  def _ks(self, totals):
    return [k for k in self._k if f'top{k}' in totals]

  def _count(self, params, model_state, batch, context):
    """Sums of a batch; the rows that are padding add nothing."""
    scores = self._scores(params, model_state, batch, context)
    labels, mask = batch['label'], batch['mask']
    num_classes = scores.shape[-1]
    usable = [k for k in self._k if k < num_classes]
    if not usable:
      raise ValueError(f'k={self._k} but the model has {num_classes} classes')

    def hits(k):
      """float32[B]: 1 where the label is among the k best."""
      one = lambda s, n, m: metrics.topk_accuracy(s, n, k=k, mask=m)[0]
      return jax.vmap(one)(scores, labels, mask)

    rows = mask.astype(jnp.float32)
    member = jax.nn.one_hot(labels, num_classes) * rows[:, None]
    return {
      'count': rows.sum(),
      'outside': rows.sum() - member.sum(),
      'class_count': member.sum(0),
      'class_hits': (member * hits(1)[:, None]).sum(0),
      **{f'top{k}': hits(k).sum() for k in usable},
    }

  def _scores(self, params, model_state, batch, context):
    """Mean over the views: float32[B, C]."""
    video = batch['video']
    if video.ndim == 4:  # images
      video = video[:, None]
    if video.ndim == 5:
      video = video[:, None]
    if video.ndim != 6:
      raise ValueError(
        'video must be [B, V, T, H, W, 3], [B, T, H, W, 3] or [B, H, W, 3], '
        f'got {video.shape}'
      )
    num_rows, num_views = video.shape[:2]
    if num_views != math.prod(self._views):
      raise ValueError(
        f'{self.name}.kwargs.views={self._views} but the data give '
        f'{num_views} views per example'
      )
    size = max(
      n
      for n in range(1, min(self._views_per_pass, num_views) + 1)
      if num_views % n == 0
    )
    others = {
      name: jnp.repeat(value, size, axis=0)
      for name, value in batch.items()
      if name not in ('video', 'label')
    }
    context = context._replace(rows=jnp.repeat(context.rows, size))

    def classify(clips):
      """[B, size, T, H, W, 3] -> [B, C], the sum over these views."""
      clips = clips.reshape(-1, *clips.shape[2:])
      outputs, _ = self.task.predict(
        params, model_state, {**others, 'video': clips}, context
      )
      if self._average not in outputs:
        raise ValueError(
          f'average={self._average!r} is no prediction of '
          f'{type(self.task).__name__}; there are {sorted(outputs)}'
        )
      scores = outputs[self._average].astype(jnp.float32)
      return scores.reshape(num_rows, size, -1).sum(1)

    passes = video.reshape(num_rows, -1, size, *video.shape[2:]).swapaxes(0, 1)
    if len(passes) == 1:
      return classify(passes[0]) / num_views
    # One after the other: the memory is that of one pass.
    return jax.lax.map(classify, passes).sum(0) / num_views


def _views(transform):
  """(over time, in space) that the arguments of `ClipTransform` ask for."""
  crops = 3 if transform.get('crop') == 'three' else 1
  return transform.get('num_views', 1), crops
