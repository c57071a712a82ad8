"""Every phase is compiled once, ahead of time if asked."""

import threading

import pytest

from vidscenic.train import phases


def test_a_phase_is_built_once():
  built = []
  steps = phases.PhaseSteps(lambda phase: built.append(phase) or f'run {phase}')
  steps.prepare('a')
  assert [steps.get('a'), steps.get('a'), steps.get('b')] == [
    'run a',
    'run a',
    'run b',
  ]
  steps.close()
  assert built == ['a', 'b']


def test_preparing_does_not_wait():
  go_on = threading.Event()
  steps = phases.PhaseSteps(lambda phase: go_on.wait(60))
  steps.prepare(1)
  assert steps.active()  # still under way
  go_on.set()
  assert steps.get(1)
  assert steps.active()  # ended since it was last asked
  assert not steps.active()
  steps.close()


def test_forgotten_phases_are_built_anew_and_others_kept():
  built = []
  steps = phases.PhaseSteps(lambda phase: built.append(phase) or f'run {phase}')
  for phase in 'abc':
    steps.get(phase)
  assert steps.active()
  steps.keep(iter('bc'))
  assert not steps.active()  # forgetting is no compilation
  assert [steps.get(phase) for phase in 'cba'] == ['run c', 'run b', 'run a']
  assert built == ['a', 'b', 'c', 'a']
  assert steps.active()
  steps.close()


def test_a_failed_compilation_is_raised_where_it_is_needed():
  def build(phase):
    raise ValueError(f'phase {phase} is impossible')

  steps = phases.PhaseSteps(build)
  steps.prepare(2)
  with pytest.raises(ValueError, match='phase 2 is impossible'):
    steps.get(2)
  steps.close()
