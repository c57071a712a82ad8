"""Random weights and inputs for the tests of the Perceivers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def randomised(shapes, seed=0):
  """Random values everywhere: zero biases would hide mistakes."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda s: jnp.asarray(0.3 * rng.standard_normal(s.shape), s.dtype), shapes
  )


def init(module, *args, **kwargs):
  shapes = jax.eval_shape(
    functools.partial(module.init, **kwargs), jax.random.key(0), *args
  )
  return {'params': randomised(shapes['params'])}


def normal(*shape, seed=1):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.standard_normal(shape), jnp.float32)
