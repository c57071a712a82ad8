"""Fixtures for layer tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def _randomize(tree, seed=0):
  leaves, structure = jax.tree.flatten(tree)
  rng = np.random.default_rng(seed)
  # Weights of size 1 / sqrt(fan in) keep activations near 1; biases and
  # scales are as large, so that none of them can go unnoticed.
  leaves = [
    jnp.asarray(
      rng.normal(size=leaf.shape) / np.sqrt(max(leaf.shape[:-1] or (4,))),
      leaf.dtype,
    )
    for leaf in leaves
  ]
  return jax.tree.unflatten(structure, leaves)


@pytest.fixture
def randomize():
  """randomize(params, seed=0): the same tree with random values everywhere."""
  return _randomize


@pytest.fixture
def normal():
  """normal(*shape, seed=0): float32 standard normal numbers."""

  def draw(*shape, seed=0):
    rng = np.random.default_rng([seed, *shape])
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  return draw
