"""Optimizers against optax and arithmetic by hand; the parameter table."""

import logging as std_logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train import optim_cases
from vidscenic import config as config_lib
from vidscenic.train import freezing, optim, paths


def test_adamw_is_that_of_optax():
  params = optim_cases.make_unrolled()
  schedule = dict(name='cosine', warmup_steps=2)
  optimizer = optim_cases.make_tx(
    params, lr=0.02, weight_decay=0.3, b1=0.8, b2=0.95, schedule=schedule
  )
  rate = optax.warmup_cosine_decay_schedule(0.0, 0.02, 2, 10)
  names = paths.named_leaves(params)
  mask = paths.map_named(
    lambda path, _: path.split('/')[-1] not in ('bias', 'scale'), params
  )
  assert 0 < sum(jax.tree.leaves(mask)) < len(names)
  reference = optax.adamw(rate, 0.8, 0.95, weight_decay=0.3, mask=mask)
  got, state = optim_cases.run(optimizer.tx, params)
  want, _ = optim_cases.run(reference, params)
  # One ulp per step between the two ways of writing the learning rate.
  optim_cases.assert_close(got, want, rtol=2e-6, atol=1e-7)
  assert int(optim.optimizer_count(state)) == 4
  np.testing.assert_allclose(optimizer.lr(1), 0.01, rtol=1e-6)


def test_one_adamw_step_by_hand():
  params = {'a': {'kernel': jnp.array([2.0, -4.0]), 'bias': jnp.array([1.0])}}
  grads = {'a': {'kernel': jnp.array([0.5, -3.0]), 'bias': jnp.array([2.0])}}
  optimizer = optim_cases.make_tx(
    params,
    lr=0.1,
    weight_decay=0.25,
    weight_decay_schedule=dict(value=2.0),
    lr_mult=((r'kernel$', 0.5), (r'.', 3.0)),
  )
  tx = optimizer.tx
  updates, _ = tx.update(grads, tx.init(params), params)
  # The first direction of Adam is the sign; the decay is 0.25 * 2 * param.
  kernel = -0.1 * 0.5 * (np.array([1.0, -1.0]) + 0.5 * np.array([2.0, -4.0]))
  np.testing.assert_allclose(updates['a']['kernel'], kernel, rtol=1e-5)
  np.testing.assert_allclose(updates['a']['bias'], [-0.3], rtol=1e-5)


def test_weight_decay_follows_its_own_schedule():
  params = {'w': jnp.array([1.0])}
  tx = optim_cases.make_tx(
    params,
    name='sgd',
    lr=1.0,
    momentum=0.0,
    weight_decay=0.1,
    weight_decay_schedule=dict(name='linear', value=1.0, end=5.0),
  ).tx
  state, sizes = tx.init(params), []
  for _ in range(3):
    updates, state = tx.update({'w': jnp.zeros(1)}, state, params)
    sizes.append(float(updates['w'][0]))
  # From 0.1 to 0.5 in 10 steps; the parameter itself is held at 1.
  np.testing.assert_allclose(sizes, [-0.1, -0.14, -0.18], rtol=1e-5)


def test_sgd_without_momentum_holds_no_state():
  params = optim_cases.make_unrolled()
  tx = optim_cases.make_tx(
    params, name='sgd', momentum=0.0, weight_decay=0.1
  ).tx
  assert all(x.size == 1 for x in jax.tree.leaves(tx.init(params)))
  tx = optim_cases.make_tx(params, name='sgd', momentum=0.9).tx
  names = freezing.param_leaf_paths(tx.init(params), params)
  assert sum(name is not None for name in names) == len(jax.tree.leaves(params))


