"""The time of a log interval."""

import types

import pytest

from vidscenic.train import interval_clock


@pytest.fixture
def now(monkeypatch):
  """A list with the time in it."""
  now = [100.0]
  time = types.SimpleNamespace(perf_counter=lambda: now[0])
  monkeypatch.setattr(interval_clock, 'time', time)
  return now


def test_pauses_do_not_count_and_waiting_does(now):
  clock = interval_clock.IntervalClock()
  now[0] += 2
  with clock.paused():
    now[0] += 30
  with clock.waiting():
    now[0] += 1
  now[0] += 4
  assert clock.seconds() == 7
  assert clock.waited == 1


def test_an_empty_interval_can_be_divided_by(now):
  assert interval_clock.IntervalClock().seconds() > 0
