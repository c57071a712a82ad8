"""Perceivers: equal results of equal computations, sizes, and refusals."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.perceiver import (
  attend,
  autoencoding_task,
  configurations,
  decoders,
  encoder,
  model,
  positions,
  preprocessors,
)
from tests.parity import quick
from tests.train import optim_cases
from vidscenic import config as vc
from vidscenic.importers import published
from vidscenic.layers import transformer
from vidscenic.train import inspect

WEIGHTS = [
  entry
  for entry in published.WEIGHTS
  if entry.project == 'perceiver' and '_hf_' not in entry.name
]


def randomised(shapes, seed=0):
  """Random values everywhere: zero biases would hide mistakes."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda s: jnp.asarray(0.3 * rng.standard_normal(s.shape), s.dtype), shapes
  )


def init(module, *args, **kwargs):
  shapes = jax.eval_shape(
    functools.partial(module.init, **kwargs), jax.random.key(0), *args
  )
  return {'params': randomised(shapes['params'])}


def normal(*shape, seed=1):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.standard_normal(shape), jnp.float32)


@pytest.mark.parametrize('entry', WEIGHTS, ids=lambda entry: entry.name)
def test_published_models_have_the_published_number_of_parameters(entry):
  options = entry.task_kwargs['model'] | {'encoder': {'scan': True}}
  task = vc.build(entry.task, **(entry.task_kwargs | {'model': options}))
  rows = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct((1, *s.shape), s.dtype), task.batch_spec()
  )
  params, _ = jax.eval_shape(task.init, jax.random.key(0), rows)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert count == entry.parameters


def test_original_perceiver_has_its_44_9_million_parameters():
  net, _ = configurations.build(
    {'name': 'imagenet_original', 'encoder': {'scan': True}},
    'image_classifier',
  )
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  shapes = jax.eval_shape(net.init, jax.random.key(0), images)
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes['params']))
  assert round(count / 1e6, 1) == 44.9


@functools.cache
def read(masked, **chunks):
  """((_, what CrossAttend gives), gradients) for 9 queries and 30 inputs."""
  queries, inputs = normal(2, 9, 6), normal(2, 30, 10, seed=2)
  masks = {}
  if masked:
    rng = np.random.default_rng(0)
    input_mask = rng.random((2, 30)) < 0.5
    input_mask[1] = False  # nothing may be read
    masks = {
      'input_mask': jnp.asarray(input_mask),
      'query_mask': jnp.asarray(rng.random((2, 9)) < 0.5),
    }
  module = attend.CrossAttend(
    6, 10, num_heads=2, qk_channels=8, v_channels=4, **chunks
  )

  def loss(variables, queries, inputs):
    out = module.apply(variables, queries, inputs, **masks)
    return jnp.sum(out**3), out

  return quick.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(
    init(module, queries, inputs), queries, inputs
  )


@pytest.mark.parametrize(
  ('chunks', 'masked'),
  [
    ({'query_chunk': 4}, True),
    ({'key_chunk': 8}, True),  # 30 inputs: chunks of 6,
    ({'key_chunk': 7}, False),  # of 7 with padding
  ],
)
def test_chunks_change_neither_result_nor_gradient(chunks, masked):
  (_, want), want_grads = read(masked)
  (_, got), got_grads = read(masked, **chunks)
  np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)
  for a, b in zip(
    jax.tree.leaves(got_grads), jax.tree.leaves(want_grads), strict=True
  ):
    # float32 and another order of sums.
    np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()) + 1e-5)


def test_query_that_may_read_nothing_still_gets_the_output_bias():
  module = attend.CrossAttend(4, 4, use_query_residual=False)
  queries, inputs = normal(1, 2, 4), normal(1, 3, 4)
  variables = init(module, queries, inputs)
  mask = jnp.array([[True, False]])

  @quick.jit
  def run(variables):
    return (
      module.apply(variables, queries, inputs, query_mask=mask),
      module.apply(
        variables, queries[:, 1:], jnp.zeros((1, 1, 1, 4)), method='finish'
      ),
    )

  out, want = run(variables)
  np.testing.assert_allclose(out[:, 1:], want, atol=1e-6)
  params = variables['params']
  params['cross_attention']['out']['bias'] += 1
  assert np.abs(run(variables)[0][:, 1:] - out[:, 1:]).min() > 1e-3


def test_permuting_inputs_with_their_positions_changes_nothing():
  module = encoder.PerceiverEncoder(
    2, 2, 5, 8, num_self_attend_heads=2, key_chunk=4
  )
  inputs = normal(2, 12, 7)
  variables = init(module, inputs)
  order = np.random.default_rng(0).permutation(12)
  run = quick.jit(module.apply)
  np.testing.assert_allclose(
    run(variables, inputs), run(variables, inputs[:, order]), atol=1e-5
  )


