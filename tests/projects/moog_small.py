"""A small MooG with random weights, for the tests of the project."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from projects.moog import model as model_lib
from projects.moog import task as task_lib
from vidscenic import task as task_api

STACK = dict(depth=1, num_heads=2, qkv_features=8, mlp_features=12)
MODEL = dict(
  num_tokens=5,
  token_size=16,
  conv_features=(4, 6, 8),
  strides=(2, 1, 2),
  encoder_bases=3,
  encoder=dict(hidden_features=10),
  predictor=STACK,
  corrector=STACK,
  decoder=STACK,
  decoder_bases=2,
  remat=False,
)
CLIP = (5, 16, 24)
NUM_ROWS = 3
NUM_POINTS, NUM_BOXES = 4, 2
READOUT = dict(features=12, num_bases=2, **STACK)
HEADS = {
  'points': {
    'factory': 'vidscenic.tasks.track_heads:Points',
    'num_points': NUM_POINTS,
    'layers': READOUT,
  },
  'boxes': {
    'factory': 'vidscenic.tasks.track_heads:Boxes',
    'num_boxes': NUM_BOXES,
    'layers': READOUT,
  },
  'depth': {
    'factory': 'vidscenic.tasks.depth_head:Depth',
    'limits': (1.0, 10.0),
    'factor': 4,
    'eval_factor': 2,
    'layers': dict(num_bases=2, **STACK),
  },
}
# Compiling takes longer than running here.
FAST = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
  'xla_cpu_use_fusion_emitters': False,
}


def compiled(function, **kwargs):
  """jit that compiles quickly."""
  return jax.jit(function, compiler_options=FAST, **kwargs)


def make_model(variant='config', **fields):
  options = model_lib.variant(variant) | MODEL | fields
  return model_lib.Moog(**options)


def make_task(**kwargs):
  options = dict(clip=CLIP, model=MODEL, factor=4, eval_factor=2)
  return task_lib.NextFrame(**options | kwargs)


def make_video(rows=NUM_ROWS, clip=CLIP):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (rows, *clip, 3), np.uint8)


def make_batch(rows=NUM_ROWS, clip=CLIP):
  """Noise with random labels, queries in any frame."""
  rng = np.random.default_rng(1)
  length, height, width = clip
  size = np.float32([width, height])
  shape = (rows, NUM_POINTS)
  targets = rng.random((*shape, length, 2), np.float32) * size
  start = rng.integers(0, length, shape)
  where = np.take_along_axis(targets, start[..., None, None], 2)[:, :, 0]
  low = rng.random((rows, length, NUM_BOXES, 2), np.float32) / 2
  return {
    'video': make_video(rows, clip),
    'query_points': np.stack(
      [start, where[..., 1], where[..., 0]], axis=-1
    ).astype(np.float32),
    'target_points': targets,
    'occluded': rng.random((*shape, length)) < 0.2,
    'boxes': np.concatenate([low, low + 0.3], axis=-1),
    'boxes_mask': rng.random((rows, length, NUM_BOXES)) < 0.8,
    'depth': rng.uniform(1, 10, (rows, *clip, 1)).astype(np.float32),
    'depth_mask': rng.random((rows, *clip, 1)) < 0.9,
    'mask': np.ones(rows, bool),
  }


def context(rows=NUM_ROWS, *, train=False):
  return task_api.StepContext(
    step=jnp.int32(0),
    rng=jax.random.key(1),
    rows=jnp.arange(rows, dtype=jnp.int32),
    train=train,
  )


def fill(shapes):
  """Random values everywhere: zero biases would hide mistakes."""
  rng = np.random.default_rng(0)

  def draw(shape):
    size = 1 / np.sqrt(max(shape.shape[:-1] or (4,)))
    value = rng.standard_normal(shape.shape) * size
    return np.asarray(value, shape.dtype)

  return jax.tree.map(draw, shapes)


@functools.cache
def model_params(variant='config', use_loss_gradient=False):
  model = make_model(variant, use_loss_gradient=use_loss_gradient)
  video = jnp.zeros((1, 2, 16, 24, 3))
  shapes = jax.eval_shape(model.init, jax.random.key(0), video)
  return fill(shapes['params'])


@functools.cache
def task_params():
  """Of `make_task(heads=HEADS)`."""
  shapes, _ = jax.eval_shape(
    make_task(heads=HEADS).init, jax.random.key(0), make_batch()
  )
  return fill(shapes)
