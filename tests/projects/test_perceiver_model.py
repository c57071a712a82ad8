"""Models of the Perceivers: sizes, shapes, and options that are refused."""

import flax
import jax
import jax.numpy as jnp
import pytest

from projects.perceiver import (
  autoencoding_task,
  configurations,
  decoders,
  model,
  preprocessors,
)
from tests.projects import perceiver_small
from vidscenic import config as vc
from vidscenic.importers import published

WEIGHTS = [
  entry
  for entry in published.WEIGHTS
  if entry.project == 'perceiver' and '_hf_' not in entry.name
]


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


def test_audioset_reads_the_published_array():
  net, _ = configurations.build(
    {'name': 'audioset', 'encoder': {'scan': True}}, 'audio_video_classifier'
  )
  inputs = {
    'image': jax.ShapeDtypeStruct((1, 32, 224, 224, 3), jnp.float32),
    'audio': jax.ShapeDtypeStruct((1, 61_440, 1), jnp.float32),
  }

  def run(inputs):
    out, variables = net.init_with_output(jax.random.key(0), inputs)
    _, preprocessed = net.apply(variables, inputs, method='encode')
    return out, preprocessed.array

  logits, array = jax.eval_shape(run, inputs)
  assert logits.shape == (1, 527)
  assert array.shape == (1, 12_544 + 480, 487)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'num_samples': 26}, 'num_samples=26 is no multiple of samples_per_patch'),
    ({'image_size': (4, 9)}, 'image_size=.* is no multiple of spatial_downs'),
    ({'num_frames': 1}, 'num_frames=1: want 2 or more'),
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
  image = perceiver_small.normal(2, 8, 12, 3)
  variables = perceiver_small.init(net, image)
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