def test_scan_over_layers_and_passes_changes_nothing():
  options = dict(
    num_self_attends_per_block=2,
    num_blocks=2,
    z_index_dim=4,
    num_z_channels=8,
    num_self_attend_heads=2,
  )
  inputs = normal(2, 6, 5)
  plain = encoder.PerceiverEncoder(**options)
  scanned = encoder.PerceiverEncoder(**options, scan=True)
  variables = init(plain, inputs)
  stacked = {'params': transformer.stack_blocks(variables['params'])}
  shapes = jax.eval_shape(scanned.init, jax.random.key(0), inputs)
  assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, shapes)

  def gradient(module):
    return quick.jit(jax.grad(lambda v: jnp.sum(module.apply(v, inputs) ** 2)))

  want = transformer.stack_blocks(gradient(plain)(variables)['params'])
  got = gradient(scanned)(stacked)['params']
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-3)


def test_lamb_trusts_every_tensor_of_every_layer_by_itself():
  rng = np.random.default_rng(0)
  shapes = {
    'self_norm': {'scale': (8,)},
    'self_attention': {'query': {'kernel': (8, 2, 4)}},
  }
  sizes = dict(enumerate((0.1, 1.0, 10.0)))  # of the layers' parameters
  draw = lambda size: jax.tree.map(
    lambda shape: size * rng.standard_normal(shape).astype(np.float32),
    shapes,
    is_leaf=lambda x: type(x) is tuple,
  )
  module = encoder.PerceiverEncoder(3, 2, 4, 8, scan=True)
  tree = lambda layers: {
    'encoder': {'self_attends': {f'block_{i}': x for i, x in layers.items()}}
  }
  params = tree({i: draw(size) for i, size in sizes.items()})
  grads = tree({i: draw(1.0) for i in sizes})
  stacked = transformer.stack_blocks(params)
  made = jax.eval_shape(module.init, jax.random.key(0), normal(1, 6, 5))
  assert stacked['encoder']['self_attends'].keys() == (
    made['params']['self_attends'].keys()
  )

  def updates(params, grads):
    tx = optim_cases.make_tx(params, name='lamb', lr=0.1).tx
    return quick.jit(tx.update)(grads, tx.init(params), params)[0]

  want = transformer.stack_blocks(updates(params, grads))
  got = updates(stacked, transformer.stack_blocks(grads))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5)
    norms = np.linalg.norm(a.reshape(3, -1), axis=1)
    assert norms[2] > 5 * norms[1] > 25 * norms[0]


def test_passes_share_their_weights_unless_told_otherwise():
  options = dict(
    num_self_attends_per_block=1,
    num_blocks=3,
    z_index_dim=4,
    num_z_channels=8,
    num_self_attend_heads=2,
  )
  inputs = jax.ShapeDtypeStruct((1, 6, 5), jnp.float32)
  names = {
    share: set(
      jax.eval_shape(
        encoder.PerceiverEncoder(**options, share_weights=share).init,
        jax.random.key(0),
        inputs,
      )['params']
    )
    for share in (True, False)
  }
  assert names[False] - names[True] == {'self_attends_1', 'self_attends_2'}


def test_positions_of_a_grid_span_both_ends_and_indexed_ones_do_not():
  options = dict(num_bands=2, max_resolution=(4,))
  grid = positions.fourier_features((4,), **options)
  points = positions.fourier_features((4,), jnp.arange(4), **options)
  np.testing.assert_allclose(grid[:, 0], [-1, -1 / 3, 1 / 3, 1], atol=1e-6)
  np.testing.assert_allclose(points[:, 0], [-1, -0.5, 0, 0.5], atol=1e-6)


def test_indexed_features_follow_row_major_order():
  options = dict(num_bands=3, max_resolution=(5, 6))
  every = positions.fourier_features((5, 6), jnp.arange(30), **options)
  some = positions.fourier_features(
    (5, 6), jnp.array([[7, 29], [0, 7]]), **options
  )
  np.testing.assert_array_equal(some, every[np.array([[7, 29], [0, 7]])])
  np.testing.assert_allclose(every[7, :2], [-1 + 2 / 5, -1 + 2 / 6], atol=1e-6)


def autoencoder(**options):
  return autoencoding_task.AudioVideo(
    model={
      'num_frames': 2,
      'image_size': (4, 8),
      'num_samples': 24,
      'num_classes': 3,
      'samples_per_patch': 4,
      'spatial_downsample': 2,
      'video_bands': 2,
      'video_max_resolution': (2, 2, 4),
      'audio_bands': 2,
      'audio_max_resolution': 24,
      'label_channels': 6,
      'output_channels': 5,
      'encoder': {
        'num_self_attends_per_block': 1,
        'num_blocks': 1,
        'z_index_dim': 4,
        'num_z_channels': 8,
        'num_self_attend_heads': 2,
      },
    },
    queries={'image': 5, 'audio': 2},
    **options,
  )


