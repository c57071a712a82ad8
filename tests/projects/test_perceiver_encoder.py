"""The encoder: order of inputs, scan, shared weights, and LAMB on them."""

import jax
import jax.numpy as jnp
import numpy as np

from projects.perceiver import encoder
from tests.parity import quick
from tests.projects import perceiver_small
from tests.train import optim_cases
from vidscenic.layers import transformer


def test_permuting_inputs_with_their_positions_changes_nothing():
  module = encoder.PerceiverEncoder(
    2, 2, 5, 8, num_self_attend_heads=2, key_chunk=4
  )
  inputs = perceiver_small.normal(2, 12, 7)
  variables = perceiver_small.init(module, inputs)
  order = np.random.default_rng(0).permutation(12)
  run = quick.jit(module.apply)
  np.testing.assert_allclose(
    run(variables, inputs), run(variables, inputs[:, order]), atol=1e-5
  )


def test_scan_over_layers_and_passes_changes_nothing():
  options = dict(
    num_self_attends_per_block=2,
    num_blocks=2,
    z_index_dim=4,
    num_z_channels=8,
    num_self_attend_heads=2,
  )
  inputs = perceiver_small.normal(2, 6, 5)
  plain = encoder.PerceiverEncoder(**options)
  scanned = encoder.PerceiverEncoder(**options, scan=True)
  variables = perceiver_small.init(plain, inputs)
  stacked = {'params': transformer.stack_blocks(variables['params'])}
  shapes = jax.eval_shape(scanned.init, jax.random.key(0), inputs)
  assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, shapes)

  def gradient(module):
    return quick.jit(jax.grad(lambda v: jnp.sum(module.apply(v, inputs) ** 2)))

  want = transformer.stack_blocks(gradient(plain)(variables)['params'])
  got = gradient(scanned)(stacked)['params']
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-3)


def test_lamb_trusts_every_tensor_of_every_layer_by_itself():
  rng = np.random.default_rng(0)
  shapes = {
    'self_norm': {'scale': (8,)},
    'self_attention': {'query': {'kernel': (8, 2, 4)}},
  }
  sizes = dict(enumerate((0.1, 1.0, 10.0)))  # of the layers' parameters
  draw = lambda size: jax.tree.map(
    lambda shape: size * rng.standard_normal(shape).astype(np.float32),
    shapes,
    is_leaf=lambda x: type(x) is tuple,
  )
  module = encoder.PerceiverEncoder(3, 2, 4, 8, scan=True)
  tree = lambda layers: {
    'encoder': {'self_attends': {f'block_{i}': x for i, x in layers.items()}}
  }
  params = tree({i: draw(size) for i, size in sizes.items()})
  grads = tree({i: draw(1.0) for i in sizes})
  stacked = transformer.stack_blocks(params)
  made = jax.eval_shape(
    module.init, jax.random.key(0), perceiver_small.normal(1, 6, 5)
  )
  assert stacked['encoder']['self_attends'].keys() == (
    made['params']['self_attends'].keys()
  )

  def updates(params, grads):
    tx = optim_cases.make_tx(params, name='lamb', lr=0.1).tx
    return quick.jit(tx.update)(grads, tx.init(params), params)[0]

  want = transformer.stack_blocks(updates(params, grads))
  got = updates(stacked, transformer.stack_blocks(grads))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5)
    norms = np.linalg.norm(a.reshape(3, -1), axis=1)
    assert norms[2] > 5 * norms[1] > 25 * norms[0]


def test_passes_share_their_weights_unless_told_otherwise():
  options = dict(
    num_self_attends_per_block=1,
    num_blocks=3,
    z_index_dim=4,
    num_z_channels=8,
    num_self_attend_heads=2,
  )
  inputs = jax.ShapeDtypeStruct((1, 6, 5), jnp.float32)
  names = {
    share: set(
      jax.eval_shape(
        encoder.PerceiverEncoder(**options, share_weights=share).init,
        jax.random.key(0),
        inputs,
      )['params']
    )
    for share in (True, False)
  }
  assert names[False] - names[True] == {'self_attends_1', 'self_attends_2'}
