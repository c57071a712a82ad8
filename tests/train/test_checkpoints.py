"""Checkpoints: other meshes, exact accounting, damage."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.train import stored
from vidscenic.train import checkpoints


@pytest.mark.parametrize(
  ('old', 'new'),
  [((1, 8), (8, 1)), ((1, 8), (2, 4)), ((8, 1), (1, 8)), ((4, 2), (1, 1))],
)
def test_state_restores_onto_another_mesh(tmp_path, old, new):
  state = stored.make_state(stored.make_mesh(*old))
  stored.store(tmp_path, state, meta={'examples': 7, 'names': ['a']})
  target = stored.make_state(
    stored.make_mesh(*new), params=stored.make_params(seed=1)
  )
  got, meta = stored.fetch(tmp_path, stored.shapes_of(target))
  stored.assert_equal(got, state)
  assert meta == {'examples': 7, 'names': ['a']}
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(target), strict=True):
    assert a.sharding == b.sharding
  if new == (1, 8):
    kernel = got.params['head']['kernel']
    assert kernel.addressable_shards[0].data.shape == (2, 8)


def test_empty_workdir_restores_nothing(tmp_path):
  target = stored.shapes_of(stored.make_state())
  assert stored.fetch(tmp_path, target, read_only=False) is None
  with pytest.raises(FileNotFoundError, match=r'no checkpoint of step 4.*\[\]'):
    stored.fetch(tmp_path, target, step=4)


def test_a_chosen_step_is_restored(tmp_path):
  states = [
    stored.make_state(step=s, params=stored.make_params(seed=s))
    for s in (1, 2, 3)
  ]
  stored.store(tmp_path, *states)
  target = stored.shapes_of(states[0])
  stored.assert_equal(stored.fetch(tmp_path, target, step=2)[0], states[1])
  stored.assert_equal(stored.fetch(tmp_path, target)[0], states[2])
  with pytest.raises(
    FileNotFoundError, match=r'no checkpoint of step 4, there are \[1, 2, 3\]'
  ):
    stored.fetch(tmp_path, target, step=4)


@pytest.mark.parametrize(('mode', 'kept'), [('max', [2, 4]), ('min', [3, 4])])
def test_best_and_last_are_kept(tmp_path, mode, kept):
  states = [stored.make_state(step=s) for s in (1, 2, 3, 4)]
  figures = [{'e/acc': 0.5}, {'e/acc': 0.9}, {'e/acc': 0.1}, {}]
  stored.store(
    tmp_path,
    *states,
    metrics=figures,
    keep_last=1,
    keep_best=1,
    best_metric='e/acc',
    best_mode=mode,
  )
  assert stored.stored_steps(tmp_path) == kept


OTHER_PARAMS = {
  'a leaf more': (
    {**stored.make_params(), 'neck': {'bias': np.zeros(2, np.float32)}},
    r"other model.*lacks \[.*'params/neck/bias'.*\] \(2 leaves\)",
  ),
  'a leaf less': (
    stored.without(stored.make_params(), 'head', 'bias'),
    r"has \[.*'params/head/bias'.*\] \(2 leaves\) that this config does not",
  ),
  'another shape': (
    {**stored.make_params(), 'stem': {'kernel': np.zeros((3, 8), np.float32)}},
    r'stem/kernel has shape \(3, 16\), this config wants \(3, 8\)',
  ),
  'another type': (
    {
      **stored.make_params(),
      'stem': {'kernel': np.zeros((3, 16), jnp.bfloat16)},
    },
    r'stem/kernel is float32, this config wants bfloat16',
  ),
}


@pytest.mark.parametrize('case', OTHER_PARAMS)
def test_checkpoint_of_another_model_is_refused(tmp_path, case):
  params, message = OTHER_PARAMS[case]
  stored.store(tmp_path, stored.make_state())
  with pytest.raises(ValueError, match=message):
    stored.fetch(tmp_path, stored.shapes_of(stored.make_state(params=params)))
  assert stored.stored_steps(tmp_path) == [3]  # readable, so it stays


def test_average_that_only_one_side_has_is_refused(tmp_path):
  stored.store(tmp_path, stored.make_state())
  target = stored.shapes_of(stored.make_state(ema=stored.make_params()))
  with pytest.raises(ValueError, match='lacks.*ema_params/.*check task, optim'):
    stored.fetch(tmp_path, target)


@stored.damages
def test_damaged_newest_checkpoint_is_set_aside(tmp_path, caplog):
  states = [stored.make_state(step=s) for s in (1, 2)]
  stored.store(tmp_path, *states)
  stored.truncate(tmp_path, 2)
  target = stored.shapes_of(states[0])
  caplog.set_level(logging.ERROR)
  stored.assert_equal(stored.fetch(tmp_path, target)[0], states[0])
  assert stored.stored_steps(tmp_path) == [1, 2]  # a reader moves nothing
  with pytest.raises(OSError, match='checkpoints/2 is unreadable'):
    stored.fetch(tmp_path, target, step=2)
  stored.assert_equal(
    stored.fetch(tmp_path, target, read_only=False)[0], states[0]
  )
  assert stored.stored_steps(tmp_path) == [1]
  assert [p.name for p in (tmp_path / checkpoints.ASIDE).iterdir()] == ['2_0']
  assert caplog.text.count('trying the one before') == 2


def test_a_lack_of_memory_is_no_damage(tmp_path, monkeypatch):
  stored.store(tmp_path, stored.make_state())
  target = stored.shapes_of(stored.make_state())

  def full(self, *args, **kwargs):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')

  monkeypatch.setattr(ocp.CheckpointManager, 'restore', full)
  with pytest.raises(jax.errors.JaxRuntimeError, match='out of memory'):
    stored.fetch(tmp_path, target)


@stored.damages
def test_nothing_readable_is_an_error_not_a_fresh_start(tmp_path):
  stored.store(tmp_path, stored.make_state())
  stored.truncate(tmp_path, 3)
  for read_only in (True, False):
    with pytest.raises(OSError, match='no readable checkpoint'):
      stored.fetch(
        tmp_path, stored.shapes_of(stored.make_state()), read_only=read_only
      )
    assert stored.stored_steps(tmp_path) == [3]


@pytest.mark.parametrize(
  ('path', 'want'),
  [
    ('runs/a', '{here}/runs/a'),
    ('~/runs', '{home}/runs'),
    ('/data/../runs', '/runs'),
    ('gs://bucket/run', 'gs://bucket/run'),
  ],
)
def test_paths_of_runs_are_made_absolute(path, want, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', '/home/someone')
  want = want.format(here=tmp_path, home='/home/someone')
  assert str(checkpoints.full_path(path)) == want