@functools.cache
def weights():
  task = autoencoder()
  rows = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct((1, *s.shape), s.dtype), task.batch_spec()
  )
  return randomised(jax.eval_shape(task.init, jax.random.key(0), rows)[0])


def inputs_of(task):
  rng = np.random.default_rng(0)
  return {
    'image': jnp.asarray(rng.random((2, *task.clip, 3)), jnp.float32),
    'audio': normal(2, task.num_samples, 1),
    'label': jax.nn.one_hot(jnp.array([0, 2]), 3),
  }


@functools.cache
def all_outputs():
  """Of 64 pixels and 6 patches of sound, decoded at once."""
  task = autoencoder()
  points = {
    'image': jnp.arange(64), 'audio': jnp.arange(6), 'label': None,
  }  # fmt: skip
  run = quick.jit(
    lambda p: task.model.apply(
      {'params': p},
      inputs_of(task),
      points=points,
      mask_probs={'label': 1.0},
    )
  )
  return run(weights())


def test_outputs_in_chunks_equal_those_at_once():
  task = autoencoder(chunk=7)
  inputs, want = inputs_of(task), all_outputs()
  run = quick.jit(task.decode_all)
  got = run(weights(), inputs)
  # The label is hidden, so it does not matter.
  same = run(weights(), inputs | {'label': 1 - inputs['label']})
  assert got.keys() == want.keys()
  for name in want:
    np.testing.assert_allclose(got[name], want[name], atol=1e-5)
    np.testing.assert_array_equal(got[name], same[name])


def test_chunks_of_outputs_share_one_encoding():
  def flops(chunk):
    task = autoencoder(chunk=chunk)
    traced = jax.jit(task.decode_all).trace(weights(), inputs_of(task))
    return sum(inspect.matmul_flops(traced).values())

  # The keys and values of the latents are projected for every chunk; encoding
  # takes two fifths of the products of a single chunk.
  assert flops(4) < 1.1 * flops(64)


def test_every_example_may_have_points_of_its_own():
  task = autoencoder()
  points = {
    'image': jnp.array([[3, 40, 63], [9, 0, 1]]),
    'audio': jnp.array([[5, 1], [0, 2]]),
  }
  run = quick.jit(
    lambda p: task.model.apply(
      {'params': p},
      inputs_of(task),
      points=points,
      mask_probs={'label': 1.0},
    )
  )
  got = run(weights())
  for name, sizes in (('image', (64, 3)), ('audio', (6, 4))):
    every = all_outputs()[name].reshape(2, *sizes)
    for row, own in enumerate(points[name]):
      np.testing.assert_allclose(
        got[name][row].reshape(-1, sizes[1]), every[row][own], atol=1e-5
      )


def preprocess(inputs):
  module = autoencoder().model.input_preprocessor.clone(name=None, parent=None)
  variables = {'params': weights()['input_preprocessor']}
  sizes = {}

  @quick.jit
  def run(inputs):
    out = module.apply(variables, inputs)
    sizes.update(out.sizes)
    return out.array

  return preprocessors.Preprocessed(run(inputs), None, sizes)


@pytest.mark.parametrize('left_out', ['audio', 'image', 'label'])
def test_modality_may_be_left_out_of_inputs(left_out):
  task = autoencoder()
  inputs = inputs_of(task)
  del inputs[left_out]
  preprocessed = preprocess(inputs)
  sizes = {'audio': 6, 'image': 16, 'label': 1}
  del sizes[left_out]
  assert preprocessed.sizes == sizes
  whole = preprocess(inputs_of(task))
  kept = np.repeat(
    [n != left_out for n in whole.sizes], list(whole.sizes.values())
  )
  np.testing.assert_array_equal(preprocessed.array, whole.array[:, kept])


