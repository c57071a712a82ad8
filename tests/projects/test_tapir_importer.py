"""Every published layout becomes the same parameters; variants are told."""

import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.tapir import importer, ship
from projects.tapir import task as task_lib
from projects.tapir.configs import predict
from vidscenic.importers import formats, published

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
MANIFEST = json.loads((GOLDEN / 'tapir_manifest.json').read_text())
# Of the fixtures, see tapir_train.json.
SMALL = dict(
  pyramid_level=0,
  mixer_hidden_dim=32,
  num_mixer_blocks=2,
  stem_channels=12,
  channels_per_group=(12, 16, 20, 24),
)


@functools.cache
def shapes_of(**model):
  """(parameters, batch statistics), as shapes."""
  task = task_lib.PointTracking(model)
  return jax.eval_shape(task.init, jax.random.key(0), {})


def flat(tree, prefix=''):
  for name, child in tree.items():
    if isinstance(child, dict):
      yield from flat(child, f'{prefix}{name}/')
    else:
      yield f'{prefix}{name}', child


def no_memory(shape):
  """An array of a shape that holds one number."""
  return np.broadcast_to(np.float32(0.5), shape)


@pytest.mark.parametrize('name', MANIFEST['jax'])
def test_published_keys_fill_the_full_model(name):
  entry = MANIFEST['jax'][name]
  arrays = {k: no_memory(s) for k, s in entry['params'].items()}
  (file, *_) = MANIFEST['files'][name]
  weights = published.find_file(file.split()[0])
  params, state = shapes_of(**weights.task_kwargs['model'])
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == entry['n_params']
  if state:
    assert weights.name == 'tapnet'
    arrays |= {f'state/{k}': no_memory(s) for k, s in entry['state'].items()}
    arrays = {
      k: v.astype(np.int32) if k.endswith('counter') else v
      for k, v in arrays.items()
    }
    got, averages = importer.convert(arrays, params, state)
    assert jax.tree.map(jnp.shape, averages) == jax.tree.map(jnp.shape, state)
  else:
    got = importer.convert(arrays, params)
  assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize('name', MANIFEST['torch'])
def test_pytorch_keys_fill_the_full_model(name):
  keys = MANIFEST['torch'][name]
  arrays = {k: no_memory(s) for k, s in keys.items()}
  (file, *_) = MANIFEST['files'][name]
  params, _ = shapes_of(**published.find_file(file).task_kwargs['model'])
  got = importer.convert(arrays, params)
  assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, params)


def test_both_formats_give_the_same_parameters():
  params, _ = shapes_of(**SMALL)
  haiku = importer.load(GOLDEN / 'tapir_ckpt_fixture_plain.npy', params)
  torch = importer.load(GOLDEN / 'tapir_ckpt_fixture.pt', params)
  stored = np.load(GOLDEN / 'tapir_train.npz')
  assert len(dict(flat(haiku))) == sum(
    name.startswith('params/') for name in stored.files
  )
  for (name, a), (_, b) in zip(flat(haiku), flat(torch), strict=True):
    np.testing.assert_array_equal(a, b, err_msg=name)
  np.testing.assert_array_equal(
    haiku['mixer']['block_1']['time_down']['kernel'],
    stored['params/tapir/~/pips_mlp_mixer/block_1/mlp1_up_1/w'],
  )


def test_optimizer_state_is_dropped():
  path = GOLDEN / 'tapir_ckpt_fixture_flatmap_optstate.npy'
  arrays = formats.read(path)
  assert any(key.startswith('opt_state/') for key in arrays)
  assert 'global_step' in arrays
  # The file holds a few modules only: all others are named as missing.
  with pytest.raises(ValueError, match='have no source') as error:
    importer.convert(arrays, shapes_of(**SMALL)[0])
  assert 'opt_state' not in str(error.value)


