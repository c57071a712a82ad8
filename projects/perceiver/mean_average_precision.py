"""Mean average precision of tags, averaged over the clips of an example."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidscenic.evaluation import average_precision, evaluator


class MeanAveragePrecision(evaluator.Evaluator):
  """How well every class ranks the examples, for tasks with several labels.

  Examples: those of `tagging_task.AudioVideoTagging`; video, audio and
  audio_mask may have a leading axis of views, clips of one example that go
  through the model one after the other and whose probabilities are averaged.

  Figures: `map`, the mean over the classes that occur; and the control
  `map_chance`, that of equal scores, the mean share of the examples that a
  class has.
  """

  def measures(self) -> str:
    views = self.data['transform_kwargs'].get('num_views', 1)
    clips = 'one clip' if views == 1 else f'{views} clips'
    return f'mean average precision, probabilities averaged over {clips}'

  def place(self, batch):
    """As in `Evaluator`; clips may have views.

    Raises:
      ValueError: a field is missing.
    """
    wanted = (*self.task.batch_spec(), 'mask')
    missing = [name for name in wanted if name not in batch]
    if missing:
      raise ValueError(
        f'{self.name}.kwargs.data: MeanAveragePrecision needs {missing}, the '
        f'data give {sorted(batch)}'
      )
    self.task.check_batch(batch)
    return self.put({name: batch[name] for name in wanted})

  def run(self, state: Any, step: int) -> evaluator.Figures:
    program = self.program(self._scores, step)
    weights = state._replace(opt_state=())
    parts = []
    for batch, number in self.batches():
      scores, labels, mask = (
        np.asarray(part) for part in program(weights, self.place(batch), number)
      )
      parts.append((scores[mask], labels[mask]))
    scores, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    value, _ = average_precision.mean_average_precision(scores, labels)
    chance, _ = average_precision.mean_average_precision(
      np.zeros_like(scores), labels
    )
    return {'map': value, 'map_chance': chance}, {}

  def _scores(self, params, model_state, batch, context):
    """(float32[B, C] probabilities, labels, mask), on every process."""
    inputs = {name: batch[name] for name in ('video', 'audio')}
    if inputs['video'].ndim == 5:
      inputs = {name: x[:, None] for name, x in inputs.items()}

    def score(clips):
      outputs, _ = self.task.predict(params, model_state, clips, context)
      return outputs['probabilities'].astype(jnp.float32)

    # View by view: the memory is that of one.
    views = {name: jnp.swapaxes(x, 0, 1) for name, x in inputs.items()}
    scores = jax.lax.map(score, views)
    return jnp.mean(scores, axis=0), batch['label'], batch['mask']
