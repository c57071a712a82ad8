"""Killed, stopped and moved runs continue exactly."""

import signal

import jax
import numpy as np
import pytest

from tests.multiprocess import processes
from tests.train import tiny_config
from vidscenic.train import checkpoints
from vidscenic.train import run as run_lib

STEPS = 30
# With everything that must survive: averages, accumulation, a phase that
# begins on the way, and evaluations.
EACH = (
  '--config.log.every_steps=1',
  f'--config.steps={STEPS}',
  '--config.accum_steps=2',
  '--config.ema.decay=0.9',
  '--config.task.kwargs.freeze_at=11',
  '--config.evals.heldout.every_steps=4',
)


def final_state(workdir):
  config = tiny_config.get_config()
  config.steps = STEPS
  config.accum_steps = 2
  config.ema.decay = 0.9
  run = run_lib.Run(config, devices=jax.devices()[:1])
  reader = checkpoints.Checkpoints(workdir, read_only=True)
  state, _ = reader.restore(run.state_shapes)
  reader.close()
  return jax.device_get(state)


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted')
  processes.finish(processes.start(f'--workdir={workdir}', *EACH))
  return workdir


def assert_same_run(workdir, reference):
  for prefix in ('train/', 'heldout/'):
    rows = processes.rows(workdir, prefix)
    assert rows == processes.rows(reference, prefix)
    assert rows
  for a, b in zip(
    jax.tree.leaves(final_state(workdir)),
    jax.tree.leaves(final_state(reference)),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)
  assert (workdir / 'DONE').read_text() == f'{STEPS}\n'


def test_killed_run_continues_bit_for_bit(uninterrupted, tmp_path):
  for step in np.random.default_rng(0).integers(1, STEPS - 4, 3):
    process = processes.start(f'--workdir={tmp_path}', *EACH)
    # A run that was killed late may already be past this step.
    done = (
      max(processes.rows(tmp_path), default=0)
      if (tmp_path / 'metrics.jsonl').exists()
      else 0
    )
    processes.read_until(process, f'step {max(step, done + 1)}/')
    process.send_signal(signal.SIGKILL)
    processes.finish(process, code=-signal.SIGKILL)
  processes.finish(processes.start(f'--workdir={tmp_path}', *EACH))
  assert_same_run(tmp_path, uninterrupted)


def test_terminated_run_saves_leaves_and_continues(uninterrupted, tmp_path):
  # No checkpoint is due in these steps but the one that the signal causes.
  extra = ('--config.checkpoint.every_steps=1000',)
  process = processes.start(
    f'--workdir={tmp_path}', *EACH, *extra, '--config.preempted_exit_code=7'
  )
  processes.read_until(process, 'step 2/')
  process.send_signal(signal.SIGTERM)
  processes.finish(process, code=7)
  assert list((tmp_path / 'checkpoints').iterdir())
  assert not (tmp_path / 'DONE').exists()
  processes.finish(processes.start(f'--workdir={tmp_path}', *EACH, *extra))
  assert_same_run(tmp_path, uninterrupted)


def test_finished_run_does_nothing(uninterrupted):
  before = (uninterrupted / 'metrics.jsonl').read_text()
  (output,) = processes.finish(
    processes.start(f'--workdir={uninterrupted}', *EACH)
  )
  assert 'nothing to do' in output
  assert (uninterrupted / 'metrics.jsonl').read_text() == before
