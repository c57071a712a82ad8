"""A task that takes microseconds: what is left of a step is the loop itself.

The source hands out one stored row and the transform nothing but that, so the
run measures grain, batching, transfer, dispatch, metrics and logging.

  python main.py --config=benchmarks/tiny.py --workdir=runs/tiny
"""

import time

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np

from vidscenic import config as vc
from vidscenic import task


def get_config(arg=''):
  """Arguments: steps, and log (steps between two log lines)."""
  arg = vc.parse_arg(arg, steps=1000, log=20)
  config = vc.base_config()
  config.steps = arg.steps
  config.task.factory = 'benchmarks.tiny:Tiny'
  config.data.train = vc.data_spec(
    source='benchmarks.tiny:OneRow', transform='benchmarks.tiny:Identity'
  )
  config.data.train.source_kwargs = mlc.ConfigDict({'width': 8})
  config.optim.decay_exclude = ()
  config.log.every_steps = arg.log
  config.checkpoint.every_steps = arg.steps
  config.compile_ahead_steps = 0
  return vc.finalize(config)


class Tiny(task.Task):
  """Linear regression in 8 variables.

  Attributes:
    times: when the loop began each step of the latest run, as it asks for the
      phase of a step right before it runs it: (seconds on the clock, CPU
      seconds of its thread).
  """

  times: list[tuple[float, float]] = []

  def __init__(self):
    self.times.clear()

  def batch_spec(self):
    return {'x': jax.ShapeDtypeStruct((8,), jnp.float32)}

  def init(self, rng, batch):
    return {'kernel': jnp.zeros((8,))}, {}

  def loss(self, params, model_state, batch, ctx):
    error = batch['x'] @ params['kernel'] - batch['x'].sum(-1)
    weight = batch['mask'].astype(jnp.float32)
    loss = (jnp.sum(weight * error**2), jnp.sum(weight))
    return task.LossOut({'mse': (*loss, 1.0)}, {'mse': loss}, model_state)

  def phase(self, step):
    if step == len(self.times):
      self.times.append((time.perf_counter(), time.thread_time()))
    return 0


class OneRow:
  """Many times the same row."""

  def __init__(self, width: int, size: int = 1_000_000):
    self._row = {'x': np.linspace(-1, 1, width, dtype=np.float32)}
    self._size = size

  def __len__(self):
    return self._size

  def __getitem__(self, index):
    return self._row


class Identity:
  """Leaves a record as it is."""

  def sample(self, record, rng):
    """Returns the record."""
    return record

  def augment(self, clip, rng):
    """Returns the clip."""
    return clip
