"""Prediction functions for tests; configs name them."""

import jax
import numpy as np


def means(model, video, out, *, length=4, every=1):
  """The mean value of each frame, and what the model is."""
  for chunk in video.chunks(length, hop=length * every):
    values = chunk.frames[: chunk.count].mean((1, 2, 3))
    out.arrays('means', values)
    out.frames('copy', chunk.frames[: chunk.count], first=chunk.first)
  out.arrays('step', [model.step])
  out.arrays('weights', _flat(model.params))
  ctx = model.context(rows=[3, 4])
  out.arrays('rows', np.asarray(ctx.rows))
  assert not ctx.train and ctx.phase == model.task.phase(model.step - 1)
  out.arrays('ratio', [float(ctx.scheduled.get('ratio', -1))])


def twice(model, video, out):
  """Two passes: differences from the mean over the whole video."""
  total = sum(c.frames[: c.count].sum(dtype=float) for c in video.chunks(3))
  mean = total / (video.num_frames * video.height * video.width * 3)
  for chunk in video.chunks(5):
    frames = chunk.frames[: chunk.count]
    out.arrays('difference', frames.mean((1, 2, 3)) - mean)


def brightest(model, video, out):
  """By a program that is made for every video."""
  program = jax.jit(lambda frames: frames.max((1, 2, 3)))
  for chunk in video.chunks(4):
    out.arrays('brightest', program(chunk.frames)[: chunk.count])


def fail_at_last(model, video, out):
  means(model, video, out)
  if video.name == 'last':
    raise ZeroDivisionError('in the project')


def nothing(model, video, out):
  """Forgets to write."""


def _flat(params):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
