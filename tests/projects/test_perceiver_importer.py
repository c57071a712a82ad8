"""Published files of both layouts give the same tree, key by key."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.perceiver import configurations, importer, model
from tests.parity import harness
from vidscenic import config as vc
from vidscenic.importers import formats, published

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
READ = 'decoder.decoder.decoding_cross_attention.'


@functools.cache
def target(name):
  """Shapes of (parameters, model state) of a golden's model."""
  config = harness.load(GOLDEN / f'perceiver_{name}_dev.npz').meta['config']
  if name == 'flow':
    net = model.optical_flow(
      image_size=config['train_size'],
      num_channels=config['preprocessor_num_channels'],
      num_bands=config['num_bands'],
      encoder=config['encoder'],
    )
    inputs = jnp.zeros((1, 2, *config['train_size'], 27))
  else:
    decoder = dict(config['decoder'])
    del decoder['num_z_channels']
    net = model.image_classifier(
      num_classes=config['num_classes'],
      input_preprocessor=config['input_preprocessor'],
      encoder=config['encoder'],
      decoder=decoder,
    )
    inputs = jnp.zeros(config['image_shape'])
  shapes = dict(jax.eval_shape(net.init, jax.random.key(0), inputs))
  return shapes.pop('params'), shapes


def test_haiku_pickle_gives_the_values_of_its_arrays():
  params, state = target('cls_conv')
  path = GOLDEN / 'perceiver_pystate_conv_dev.pystate'
  got, got_state = importer.load(path, params, model_state=state)
  arrays = harness.load(GOLDEN / 'perceiver_cls_conv_dev.npz').arrays
  kernel = 'params/image_preprocessor/~/conv2_d_downsample/~/conv/w'
  np.testing.assert_array_equal(
    got['input_preprocessor']['conv_0']['kernel'], arrays[kernel]
  )
  query = arrays[
    'params/perceiver_encoder/~/self_attention_1/attention/linear/w'
  ]
  block = got['encoder']['self_attends']['block_1']
  np.testing.assert_array_equal(
    block['self_attention']['query']['kernel'].reshape(query.shape), query
  )
  layer = got_state['batch_stats']['input_preprocessor']['norm_0']
  ema = 'state/image_preprocessor/~/conv2_d_downsample/~/batchnorm/~/var_ema/'
  np.testing.assert_array_equal(
    layer['var']['average'], arrays[f'{ema}average'].ravel()
  )
  assert layer['counter'] == arrays[f'{ema}counter']


def test_counters_that_differ_are_refused():
  params, state = target('cls_conv')
  arrays = formats.read(GOLDEN / 'perceiver_pystate_conv_dev.pystate')
  (key,) = (k for k in arrays if k.endswith('var_ema/counter'))
  arrays[key] = arrays[key] + 1
  with pytest.raises(ValueError, match='counters of mean and variance differ'):
    importer.convert(arrays, params, model_state=state)


def test_plain_pickle_of_flow_is_read():
  params, _ = target('flow')
  path = GOLDEN / 'perceiver_pystate_flow_dev.pystate'
  got = importer.load(path, params)
  assert jax.tree.map(np.shape, got) == jax.tree.map(np.shape, params)
  fields = importer.model_fields(formats.read(path))
  assert fields == {
    'z_index_dim': 10,
    'num_z_channels': 32,
    'num_self_attends_per_block': 3,
    'self_attend_widening_factor': 1,
  }


def test_file_of_another_model_is_explained():
  params, _ = target('flow')
  with pytest.raises(ValueError) as info:
    importer.load(GOLDEN / 'perceiver_pystate_conv_dev.pystate', params)
  message = str(info.value)
  assert 'perceiver_pystate_conv_dev.pystate does not fit the model' in message
  assert 'it holds z_index_dim=12, num_z_channels=32' in message
  with pytest.raises(ValueError, match='no Perceiver weights'):
    importer.convert({'a': np.zeros(2)}, params)


