"""Checkpoints of a workdir are evaluated, whether its run goes on or not."""

import json
import types

import jax
import numpy as np
import pytest

from tests.train import trained
from vidscenic.train import distributed, evaluate, loop


def test_finished_run_is_evaluated_alone(tmp_path):
  config = trained.make_config(steps=4, evals={'heldout': trained.heldout()})
  loop.train(config, tmp_path)
  figures = evaluate.evaluate(config, tmp_path)
  (row,) = [r for s, r in trained.rows(tmp_path, 'heldout/').items() if s == 4]
  assert figures == row
  written = tmp_path / 'evaluation' / 'metrics.jsonl'
  assert json.loads(written.read_text().splitlines()[0])['step'] == 4


def test_following_a_run_ends_when_it_is_done(tmp_path):
  config = trained.make_config(steps=4, evals={'heldout': trained.heldout()})
  loop.train(config, tmp_path)
  figures = evaluate.evaluate(config, tmp_path, follow=True)
  assert 'heldout/loss' in figures


def test_evaluating_an_empty_folder_says_so(tmp_path):
  config = trained.make_config(evals={'heldout': trained.heldout()})
  with pytest.raises(FileNotFoundError, match='want the workdir of a run'):
    evaluate.evaluate(config, tmp_path)


def steps_in(workdir):
  """The steps that were evaluated alone."""
  rows = (workdir / 'evaluation' / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(row)['step'] for row in rows]


def test_running_run_is_evaluated_between_two_checkpoints(
  tmp_path, monkeypatch
):
  config = trained.make_config(
    steps=8, evals={'heldout': trained.heldout(every_steps=4)}
  )
  alone = tmp_path / 'alone'
  loop.train(config, alone)
  watched = tmp_path / 'watched'
  figures = []
  original = loop._Loop.leave_or_go_on

  def look(self, clock):
    if self.step == 6:  # checkpoints are those of steps 4 and 8
      self.checkpoints.wait()
      figures.append(evaluate.evaluate(config, watched))
    return original(self, clock)

  monkeypatch.setattr(loop._Loop, 'leave_or_go_on', look)
  assert loop.train(config, watched)
  assert figures == [trained.rows(watched, 'heldout/')[4]]
  assert steps_in(watched) == [4]
  # The run did not notice.
  want, _ = trained.restored(alone, config)
  got, _ = trained.restored(watched, config)
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_following_takes_new_checkpoints_until_the_run_is_done(
  tmp_path, monkeypatch
):
  config = trained.make_config(steps=4, evals={'heldout': trained.heldout()})
  with monkeypatch.context() as patch:
    patch.setattr(distributed.Preemption, 'reached', lambda self: True)
    assert not loop.train(config, tmp_path)  # stops after one step
  waits = []

  def go_on(seconds):
    waits.append(seconds)
    assert loop.train(config, tmp_path)

  monkeypatch.setattr(evaluate, 'time', types.SimpleNamespace(sleep=go_on))
  figures = evaluate.evaluate(config, tmp_path, follow=True)
  assert waits == [evaluate.POLL_SECONDS]
  assert steps_in(tmp_path) == [1, 4]
  assert figures == trained.rows(tmp_path, 'heldout/')[4]
