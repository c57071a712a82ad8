"""The loop: cadence, resuming, failures, phases, evaluation of a workdir."""

import json
import logging
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.multiprocess import processes
from tests.train import tiny, trained
from vidscenic.train import (
  checkpoints,
  distributed,
  guard,
  loop,
)
from vidscenic.train import run as run_lib


def test_events_happen_at_their_steps_and_at_the_last(tmp_path):
  config = trained.make_config(
    steps=10,
    log__every_steps=4,
    checkpoint__every_steps=3,
    evals={'heldout': trained.heldout(every_steps=4)},
  )
  assert loop.train(config, tmp_path)
  assert sorted(trained.rows(tmp_path)) == [4, 8, 10]
  assert sorted(trained.rows(tmp_path, 'heldout/')) == [4, 8, 10]
  kept = sorted(int(p.name) for p in (tmp_path / 'checkpoints').iterdir())
  assert kept == [9, 10]
  assert (tmp_path / 'DONE').exists()
  assert json.loads((tmp_path / 'config.json').read_text())['steps'] == 10


def test_longer_run_continues_a_finished_one(tmp_path):
  loop.train(trained.make_config(steps=6), tmp_path / 'a')
  loop.train(trained.make_config(steps=9), tmp_path / 'a')
  loop.train(trained.make_config(steps=9), tmp_path / 'b')
  a, b = (
    trained.restored(tmp_path / n, trained.make_config(steps=9))[0]
    for n in 'ab'
  )
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


def test_changed_data_need_permission(tmp_path):
  loop.train(trained.make_config(steps=2), tmp_path)
  other = trained.make_config(steps=4, data__train__source_kwargs__size=32)
  with pytest.raises(ValueError, match='data.train.source_kwargs.size'):
    loop.train(other, tmp_path)
  assert loop.train(other, tmp_path, allow_config_change=True)


def test_best_checkpoint_is_kept_besides_the_last(tmp_path):
  config = trained.make_config(
    steps=8,
    optim__lr=1.0,  # gets worse from the start
    optim__clip_norm=5.0,
    checkpoint__every_steps=2,
    checkpoint__keep_last=1,
    checkpoint__keep_best=1,
    checkpoint__best_metric='heldout/loss',
    checkpoint__best_mode='min',
    evals={'heldout': trained.heldout(every_steps=2)},
  )
  loop.train(config, tmp_path)
  losses = {
    s: r['heldout/loss'] for s, r in trained.rows(tmp_path, 'heldout/').items()
  }
  best = min(losses, key=losses.get)
  kept = sorted(int(p.name) for p in (tmp_path / 'checkpoints').iterdir())
  assert kept == sorted({best, 8})


def test_non_finite_updates_roll_back_and_leave_out_their_batches(
  tmp_path, caplog
):
  # Rows 0-31 of 64 are bad; unshuffled, batches 0 and 1 of every four.
  config = trained.make_config(
    steps=12,
    log__every_steps=1,
    checkpoint__every_steps=1,
    guard__max_bad_steps=1,
    guard__max_rollbacks=10,
    data__train__shuffle=False,
    data__train__source_kwargs__nan_from=32,
    data__train__source_kwargs__nan_to=64,
  )
  caplog.set_level(logging.WARNING)
  assert loop.train(config, tmp_path)
  state, _ = trained.restored(tmp_path, config)
  assert state.step == 12
  assert state.skipped > 0
  assert 'rollback 1 of 10' in caplog.text
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
  assert sorted(trained.rows(tmp_path)) == list(range(1, 13))


def test_repeated_failure_stops_with_a_remedy(tmp_path):
  config = trained.make_config(
    steps=50,
    log__every_steps=1,
    checkpoint__every_steps=1,
    guard__max_bad_steps=2,
    guard__max_rollbacks=2,
    optim__lr=1e25,  # the first update leads where no loss is finite
  )
  with pytest.raises(guard.TrainingFailed, match='after 2 rollbacks.*optim.lr'):
    loop.train(config, tmp_path)
  assert not (tmp_path / 'DONE').exists()


def test_truncated_newest_checkpoint_falls_back(tmp_path, caplog):
  config = trained.make_config(steps=8, checkpoint__every_steps=4)
  loop.train(config, tmp_path)
  want = trained.restored(tmp_path, config)[0]
  (tmp_path / 'DONE').unlink()
  for file in (tmp_path / 'checkpoints' / '8').rglob('*'):
    if file.is_file() and file.parent.name == 'd':
      file.write_bytes(file.read_bytes()[:10])
  assert loop.train(config, tmp_path)
  assert 'unreadable' in caplog.text
  assert 'trying the one before' in caplog.text
  assert [p.name for p in (tmp_path / 'checkpoints_aside').iterdir()]
  got = trained.restored(tmp_path, config)[0]
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_array_equal(a, b)


