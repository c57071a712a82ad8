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
# MODEL in the words of `file_shapes`.
FILE = dict(
  width=12,
  depth=2,
  heads=3,
  mlp=20,
  core_depth=1,
  core_heads=2,
  core_mlp=28,
  decoder_width=8,
  decoder_depth=1,
  decoder_heads=2,
  decoder_mlp=16,
  patch=(4, 8),
)


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


def file_shapes(
  *,
  width,
  depth,
  heads,
  mlp,
  core_heads,
  core_mlp,
  core_depth=4,
  decoder_width=512,
  decoder_depth=8,
  decoder_heads=16,
  decoder_mlp=2048,
  patch=(16, 16),
):
  """{key: shape} of a published file."""

  def dense(name, *shape, bias=1):
    return {f'{name}/kernel': shape, f'{name}/bias': shape[bias:]}

  def norm(name, width):
    return {f'{name}/scale': (width,), f'{name}/bias': (width,)}

  def attention(name, width, heads):
    split = heads, width // heads
    shapes = dense(f'{name}/out', *split, width, bias=2)
    for part in ('query', 'key', 'value'):
      shapes |= dense(f'{name}/{part}', width, *split)
    return shapes

  def block(name, width, heads, mlp, *, cross):
    shapes = norm(f'{name}/attention_norm', width)
    shapes |= norm(f'{name}/mlp_norm', width)
    shapes |= attention(f'{name}/attention', width, heads)
    shapes |= dense(f'{name}/mlp/dense_in', width, mlp)
    shapes |= dense(f'{name}/mlp/dense_out', mlp, width)
    if cross:
      shapes |= norm(f'{name}/ca_attention_norm', width)
      shapes |= attention(f'{name}/ca_attention', width, heads)
    return shapes

  shapes = {'cls_token': (1, width), 'mask_token': (1, decoder_width)}
  shapes |= dense(
    'tokenizer/patch_embedding/Conv_0', 1, *patch, 3, width, bias=4
  )
  for i in range(depth):
    shapes |= block(f'encoder/layers_{i}', width, heads, mlp, cross=False)
  shapes |= norm('encoder/LayerNorm_0', width)
  for gate in ('input_update', 'input_reset', 'state_update', 'state_reset'):
    shapes[f'rnn_core/{gate}/kernel'] = width, width
  shapes['rnn_core/state_layer_norm/scale'] = (width,)
  for i in range(core_depth):
    name = f'rnn_core/transformer/xa_blocks_{i}'
    shapes |= block(name, width, core_heads, core_mlp, cross=True)
  shapes |= norm('rnn_core/transformer/output_norm', width)
  shapes |= dense('decoder_embedder', width, decoder_width)
  shapes |= dense('delta_embedder', 64, decoder_width)
  for i in range(decoder_depth):
    shapes |= block(
      f'decoder/xa_blocks_{i}',
      decoder_width,
      decoder_heads,
      decoder_mlp,
      cross=True,
    )
  shapes |= norm('decoder/output_norm', decoder_width)
  pixels = 3 * patch[0] * patch[1]
  return shapes | dense('detokenizer/Dense_0', decoder_width, pixels)
