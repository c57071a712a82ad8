"""Evaluators: figures and pictures of a state on held-out data.

An evaluator is built as `Evaluator(task, mesh, **kwargs)` and answers
`run(state, step) -> (scalars, media)`. Padded rows carry mask False and count
nothing, so a figure does not depend on the batch size, nor on how many
processes share the work.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vidscenic import task as task_lib
from vidscenic.data import device, pipeline
from vidscenic.train import sharding

Figures = tuple[dict[str, float], dict[str, np.ndarray]]


class Evaluator:
  """Base class: batches of an evaluation set, and how to run on them.

  Attributes:
    task: the experiment's task.
    mesh: all devices.
    data: a finalized data spec.
    batch_size: rows of a global batch, rounded up to fit the devices.
    limit: number of examples; 0: all.
    name: place in the config, for messages.
  """

  def __init__(
    self,
    task: task_lib.Task,
    mesh: Mesh,
    *,
    data: Mapping[str, Any],
    batch_size: int = 8,
    limit: int = 0,
  ):
    """See the class; nothing is read before the first run."""
    self.task = task
    self.mesh = mesh
    self.data = data
    self.name = 'evals'
    shards = sharding.num_batch_shards(mesh)
    self.batch_size = -(-batch_size // shards) * shards
    self.limit = limit
    self._sharding = sharding.batch_sharding(mesh)
    self._schedules: Mapping[str, Callable] = {}
    self._programs: dict[Hashable, Any] = {}

  def bind(self, name: str, schedules: Mapping[str, Callable]) -> None:
    """Takes its place in a run and checks its data.

    Args:
      name: 'evals.x'.
      schedules: {name: fn(step)}, of `config.schedules`.

    Raises:
      ValueError, OSError: data that cannot be used.
    """
    self.name = name
    self._schedules = schedules
    pipeline.check_spec(self.data, f'{name}.kwargs.data')

  def protocol(self) -> str:
    """One line that says what is measured, on what."""
    source = self.data['source'].split(':')[-1]
    kwargs = ', '.join(
      f'{k}={v!r}' for k, v in self.data['source_kwargs'].items()
    )
    how_many = f'the first {self.limit}' if self.limit else 'all'
    return f'{self.measures()}; {how_many} examples of {source}({kwargs})'

  def measures(self) -> str:
    """The part of the protocol that names the figures."""
    return type(self).__name__

  def run(self, state: Any, step: int) -> Figures:
    """Evaluates a `TrainState` after `step` updates.

    Returns:
      ({name: figure}, {name: uint8[H, W, 3] picture or uint8[T, H, W, 3]}),
      the same on every process.
    """
    raise TypeError(f'{type(self).__name__} does not say how to run')

  def batches(self):
    """Yields (batch on this process, its number) in a fixed order."""
    rows = device.local_rows(self.batch_size, self._sharding)
    iterator = pipeline.make_eval_iter(
      self.data,
      batch_size=self.batch_size,
      rows=rows,
      limit=self.limit,
      name=f'{self.name}.kwargs.data',
    )
    try:
      for number, batch in enumerate(iterator):
        yield batch, number
    finally:
      iterator.close()

  def place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts the rows of this process on its devices.

    Raises:
      ValueError: a field that the task needs is missing or has another shape
        or values.
    """
    where = f'{self.name}.kwargs.data'
    spec = self.task.batch_spec()
    if any(isinstance(part, Mapping) for part in spec.values()):
      raise ValueError(
        f'{where}: the task trains on several streams, which '
        f'{type(self).__name__} cannot give it'
      )
    batch = device.check(batch, spec, where=where)
    self.task.check_batch(batch)
    return self.put(batch)

  def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """`place` without the check, for fields that training does not have."""
    return device.to_global(batch, self._sharding, self.batch_size)

  def phase(self, step: int) -> Hashable:
    """Phase of the last update: figures go with its loss."""
    return self.task.phase(max(int(step) - 1, 0))

  def context(
    self, state: Any, number: Any, phase: Hashable = 0
  ) -> task_lib.StepContext:
    """Context of evaluation batch `number`: every example has its own row.

    So random draws of a loss (masks, say) are the same in every evaluation.
    """
    start = jnp.asarray(number, jnp.int32) * self.batch_size
    return task_lib.StepContext(
      step=state.step,
      rng=jax.random.key(0),
      rows=start + jnp.arange(self.batch_size, dtype=jnp.int32),
      phase=phase,
      train=False,
      scheduled={name: fn(state.step) for name, fn in self._schedules.items()},
      ema_params=state.ema_params,
    )

  def add_up(self, fn: Callable, state: Any, step: int) -> dict[str, float]:
    """Adds (sum, count) pairs over all batches and divides at the end.

    Args:
      fn: fn(params, model_state, batch, context) -> {name: (sum, count)}.
      state: the TrainState.
      step: completed updates; says which phase the context has.

    Returns:
      {name: sum / count}, without names that counted nothing.
    """
    totals = self.totals(fn, state, step)
    return {k: float(s / n) for k, (s, n) in totals.items() if n}

  def totals(
    self, fn: Callable, state: Any, step: int
  ) -> dict[str, np.ndarray]:
    """Adds over all batches; arguments as in `add_up`.

    `fn` may return any arrays, pairs or not: {name: float64 array}, where a
    pair has become one array with a leading axis of two. It is compiled once
    per phase, so an evaluator has one.
    """
    program = self.program(fn, step)
    weights = state._replace(opt_state=())
    totals: dict[str, np.ndarray] = {}
    for batch, number in self.batches():
      sums = program(weights, self.place(batch), number)
      for name, value in jax.device_get(sums).items():
        value = np.asarray(value, np.float64)
        totals[name] = totals.get(name, 0.0) + value
    return totals

  def program(self, fn: Callable, step: int) -> Callable:
    """Compiled (weights, batch, number) -> fn's result on every process."""
    phase = self.phase(step)
    if phase not in self._programs:

      def program(weights, batch, number):
        context = self.context(weights, number, phase)
        return fn(weights.params, weights.model_state, batch, context)

      self._programs[phase] = jax.jit(
        program, out_shardings=sharding.replicated(self.mesh)
      )
    return self._programs[phase]


class MeanLoss(Evaluator):
  """The task's loss and metrics over held-out examples."""

  def measures(self) -> str:
    """Their names are the task's."""
    return "mean of the task's loss and metrics"

  def run(self, state: Any, step: int) -> Figures:
    """{'loss', 'loss_TERM', METRIC}: totals over all examples, divided once."""
    means = self.add_up(self._loss, state, step)
    scales = {k: means.pop(k) for k in list(means) if k.startswith(_SCALE)}
    means['loss'] = sum(
      scale * means.get(f'loss_{name.removeprefix(_SCALE)}', 0.0)
      for name, scale in scales.items()
    )
    return means, {}

  def _loss(self, params, model_state, batch, context):
    out = self.task.loss(params, model_state, batch, context)
    pairs = dict(out.metrics)
    for name, (total, weight, scale) in out.terms.items():
      pairs[f'loss_{name}'] = (total, weight)
      pairs[f'{_SCALE}{name}'] = (scale, 1.0)
    return pairs


_SCALE = 'scale of '
