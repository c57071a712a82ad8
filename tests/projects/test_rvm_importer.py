"""Published files of RVM: full lists of keys, sizes read off shapes."""

import jax
import numpy as np
import pytest

from projects.rvm import importer
from projects.rvm import model as model_lib
from tests.projects import rvm_small as small

# width, blocks, heads and MLP of the encoder, heads and MLP of the core, number
# of keys, parameters of encoder and core, parameters.
SIZES = {
  'S': (384, 12, 6, 1536, 8, 2048, 525, 33_222_272, 67_480_448),
  'B': (768, 12, 12, 3072, 12, 3072, 525, 125_816_064, 160_270_848),
  'L': (1024, 24, 16, 4096, 16, 4096, 717, 374_483_968, 409_069_824),
  'H': (1280, 32, 16, 5120, 16, 5120, 845, 742_178_560, 776_895_488),
}
SMALL = dict(
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


def arrays(shapes):
  """Zeros that take no memory."""
  return {k: np.broadcast_to(np.float32(0), s) for k, s in shapes.items()}


def target(model, *, decoder=True):
  ids = jax.ShapeDtypeStruct((1, 1, 1), int)
  size = [2 * p for p in model.patch]
  video = jax.ShapeDtypeStruct((1, 1, *size, 3), np.float32)
  inputs = (video, video, ids, jax.ShapeDtypeStruct((1, 1), int))
  method = '__call__' if decoder else 'encode'
  return jax.eval_shape(
    lambda *x: model.init(jax.random.key(0), *x, method=method),
    *inputs[: 4 if decoder else 1],
  )['params']


def count(tree):
  return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize('size', SIZES)
def test_every_key_of_a_published_file_has_its_place(size):
  names = 'width', 'depth', 'heads', 'mlp', 'core_heads', 'core_mlp'
  shapes = file_shapes(**dict(zip(names, SIZES[size], strict=False)))
  num_keys, encoder_and_core, all_ = SIZES[size][6:]
  file = arrays(shapes)
  assert (len(shapes), count(file)) == (num_keys, all_)
  model = model_lib.RVM(**importer.model_fields(file))
  assert model == model_lib.RVM(**model_lib.rvm_config(size))
  want = target(model)
  assert count(importer.convert(file, want)) == all_
  # Without the decoder, from the same file.
  for name in ('mask_token', 'embedder', 'delta', 'decoder', 'head'):
    del want[name]
  got = importer.convert(file, want, encoder_only=True)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  assert count(got) == encoder_and_core


@pytest.fixture(scope='module')
def model():
  return small.make_task().model


@pytest.fixture
def file(tmp_path):
  """(path, {key: array}) of a small file with a value of its own per key."""
  shapes = file_shapes(**SMALL)
  values = {
    key: np.full(shape, i, np.float32)
    for i, (key, shape) in enumerate(shapes.items())
  }
  path = tmp_path / 'small.npz'
  np.savez(path, **values)
  return path, values


def test_values_reach_their_places(model, file):
  path, values = file
  params = importer.load(path, target(model))
  block = params['core']['transformer']['block_0']
  name = 'rnn_core/transformer/xa_blocks_0'
  for ours, key in (
    (block['cross_attention']['key']['bias'], 'ca_attention/key/bias'),
    (block['self_attention']['out']['kernel'], 'attention/out/kernel'),
    (block['self_norm']['scale'], 'attention_norm/scale'),
    (block['mlp']['down']['kernel'], 'mlp/dense_out/kernel'),
  ):
    np.testing.assert_array_equal(ours, values[f'{name}/{key}'])
  gate = params['core']['state_reset']['kernel']
  np.testing.assert_array_equal(gate, values['rnn_core/state_reset/kernel'])


def test_stacked_blocks_get_their_layers(model, file):
  path, values = file
  params = importer.load(path, target(model.clone(scan=True)))
  got = params['encoder']['transformer']['blocks']['mlp']['up']['bias']
  want = [values[f'encoder/layers_{i}/mlp/dense_in/bias'] for i in (0, 1)]
  np.testing.assert_array_equal(got, want)


def test_a_decoder_keeps_its_values_with_encoder_only(model, file):
  params = importer.load(file[0], target(model), encoder_only=True)
  assert set(params) == {'encoder', 'core'}


def test_a_model_without_decoder_leaves_that_of_the_file(model, file):
  model = model.clone(decoder=False)
  params = importer.load(file[0], target(model, decoder=False))
  assert set(params) == {'encoder', 'core'}


def test_the_fields_of_another_model_are_named(model, file):
  other = model.clone(core_depth=2)
  with pytest.raises(
    ValueError, match='small.npz does not fit.*core_depth=1, core_heads=2'
  ):
    importer.load(file[0], target(other))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      lambda v: v.pop('encoder/layers_1/mlp_norm/bias'),
      'block_1/mlp_norm/bias',
    ),
    (lambda v: v.update(extra=np.zeros(3)), 'extra'),
    (lambda v: v.pop('mask_token'), "no 'mask_token' in it"),
  ],
)
def test_a_missing_or_unknown_key_is_named(model, file, change, message):
  _, values = file
  change(values)
  with pytest.raises(ValueError, match=message):
    importer.convert(values, target(model))


def test_a_missing_file_is_named(model):
  with pytest.raises(FileNotFoundError, match='no/such/file.npz'):
    importer.load('no/such/file.npz', target(model))
