"""A small RVM with random weights, for the tests of the project."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from projects.rvm import task as task_lib
from vidscenic import task as task_api

MODEL = dict(
  width=12,
  depth=2,
  num_heads=3,
  mlp_features=20,
  core_depth=1,
  core_heads=2,
  core_mlp_features=28,
  decoder_width=8,
  decoder_depth=1,
  decoder_heads=2,
  decoder_mlp_features=16,
  patch=(4, 8),
  base_grid=(4, 4),
)
SIZE = (12, 32)  # 3 x 4 patches
NUM_SOURCES, NUM_TARGETS = 3, 2
# Compiling takes longer than running here.
FAST = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}


def compiled(function):
  """jit that compiles quickly."""
  return jax.jit(function, compiler_options=FAST)


def make_task(*, model=None, **kwargs):
  """Masks leave 3 of 12 patches visible."""
  options = dict(
    size=SIZE,
    num_sources=NUM_SOURCES,
    num_targets=NUM_TARGETS,
    mask_ratio=0.7,
    model=MODEL | (model or {}),
  )
  return task_lib.MaskedVideo(**options | kwargs)


def make_batch(rows=3):
  """Noise, and targets 4 and 9 steps behind the last source."""
  rng = np.random.default_rng(0)
  shape = (rows, NUM_SOURCES + NUM_TARGETS, *SIZE, 3)
  return {
    'video': rng.integers(0, 256, shape, np.uint8),
    'frame_ids': np.tile(np.int32([0, 1, 2, 6, 11]), (rows, 1)),
    'mask': np.ones(rows, bool),
  }


@functools.cache
def make_params(decoder=True):
  """Random values everywhere: zero biases would hide mistakes."""
  task = make_task(model={'decoder': decoder})
  shapes, _ = jax.eval_shape(task.init, jax.random.key(0), make_batch())
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: jnp.asarray(0.3 * rng.standard_normal(s.shape), s.dtype), shapes
  )


def context(rows=3, *, train=False):
  """What a loss is given."""
  return task_api.StepContext(
    step=jnp.int32(0),
    rng=jax.random.key(1),
    rows=jnp.arange(rows, dtype=jnp.int32),
    train=train,
  )
