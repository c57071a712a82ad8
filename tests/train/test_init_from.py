"""Starting from another run: renaming, exact accounting, damage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train import stored
from vidscenic.train import checkpoints, init_from, sharding


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """A run with an average of everything but the stem."""
  workdir = tmp_path_factory.mktemp('source')
  average = jax.tree.map(lambda x: x + 1, stored.make_params())
  average = stored.without(average, 'stem')
  stored.store(workdir, stored.make_state(stored.make_mesh(1, 8), ema=average))
  return workdir


def target_of(**leaves):
  """{'a/b': shape or (shape, dtype)} as nested ShapeDtypeStructs on a mesh."""
  tree = {}
  for name, shape in leaves.items():
    shape, dtype = (
      shape if isinstance(shape[0], tuple) else (shape, jnp.float32)
    )
    where = sharding.replicated(stored.make_mesh(2, 1))
    parent, _, last = name.partition('__')
    tree.setdefault(parent, {})[last] = jax.ShapeDtypeStruct(
      shape, dtype, sharding=where
    )
  return tree


WHOLE = target_of(
  stem__kernel=(3, 16), head__kernel=(16, 8), head__bias=((8,), jnp.bfloat16)
)


def test_whole_run_is_taken_onto_another_mesh(source):
  got = init_from.load_run(str(source), WHOLE)
  stored.assert_equal(got, stored.make_params())
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(WHOLE), strict=True):
    assert a.sharding == b.sharding


def test_average_is_taken_where_there_is_one(source):
  got = init_from.load_run(str(source), WHOLE, params='ema')
  want = stored.make_params()
  want['head'] = jax.tree.map(lambda x: x + 1, want['head'])
  stored.assert_equal(got, want)


def test_rules_rename_and_the_rest_is_left_out(source):
  target = target_of(
    body__kernel=(3, 16), twin__kernel=(3, 16), fresh__kernel=(5, 5)
  )
  got = init_from.load_run(
    str(source),
    target,
    rules=((r'(?:body|twin)/(\w+)', r'stem/\1'),),
    ignore=('^head/',),
  )
  kernel = stored.make_params()['stem']['kernel']
  stored.assert_equal(
    got, {'body': {'kernel': kernel}, 'twin': {'kernel': kernel}}
  )


def test_batch_statistics_follow_the_rules_of_their_parameters(tmp_path):
  mean = np.arange(4.0, dtype=np.float32)
  state = stored.make_state()._replace(
    model_state={'batch_stats': {'stem': {'mean': mean, 'var': mean + 1}}}
  )
  stored.store(tmp_path, state)
  names = ('mean', 'var', 'extra')
  wanted = {n: target_of(x__y=(4,))['x']['y'] for n in names}
  params, got = init_from.load_run(
    str(tmp_path),
    target_of(body__kernel=(3, 16)),
    rules=((r'body/(\w+)', r'stem/\1'),),
    ignore=('^head/',),
    model_state={'batch_stats': {'body': wanted, 'fresh': wanted}},
  )
  stored.assert_equal(
    params, {'body': {'kernel': stored.make_params()['stem']['kernel']}}
  )
  stored.assert_equal(
    got, {'batch_stats': {'body': {'mean': mean, 'var': mean + 1}}}
  )


def test_first_rule_counts(source):
  rules = ((r'stem/kernel', 'head/kernel'), (r'(.*)', r'\1'))
  target = target_of(stem__kernel=(16, 8))
  got = init_from.load_run(
    str(source), target, rules=rules, ignore=('stem', 'bias')
  )
  stored.assert_equal(
    got['stem']['kernel'], stored.make_params()['head']['kernel']
  )


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
    init_from.load_run(str(source), target, **options)


def test_average_of_a_run_without_one_is_refused(tmp_path):
  stored.store(tmp_path, stored.make_state())
  with pytest.raises(ValueError, match="params='ema' but .* has no average"):
    init_from.load_run(str(tmp_path), WHOLE, params='ema')


def test_folders_that_are_no_runs_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="no 'checkpoints' folder: want"):
    init_from.load_run(str(tmp_path), WHOLE)
  (tmp_path / checkpoints.FOLDER).mkdir()
  with pytest.raises(FileNotFoundError, match='holds no checkpoint'):
    init_from.load_run(str(tmp_path), WHOLE)


@stored.damages
@pytest.mark.parametrize('damage', ['truncated', 'without its state'])
def test_damaged_source_is_named(tmp_path, damage):
  stored.store(tmp_path, stored.make_state())
  if damage == 'truncated':
    stored.truncate(tmp_path, 3)
  else:
    folder = tmp_path / checkpoints.FOLDER / '3' / 'state'
    folder.rename(tmp_path / 'elsewhere')
  with pytest.raises(OSError, match='checkpoints/3 is unreadable'):
    init_from.load_run(str(tmp_path), WHOLE)
