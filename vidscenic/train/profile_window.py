"""The profiler over some steps of a run."""

import jax
from absl import logging
from etils import epath

from vidscenic.train import state as state_lib


class ProfileWindow:
  """Starts and stops the profiler, also if a run resumes within the window.

  Args:
    start: the first step.
    steps: how many; 0: none.
    folder: where the trace goes.
  """

  def __init__(self, start: int, steps: int, folder: epath.Path):
    self._window = range(start, start + steps)
    self._folder = folder
    self._running = False

  def at(self, step: int, state: state_lib.TrainState) -> None:
    """To be called before each step, with the state that it starts from."""
    if step in self._window and not self._running:
      jax.profiler.start_trace(str(self._folder))
      self._running = True
    elif step not in self._window:
      self.stop(state)

  def stop(self, state: state_lib.TrainState) -> None:
    """Ends a trace, once the device has caught up; else does nothing."""
    if self._running:
      self._running = False
      jax.block_until_ready(state.step)
      jax.profiler.stop_trace()
      logging.info('profile in %s', self._folder)
