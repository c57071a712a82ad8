"""What a run leaves in its folder, and which changes a restart may bring."""

import json

import jax
import pytest

from tests.train import tiny_config
from vidscenic import config as vc
from vidscenic.train import workdir


@pytest.fixture(autouse=True)
def cache(monkeypatch):
  """Keeps the compilation cache of other tests where it is."""
  found = {}
  monkeypatch.setattr(
    workdir, '_set_compilation_cache', lambda path: found.update(path=path)
  )
  return found


@pytest.fixture
def started(tmp_path):
  """The folder of a run that has saved once."""
  workdir.prepare(tmp_path, tiny_config.changed())
  (tmp_path / 'checkpoints' / '4').mkdir(parents=True)
  return tmp_path


def test_config_is_stored_resolved(tmp_path, cache):
  config = tiny_config.changed(optim__lr=0.25)
  path = workdir.prepare(tmp_path / 'a' / 'b', config)
  assert path == tmp_path / 'a' / 'b'
  stored = workdir.load_config(path)
  assert stored['optim']['lr'] == 0.25
  assert stored == json.loads(json.dumps(vc.plain(config)))
  assert [p.name for p in path.iterdir()] == ['config.json']  # no rest
  assert cache['path'] == path


def test_same_config_continues(started, caplog):
  workdir.prepare(started, tiny_config.changed())
  assert 'differs' not in caplog.text


@pytest.mark.parametrize(
  ('changes', 'named'),
  [
    ({'task__kwargs__width': 32}, 'task.kwargs.width'),
    ({'task__factory': 'tests.train.tiny:Other'}, 'task.factory'),
    ({'data__train__source_kwargs__size': 3}, 'data.train.source_kwargs.size'),
    ({'data__train__shuffle': False}, 'data.train.shuffle'),
    ({'seed': 1}, 'seed'),
    ({'batch_size': 32}, 'batch_size'),
    ({'init_from__path': 'elsewhere'}, 'init_from.path'),
  ],
)
def test_other_model_data_or_seed_need_permission(started, changes, named):
  config = tiny_config.changed(**changes)
  before = workdir.load_config(started)
  message = f'(?s){named}: .* -> .*allow_config_change'
  with pytest.raises(ValueError, match=message):
    workdir.prepare(started, config)
  assert workdir.load_config(started) == before
  workdir.prepare(started, config, allow_config_change=True)
  assert workdir.load_config(started) != before


@pytest.mark.parametrize(
  'changes',
  [
    {'steps': 99},
    {'optim__lr': 0.5},
    {'log__every_steps': 1},
    {'data__train__num_threads': 2},
    {'data__train__num_workers': 1},
    {'accum_steps': 2},
    {'mesh__fsdp': 2},
  ],
)
def test_other_changes_are_shown_and_go_on(started, caplog, changes):
  workdir.prepare(started, tiny_config.changed(**changes))
  (field, value) = next(iter(changes.items()))
  assert f'{field.replace("__", ".")}: ' in caplog.text
  assert f'-> {value!r}' in caplog.text


def test_run_that_never_saved_may_be_corrected(tmp_path, caplog):
  """A mistyped path in the first command must not cost the workdir."""
  workdir.prepare(tmp_path, tiny_config.changed(seed=1))
  # What a save that was cut off leaves behind is no checkpoint.
  (tmp_path / 'checkpoints' / '4.orbax-checkpoint-tmp').mkdir(parents=True)
  workdir.prepare(tmp_path, tiny_config.changed(seed=2))
  assert workdir.load_config(tmp_path)['seed'] == 2
  assert 'seed: 1 -> 2' in caplog.text


def test_mark_of_a_finished_run(tmp_path):
  assert workdir.finished_steps(tmp_path) is None
  workdir.mark_finished(tmp_path, 12)
  assert workdir.finished_steps(tmp_path) == 12
  workdir.mark_unfinished(tmp_path)
  workdir.mark_unfinished(tmp_path)  # no mark is no error
  assert workdir.finished_steps(tmp_path) is None


def test_other_folders_are_no_runs(tmp_path):
  with pytest.raises(FileNotFoundError, match='config.json is missing: want'):
    workdir.load_config(tmp_path)


def test_compilations_are_cached_in_the_workdir_unless_set(
  tmp_path, monkeypatch
):
  monkeypatch.undo()
  before = jax.config.jax_compilation_cache_dir
  try:
    jax.config.update('jax_compilation_cache_dir', None)
    workdir.prepare(tmp_path, tiny_config.changed())
    found = str(tmp_path / 'compiled')
    assert jax.config.jax_compilation_cache_dir == found
    workdir.prepare(tmp_path / 'other', tiny_config.changed())
    assert jax.config.jax_compilation_cache_dir == found
  finally:
    jax.config.update('jax_compilation_cache_dir', before)
