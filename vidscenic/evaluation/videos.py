"""Pictures of what a model does: clips that a task predicts, side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vidscenic.evaluation import evaluator
from vidscenic.ops import video as video_ops
from vidscenic.viz import images


class Clips(evaluator.Evaluator):
  """Draws the clips that `Task.predict` returns for the first examples.

  Media: `frames`, a picture with one block per example, in it one row per
  field and one column per frame; `clips`, the same as a video.
  """

  def __init__(
    self,
    task: Any,
    mesh: Any,
    *,
    fields: Sequence[str],
    count: int = 4,
    max_columns: int = 8,
    value_range: str = 'signed',
    **kwargs,
  ):
    """Takes the arguments of `Evaluator`, and more.

    Args:
      task: the experiment's task.
      mesh: all devices.
      fields: predictions to show, each float[B, T, H, W, 3], top row first.
      count: examples.
      max_columns: frames in the picture, evenly spaced.
      value_range: of the fields: 'signed' [-1, 1] or 'unit' [0, 1].
      **kwargs: of `Evaluator`, but for batch_size and limit.
    """
    kwargs |= {'batch_size': count, 'limit': count}
    super().__init__(task, mesh, **kwargs)
    self._fields = tuple(fields)
    self._columns = max_columns
    self._range = value_range

  def measures(self) -> str:
    """Names the fields in the order in which they are drawn."""
    return f'pictures of {", ".join(self._fields)}'

  def run(self, state: Any, step: int) -> evaluator.Figures:
    """No figures; media as in the class, none without examples.

    Raises:
      ValueError: a field that the task does not predict.
    """
    program = self.program(self._clips, step)
    weights = state._replace(opt_state=())
    for batch, number in self.batches():
      clips, mask = program(weights, self.place(batch), number)
      # Fewer than `count` if the data hold fewer; padding stands at the end.
      real = int(np.sum(mask))
      # In the order of `fields`: jit sorts the keys of a dict.
      clips = {k: np.asarray(clips[k])[:real] for k in self._fields}
      return {}, self._draw(clips)
    return {}, {}

  def _clips(self, params, model_state, batch, context):
    outputs, _ = self.task.predict(params, model_state, batch, context)
    missing = [name for name in self._fields if name not in outputs]
    if missing:
      raise ValueError(
        f'fields={missing} are no predictions of {type(self.task).__name__}; '
        f'there are {sorted(outputs)}'
      )
    clips = {
      name: video_ops.denormalize(outputs[name], self._range)
      for name in self._fields
    }
    return clips, batch['mask']

  def _draw(self, clips):
    blocks, videos = [], []
    for fields in zip(*clips.values(), strict=True):
      rows = [
        images.label(images.strip(clip, self._columns), name)
        for name, clip in zip(clips, fields, strict=True)
      ]
      blocks.append(images.stack(rows))
      videos.append(images.side_by_side(*fields))
    video = [images.stack(frames) for frames in zip(*videos, strict=True)]
    return {'frames': images.stack(blocks, pad=6), 'clips': np.stack(video)}