def hugging_face_key(path):
  """The port's key of one of our parameters, from its public class names."""
  *parents, leaf = path
  weight = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias'}.get(leaf)
  text = '/'.join(parents)
  for ours, theirs in (
    ('self_norm', 'attention.self.layernorm1'),
    ('cross_norm', 'attention.self.layernorm1'),
    ('kv_norm', 'attention.self.layernorm2'),
    ('mlp_norm', 'layernorm'),
    ('mlp/up', 'mlp.dense1'),
    ('mlp/down', 'mlp.dense2'),
  ):
    if text.endswith(ours):
      text = f'{text[: -len(ours)]}{theirs}'
  for kind in ('self', 'cross'):
    for name in ('query', 'key', 'value'):
      text = text.replace(f'{kind}_attention/{name}', f'attention.self.{name}')
    text = text.replace(f'{kind}_attention/out', 'attention.output.dense')
  for ours, theirs in (
    ('encoder/cross_attend/', 'encoder.cross_attention.'),
    ('encoder/self_attends/block_', 'encoder.self_attends.'),
    ('decoder/decoder/cross_attend/', READ),
    ('decoder/cross_attend/', READ),
    ('decoder/decoder/output', 'decoder.decoder.final_layer'),
    ('decoder/output', 'decoder.decoder.final_layer'),
    ('input_preprocessor/conv1x1', 'input_preprocessor.convnet_1x1'),
    (
      'input_preprocessor/patches_linear',
      'input_preprocessor.conv_after_patches',
    ),
    ('input_preprocessor/conv_0', 'input_preprocessor.convnet.conv'),
    ('input_preprocessor/norm_0', 'input_preprocessor.convnet.batchnorm'),
    (
      'input_preprocessor/position_encoding/projector',
      'input_preprocessor.positions_projection',
    ),
    ('output_postprocessor/modalities_', 'output_postprocessor.modalities.'),
  ):  # fmt: skip
    text = text.replace(ours, theirs)
  text = text.replace('/linear', '.classifier').replace('/', '.')
  special = {
    ('encoder', 'latents'): 'embeddings.latents',
    ('decoder', 'positions', 'table'): (
      'decoder.decoder.output_position_encodings.position_embeddings'
    ),
    ('decoder', 'modalities_label', 'positions', 'table'): (
      'decoder.modalities.label.decoder.output_position_encodings.'
      'position_embeddings'
    ),
    ('input_preprocessor', 'position_encoding', 'table'): (
      'input_preprocessor.position_embeddings.position_embeddings'
    ),
  }
  if path in special:
    return f'perceiver.{special[path]}'
  for part, group in (('input_preprocessor', 'input_preprocessor'),
                      ('decoder', 'decoder')):  # fmt: skip
    if parents == [part] and leaf.endswith('_padding'):
      return f'perceiver.{group}.padding.{leaf.removesuffix("_padding")}'
    if parents == [part] and leaf.endswith('_mask_token'):
      return f'perceiver.{group}.mask.{leaf.removesuffix("_mask_token")}'
  return f'perceiver.{text}.{weight}'


# What layers and the rest of the language model are called in the pickle, and
# in the file of the port.
LANGUAGE_LAYERS = {
  'perceiver_encoder/~/cross_attention': 'perceiver.encoder.cross_attention',
  'perceiver_encoder/~/self_attention': 'perceiver.encoder.self_attends.0',
  'perceiver_encoder/~/self_attention_1': 'perceiver.encoder.self_attends.1',
  'basic_decoder/cross_attention': 'perceiver.decoder.decoding_cross_attention',
}
LANGUAGE_TABLES = {
  'embed/embeddings': 'perceiver.input_preprocessor.embeddings.weight',
  'trainable_position_encoding/pos_embs': (
    'perceiver.input_preprocessor.position_embeddings.weight'
  ),
  'perceiver_encoder/~/trainable_position_encoding/pos_embs': (
    'perceiver.embeddings.latents'
  ),
  'basic_decoder/~/trainable_position_encoding/pos_embs': (
    'perceiver.decoder.output_position_encodings.position_embeddings'
  ),
  'embedding_decoder/bias': 'embedding_decoder.bias',
}


def language_keys():
  """{key of the pickle: key of the port} of two layers."""
  linear = {
    'attention/linear': 'attention.self.query',
    'attention/linear_1': 'attention.self.key',
    'attention/linear_2': 'attention.self.value',
    'attention/linear_3': 'attention.output.dense',
    'mlp/linear': 'mlp.dense1',
    'mlp/linear_1': 'mlp.dense2',
  }
  keys = dict(LANGUAGE_TABLES)
  for ours, theirs in LANGUAGE_LAYERS.items():
    norms = ['attention.self.layernorm1', 'layernorm']
    if 'cross' in ours:
      norms.insert(1, 'attention.self.layernorm2')
    for a, b in linear.items():
      keys[f'{ours}/{a}/w'] = f'{theirs}.{b}.weight'
      keys[f'{ours}/{a}/b'] = f'{theirs}.{b}.bias'
    for i, b in enumerate(norms):
      a = f'layer_norm_{i}' if i else 'layer_norm'
      keys[f'{ours}/{a}/scale'] = f'{theirs}.{b}.weight'
      keys[f'{ours}/{a}/offset'] = f'{theirs}.{b}.bias'
  return keys


