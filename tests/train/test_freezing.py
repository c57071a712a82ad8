"""Frozen parameters: masks, gradients, and state that stays bit-identical."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidscenic.train import freezing, optim


def make_params(seed=0):
  keys = iter(jax.random.split(jax.random.key(seed), 8))
  return {
    'encoder': {
      'embed': {'kernel': jax.random.normal(next(keys), (3, 4))},
      'blocks': {
        'mlp': {
          'kernel': jax.random.normal(next(keys), (3, 4, 4)),
          'bias': jax.random.normal(next(keys), (3, 4)),
        },
        'gate': jax.random.normal(next(keys), (3,)),
      },
    },
    'head': {'kernel': jax.random.normal(next(keys), (4, 2))},
  }


RULES = ('embed', ('encoder/blocks', 2))


def assert_same(a, b):
  np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def run_loss(params, x):
  x = x @ params['encoder']['embed']['kernel']
  blocks = params['encoder']['blocks']
  for i in range(3):
    y = jnp.tanh(x @ blocks['mlp']['kernel'][i] + blocks['mlp']['bias'][i])
    x = x + blocks['gate'][i] * y
  return jnp.sum((x @ params['head']['kernel']) ** 2)


def test_mask_values():
  params = make_params()
  mask = freezing.frozen_mask(params, RULES)
  assert mask == {
    'encoder': {
      'embed': {'kernel': True},
      'blocks': {'mlp': {'kernel': 2, 'bias': 2}, 'gate': 2},
    },
    'head': {'kernel': False},
  }
  # Shapes will do, and 1 layer is an int, not True.
  shapes = jax.eval_shape(lambda: params)
  mask = freezing.frozen_mask(shapes, [('blocks', 1)])
  assert mask['encoder']['blocks']['gate'] == 1
  assert not isinstance(mask['encoder']['blocks']['gate'], bool)


def test_all_layers_are_true_and_none_is_false():
  params = make_params()

  def leaf(*rules):
    mask = freezing.frozen_mask(params, rules)
    return mask['encoder']['blocks']['gate']

  assert leaf(('blocks', 3)) is True
  assert leaf(('blocks', 0)) is False
  assert leaf(('blocks', 1), ('gate', 2)) == 2
  assert leaf(('blocks', 2), 'gate', ('gate', 1)) is True
  assert leaf() is False


@pytest.mark.parametrize(
  'rules, message',
  [
    (('nothing_here',), "frozen: 'nothing_here' matches no parameter"),
    ((('nothing_here', 1),), "'nothing_here' matches no parameter"),
    ((('encoder', 1),), r"\('encoder', 1\) matches 'encoder/embed/kernel'"),
    ((('blocks', 4),), r'freezes 4 layers but .* has 3'),
    ((('blocks', -1),), 'negative'),
    ((('blocks', True),), 'must be a regular expression or'),
    ((('blocks', 1, 2),), 'must be a regular expression or'),
    (('(',), 'is not a regular expression'),
    ('blocks', 'must be a sequence'),
  ],
)
def test_mistakes_in_rules_are_named(rules, message):
  with pytest.raises(ValueError, match=message):
    freezing.frozen_mask(make_params(), rules)


def test_stopped_gradients_equal_zeroed_ones():
  params, x = make_params(), jnp.ones((2, 3))
  mask = freezing.frozen_mask(params, RULES)
  stopped = freezing.stop_frozen(params, mask)
  jax.tree.map(assert_same, stopped, params)
  free = jax.grad(run_loss)(params, x)
  frozen = jax.grad(lambda p: run_loss(freezing.stop_frozen(p, mask), x))(
    params
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
    freezing.zero_frozen(free, mask),
    frozen,
  )
  assert not np.any(frozen['encoder']['embed']['kernel'])
  assert not np.any(frozen['encoder']['blocks']['mlp']['kernel'][:2])
  assert np.any(frozen['encoder']['blocks']['mlp']['kernel'][2])
  assert np.all(frozen['head']['kernel'])


def test_keep_frozen_restores_exactly_even_from_nan():
  old = make_params()
  mask = freezing.frozen_mask(old, RULES)
  new = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), old)
  kept = freezing.keep_frozen(new, old, mask)
  for leaf in ('kernel', 'bias'):
    got = kept['encoder']['blocks']['mlp'][leaf]
    assert_same(got[:2], old['encoder']['blocks']['mlp'][leaf][:2])
    assert np.all(np.isnan(got[2]))
  assert_same(
    kept['encoder']['embed']['kernel'], old['encoder']['embed']['kernel']
  )
  assert np.all(np.isnan(kept['head']['kernel']))


@pytest.mark.parametrize('name', ['adamw', 'lamb', 'sgd', 'muon'])
def test_frozen_parts_do_not_move_under_weight_decay(name):
  params, x = make_params(), jnp.ones((2, 3))
  optimizer = optim.make_optimizer(
    dict(name=name, lr=0.1, weight_decay=0.5), params, 10
  )
  mask = freezing.frozen_mask(params, RULES)

  @functools.partial(jax.jit, static_argnums=2)
  def step(params, state, phase):
    live = freezing.frozen_mask(params, RULES if phase else ())
    grads = jax.grad(run_loss)(params, x)
    grads = freezing.zero_frozen(grads, live)
    updates, new_state = optimizer.tx.update(grads, state, params)
    new = optax.apply_updates(params, updates)
    return (
      freezing.keep_frozen(new, params, live),
      freezing.keep_frozen_state(new_state, state, params, live),
    )

  # One free step first, so that the frozen moments are not zero.
  params, state = step(params, optimizer.tx.init(params), 0)
  start = (params, state)
  for _ in range(3):
    params, state = step(params, state, 1)

  masks = (mask, freezing.state_mask(state, params, mask))
  moved = 0
  for part, new, old in zip(
    jax.tree.leaves(masks),
    jax.tree.leaves((params, state)),
    jax.tree.leaves(start),
    strict=True,
  ):
    if part is True:
      assert_same(new, old)
    elif part is not False:
      assert_same(new[:part], old[:part])
      assert np.all(np.asarray(new[part:]) != np.asarray(old[part:]))
      moved += 1
  # Stacked parameters and as many moments for each of them.
  moments = dict(adamw=2, lamb=2, sgd=1).get(name)
  if moments:
    assert moved == 3 * (1 + moments)
  assert int(optim.optimizer_count(state)) == 4


def test_state_leaves_find_their_parameters():
  params = make_params()
  tx = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda c: c))
  state = tx.init(params)
  names = freezing.param_leaf_paths(state, params)
  moments = [
    'encoder/blocks/gate',
    'encoder/blocks/mlp/bias',
    'encoder/blocks/mlp/kernel',
    'encoder/embed/kernel',
    'head/kernel',
  ]
  assert names == [None, *moments, *moments, None]
  # A leaf of another shape, such as a factored moment, belongs to none.
  other = state[0]._replace(mu=jax.tree.map(lambda x: x[..., :1], params))
  names = freezing.param_leaf_paths(other, params)
  assert names == [None, *[None] * 5, *moments]


def test_masks_divide_like_parameters():
  params = make_params()
  mask = freezing.frozen_mask(params, ('embed', ('blocks', 1)))
  trained, fixed = optim.split_params(mask, ('embed',))
  assert fixed == {'encoder': {'embed': {'kernel': True}}}
  assert trained['encoder']['blocks']['mlp'] == {'kernel': 1, 'bias': 1}
  # The head has no rule and passes through.
  assert trained['head'] == {'kernel': False}
