"""Checkpoints: other meshes, exact accounting, damage, starting from a run."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidscenic.train import checkpoints, sharding
from vidscenic.train import state as state_lib

FSDP = ((r'.*', 'fsdp'),)
# Reads that fail inside Orbax outlive its event loop.
damages = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


def make_mesh(data=1, fsdp=1):
  return sharding.make_mesh(
    dict(data=data, fsdp=fsdp, model=1), jax.devices()[: data * fsdp]
  )


def make_params(seed=0):
  rng = np.random.default_rng(seed)
  return {
    'stem': {'kernel': rng.normal(size=(3, 16)).astype(np.float32)},
    'head': {
      'kernel': rng.normal(size=(16, 8)).astype(np.float32),
      'bias': rng.normal(size=8).astype(jnp.bfloat16),
    },
  }


def make_state(mesh=None, *, step=3, params=None, ema=None, rules=FSDP):
  """A state on a mesh, as a run would hold it."""
  mesh = mesh or make_mesh()
  params = make_params() if params is None else params
  opt_state = optax.sgd(0.1, momentum=0.9).init(params)
  opt_state = jax.tree.map(lambda x: x + 1, opt_state)
  count = np.int32(step)
  state = state_lib.TrainState(
    count, np.int32(5), params, opt_state, {}, ema, np.int32(0)
  )
  placed = sharding.shardings_from_rules(params, rules, mesh)
  shardings = sharding.shard_like(state, params, placed, mesh)
  return jax.device_put(state, shardings)


def shapes_of(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


def store(workdir, *states, meta=None, metrics=None, **options):
  with_defaults = {'asynchronous': False, 'keep_last': 10, **options}
  writer = checkpoints.Checkpoints(workdir, **with_defaults)
  for number, state in enumerate(states):
    found = None if metrics is None else metrics[number]
    writer.save(state, meta or {}, found)
  writer.close()


def fetch(workdir, target, step=None, read_only=True):
  reader = checkpoints.Checkpoints(workdir, read_only=read_only)
  try:
    return reader.restore(target, step)
  finally:
    reader.close()


def stored_steps(workdir):
  reader = checkpoints.Checkpoints(workdir, read_only=True)
  try:
    return reader.steps()
  finally:
    reader.close()


def assert_equal(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def truncate(workdir, step):
  for file in (workdir / checkpoints.FOLDER / str(step)).rglob('*'):
    if file.is_file() and file.parent.name == 'd':
      file.write_bytes(file.read_bytes()[:10])


@pytest.mark.parametrize(
  ('old', 'new'),
  [((1, 8), (8, 1)), ((1, 8), (2, 4)), ((8, 1), (1, 8)), ((4, 2), (1, 1))],
)
def test_state_restores_onto_another_mesh(tmp_path, old, new):
  state = make_state(make_mesh(*old))
  store(tmp_path, state, meta={'examples': 7, 'names': ['a']})
  target = make_state(make_mesh(*new), params=make_params(seed=1))
  got, meta = fetch(tmp_path, shapes_of(target))
  assert_equal(got, state)
  assert meta == {'examples': 7, 'names': ['a']}
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(target), strict=True):
    assert a.sharding == b.sharding
  if new == (1, 8):
    kernel = got.params['head']['kernel']
    assert kernel.addressable_shards[0].data.shape == (2, 8)


def test_empty_workdir_restores_nothing(tmp_path):
  target = shapes_of(make_state())
  assert fetch(tmp_path, target, read_only=False) is None
  with pytest.raises(FileNotFoundError, match=r'no checkpoint of step 4.*\[\]'):
    fetch(tmp_path, target, step=4)


def test_a_chosen_step_is_restored(tmp_path):
  states = [make_state(step=s, params=make_params(seed=s)) for s in (1, 2, 3)]
  store(tmp_path, *states)
  target = shapes_of(states[0])
  assert_equal(fetch(tmp_path, target, step=2)[0], states[1])
  assert_equal(fetch(tmp_path, target)[0], states[2])
  with pytest.raises(
    FileNotFoundError, match=r'no checkpoint of step 4, there are \[1, 2, 3\]'
  ):
    fetch(tmp_path, target, step=4)


@pytest.mark.parametrize(('mode', 'kept'), [('max', [2, 4]), ('min', [3, 4])])
def test_best_and_last_are_kept(tmp_path, mode, kept):
  states = [make_state(step=s) for s in (1, 2, 3, 4)]
  figures = [{'e/acc': 0.5}, {'e/acc': 0.9}, {'e/acc': 0.1}, {}]
  store(
    tmp_path,
    *states,
    metrics=figures,
    keep_last=1,
    keep_best=1,
    best_metric='e/acc',
    best_mode=mode,
  )
  assert stored_steps(tmp_path) == kept


def without(tree, *path):
  tree = dict(tree)
  *parents, name = path
  if parents:
    tree[parents[0]] = without(tree[parents[0]], *parents[1:], name)
  else:
    del tree[name]
  return tree


OTHER_PARAMS = {
  'a leaf more': (
    {**make_params(), 'neck': {'bias': np.zeros(2, np.float32)}},
    r"other model.*lacks \[.*'params/neck/bias'.*\] \(2 leaves\)",
  ),
  'a leaf less': (
    without(make_params(), 'head', 'bias'),
    r"has \[.*'params/head/bias'.*\] \(2 leaves\) that this config does not",
  ),
  'another shape': (
    {**make_params(), 'stem': {'kernel': np.zeros((3, 8), np.float32)}},
    r'stem/kernel has shape \(3, 16\), this config wants \(3, 8\)',
  ),
  'another type': (
    {**make_params(), 'stem': {'kernel': np.zeros((3, 16), jnp.bfloat16)}},
    r'stem/kernel is float32, this config wants bfloat16',
  ),
}


@pytest.mark.parametrize('case', OTHER_PARAMS)
def test_checkpoint_of_another_model_is_refused(tmp_path, case):
  params, message = OTHER_PARAMS[case]
  store(tmp_path, make_state())
  with pytest.raises(ValueError, match=message):
    fetch(tmp_path, shapes_of(make_state(params=params)))
  assert stored_steps(tmp_path) == [3]  # readable, so it stays


def test_average_that_only_one_side_has_is_refused(tmp_path):
  store(tmp_path, make_state())
  target = shapes_of(make_state(ema=make_params()))
  with pytest.raises(ValueError, match='lacks.*ema_params/.*check task, optim'):
    fetch(tmp_path, target)


@damages
def test_damaged_newest_checkpoint_is_set_aside(tmp_path, caplog):
  states = [make_state(step=s) for s in (1, 2)]
  store(tmp_path, *states)
  truncate(tmp_path, 2)
  target = shapes_of(states[0])
  caplog.set_level(logging.ERROR)
  assert_equal(fetch(tmp_path, target)[0], states[0])
  assert stored_steps(tmp_path) == [1, 2]  # a reader moves nothing
  with pytest.raises(OSError, match='checkpoints/2 is unreadable'):
    fetch(tmp_path, target, step=2)
  assert_equal(fetch(tmp_path, target, read_only=False)[0], states[0])
  assert stored_steps(tmp_path) == [1]
  assert [p.name for p in (tmp_path / checkpoints.BROKEN).iterdir()] == ['2_0']
  assert caplog.text.count('trying the one before') == 2


@damages
def test_nothing_readable_is_an_error_not_a_fresh_start(tmp_path):
  store(tmp_path, make_state())
  truncate(tmp_path, 3)
  for read_only in (True, False):
    with pytest.raises(OSError, match='no readable checkpoint'):
      fetch(tmp_path, shapes_of(make_state()), read_only=read_only)
    assert stored_steps(tmp_path) == [3]


# --- starting from another run ---


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """A run with an average of everything but the stem."""
  workdir = tmp_path_factory.mktemp('source')
  average = jax.tree.map(lambda x: x + 1, make_params())
  average = without(average, 'stem')
  store(workdir, make_state(make_mesh(1, 8), ema=average))
  return workdir


def target_of(**leaves):
  """{'a/b': shape or (shape, dtype)} as nested ShapeDtypeStructs on a mesh."""
  tree = {}
  for name, shape in leaves.items():
    shape, dtype = (
      shape if isinstance(shape[0], tuple) else (shape, jnp.float32)
    )
    where = sharding.replicated(make_mesh(2, 1))
    parent, _, last = name.partition('__')
    tree.setdefault(parent, {})[last] = jax.ShapeDtypeStruct(
      shape, dtype, sharding=where
    )
  return tree


WHOLE = target_of(
  stem__kernel=(3, 16), head__kernel=(16, 8), head__bias=((8,), jnp.bfloat16)
)


def test_whole_run_is_taken_onto_another_mesh(source):
  got = checkpoints.load_run(str(source), WHOLE)
  assert_equal(got, make_params())
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(WHOLE), strict=True):
    assert a.sharding == b.sharding


def test_average_is_taken_where_there_is_one(source):
  got = checkpoints.load_run(str(source), WHOLE, params='ema')
  want = make_params()
  want['head'] = jax.tree.map(lambda x: x + 1, want['head'])
  assert_equal(got, want)


def test_rules_rename_and_the_rest_is_left_out(source):
  target = target_of(
    body__kernel=(3, 16), twin__kernel=(3, 16), fresh__kernel=(5, 5)
  )
  got = checkpoints.load_run(
    str(source),
    target,
    rules=((r'(?:body|twin)/(\w+)', r'stem/\1'),),
    ignore=('^head/',),
  )
  kernel = make_params()['stem']['kernel']
  assert_equal(got, {'body': {'kernel': kernel}, 'twin': {'kernel': kernel}})


def test_batch_statistics_follow_the_rules_of_their_parameters(tmp_path):
  mean = np.arange(4.0, dtype=np.float32)
  state = make_state()._replace(
    model_state={'batch_stats': {'stem': {'mean': mean, 'var': mean + 1}}}
  )
  store(tmp_path, state)
  names = ('mean', 'var', 'extra')
  wanted = {n: target_of(x__y=(4,))['x']['y'] for n in names}
  params, got = checkpoints.load_run(
    str(tmp_path),
    target_of(body__kernel=(3, 16)),
    rules=((r'body/(\w+)', r'stem/\1'),),
    ignore=('^head/',),
    model_state={'batch_stats': {'body': wanted, 'fresh': wanted}},
  )
  assert_equal(params, {'body': {'kernel': make_params()['stem']['kernel']}})
  assert_equal(got, {'batch_stats': {'body': {'mean': mean, 'var': mean + 1}}})


def test_first_rule_counts(source):
  rules = ((r'stem/kernel', 'head/kernel'), (r'(.*)', r'\1'))
  target = target_of(stem__kernel=(16, 8))
  got = checkpoints.load_run(
    str(source), target, rules=rules, ignore=('stem', 'bias')
  )
  assert_equal(got['stem']['kernel'], make_params()['head']['kernel'])


@pytest.mark.parametrize(
  ('target', 'options', 'message'),
  [
    (
      target_of(stem__kernel=(3, 16)),
      {},
      r"2 leaves of .*checkpoints/3 are not used, such as \['head/bias', "
      r"'head/kernel'\]; name them in init_from.ignore",
    ),
    (WHOLE, {'rules': ((r'stem', 'x'),)}, 'rules=.* match no parameter'),
    (
      {**WHOLE, **target_of(neck__bias=(2,))},
      {},
      r"has no \['neck/bias'\]",
    ),
    (
      target_of(stem__kernel=(3, 8)),
      {'ignore': ('head',)},
      r'stem/kernel has shape \(3, 16\), this config wants \(3, 8\)',
    ),
    (
      target_of(stem__kernel=((3, 16), jnp.bfloat16)),
      {'ignore': ('head',)},
      'stem/kernel is float32, this config wants bfloat16',
    ),
  ],
)
def test_what_does_not_fit_is_refused(source, target, options, message):
  with pytest.raises(ValueError, match=message):
    checkpoints.load_run(str(source), target, **options)


def test_average_of_a_run_without_one_is_refused(tmp_path):
  store(tmp_path, make_state())
  with pytest.raises(ValueError, match="params='ema' but .* has no average"):
    checkpoints.load_run(str(tmp_path), WHOLE, params='ema')


def test_folders_that_are_no_runs_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="no 'checkpoints' folder: want"):
    checkpoints.load_run(str(tmp_path), WHOLE)
  (tmp_path / checkpoints.FOLDER).mkdir()
  with pytest.raises(FileNotFoundError, match='holds no checkpoint'):
    checkpoints.load_run(str(tmp_path), WHOLE)


@damages
@pytest.mark.parametrize('damage', ['truncated', 'without its state'])
def test_damaged_source_is_named(tmp_path, damage):
  store(tmp_path, make_state())
  if damage == 'truncated':
    truncate(tmp_path, 3)
  else:
    folder = tmp_path / checkpoints.FOLDER / '3' / 'state'
    folder.rename(tmp_path / 'elsewhere')
  with pytest.raises(OSError, match='checkpoints/3 is unreadable'):
    checkpoints.load_run(str(tmp_path), WHOLE)


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
