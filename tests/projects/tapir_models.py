"""Small TAPIR models with random parameters, for the tests of the project."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from projects.tapir import task as task_lib

# Compiling takes longer than running here.
FAST = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}
SMALL = dict(
  pyramid_level=1,
  num_pips_iter=2,
  mixer_hidden_dim=16,
  num_mixer_blocks=2,
  initial_resolution=(32, 40),
  stem_channels=8,
  channels_per_group=(8, 12, 12, 16),
  blocks_per_group=(1, 1, 1, 1),
)
SIZE = (32, 40)


@functools.cache
def make_params(causal=False, **fields):
  """Random values everywhere: zero biases would hide mistakes."""
  model = task_lib.make_model(SMALL | fields | {'use_causal_conv': causal})
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jnp.zeros((1, 1, *SIZE, 3)),
    jnp.zeros((1, 1, 3)),
  )['params']
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda s: jnp.asarray(0.2 * rng.standard_normal(s.shape), s.dtype), shapes
  )
  # Clear peaks: else noise decides which of many places is the best.
  head = params['cost_volume']
  head['position_hidden']['kernel'] += 0.5
  head['position_output']['kernel'] += 0.5
  return model, params


def make_video(num_frames, size=SIZE, seed=0):
  """uint8[T, H, W, 3]: a smooth texture that moves one pixel per frame."""
  rng = np.random.default_rng(seed)
  height, width = size
  noise = rng.standard_normal(
    (height // 4 + 2, (width + num_frames) // 4 + 2, 3)
  )
  large = np.kron(noise, np.ones((4, 4, 1)))
  kernel = np.ones(5) / 5
  for axis in (0, 1):
    large = np.apply_along_axis(np.convolve, axis, large, kernel, 'same')
  large = np.uint8(np.clip(128 + 90 * large, 0, 255))
  return np.stack([large[:height, t : t + width] for t in range(num_frames)])


def make_queries(count, num_frames, size=SIZE, seed=1):
  """float32[N, 3], (t, y, x), whole t."""
  rng = np.random.default_rng(seed)
  t = rng.integers(0, num_frames, (count, 1))
  return np.concatenate([t, rng.random((count, 2)) * size], 1).astype(
    np.float32
  )
