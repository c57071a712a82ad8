"""Processes: how they find each other, agree, and hear of a preemption."""

import signal
import threading
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils


def initialize(
  coordinator: str = '', num_processes: int = 0, process_id: int = -1
) -> None:
  """Joins the processes of a run. Must precede any device query.

  Args:
    coordinator: 'auto' lets jax find its peers (SLURM, GKE, TPU pods, MPI),
      'host:port' names the first process, '' means a single process.
    num_processes: with 'host:port'.
    process_id: with 'host:port', 0 for the process that listens there.

  Raises:
    ValueError: flags that do not go together.
  """
  if not coordinator:
    if num_processes > 1 or process_id > 0:
      raise ValueError(
        '--num_processes and --process_id need --coordinator=host:port'
      )
    return
  if coordinator == 'auto':
    jax.distributed.initialize()
  else:
    if num_processes < 1 or not 0 <= process_id < num_processes:
      raise ValueError(
        f'--coordinator={coordinator} needs --num_processes >= 1 and '
        f'0 <= --process_id < num_processes, got {num_processes} and '
        f'{process_id}'
      )
    jax.distributed.initialize(coordinator, num_processes, process_id)
  logging.info(
    'process %d of %d with %d of %d devices',
    jax.process_index(),
    jax.process_count(),
    jax.local_device_count(),
    jax.device_count(),
  )


def is_distributed() -> bool:
  """Whether `jax.distributed` runs, also with a single process."""
  return jax.distributed.is_initialized()


def barrier(name: str) -> None:
  """Waits for all processes."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def all_agree(ok: bool) -> bool:
  """Whether `ok` holds on every process."""
  if jax.process_count() == 1:
    return ok
  return bool(multihost_utils.process_allgather(np.array(ok)).all())


def same_everywhere(value: Any) -> Any:
  """Returns process 0's value (a number or an array) on every process."""
  if jax.process_count() == 1:
    return value
  return multihost_utils.broadcast_one_to_all(value)


class Preemption:
  """Tells at which step the run should save and leave.

  With `jax.distributed` all processes agree on the step through its own
  notifier, which a SIGTERM handler of ours would disable. Without it, a
  handler sets a flag; a second signal ends the process at once.
  """

  def __init__(self):
    self._calls = 0
    self._flag = threading.Event()
    self._old = None
    if (
      not is_distributed()
      and threading.current_thread() is threading.main_thread()
    ):
      self._old = signal.signal(signal.SIGTERM, self._handle)

  def _handle(self, signum, frame):
    del frame
    logging.warning('SIGTERM: saving at the end of this step')
    self._flag.set()
    signal.signal(signum, self._old or signal.SIG_DFL)

  def reached(self) -> bool:
    """Whether to save and leave; to be asked after every step.

    The same on every process, if all ask equally often. (The steps themselves
    will not do as the count: a rollback takes them back.)
    """
    self._calls += 1
    if is_distributed():
      return multihost_utils.reached_preemption_sync_point(self._calls)
    return self._flag.is_set()

  def close(self) -> None:
    """Gives the signal back."""
    if self._old is not None:
      signal.signal(signal.SIGTERM, self._old)
      self._old = None
