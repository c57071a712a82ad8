"""Fixtures for layer tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# Compiling takes longer than running here; optimised code is not wanted.
FAST = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}


def _shapes(module, *args, **kwargs):
  init = functools.partial(module.init, **kwargs)
  return jax.eval_shape(init, jax.random.key(0), *args)


def _random(module, *args, seed=0, **kwargs):
  leaves, structure = jax.tree.flatten(_shapes(module, *args, **kwargs))
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


def _run(module, variables, *args, method=None, mutable=False, **static):
  apply = functools.partial(
    module.apply, method=method, mutable=mutable, **static
  )
  return jax.jit(apply, compiler_options=FAST)(variables, *args)


@pytest.fixture
def jit():
  """jax.jit for small test programs, without expensive optimisations."""
  return functools.partial(jax.jit, compiler_options=FAST)


@pytest.fixture
def shapes():
  """shapes(module, *args, **kwargs): variables that init makes, as shapes."""
  return _shapes


@pytest.fixture
def random():
  """random(module, *args, seed=0, **kwargs): variables, all values random."""
  return _random


@pytest.fixture
def run():
  """run(module, variables, *args, **static): compiled module.apply."""
  return _run


@pytest.fixture
def normal():
  """normal(*shape, seed=0): float32 standard normal numbers."""

  def draw(*shape, seed=0):
    rng = np.random.default_rng([seed, *shape])
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  return draw
