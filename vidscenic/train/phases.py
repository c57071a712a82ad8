"""One compiled step per phase, the next one compiled ahead of time."""

from collections.abc import Callable, Hashable, Iterable
from concurrent import futures
from typing import Any

from absl import logging


class PhaseSteps:
  """Compiles the step of each phase once, on request or in the background.

  A phase is static, so only a new program can skip the work of frozen layers;
  compiling it while the old phase still trains hides the wait. Programs take
  memory, on devices too: `keep` lets go of those that lie in the past.
  """

  def __init__(self, build: Callable[[Hashable], Any]):
    """Takes build(phase) -> compiled step."""
    self._build = build
    self._steps = {}
    self._reported = 0
    self._pool = futures.ThreadPoolExecutor(1, 'compile')

  def prepare(self, phase: Hashable) -> None:
    """Starts compiling a phase unless that is done or under way."""
    if phase not in self._steps:
      logging.info('compiling the step of phase %s', phase)
      self._steps[phase] = self._pool.submit(self._build, phase)

  def get(self, phase: Hashable) -> Any:
    """Returns the compiled step, waiting for it if need be."""
    self.prepare(phase)
    return self._steps[phase].result()

  def keep(self, phases: Iterable[Hashable]) -> None:
    """Forgets all other phases, and so frees their programs.

    A forgotten phase is compiled again if it is asked for.
    """
    for phase in self._steps.keys() - set(phases):
      self._reported -= self._steps.pop(phase).done()

  def active(self) -> bool:
    """Whether a compilation is under way, or has ended since last asked."""
    done = sum(f.done() for f in self._steps.values())
    ended, self._reported = done > self._reported, done
    return ended or done < len(self._steps)

  def close(self) -> None:
    """Waits for what is under way and ends the thread."""
    self._pool.shutdown(wait=True, cancel_futures=True)
