"""Phases in the loop: begun once, compiled ahead, forgotten when past."""

import jax
import numpy as np

from tests.train import tiny, trained
from vidscenic.train import loop, phases
from vidscenic.train import run as run_lib


class Halved(tiny.Regression):
  """Halves the head at the start of phase 1."""

  def on_phase(self, state, old, new):
    head = jax.tree.map(lambda x: x * 0.5, state.params['head'])
    return state._replace(params={**state.params, 'head': head})


def test_phase_change_is_applied_once_also_after_a_restart(tmp_path):
  changes = dict(
    log__every_steps=1,
    checkpoint__every_steps=1,
    task__factory=f'{__name__}:Halved',
    task__kwargs__freeze_at=4,
    optim__lr=0.0,
  )
  fresh = run_lib.Run(trained.make_config()).fresh_state().params
  for steps in (4, 5, 6):  # stops right before and right after the change
    config = trained.make_config(steps=steps, **changes)
    loop.train(config, tmp_path)
    state, _ = trained.restored(tmp_path, config)
    factor = 1.0 if steps == 4 else 0.5
    np.testing.assert_array_equal(
      state.params['head']['kernel'], factor * fresh['head']['kernel']
    )


def test_change_itself_is_no_unexpected_compilation(tmp_path, caplog):
  config = trained.make_config(
    steps=8,
    log__every_steps=2,
    compile_ahead_steps=3,
    task__factory=f'{__name__}:Halved',
    task__kwargs__freeze_at=6,
  )
  loop.train(config, tmp_path)
  assert 'some shape changes' not in caplog.text


def test_next_phase_is_compiled_before_it_begins(tmp_path, monkeypatch, caplog):
  events = []
  for name in ('prepare', 'get'):
    original = getattr(phases.PhaseSteps, name)

    def noted(self, phase, name=name, original=original):
      events.append((name, phase))
      return original(self, phase)

    monkeypatch.setattr(phases.PhaseSteps, name, noted)
  config = trained.make_config(
    steps=12,
    log__every_steps=1,
    compile_ahead_steps=3,
    task__kwargs__freeze_at=8,
  )
  loop.train(config, tmp_path)
  prepared = events.index(('prepare', 1))
  assert prepared < events.index(('get', 1))
  # Three steps before step 8, so after some steps of phase 0 were prepared.
  assert events[:prepared].count(('prepare', 0)) >= 5
  assert 'some shape changes' not in caplog.text


class Turns(tiny.Regression):
  """Phases 0 and 1 in turn, and 2 from step 6 on."""

  def phase(self, step):
    return 2 if step >= 6 else step % 2

  def frozen(self, phase):
    return {1: ('layer0',), 2: ('layer1',)}.get(phase, ())


def test_programs_of_phases_are_kept_as_long_as_they_come_back(
  tmp_path, monkeypatch
):
  kept, compiled = [], []
  keep = phases.PhaseSteps.keep
  compile_step = run_lib.Run.compile_step

  def noted_keep(self, phases_):
    keep(self, phases_)
    kept.append(sorted(self._steps))

  def noted_compile(self, phase):
    compiled.append(phase)
    return compile_step(self, phase)

  monkeypatch.setattr(phases.PhaseSteps, 'keep', noted_keep)
  monkeypatch.setattr(run_lib.Run, 'compile_step', noted_compile)
  config = trained.make_config(
    steps=8, task__factory=f'{__name__}:Turns', compile_ahead_steps=1
  )
  assert loop.train(config, tmp_path)
  # At steps 1 to 6, where another phase begins than the one before. Phase 0
  # is there for the last time at step 4, and 2 is compiled during step 5.
  assert kept == [[0, 1], [0, 1], [0, 1], [0, 1], [1], [2]]
  assert compiled == [0, 1, 2]
