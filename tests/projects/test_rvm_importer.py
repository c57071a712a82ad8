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
  shapes = small.file_shapes(**dict(zip(names, SIZES[size], strict=False)))
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
  shapes = small.file_shapes(**small.FILE)
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