def test_sizes_follow_from_the_arrays():
  options = importer.model_options(
    GOLDEN / 'tapir_ckpt_fixture.pt',
    use_causal_conv=False,
    softmax_temperature=20.0,
  )
  params, _ = shapes_of(**options)
  importer.load(GOLDEN / 'tapir_ckpt_fixture.pt', params)
  assert SMALL.items() <= options.items()


@pytest.mark.parametrize('name', MANIFEST['jax'])
def test_sizes_of_published_models_are_those_of_the_table(name):
  entry = MANIFEST['jax'][name]
  arrays = {k: no_memory(s) for k, s in entry['params'].items()}
  shapes = importer.renamed_shapes(arrays)
  (file, *_) = MANIFEST['files'][name]
  want = dict(published.find_file(file.split()[0]).task_kwargs['model'])
  want.pop('name', None)
  for field in ('use_causal_conv', 'softmax_temperature'):
    want.pop(field, None)
  assert want.items() <= importer.sizes(shapes).items()


def test_what_arrays_do_not_show_must_be_said():
  path = GOLDEN / 'tapir_ckpt_fixture_plain.npy'
  with pytest.raises(ValueError, match='do not show use_causal_conv'):
    importer.model_options(path)
  with pytest.raises(ValueError, match='do not show softmax_temperature'):
    importer.model_options(path, use_causal_conv=True)


def test_own_files_say_what_they_are(tmp_path):
  params, _ = shapes_of(**SMALL)
  haiku = importer.load(GOLDEN / 'tapir_ckpt_fixture_plain.npy', params)
  path = tmp_path / 'new' / 'own.npz'
  model = task_lib.make_model(
    SMALL | {'use_causal_conv': True, 'softmax_temperature': 10.0}
  )
  ship.write(path, model, haiku)
  options = importer.model_options(path)
  assert options['use_causal_conv'] is True
  assert options['softmax_temperature'] == 10.0
  assert options['initial_resolution'] == (256, 256)
  for (name, a), (_, b) in zip(
    flat(haiku), flat(importer.load(path, params)), strict=True
  ):
    np.testing.assert_array_equal(a, b, err_msg=name)
  with pytest.raises(ValueError, match='use_causal_conv=False was given'):
    importer.model_options(path, use_causal_conv=False)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (dict(pyramid_level=1), r'pyramid_level=0 \(the model has 1\)'),
    (dict(extra_convs=True), r'extra_convs=False \(the model has True\)'),
    (dict(num_mixer_blocks=3), r'num_mixer_blocks=2 \(the model has 3\)'),
    (dict(mixer_hidden_dim=16), r'mixer_hidden_dim=32 \(the model has 16\)'),
  ],
)
def test_another_variant_is_named(change, message):
  params, _ = shapes_of(**SMALL | change)
  with pytest.raises(ValueError, match=message):
    importer.load(GOLDEN / 'tapir_ckpt_fixture.pt', params)


def test_another_model_is_named():
  params, _ = shapes_of(name='tapnet')
  with pytest.raises(ValueError, match="model.name='tapir'"):
    importer.load(GOLDEN / 'tapir_ckpt_fixture.pt', params)


def test_a_name_that_is_no_file_brings_the_nearest_ones():
  with pytest.raises(OSError, match='no such file, .* nearest: bootstapir'):
    importer.model_options('bootstap')


def test_the_config_for_predictions_tells_what_is_wrong_with_weights(tmp_path):
  path = tmp_path / 'other.npz'
  path.write_bytes(b'no zip file')
  with pytest.raises(ValueError, match='weights=.*other.npz'):
    predict.get_config(f'weights={path}')
  with pytest.raises(ValueError, match='causal=1 or 0'):
    predict.get_config(f'weights={GOLDEN / "tapir_ckpt_fixture_plain.npy"}')


def test_another_file_is_refused(tmp_path):
  path = tmp_path / 'other.npz'
  np.savez(path, encoder=np.zeros(3))
  with pytest.raises(ValueError, match=re.escape(f'{path}: no weights of')):
    importer.load(path, shapes_of(**SMALL)[0])