def test_masking_of_an_example_depends_on_its_key_alone():
  module = preprocessors.MultimodalPreprocessor(
    {'a': preprocessors.OneHotPreprocessor()}, mask_probs={'a': 0.5}
  )
  values = {'a': normal(32, 4)}
  variables = init(module, values)
  keys = jax.random.split(jax.random.key(0), 32)
  run = quick.jit(
    lambda x, keys: module.apply(variables, x, mask_keys=keys).array
  )
  both = run(values, keys)
  half = run({'a': values['a'][16:]}, keys[16:])
  np.testing.assert_array_equal(both[16:], half)
  token = variables['params']['a_mask_token']
  hidden = (both[:, 0] == token).all(-1)
  assert 8 < hidden.sum() < 24


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'num_samples': 26}, 'num_samples=26 is no multiple of samples_per_patch'),
    ({'image_size': (4, 9)}, 'image_size=.* is no multiple of spatial_downs'),
    ({'num_frames': 0}, 'num_frames=0: want 1 or more'),
    ({'encoder': {'z_index': 3}}, "model.encoder.z_index.*'z_index_dim'"),
    ({'mask_probs': {'labels': 1.0}}, "mask_probs.labels.*'label'"),
    ({'task': {'chunk': 0}}, 'kwargs.chunk=0: want 1 or more'),
    ({'task': {'label_mask_prob': 1.5}}, 'label_mask_prob=1.5: want a number'),
    ({'task': {'queries': {'image': 0}}}, 'queries.image=0: want 1 to 802816'),
  ],
)
def test_unusable_arguments_are_named(change, message):
  options = {'name': 'video_autoencoding', **change}
  with pytest.raises(ValueError, match=message):
    autoencoding_task.AudioVideo(**options.pop('task', {}), model=options)


def test_model_of_another_task_is_refused():
  with pytest.raises(
    ValueError, match="name='language' is a model for another"
  ):
    configurations.build({'name': 'language'}, 'optical_flow')
  with pytest.raises(
    ValueError, match="name='imagenet_furrier'.*imagenet_four"
  ):
    configurations.build({'name': 'imagenet_furrier'}, 'image_classifier')


def test_unknown_modality_is_named():
  task = autoencoder()
  inputs = inputs_of(task) | {'smell': jnp.zeros((2, 3))}
  with pytest.raises(ValueError, match="inputs .*'smell'.*want some of"):
    jax.eval_shape(task.model.apply, {'params': weights()}, inputs)
  with pytest.raises(ValueError, match=r"outputs \['smell'\]: want some of"):
    jax.eval_shape(
      lambda p: task.model.apply(p, inputs_of(task), points={'smell': None}),
      {'params': weights()},
    )


def test_learned_positions_know_one_size():
  module = preprocessors.ImagePreprocessor(
    prep_type='pixels',
    spatial_downsample=1,
    position_encoding_type='trainable',
    trainable_position_encoding_kwargs={'num_channels': 4},
  )
  variables = init(module, normal(1, 4, 6, 3))
  with pytest.raises(ValueError, match=r'24 places do not fit inputs of 30'):
    jax.eval_shape(module.apply, variables, normal(1, 5, 6, 3))


@pytest.mark.parametrize(
  ('options', 'shape', 'message'),
  [
    (
      {'prep_type': 'patches'},
      (1, 6, 8, 3),
      r'spatial_downsample=4 does not divide .*\(6, 8\): make the side of 6 4',
    ),
    (
      {'prep_type': 'patches', 'temporal_downsample': 2},
      (1, 3, 8, 8, 3),
      'temporal_downsample=2 does not divide',
    ),
    ({'spatial_downsample': 8}, (1, 8, 8, 3), 'want a power of 4'),
    ({'prep_type': 'mel'}, (1, 8, 8, 3), "prep_type='mel'"),
    (
      {'prep_type': 'patches', 'temporal_downsample': 2},
      (1, 8, 8, 3),
      'images have no time axis',
    ),
  ],
)
def test_unusable_images_are_refused(options, shape, message):
  options = {
    'fourier_position_encoding_kwargs': {'num_bands': 2}, **options
  }  # fmt: skip
  module = preprocessors.ImagePreprocessor(**options)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape))


def test_image_with_a_time_axis_is_an_image():
  net = model.image_classifier(
    num_classes=3,
    input_preprocessor={
      'prep_type': 'pixels',
      'fourier_position_encoding_kwargs': {'num_bands': 2},
    },
    encoder={
      'num_self_attends_per_block': 1,
      'num_blocks': 1,
      'z_index_dim': 2,
      'num_z_channels': 4,
      'num_self_attend_heads': 1,
    },
    decoder={'trainable_position_encoding_kwargs': {'num_channels': 4}},
  )
  image = normal(2, 8, 12, 3)
  variables = init(net, image)
  # With positions in time the parameters would not fit.
  out = jax.eval_shape(net.apply, variables, image[:, None])
  assert out.shape == (2, 3)
  clip = jnp.zeros((2, 4, 8, 12, 3))
  with pytest.raises(flax.errors.ScopeParamShapeError):
    jax.eval_shape(net.apply, variables, clip)


def test_flow_decoder_wants_the_images_it_was_made_for():
  module = decoders.FlowDecoder(output_image_shape=(4, 4))
  array = jnp.zeros((1, 12, 3))
  with pytest.raises(ValueError, match='12 inputs are no image'):
    module.decoder_query(preprocessors.Preprocessed(array, array))