def test_full_disk_names_the_folder_and_keeps_older_checkpoints(tmp_path):
  script = f"""
import resource, signal, sys
sys.path.insert(0, {str(processes.ROOT)!r})
from tests.train.trained import make_config
from vidscenic.train import loop
config = make_config(steps=4, task__kwargs__width=64)
loop.train(config, {str(tmp_path)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
config.steps = 8
config.log.every_steps = 100
try:
  loop.train(config, {str(tmp_path)!r})
except OSError as error:
  sys.exit(f'ended by: {{error}}'.replace(chr(10), ' '))
"""
  done = subprocess.run(
    [sys.executable, '-c', script],
    cwd=processes.ROOT,
    capture_output=True,
    text=True,
    timeout=processes.TIMEOUT,
    check=False,
  )
  assert done.returncode == 1
  # Threads of Orbax that fail with it write to the same stream.
  error = done.stderr.partition('ended by: ')[2]
  assert str(tmp_path / 'checkpoints') in error, done.stderr[-3000:]
  assert 'free some space' in error
  state, _ = trained.restored(
    tmp_path, trained.make_config(steps=4, task__kwargs__width=64)
  )
  assert state.step == 4


def test_unwritable_workdir_is_named():
  with pytest.raises(OSError, match='/proc/nothing.*--workdir'):
    loop.train(trained.make_config(steps=1), '/proc/nothing')


def test_changing_shapes_are_warned_of(tmp_path, monkeypatch, caplog):
  original = loop._Loop.place

  def place(self, batch):
    if self.step % 4 == 3:  # compiles a new program now and then
      jax.jit(lambda x: x + 1)(np.zeros(self.step))
    return original(self, batch)

  monkeypatch.setattr(loop._Loop, 'place', place)
  loop.train(trained.make_config(steps=12), tmp_path)
  assert 'some shape changes' in caplog.text


def test_rollback_skips_checkpoints_of_a_bad_streak(tmp_path):
  # Batches 2 and 3 of every four are bad; the logs come late, so checkpoints
  # are due in the middle of the streak.
  config = trained.make_config(
    steps=16,
    log__every_steps=4,
    checkpoint__every_steps=1,
    checkpoint__keep_last=20,
    guard__max_bad_steps=1,
    guard__max_rollbacks=10,
    data__train__shuffle=False,
    data__train__source_kwargs__nan_from=32,
    data__train__source_kwargs__nan_to=64,
  )
  assert loop.train(config, tmp_path)
  reader = checkpoints.Checkpoints(tmp_path, read_only=True)
  steps = reader.steps()
  reader.close()
  for step in steps[:-1]:  # the last step always saves
    assert trained.restored(tmp_path, config, step)[1]['bad_steps'] == 0
  assert trained.restored(tmp_path, config)[0].skipped > 0


def test_no_checkpoint_of_an_abandoned_path_is_left_for_a_restart(tmp_path):
  # Only a checkpoint that must be saved can lie amid discarded updates.
  config = trained.make_config(
    steps=6,
    log__every_steps=100,
    guard__max_bad_steps=100,
    checkpoint__every_steps=2,
    checkpoint__keep_last=20,
    data__train__shuffle=False,
    data__train__source_kwargs__nan_from=64,  # batches 4 and 5
    data__train__source_kwargs__nan_to=96,
    data__train__source_kwargs__size=160,
  )
  assert loop.train(config, tmp_path)
  assert trained.restored(tmp_path, config, 6)[1]['bad_steps'] == 2
  (tmp_path / 'DONE').unlink()
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.steps, config.log.every_steps = 12, 1
    config.guard.max_bad_steps = 1
    config.data.train.source_kwargs.nan_to = 112  # and batch 6
  assert loop.train(config, tmp_path, allow_config_change=True)
  aside = [p.name for p in (tmp_path / 'checkpoints_aside').iterdir()]
  assert aside == ['6_0']
  assert (
    trained.restored(tmp_path, config, 6)[1]['bad_steps'] == 0
  )  # saved anew
  assert trained.restored(tmp_path, config)[0].step == 12


def test_preempted_run_saves_before_it_evaluates(tmp_path, monkeypatch):
  events = []
  for name in ('save', 'evaluate'):
    original = getattr(loop._Loop, name)

    def noted(self, *args, name=name, original=original, **kwargs):
      events.append((self.step, name))
      return original(self, *args, **kwargs)

    monkeypatch.setattr(loop._Loop, name, noted)
  monkeypatch.setattr(distributed.Preemption, 'reached', lambda self: True)
  config = trained.make_config(
    steps=8, evals={'heldout': trained.heldout(every_steps=1)}
  )
  assert not loop.train(config, tmp_path)
  assert events == [(1, 'save'), (1, 'evaluate')]
  assert 1 in trained.rows(tmp_path, 'heldout/')


