"""One small model in both layouts, and a few updates with random gradients."""

import functools

import jax
import numpy as np
import optax

from vidscenic.train import optim

WIDTH, HEADS, LAYERS = 6, 3, 2


def draw(tree, seed):
  """Random values for a tree of shapes; no zeros."""
  leaves, treedef = jax.tree.flatten(tree, is_leaf=lambda x: type(x) is tuple)
  rng = np.random.default_rng(seed)
  return treedef.unflatten(
    [(rng.normal(size=s) * 0.3 + 0.1).astype(np.float32) for s in leaves]
  )


def block_shapes():
  heads = {'kernel': (WIDTH, HEADS, 2), 'bias': (HEADS, 2)}
  return {
    'attention': {
      'query': heads,
      'value': heads,
      'out': {'kernel': (HEADS, 2, WIDTH), 'bias': (WIDTH,)},
    },
    'mlp': {'up': {'kernel': (WIDTH, 8)}, 'down': {'kernel': (8, WIDTH)}},
    'norm': {'scale': (WIDTH,)},
  }


def make_unrolled(seed=0):
  return draw(
    {
      'encoder': {
        'embedding': {'kernel': (2, 4, 4, 3, WIDTH), 'bias': (WIDTH,)},
        'position': (1, 5, WIDTH),
        **{f'block_{i}': block_shapes() for i in range(LAYERS)},
        'final_norm': {'scale': (WIDTH,)},
      },
      'conv': {'kernel': (3, 3, WIDTH, 4), 'bias': (4,)},
      'depthwise': {'kernel': (3, 3, 1, 4)},
      'head': {'kernel': (4, 2), 'bias': (2,)},
    },
    seed,
  )


def stack(params):
  encoder = dict(params['encoder'])
  blocks = [encoder.pop(f'block_{i}') for i in range(LAYERS)]
  encoder['blocks'] = jax.tree.map(lambda *x: np.stack(x), *blocks)
  return {**params, 'encoder': encoder}


def make_tx(params, total=10, **fields):
  return optim.make_optimizer(fields, params, total)


def run(tx, params, num_steps=4, seed=100):
  """Trains on random gradients; the same ones for both layouts."""
  unrolled = 'block_0' in params.get('encoder', {})
  state = tx.init(params)

  # Compiling takes longer than running, so without optimisation.
  @functools.partial(
    jax.jit, compiler_options={'xla_backend_optimization_level': 0}
  )
  def update(grads, state, params):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  for i in range(num_steps):
    grads = make_unrolled(seed + i)
    params, state = update(grads if unrolled else stack(grads), state, params)
  return params, state


def assert_close(a, b, **tol):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tol), a, b)
