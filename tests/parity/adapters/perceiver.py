"""Perceivers: positions, processors, classification, flow, video, bytes."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from projects.perceiver import (
  autoencoding_task,
  flow_task,
  importer,
  model,
  patches,
  positions,
  postprocessors,
  tiling,
)
from tests.parity import gradients, quick
from vidscenic.layers import fourier
from vidscenic.ops import augment, losses

# Fields of a reference's configuration that change no number.
_UNUSED = ('num_z_channels',)


def run_posenc(golden):
  """Grids, Fourier features and features of single places."""
  given, outputs = golden.below('inputs/'), {}
  for name, case in golden.meta['config'].items():
    options = {
      key: case[key]
      for key in ('num_bands', 'max_resolution', 'concat_pos', 'sine_only')
      if key in case
    }
    if case.get('subsampled'):
      indices = given[f'{name}/subsampled_indices']
      outputs[f'{name}/subsampled_query'] = positions.fourier_features(
        case['index_dims'], indices, **options
      )
    elif 'index_dims' not in case:
      places = given[f'{name}_pos']
      outputs[f'{name}/fourier'] = fourier.bands(
        places,
        case['num_bands'],
        case['max_resolution'],
        concat_positions=case.get('concat_pos', True),
        sine_only=case.get('sine_only', False),
        dtype=np.float32,
      )
    else:
      dims = case['index_dims']
      outputs[f'{name}/linear_positions'] = fourier.linear_grid(dims)
      outputs[f'{name}/fourier'] = positions.fourier_features(dims, **options)
  return _named(outputs)


def run_processors(golden):
  """Space to depth and back, patches, the two upsamplers."""
  config, given = golden.meta['config'], golden.below('inputs/')
  params = golden.below('params/')
  image, video = config['s2d_image'], config['s2d_video']
  blocks = patches.space_to_depth(
    given['image'], spatial_block_size=image['spatial']
  )
  cut = config['extract_patches']
  outputs = {
    's2d_image': blocks,
    'd2s_image': patches.reverse_space_to_depth(
      blocks, spatial_block_size=image['spatial']
    ),
    's2d_video': patches.space_to_depth(
      given['video'],
      temporal_block_size=video['temporal'],
      spatial_block_size=video['spatial'],
    ),
    'patches_for_flow': patches.flow_patches(jnp.asarray(given['pair'])),
    'extract_patches': patches.extract_patches(
      jnp.asarray(given['image']),
      sizes=cut['sizes'][1:3],
      strides=cut['strides'][1:3],
      rates=cut['rates'][1:3],
      padding=cut['padding'],
    ),
  }
  for name in ('up2', 'up3'):
    options = dict(config[name])
    module = getattr(postprocessors, options.pop('module'))(**options)
    target = jax.eval_shape(module.init, jax.random.key(0), given[name])
    loaded = importer.convert_upsampler(
      {k: v for k, v in params.items() if k.startswith(f'conv{name[2]}')},
      target['params'],
    )
    outputs[f'out_{name}'] = module.apply({'params': loaded}, given[name])
  return _named(outputs)


def run_classification(golden):
  """Logits, what lies on the way, loss, gradients and batch statistics."""
  config, given = golden.meta['config'], golden.below('inputs/')
  net = model.image_classifier(
    num_classes=config['num_classes'],
    input_preprocessor=config['input_preprocessor'],
    encoder=config['encoder'],
    decoder={k: v for k, v in config['decoder'].items() if k not in _UNUSED},
  )
  images = given['images']
  loaded = _Loaded(golden, net, images)
  outputs = loaded.look_inside(images)
  label = jax.nn.one_hot(given['labels'], config['num_classes'])
  if 'mix_labels' in given:
    other = jax.nn.one_hot(given['mix_labels'], config['num_classes'])
    label = augment.mix(label, other, jnp.asarray(given['ratio']))

  def loss(params):
    logits, state = net.apply(
      {'params': params, **loaded.state},
      images,
      train=True,
      mutable=list(loaded.state),
    )
    total, count = losses.softmax_cross_entropy(
      logits, label, label_smoothing=config.get('label_smoothing', 0.0)
    )
    return total / count, (logits, state)

  (value, (logits, state)), grads = quick.jit(
    jax.value_and_grad(loss, has_aux=True)
  )(loaded.params)
  outputs['loss'] = value
  outputs['logits_train_mode'] = logits
  outputs['grad_global_norm'] = jnp.sqrt(
    sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads))
  )
  for key, (name, kind) in _state_names(golden).items():
    layer = state['batch_stats']['input_preprocessor'][name]
    part = 'mean' if '/mean_ema/' in key else 'var'
    leaf = layer['counter'] if kind == 'counter' else layer[part][kind]
    outputs[f'new_state/{key}'] = np.reshape(
      leaf, golden.arrays[f'outputs/new_state/{key}'].shape
    )
  return _named(outputs) | loaded.published(grads)


def _state_names(golden):
  found = {}
  for key in golden.below('outputs/new_state/'):
    match = re.search(r'batchnorm(_\d+)?/~/\w+_ema/(\w+)$', key)
    number = int((match[1] or '_0')[1:])
    found[key] = f'norm_{number}', match[2]
  return found


def run_iterative(golden):
  """Several readings of the inputs, projection of the mean latent."""
  config, given = golden.meta['config'], golden.below('inputs/')
  own = ('num_bands', 'max_resolution', 'num_classes', 'decoder')
  encoder = {k: v for k, v in config.items() if k not in own}
  reads = encoder.pop('num_cross_attends')
  net = model.image_classifier(
    num_classes=config['num_classes'],
    input_preprocessor={
      'prep_type': 'pixels',
      'spatial_downsample': 1,
      'fourier_position_encoding_kwargs': {
        k: config[k] for k in ('num_bands', 'max_resolution')
      },
    },
    encoder={**encoder, 'num_blocks': reads, 'num_reads': reads},
    decoder={'kind': 'projection'},
  )
  loaded = _Loaded(golden, net, given['images'])
  logits, seen = loaded.capture(given['images'])
  outputs = {'logits': logits}
  crosses = [
    *seen['encoder']['cross_attend']['__call__'],
    *seen['encoder'].get('shared_cross_attend', {}).get('__call__', ()),
  ]
  blocks = seen['encoder']['self_attends']['__call__']
  for i, (cross, block) in enumerate(zip(crosses, blocks, strict=True)):
    outputs[f'latents_after_cross_{i}'] = cross
    outputs[f'latents_after_block_{i}'] = block

  def loss(params):
    logits = net.apply({'params': params}, given['images'])
    total, count = losses.softmax_cross_entropy(logits, given['labels'])
    return total / count

  outputs['loss'], grads = quick.jit(jax.value_and_grad(loss))(loaded.params)
  return _named(outputs) | loaded.published(grads)


def run_flow(golden):
  """Flow of patches, of a large image, loss and gradients."""
  config, given = golden.meta['config'], golden.below('inputs/')
  size = tuple(config['train_size'])
  factor = config['flow_scale_factor']
  task = flow_task.OpticalFlow(
    model={
      'image_size': size,
      'num_channels': config['preprocessor_num_channels'],
      'num_bands': config['num_bands'],
      'max_resolution': config['max_resolution'],
      'rescale_factor': config['rescale_factor'],
      'encoder': config['encoder'],
    },
    flow_scale_factor=factor,
    min_overlap=config['min_overlap'],
  )
  net = task.model
  pairs = patches.flow_patches(jnp.asarray(given['images']))
  loaded = _Loaded(golden, net, pairs)
  outputs = loaded.look_inside(pairs)
  outputs['flow'] = outputs.pop('logits') * factor
  for name in ('preprocessed', 'decoder_cross_attend'):
    outputs[name] = outputs[name][:1]

  big, places = given['big_pair'], given['tile_corners']
  ours = task.corners(big.shape[1:3])
  if {tuple(p) for p in places.tolist()} != set(ours):
    raise ValueError(f'{golden.path}: patches at {places.tolist()}, not {ours}')
  outputs['tiled_flow'] = quick.jit(task.flow)(loaded.params, big[None])
  outputs['tile_weights'] = tiling.weights(size)

  def loss(params):
    flow = net.apply({'params': params}, pairs) * factor
    total, count = flow_task.end_point_error(flow, given['target_flow'])
    return total / count

  outputs['loss'], grads = quick.jit(jax.value_and_grad(loss))(loaded.params)
  return _named(outputs) | loaded.published(grads)


_RUNS = {
  'label_masked': {'audio': 0.0, 'image': 0.0, 'label': 1.0},
  'label_visible': {'audio': 0.0, 'image': 0.0, 'label': 0.0},
  'audio_masked': {'audio': 1.0, 'image': 0.0, 'label': 0.0},
}


def run_video(golden):
  """Autoencoding of video, sound and label with different parts hidden."""
  config, given = golden.meta['config'], golden.below('inputs/')
  frames, samples = config['num_frames'], config['samples_per_frame']
  net = model.audio_video_autoencoder(
    num_frames=frames,
    image_size=given['images'].shape[2:4],
    num_samples=frames * samples,
    num_classes=config['classes'],
    samples_per_patch=config['spp'],
    spatial_downsample=config['sd'],
    video_bands=config['vbands'],
    video_max_resolution=config['maxres'],
    audio_bands=config['abands'],
    audio_max_resolution=frames * samples,
    label_channels=config['label_q'],
    output_channels=config['out_ch'],
    input_padding=config['preprocessor_min_padding'],
    query_padding=config['decoder_min_padding'],
    encoder=config['enc'],
  )
  inputs = {
    'image': given['images'],
    'audio': given['audio'],
    'label': given['label_onehot'],
  }
  points = {
    'image': given['subsampled_image'],
    'audio': given['subsampled_audio'],
    'label': None,
  }
  loaded = _Loaded(golden, net, inputs)
  outputs = {}
  for name, probs in _RUNS.items():

    @quick.jit
    def run(params, probs=probs):
      bound = net.bind({'params': params})
      latents, preprocessed = bound.encode(inputs, mask_probs=probs)
      query, _ = bound.decoder.decoder_query(preprocessed, points)
      return (
        latents,
        preprocessed.array[:1],
        query[:1],
        bound.decode(latents, preprocessed, points=points),
      )

    latents, array, query, results = run(loaded.params)
    outputs[f'{name}/latents_final'] = latents
    outputs[f'{name}/preprocessed'] = array
    outputs[f'{name}/decoder_query'] = query
    outputs |= {f'{name}/{k}': v for k, v in results.items()}

  def loss(params):
    results = net.apply(
      {'params': params},
      inputs,
      points=points,
      mask_probs=_RUNS['label_visible'],
    )
    terms = autoencoding_task.autoencoding_terms(
      results,
      autoencoding_task.autoencoding_targets(inputs, points, config['spp']),
      scales=autoencoding_task.PUBLISHED_SCALES,
    )
    return sum(scale * total / n for total, n, scale in terms.values())

  outputs['label_visible/loss'], grads = quick.jit(jax.value_and_grad(loss))(
    loaded.params
  )
  return _named(outputs) | loaded.published(grads)


def run_masked(golden):
  """Bytes with and without a mask over inputs and queries."""
  config, given = golden.meta['config'], golden.below('inputs/')
  heads = config['num_heads']
  encoder = {
    'num_self_attends_per_block': config['num_self_attends_per_block'],
    'num_blocks': config.get('num_blocks', 1),
    'z_index_dim': config['num_latents'],
    'num_z_channels': config['d_latents'],
    'num_cross_attend_heads': heads,
    'num_self_attend_heads': heads,
    'qk_channels': config['qk_channels'],
    'v_channels': config['encoder_v_channels'],
  }
  net = model.masked_bytes(
    vocab_size=config['vocab'],
    max_seq_len=config['max_seq_len'],
    num_channels=config['d_model'],
    encoder=encoder,
    decoder={
      'qk_channels': config['qk_channels'],
      'v_channels': config['decoder_v_channels'],
      'num_heads': heads,
    },
  )
  ids, mask = given['token_ids'], given['mask'].astype(bool)
  loaded = _Loaded(golden, net, ids)
  run = quick.jit(
    lambda params, mask: net.apply(
      {'params': params}, ids, input_mask=mask, query_mask=mask
    )
  )
  outputs = {
    'logits': run(loaded.params, mask),
    'logits_no_mask': run(loaded.params, None),
  }
  return _named(outputs)


class _Loaded:
  """Parameters of a golden in our layout, by the importer, and back."""

  def __init__(self, golden, net, inputs):
    self._golden, self._net = golden, net
    self._arrays = golden.below('params/')
    shapes = dict(jax.eval_shape(net.init, jax.random.key(0), inputs))
    self._target = shapes.pop('params')
    arrays = self._arrays | golden.below('state/')
    if shapes:
      self.params, self.state = importer.convert(
        arrays, self._target, model_state=shapes
      )
    else:
      self.params, self.state = importer.convert(arrays, self._target), {}

  def capture(self, inputs):
    """(outputs, what every module returned)."""
    run = quick.jit(
      lambda params: self._net.apply(
        {'params': params, **self.state},
        inputs,
        capture_intermediates=True,
        mutable=['intermediates'],
      )
    )
    out, seen = run(self.params)
    return out, seen['intermediates']

  def look_inside(self, inputs):
    """What single-task goldens store of a forward pass."""
    out, seen = self.capture(inputs)
    stack = seen['encoder']['self_attends']
    (cross,) = seen['encoder']['cross_attend']['__call__']
    (preprocessed,) = seen['input_preprocessor']['__call__']
    return {
      'logits': out,
      'preprocessed': preprocessed.array,
      'encoder_cross_attend': cross,
      'self_attend_first': stack['block_0']['__call__'][0],
      'latents_after_block0': stack['__call__'][0],
      'latents_final': stack['__call__'][-1],
      'decoder_cross_attend': seen['decoder']['cross_attend']['__call__'][0],
    }

  def published(self, grads):
    """Our gradients under the published keys and shapes."""
    convert = lambda arrays: importer.convert(arrays, self._target)
    return gradients.stored(self._golden, convert, self._arrays, grads)


def _named(outputs):
  return {f'outputs/{name}': value for name, value in outputs.items()}


ADAPTERS = {
  'perceiver_posenc': run_posenc,
  'perceiver_processors': run_processors,
  'perceiver_classification': run_classification,
  'perceiver_iterative': run_iterative,
  'perceiver_flow': run_flow,
  'perceiver_video': run_video,
  'perceiver_masked': run_masked,
}