def test_fewer_steps_than_were_trained_are_refused(tmp_path):
  loop.train(trained.make_config(steps=6), tmp_path)
  (tmp_path / 'DONE').unlink()
  with pytest.raises(ValueError, match='steps=4 but .* step 6'):
    loop.train(trained.make_config(steps=4), tmp_path)


def test_wrong_evaluation_data_stop_the_run_before_it_trains(tmp_path):
  bad = trained.heldout()
  bad.kwargs.data.source = 'tests.train.tiny:Nubers'
  with pytest.raises(ValueError, match='evals.heldout.kwargs.data'):
    loop.train(trained.make_config(evals={'heldout': bad}), tmp_path)
  assert not (tmp_path / 'metrics.jsonl').exists()


def test_average_of_bfloat16_parameters_is_float32(tmp_path):
  class Half(tiny.Regression):
    def init(self, rng, batch):
      params, state = super().init(rng, batch)
      return jax.tree.map(lambda p: p.astype(jnp.bfloat16), params), state

  globals()['Half'] = Half
  config = trained.make_config(
    steps=3, ema__decay=0.999, task__factory=f'{__name__}:Half'
  )
  loop.train(config, tmp_path)
  state, _ = trained.restored(tmp_path, config)
  assert state.params['head']['kernel'].dtype == jnp.bfloat16
  assert state.ema_params['head']['kernel'].dtype == jnp.float32


def test_run_starts_from_part_of_another(tmp_path):
  loop.train(trained.make_config(steps=4), tmp_path / 'a')
  source, _ = trained.restored(tmp_path / 'a', trained.make_config(steps=4))
  config = trained.make_config(
    steps=1,
    optim__lr=0.0,
    init_from__path=str(tmp_path / 'a'),
    init_from__rules=((r'layer\d/.*', r'\g<0>'),),
    init_from__ignore=('^head/',),
  )
  loop.train(config, tmp_path / 'b')
  got, _ = trained.restored(tmp_path / 'b', config)
  for name in ('layer0', 'layer1'):
    np.testing.assert_array_equal(
      got.params[name]['kernel'], source.params[name]['kernel']
    )
  fresh = run_lib.Run(trained.make_config()).fresh_state()
  np.testing.assert_array_equal(
    got.params['head']['kernel'], fresh.params['head']['kernel']
  )


def test_profile_window_writes_a_trace(tmp_path):
  config = trained.make_config(steps=6, profile__start=2, profile__steps=2)
  loop.train(config, tmp_path)
  assert list(pathlib.Path(tmp_path / 'profile').rglob('*.xplane.pb'))


def test_profile_window_may_be_resumed_in_its_middle(tmp_path):
  window = dict(profile__start=2, profile__steps=4)
  loop.train(trained.make_config(steps=4, **window), tmp_path)
  loop.train(trained.make_config(steps=8, **window), tmp_path)
  traces = list(pathlib.Path(tmp_path / 'profile').rglob('*.xplane.pb'))
  assert len(traces) >= 1


def test_steady_run_compiles_nothing_after_its_first_interval(tmp_path, caplog):
  config = trained.make_config(
    steps=16,
    evals={'heldout': trained.heldout(every_steps=4)},
    log__every_steps=4,
  )
  loop.train(config, tmp_path)
  counts = [
    r['speed/compilations'] for r in trained.rows(tmp_path, 'speed/').values()
  ]
  assert counts[-1] == counts[-2]
  assert 'some shape changes' not in caplog.text


def test_values_are_checked_on_the_host_before_training(tmp_path, monkeypatch):
  def check_batch(self, batch):
    raise ValueError(f'x is a {type(batch["x"]).__name__}')

  monkeypatch.setattr(tiny.Regression, 'check_batch', check_batch)
  with pytest.raises(ValueError, match='x is a ndarray'):
    loop.train(trained.make_config(), tmp_path)


def test_missing_field_names_what_the_data_give(tmp_path):
  class Other(tiny.Regression):
    def batch_spec(self):
      return {'z': jax.ShapeDtypeStruct((8,), jnp.float32)}

    def init(self, rng, batch):
      return self.model.init(rng, batch['z'])['params'], {}

    def loss(self, params, model_state, batch, ctx):
      return super().loss(
        params,
        model_state,
        {**batch, 'x': batch['z'], 'y': batch['z'][:, 0], 'index': ctx.rows},
        ctx,
      )

  globals()['Other'] = Other
  config = trained.make_config(task__factory=f'{__name__}:Other')
  with pytest.raises(ValueError, match="needs 'z', the data give.*'x'"):
    loop.train(config, tmp_path)