@pytest.mark.parametrize('nesterov', [False, True])
def test_sgd_is_that_of_optax(nesterov):
  params = optim_cases.make_unrolled()
  fields = dict(name='sgd', lr=0.1, momentum=0.8, nesterov=nesterov)
  got, _ = optim_cases.run(optim_cases.make_tx(params, **fields).tx, params)
  want, _ = optim_cases.run(optax.sgd(0.1, 0.8, nesterov), params)
  optim_cases.assert_close(got, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
  'layout',
  [
    optim_cases.make_unrolled,
    lambda: optim_cases.stack(optim_cases.make_unrolled()),
  ],
)
def test_layer_multipliers_by_hand(layout):
  optimizer = optim_cases.make_tx(
    layout(),
    layer_decay=0.5,
    layer_stem=r'(^|/)(embedding|position)',
    lr_mult=((r'up/', 10.0), (r'mlp/', 100.0)),
  )
  factor = {row.path: row.lr_multiplier for row in optimizer.table}
  if 'encoder/blocks/norm/scale' in factor:
    layers = lambda name: factor[f'encoder/blocks/{name}']
  else:
    layers = lambda name: tuple(
      factor[f'encoder/block_{i}/{name}'] for i in range(optim_cases.LAYERS)
    )
  # Layers 0 (stem), 1, 2 (blocks) and 3 (the rest): 0.5 ** (3 - layer).
  assert factor['encoder/embedding/kernel'] == 1 / 8
  assert factor['encoder/position'] == 1 / 8
  assert layers('norm/scale') == (1 / 4, 1 / 2)
  assert layers('mlp/up/kernel') == (10 / 4, 10 / 2)
  assert layers('mlp/down/kernel') == (100 / 4, 100 / 2)
  assert factor['encoder/final_norm/scale'] == factor['head/kernel'] == 1


def test_layer_decay_counts_one_tower():
  params = {
    'encoder': {
      'stem': {'kernel': jnp.ones((2, 2))},
      'blocks': {'w': jnp.ones((4, 2))},
    },
    'head': {'blocks': {'w': jnp.ones((2, 2))}},
  }
  fields = dict(layer_decay=0.5, layer_stem='stem')
  with pytest.raises(ValueError, match='stacks of different depth'):
    optim_cases.make_tx(params, **fields)
  optimizer = optim_cases.make_tx(
    params, **fields, layer_block=r'^encoder/block_(\d+)/'
  )
  factor = {row.path: row.lr_multiplier for row in optimizer.table}
  assert factor['encoder/blocks/w'] == (1 / 16, 1 / 8, 1 / 4, 1 / 2)
  assert factor['encoder/stem/kernel'] == 1 / 32
  assert factor['head/blocks/w'] == 1


def test_table_and_decay_mask():
  params = optim_cases.make_unrolled()
  table = optim.describe(
    jax.eval_shape(lambda: params),
    dict(weight_decay=0.1, decay_exclude=('bias$', 'pos'), frozen=('conv/',)),
    never_trained=('head',),
  )
  rows = {row.path: row for row in table}
  assert list(rows) == list(paths.named_leaves(params))
  assert rows['encoder/position'] == (
    ('encoder/position', (1, 5, optim_cases.WIDTH), 1.0, False, False, 'adam')
  )
  assert rows['encoder/final_norm/scale'].decay
  assert rows['encoder/block_1/mlp/up/kernel'].decay
  assert not rows['encoder/block_1/attention/out/bias'].decay
  frozen = ['conv/bias', 'conv/kernel', 'head/bias', 'head/kernel']
  assert [row.path for row in table if row.frozen] == frozen
  assert not any(rows[path].decay for path in frozen)
  # Without weight decay nothing decays.
  assert not any(row.decay for row in optim.describe(params, {}))


def test_never_trained_leaves_have_no_moments():
  params = optim_cases.make_unrolled()
  optimizer = optim.make_optimizer(
    dict(frozen=('encoder/block_0/',), weight_decay=0.1),
    jax.eval_shape(lambda: params),
    10,
    never_trained=(r'encoder/(embedding|position)',),
  )
  trained, fixed = optim.split_params(params, optimizer.never_trained)
  state = jax.eval_shape(optimizer.tx.init, trained)
  owners = set(freezing.param_leaf_paths(state, params)) - {None}
  assert owners == set(paths.named_leaves(trained))
  assert not owners & set(paths.named_leaves(fixed))
  assert len(paths.named_leaves(fixed)) == 3 + len(
    jax.tree.leaves(params['encoder']['block_0'])
  )


def test_split_and_merge_are_inverse():
  params = {**optim_cases.make_unrolled(), 'nothing': {}}
  for regexes in ((), ('encoder',), (r'bias$', 'head')):
    parts = optim.split_params(params, regexes)
    assert '' not in map(str, parts)
    merged = optim.merge_params(*parts)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    optim_cases.assert_close(merged, params)
  trainable, fixed = optim.split_params(params, ('encoder',))
  assert list(fixed) == ['encoder'] and 'encoder' not in trainable
  with pytest.raises(ValueError, match="never_trained: 'encodr' matches no"):
    optim.split_params(params, ('head', 'encodr'))
  with pytest.raises(ValueError, match='head/bias is in both trees'):
    optim.merge_params(params, {'head': {'bias': 1}})


