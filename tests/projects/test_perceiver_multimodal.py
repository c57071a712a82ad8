"""Video, sound and label together: what is left out, hidden or decoded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.perceiver import (
  autoencoding_task,
  decoders,
  multimodal,
  preprocessors,
)
from tests.parity import quick
from tests.projects import perceiver_small
from vidscenic.train import inspect


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
  return perceiver_small.randomised(
    jax.eval_shape(task.init, jax.random.key(0), rows)[0]
  )


def inputs_of(task):
  rng = np.random.default_rng(0)
  return {
    'image': jnp.asarray(rng.random((2, *task.clip, 3)), jnp.float32),
    'audio': perceiver_small.normal(2, task.num_samples, 1),
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
  module = multimodal.MultimodalPreprocessor(
    {'a': preprocessors.OneHotPreprocessor()}, mask_probs={'a': 0.5}
  )
  values = {'a': perceiver_small.normal(32, 4)}
  variables = perceiver_small.init(module, values)
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


def test_queries_are_made_of_their_own_modality_s_features():
  decode = lambda **options: decoders.BasicDecoder(
    3,
    position_encoding_type='fourier',
    fourier_position_encoding_kwargs={'num_bands': 1},
    **options,
  )
  module = multimodal.MultimodalDecoder(
    {
      'a': decode(index_dims=(4,)),
      'b': decode(index_dims=(6,), concat_preprocessed_input=True),
    },
    decode(),
    min_padding_size=0,
  )
  features = {
    'a': perceiver_small.normal(2, 4, 5),
    'b': perceiver_small.normal(2, 6, 5),
  }
  array = jnp.zeros((2, 10, 7))

  @quick.jit
  def query(features):
    preprocessed = preprocessors.Preprocessed(array, features)
    (out, _), variables = module.init_with_output(
      jax.random.key(0), preprocessed, method='decoder_query'
    )
    some, _ = module.apply(
      variables,
      preprocessed,
      {'b': jnp.array([5, 2])},
      method='decoder_query',
    )
    return out, some

  out, some = query(features)
  np.testing.assert_array_equal(out[:, 4:, :5], features['b'])
  np.testing.assert_array_equal(some[..., :5], features['b'][:, [5, 2]])
  with pytest.raises(ValueError, match='the modality is none of the inputs'):
    jax.eval_shape(query, {'a': features['a']})


def test_decoded_video_has_its_shape_and_parts_of_it_have_none():
  module = decoders.BasicVideoAutoencodingDecoder(
    3,
    index_dims=(2, 3, 4),
    position_encoding_type='fourier',
    fourier_position_encoding_kwargs={'num_bands': 1},
  )
  latents = jax.ShapeDtypeStruct((2, 5, 6), jnp.float32)
  for count, shape in ((24, (2, 2, 3, 4, 3)), (7, (2, 7, 3))):
    query = jax.ShapeDtypeStruct((2, count, 9), jnp.float32)
    out, _ = jax.eval_shape(
      module.init_with_output, jax.random.key(0), query, latents
    )
    assert out.array.shape == shape
