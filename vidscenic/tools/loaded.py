"""A task with its weights, as predictions need them: on one device."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from vidscenic import task as task_lib
from vidscenic.train import checkpoints, schedules
from vidscenic.train import run as run_lib
from vidscenic.train import workdir as workdir_lib


class Loaded(NamedTuple):
  """What a prediction function gets to work with.

  Attributes:
    task: the experiment's task.
    params: its parameters, plain nested dicts.
    model_state: batch statistics and the like, {} if none.
    step: completed updates, 0 for published weights.
    scheduled: values of `config.schedules` at this step.
  """

  task: task_lib.Task
  params: task_lib.Params
  model_state: task_lib.ModelState
  step: int
  scheduled: Mapping[str, Any] = {}  # noqa: RUF012, never mutated

  def context(self, rows: Sequence[int] = (0,)) -> task_lib.StepContext:
    """What `Task.predict` is given.

    Args:
      rows: a number for each row of the batch; random draws depend on it.
    """
    return task_lib.StepContext(
      step=jnp.int32(self.step),
      rng=jax.random.key(0),
      rows=jnp.asarray(rows, jnp.int32),
      phase=self.task.phase(max(self.step - 1, 0)),
      train=False,
      scheduled=dict(self.scheduled),
    )


def from_workdir(
  config: Any, workdir: epath.PathLike, step: int | None = None
) -> Loaded:
  """Loads a checkpoint of a run, however many devices it was trained on.

  Args:
    config: a finalized config; `predict.params` says which weights.
    workdir: of the run.
    step: of the checkpoint; None: the newest.

  Raises:
    FileNotFoundError: no such run or checkpoint.
    OSError: it is unreadable.
    ValueError: it belongs to another model than the config's.
  """
  path = checkpoints.full_path(workdir)
  workdir_lib.warn_of_another_task(path, config)
  run = run_on_one_device(config)
  if not (path / checkpoints.FOLDER).exists():
    raise FileNotFoundError(f'{path} holds no checkpoint yet')
  with contextlib.closing(
    checkpoints.Checkpoints(path, read_only=True)
  ) as stored:
    if not stored.steps():
      raise FileNotFoundError(f'{path} holds no checkpoint yet')
    state = stored.restore_weights(run.state_shapes, step)
  state = run.state_to_evaluate(state, config.predict.params)
  number = int(state.step)
  values = {
    name: schedules.make_schedule(spec, config.steps, where=f'schedules.{name}')
    for name, spec in config.schedules.items()
  }
  return Loaded(
    run.task,
    state.params,
    state.model_state,
    number,
    {name: schedule(number) for name, schedule in values.items()},
  )


def run_on_one_device(config: Any) -> run_lib.Run:
  """The run of a finalized config, on one device whatever its mesh says."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.mesh.update(data=1, fsdp=1, model=1)
  return run_lib.Run(config, jax.local_devices()[:1])
