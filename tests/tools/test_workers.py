"""Jobs in processes: all done, in spite of jobs that kill theirs."""

import multiprocessing
import os
import signal
import time

import pytest

from vidscenic.tools import workers


def square(number):
  return number * number


def kill_at_three(number):
  if number == 3:
    os.kill(os.getpid(), signal.SIGKILL)
  return number * number


def kill_when_told(job):
  """Job 1 kills its process once the file of the job is there."""
  number, told = job
  while number == 1 and not told.exists():
    time.sleep(0.01)
  if number == 1:
    os.kill(os.getpid(), signal.SIGKILL)
  return number * number


def fail(number):
  raise OSError(f'no space left for {number}')


@pytest.mark.parametrize('num_processes', [1, 2])
def test_every_job_is_done_once(num_processes):
  results = workers.run(square, range(9), num_processes=num_processes)
  assert sorted(results) == [(n, n * n) for n in range(9)]


def test_only_the_job_that_kills_its_process_is_lost():
  results = dict(workers.run(kill_at_three, range(7), num_processes=2))
  died = results.pop(3)
  assert isinstance(died, workers.Died)
  assert 'the process died' in str(died)
  assert results == {n: n * n for n in (0, 1, 2, 4, 5, 6)}


@pytest.mark.parametrize('num_processes', [1, 2])
def test_exceptions_end_the_run(num_processes):
  with pytest.raises(OSError, match='no space left'):
    list(workers.run(fail, range(4), num_processes=num_processes))


def test_no_job_is_lost_if_a_process_dies_while_results_are_used(tmp_path):
  """The pool is broken by the time that the next job is handed over."""
  told = tmp_path / 'told'
  jobs = [(number, told) for number in range(12)]
  results = {}
  for job, result in workers.run(kill_when_told, jobs, num_processes=2):
    results[job[0]] = result
    if not told.exists():
      told.touch()
      deadline = time.monotonic() + 60
      while multiprocessing.active_children():
        assert time.monotonic() < deadline
        time.sleep(0.01)
  assert isinstance(results.pop(1), workers.Died)
  assert results == {n: n * n for n in range(12) if n != 1}
