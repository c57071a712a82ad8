"""Many independent jobs on all cores, for preparing data.

A process that dies (memory ran out, a decoder crashed) costs its job and not
the run.
"""

import collections
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import process
from typing import Any

# Jobs handed out per process, so that none waits and few are in doubt if one
# dies.
_AHEAD = 2


class Died(Exception):
  """The process that worked on a job ended without an answer."""

  def __str__(self):
    return 'the process died (out of memory, or a crash in a decoder)'


def run(
  function: Callable[[Any], Any],
  jobs: Sequence[Any],
  *,
  num_processes: int = 0,
) -> Iterator[tuple[Any, Any]]:
  """Yields (job, result) in the order in which jobs are done.

  Args:
    function: of a module; its exceptions are raised here and end the run.
    jobs: arguments of function; they and the results pickle.
    num_processes: 0: one per core; 1: everything in this process.

  Yields:
    (job, result); a result is a `Died` if the job was tried alone and its
    process died.
  """
  if num_processes == 1:
    for job in jobs:
      yield job, function(job)
    return
  waiting = collections.deque(jobs)
  while waiting:
    suspects = yield from _run_pool(
      function, waiting, num_processes or num_cores()
    )
    # One of these has killed its process: find out which.
    for job in suspects:
      yield job, _run_alone(function, job)


def num_cores() -> int:
  """Cores that this process may use."""
  return len(os.sched_getaffinity(0))


# --- private ---


def _run_pool(function, waiting, num_processes):
  """Empties `waiting`; yields what is done, returns what was lost."""
  context = multiprocessing.get_context('spawn')
  num_processes = min(num_processes, len(waiting))
  pending = {}
  with futures.ProcessPoolExecutor(num_processes, context, _init) as pool:
    try:
      while waiting or pending:
        while waiting and len(pending) < _AHEAD * num_processes:
          # Still in line if this fails, as it does once a process has died.
          future = pool.submit(function, waiting[0])
          pending[future] = waiting.popleft()
        done, _ = futures.wait(pending, return_when=futures.FIRST_COMPLETED)
        for future in done:
          result = future.result()
          yield pending.pop(future), result
    except process.BrokenProcessPool:
      return list(pending.values())
    finally:
      pool.shutdown(wait=False, cancel_futures=True)
  return []


def _run_alone(function, job):
  context = multiprocessing.get_context('spawn')
  with futures.ProcessPoolExecutor(1, context, _init) as pool:
    try:
      return pool.submit(function, job).result()
    except process.BrokenProcessPool:
      return Died()


def _init():
  # Ctrl-C ends a worker without a word; the parent says what there is to say.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
