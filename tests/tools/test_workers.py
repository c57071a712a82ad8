"""Jobs in processes: all done, in spite of jobs that kill theirs."""

import os
import signal

import pytest

from vidscenic.tools import workers


def square(number):
  return number * number


def kill_at_three(number):
  if number == 3:
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


def test_progress_without_a_terminal_is_lines(capsys, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(workers.time, 'monotonic', lambda: now[0])
  with workers.Progress(100, 'videos', done=10) as progress:
    for i in range(40):
      now[0] += 1
      progress.add('1 failed' if i > 20 else '')
  assert capsys.readouterr().err.splitlines() == [
    '40/100 videos, 1/s, 1 min left, 1 failed',
    '50/100 videos, 40 s',
  ]