def test_both_ways_of_naming_the_language_model_give_one_tree():
  net = model.masked_bytes(
    vocab_size=30,
    max_seq_len=14,
    num_channels=24,
    encoder={
      'num_self_attends_per_block': 2,
      'num_blocks': 1,
      'z_index_dim': 6,
      'num_z_channels': 32,
      'num_cross_attend_heads': 4,
      'num_self_attend_heads': 4,
      'qk_channels': 16,
      'v_channels': 32,
    },
    decoder={'qk_channels': 16, 'v_channels': 24, 'num_heads': 4},
  )
  target = jax.eval_shape(
    net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 14), jnp.int32)
  )['params']
  haiku = formats.read(GOLDEN / 'perceiver_pystate_masked_dev.pystate')
  keys = language_keys()
  assert haiku.keys() == keys.keys()
  # PyTorch stores [out, in].
  port = {
    keys[key]: array.T if key.endswith('/w') else array
    for key, array in haiku.items()
  }
  want = importer.convert(haiku, target)
  got = importer.convert(port, target)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  jax.tree.map(np.testing.assert_array_equal, got, want)
  np.testing.assert_array_equal(
    want['input_preprocessor']['embedding'], haiku['embed/embeddings']
  )
  assert importer.model_fields(port) == importer.model_fields(haiku)


@pytest.mark.parametrize(
  'name',
  [
    'imagenet_fourier',
    'imagenet_learned',
    'imagenet_conv',
    'optical_flow',
    'video_autoencoding',
  ],
)
def test_keys_of_the_hugging_face_files_cover_the_models(name):
  """Arrays without memory of the published sizes."""
  entry = published.find(f'perceiver_{name}')
  options = dict(entry.task_kwargs['model'])
  if name.startswith('imagenet'):
    options['encoder'] = {'num_blocks': 1}  # the same parameters, sooner
  task = vc.build(entry.task, **(entry.task_kwargs | {'model': options}))
  rows = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct((1, *s.shape), s.dtype), task.batch_spec()
  )
  params, state = jax.eval_shape(task.init, jax.random.key(0), rows)
  arrays = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    names = tuple(key.key for key in path)
    shape = leaf.shape
    if names[-1] == 'kernel':
      if names[-2] == 'out':
        shape = (np.prod(shape[:-1]), shape[-1])
      elif names[-2] in ('query', 'key', 'value'):
        shape = (shape[0], np.prod(shape[1:]))
      shape = shape[::-1]
      shape += (1, 1) if names[-2] == 'conv1x1' else ()
    elif names[-2:] in (('query', 'bias'), ('key', 'bias'), ('value', 'bias')):
      shape = (np.prod(shape),)
    arrays[hugging_face_key(names)] = np.broadcast_to(np.float32(0), shape)
  if name == 'imagenet_conv':
    prefix = 'perceiver.input_preprocessor.convnet.batchnorm.'
    for part in ('running_mean', 'running_var'):
      arrays[prefix + part] = np.ones(64, np.float32)
    arrays[f'{prefix}num_batches_tracked'] = np.int64(0)
    _, got = importer.convert(arrays, params, model_state=state)
    layer = got['batch_stats']['input_preprocessor']['norm_0']
    # With a count of zero the next update would be ten times too large.
    assert layer['counter'] == 1000
    np.testing.assert_array_equal(layer['mean']['hidden'], np.ones(64))
  else:
    importer.convert(arrays, params)


def test_kernel_of_the_port_is_read_back_as_it_was():
  kernel = np.random.default_rng(0).standard_normal((7, 7, 3, 8))
  key = 'perceiver.input_preprocessor.convnet.conv.weight'
  target = {
    'input_preprocessor': {
      'conv_0': {'kernel': jax.ShapeDtypeStruct(kernel.shape, np.float64)}
    }
  }
  for name, stored in (
    ('reversed', np.transpose(kernel)),
    ('torch', np.transpose(kernel, (3, 2, 0, 1))),
  ):
    got = importer.convert({key: stored}, target, kernel=name)
    np.testing.assert_array_equal(
      got['input_preprocessor']['conv_0']['kernel'], kernel
    )
  with pytest.raises(ValueError, match="kernel='flipped'"):
    importer.convert({key: stored}, target, kernel='flipped')


def test_options_of_the_port_fit_the_models():
  options = importer.HUGGING_FACE['image_classifier']
  net, fields = configurations.build(
    {'name': 'imagenet_conv', **options}, 'image_classifier'
  )
  assert net.encoder.activation == net.decoder.activation == 'gelu_erf'
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  out = jax.eval_shape(
    lambda x: (
      net.input_preprocessor.init_with_output({'params': jax.random.key(0)}, x)[
        0
      ].array
    ),
    images,
  )
  # 55 x 55, not 56 x 56, after its padding.
  assert out.shape == (1, 55 * 55, 322)
  del fields


@pytest.mark.parametrize(
  'entry',
  [e for e in published.WEIGHTS if e.project == 'perceiver'],
  ids=lambda e: e.name,
)
def test_table_names_what_exists(entry):
  assert vc.resolve(entry.importer) is importer.load
  assert entry.task_kwargs['model']['name'] in configurations.CONFIGURATIONS
  vc.resolve(entry.task)