def test_discarded_updates_do_not_advance_the_rate():
  params = {'w': jnp.ones(2)}
  optimizer = optim_cases.make_tx(
    params, name='sgd', lr=1.0, momentum=0.0, schedule=dict(name='linear')
  )
  state = optimizer.tx.init(params)
  for _ in range(2):  # the result of the first update is thrown away
    updates, new = optimizer.tx.update(params, state, params)
    np.testing.assert_allclose(updates['w'], -1.0)
  updates, new = optimizer.tx.update(params, new, params)
  np.testing.assert_allclose(updates['w'], -0.9)
  assert int(optim.optimizer_count(new)) == 2
  with pytest.raises(ValueError, match='found 0'):
    optim.optimizer_count(optax.EmptyState())


def test_base_config_is_accepted_whole():
  params = optim_cases.make_unrolled()
  config = config_lib.base_config()
  optimizer = optim.make_optimizer(config.optim, params, config.steps)
  assert len(optimizer.table) == len(jax.tree.leaves(params))
  config.optim.layer_decay = 0.75
  optim.make_optimizer(config.optim, params, config.steps)


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(name='adam'), r"optim\.name='adam'.*did you mean 'adamw'"),
    (dict(learning_rate=1.0), r'optim\.learning_rate=1\.0 is unknown'),
    (dict(lr=-1.0), r'optim\.lr=-1\.0.*0 or more'),
    (dict(b2=1.0), r'optim\.b2=1\.0.*\[0, 1\)'),
    (dict(eps=0.0), r'optim\.eps=0\.0'),
    (dict(clip_norm=-1.0), r'optim\.clip_norm=-1\.0'),
    (dict(layer_decay=1.5), r'optim\.layer_decay=1\.5'),
    (dict(nesterov=True), r'optim\.nesterov=True: want muon, or sgd with'),
    (
      dict(name='sgd', momentum=0.0, nesterov=True),
      r'optim\.nesterov=True: want muon, or sgd with',
    ),
    (dict(schedule=dict(name='cos')), r"optim\.schedule\.name='cos'"),
    (dict(schedule=dict(value=-1.0)), r'optim\.schedule\.value=-1\.0'),
    (
      dict(weight_decay_schedule=dict(warmup_steps=99)),
      r'optim\.weight_decay_schedule\.warmup_steps=99',
    ),
    (dict(lr_mult=(('head', -1.0),)), r'optim\.lr_mult=.*factor'),
    (dict(lr_mult=('head', 2.0)), r'optim\.lr_mult=.*factor'),
    (dict(lr_mult=(('haed', 2.0),)), r"optim\.lr_mult: 'haed' matches no"),
    (dict(frozen=('encodr',)), r"optim\.frozen: 'encodr' matches no"),
    (dict(frozen=('.',)), 'nothing is left to train'),
    (dict(frozen='head'), r"optim\.frozen='head': must be a sequence"),
    (dict(decay_exclude=('(',)), r"optim\.decay_exclude: '\(' is not"),
    (dict(layer_decay=0.5, layer_stem=''), r"optim\.layer_stem=''.*needs"),
    (dict(layer_decay=0.5, layer_stem='xyz'), r"layer_stem: 'xyz' matches no"),
    (dict(layer_decay=0.5, layer_block='block_'), 'must have one group'),
    (dict(layer_decay=0.5, layer_block=r'(block)_'), "finds 'block' in"),
    (
      dict(layer_decay=0.5, layer_block=r'layer_(\d+)'),
      r'optim\.layer_block=.*matches no block',
    ),
    (dict(name='muon', muon_exclude=('.',)), 'no trained parameter is a matr'),
  ],
)
def test_mistakes_in_the_config_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    optim_cases.make_tx(optim_cases.make_unrolled(), **fields)


def test_a_decay_rule_without_effect_is_reported(caplog):
  with caplog.at_level(std_logging.WARNING, 'absl'):
    optim_cases.make_tx({'w': jnp.ones(2)}, decay_exclude=('w', 'pos_embeding'))
  assert "'pos_embeding' matches no parameter" in caplog.text
  assert "'w'" not in caplog.text
