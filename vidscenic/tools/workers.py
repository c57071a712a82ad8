"""Many independent jobs on all cores, with progress, for preparing data.

A process that dies (memory ran out, a decoder crashed) costs its job and not
the run. On a terminal progress is a bar, elsewhere a line now and then.
"""

import collections
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import process
from typing import Any

import tqdm

# Seconds between lines where there is no terminal.
_LINE_EVERY_S = 30.0
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


class Progress:
  """Counts on stderr: a bar on a terminal, else a line every 30 seconds.

  Args:
    total: number of jobs.
    unit: what they are, for people, such as 'videos'.
    done: how many were done before.
  """

  def __init__(self, total: int, unit: str, done: int = 0):
    self._total, self._unit = total, unit
    self._done, self._before = done, done
    self._begin = self._last = time.monotonic()
    self._bar = None
    if _is_terminal():
      self._bar = tqdm.tqdm(
        total=total, initial=done, unit=f' {unit}', dynamic_ncols=True
      )

  def add(self, note: str = '') -> None:
    """One more is done; `note` is shown behind the count."""
    self._done += 1
    if self._bar is not None:
      self._bar.set_postfix_str(note, refresh=False)
      self._bar.update()
    elif time.monotonic() - self._last >= _LINE_EVERY_S:
      self._last = time.monotonic()
      rate = (self._done - self._before) / (self._last - self._begin)
      left = (self._total - self._done) / rate
      self._print(f'{rate:.2g}/s, {left / 60:.0f} min left', note)

  def close(self) -> None:
    """Ends the bar, or says how many were done."""
    if self._bar is not None:
      self._bar.close()
      self._bar = None
    else:
      seconds = time.monotonic() - self._begin
      self._print(f'{seconds:.0f} s')

  def _print(self, *parts):
    text = ', '.join(part for part in parts if part)
    count = f'{self._done}/{self._total} {self._unit}'
    print(f'{count}, {text}', file=sys.stderr, flush=True)

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *unused_exception) -> None:
    self.close()


# --- private ---


def _is_terminal():
  """False too for terminals without a size, as some containers have them."""
  if not sys.stderr.isatty():
    return False
  return os.get_terminal_size(sys.stderr.fileno()).columns > 0


def _run_pool(function, waiting, num_processes):
  """Empties `waiting`; yields what is done, returns what was lost."""
  context = multiprocessing.get_context('spawn')
  num_processes = min(num_processes, len(waiting))
  pending = {}
  with futures.ProcessPoolExecutor(num_processes, context, _init) as pool:
    try:
      while waiting or pending:
        while waiting and len(pending) < _AHEAD * num_processes:
          job = waiting.popleft()
          pending[pool.submit(function, job)] = job
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
