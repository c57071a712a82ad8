"""The time of a log interval, and what of it was waiting for data."""

import contextlib
import time


class IntervalClock:
  """Runs from its creation on.

  Attributes:
    steps: counted by whoever uses it.
    waited: seconds within `waiting`.
  """

  def __init__(self):
    self._start = time.perf_counter()
    self._away = 0.0
    self.waited = 0.0
    self.steps = 0

  def seconds(self) -> float:
    """Seconds since the creation but for those within `paused`."""
    return max(time.perf_counter() - self._start - self._away, 1e-9)

  @contextlib.contextmanager
  def paused(self):
    """Around what is no part of training: evaluation, saving, compiling."""
    start = time.perf_counter()
    yield
    self._away += time.perf_counter() - start

  @contextlib.contextmanager
  def waiting(self):
    """Around waiting for data."""
    start = time.perf_counter()
    yield
    self.waited += time.perf_counter() - start
