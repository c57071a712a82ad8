"""LAMB, Muon and stacked layers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train import optim_cases


def test_one_lamb_step_by_hand():
  params = {'w': jnp.array([3.0, 4.0]), 'zero': jnp.zeros(2)}
  grads = {'w': jnp.array([1.0, -1.0]), 'zero': jnp.array([2.0, 2.0])}
  tx = optim_cases.make_tx(params, name='lamb', lr=0.1).tx
  updates, _ = tx.update(grads, tx.init(params), params)
  ratio = 5 / np.sqrt(2)
  want = -0.1 * ratio * np.array([1.0, -1.0])
  np.testing.assert_allclose(updates['w'], want, rtol=1e-5)
  np.testing.assert_allclose(updates['zero'], [-0.1, -0.1], rtol=1e-5)
  grads = jax.tree.map(jnp.zeros_like, grads)
  updates, _ = tx.update(grads, tx.init(params), params)
  assert not np.any(updates['w'])


@pytest.mark.parametrize('name', ['adamw', 'lamb', 'sgd', 'muon'])
def test_stacked_layers_train_like_single_ones(name):
  fields = dict(
    name=name,
    lr=0.05,
    weight_decay=0.2,
    layer_decay=0.7,
    layer_stem=r'(^|/)(embedding|position)',
    nesterov=name == 'muon',
  )
  params = optim_cases.make_unrolled()
  single = optim_cases.make_tx(params, **fields)
  stacked = optim_cases.make_tx(optim_cases.stack(params), **fields)
  want, _ = optim_cases.run(single.tx, params)
  got, _ = optim_cases.run(stacked.tx, optim_cases.stack(params))
  # Float32; sums of norms and matrix products in another order.
  tol = (
    dict(rtol=1e-4, atol=1e-5) if name == 'muon' else dict(rtol=1e-5, atol=1e-7)
  )
  optim_cases.assert_close(got, optim_cases.stack(want), **tol)
  change = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), want, params)
  assert min(jax.tree.leaves(change)) > 1e-3


def test_muon_orthogonalises_the_right_matrices():
  params = optim_cases.stack(optim_cases.make_unrolled())
  optimizer = optim_cases.make_tx(
    params, name='muon', lr=1.0, momentum=0.0, b1=0.0, b2=0.0
  )
  rules = {row.path: row.rule for row in optimizer.table}
  assert {path for path, rule in rules.items() if rule == 'muon'} == {
    'conv/kernel',
    *(
      f'encoder/blocks/{name}/kernel'
      for name in (
        'attention/query',
        'attention/value',
        'attention/out',
        'mlp/up',
        'mlp/down',
      )
    ),
  }
  grads = optim_cases.stack(optim_cases.make_unrolled(1))
  state = optimizer.tx.init(params)
  updates, _ = jax.jit(optimizer.tx.update)(grads, state, params)

  def check(update, fan_in, fan_out):
    size = np.linalg.svd(update.reshape(fan_in, fan_out), compute_uv=False)
    # The iteration brings singular values to [0.5, 1.5], then 0.2 * sqrt(max).
    size = size / (0.2 * np.sqrt(max(fan_in, fan_out)))
    assert 0.3 < size.min() and size.max() < 1.5, size

  blocks = updates['encoder']['blocks']
  for i in range(optim_cases.LAYERS):
    check(
      np.asarray(blocks['attention']['query']['kernel'][i]),
      optim_cases.WIDTH,
      6,
    )
    check(
      np.asarray(blocks['attention']['out']['kernel'][i]), 6, optim_cases.WIDTH
    )
    check(np.asarray(blocks['mlp']['up']['kernel'][i]), optim_cases.WIDTH, 8)
  check(np.asarray(updates['conv']['kernel']), 9 * optim_cases.WIDTH, 4)
  # Adam without memory is the sign.
  np.testing.assert_allclose(
    updates['head']['kernel'], -np.sign(grads['head']['kernel']), rtol=1e-4
  )


def test_muon_of_one_matrix_is_that_of_optax():
  params = {'dense': {'kernel': optim_cases.draw((5, 7), 0)}}
  fields = dict(name='muon', lr=0.1, momentum=0.95, nesterov=True)
  tx = optim_cases.make_tx(params, **fields, weight_decay=0.5).tx
  reference = optax.contrib.muon(
    0.1, beta=0.95, weight_decay=0.5, consistent_rms=0.2
  )
  results = []
  for each in (tx, reference):
    got, state, update = params, each.init(params), jax.jit(each.update)
    for step in range(3):
      grads = {'dense': {'kernel': optim_cases.draw((5, 7), step + 1)}}
      updates, state = update(grads, state, got)
      got = optax.apply_updates(got, updates)
    results.append(got)
  optim_cases.assert_close(*results, rtol=1e-5)


def test_moments_of_bfloat16_parameters_are_float32():
  params = jax.tree.map(
    lambda x: x.astype(jnp.bfloat16), optim_cases.make_unrolled()
  )
  for name in ('adamw', 'lamb', 'sgd', 'muon'):
    tx = optim_cases.make_tx(params, name=name, weight_decay=0.1).tx
    state = jax.eval_shape(tx.init, params)
    updates, new = jax.eval_shape(tx.update, params, state, params)
    floats = [x for x in jax.tree.leaves((new, updates)) if x.ndim]
    assert {x.dtype for x in floats} == {jnp.dtype('float32')}
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype, new, state)
    assert all(jax.tree.leaves(same))
    applied = jax.eval_shape(optax.apply_updates, params, updates)
    assert {x.dtype for x in jax.tree.leaves(applied)} == {
      jnp.dtype('bfloat16')
    }
