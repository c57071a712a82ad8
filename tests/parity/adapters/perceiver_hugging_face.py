"""Perceivers as the port to PyTorch computes them."""

import jax
import jax.numpy as jnp
import numpy as np

from projects.perceiver import importer, model, patches
from tests.parity import quick


def run_hugging_face(golden):
  """The same weights as the port computes them and as Haiku does."""
  config, arrays = golden.meta['config'], golden.below('params/')
  given = golden.below('inputs/')
  # Some hold the frames beside their patches.
  given = max(given.values(), key=lambda x: x.size)
  encoder = {
    'num_self_attends_per_block': config['num_self_attends_per_block'],
    'num_blocks': config['num_blocks'],
    'z_index_dim': config['num_latents'],
    'num_z_channels': config['d_latents'],
    'num_cross_attend_heads': config['num_cross_attention_heads'],
    'num_self_attend_heads': config['num_self_attention_heads'],
    **{
      f'{kind}_attend_widening_factor': config.get(
        f'{kind}_attention_widening_factor', 1
      )
      for kind in ('cross', 'self')
    },
  }
  outputs = {}
  for name in golden.wanted:
    kind, _, variant = name.removeprefix('outputs/').partition('_')
    if kind == 'flow':
      options = _options('other', variant)
      net, inputs, factor = _hf_flow(config, encoder, options, given)
    else:
      options = _options('image_classifier', variant)
      net, inputs = _hf_classifier(config, arrays, encoder, options, given)
      factor = 1.0
    target = jax.eval_shape(net.init, jax.random.key(0), inputs)
    params = importer.convert(arrays, target['params'])
    run = quick.jit(lambda p, net=net, x=inputs: net.apply({'params': p}, x))
    outputs[name] = run(params) * factor
  return outputs


def _options(kind, variant):
  """Of the port, with the GELU of the variant, or of the Haiku code."""
  if variant == 'haiku':
    return {}
  options = importer.HUGGING_FACE[kind]
  if variant == 'exact_gelu':
    return options
  return {
    part: {k: v for k, v in fields.items() if k != 'activation'}
    for part, fields in options.items()
  }


def _hf_classifier(config, arrays, encoder, options, images):
  images = np.moveaxis(images, 1, -1)
  learned = 'perceiver.input_preprocessor.convnet_1x1.weight' in arrays
  latents = config['d_latents']
  decoder = {
    'trainable_position_encoding_kwargs': {'num_channels': latents},
    'use_query_residual': not learned,
    **options.get('decoder', {}),
  }
  if learned:
    prefix = 'perceiver.input_preprocessor.'
    table = arrays[f'{prefix}position_embeddings.position_embeddings']
    project = arrays.get(f'{prefix}positions_projection.weight')
    preprocessor = {
      'prep_type': 'conv1x1',
      'spatial_downsample': 1,
      'num_channels': len(arrays[f'{prefix}convnet_1x1.weight']),
      'position_encoding_type': 'trainable',
      'trainable_position_encoding_kwargs': {'num_channels': table.shape[1]},
      'project_pos_dim': -1 if project is None else len(project),
    }
  else:
    preprocessor = {
      'prep_type': 'pixels',
      'spatial_downsample': 1,
      'fourier_position_encoding_kwargs': {
        'num_bands': config.get('num_bands', 64),
        'max_resolution': config.get('max_resolution', (224, 224)),
      },
    }
  net = model.image_classifier(
    num_classes=config['num_labels'],
    input_preprocessor=preprocessor | options.get('input_preprocessor', {}),
    encoder=encoder | options.get('encoder', {}),
    decoder=decoder,
  )
  return net, images


def _hf_flow(config, encoder, options, given):
  """Inputs are frames [B, 2, 3, H, W] or their patches [B, 2, 27, H, W]."""
  x = jnp.asarray(given)
  x = jnp.moveaxis(x, 2, -1) if x.shape[2] in (3, 27) else x
  if x.shape[-1] == 3:
    x = patches.flow_patches(x)
  net = model.optical_flow(
    image_size=x.shape[2:4],
    num_channels=config.get('preprocessor_num_channels', 64),
    num_bands=config.get('num_bands', 64),
    max_resolution=config.get('max_resolution') or x.shape[2:4],
    rescale_factor=config['rescale_factor'],
    encoder=encoder | options.get('encoder', {}),
    decoder=options.get('decoder', {}),
  )
  return net, x, config.get('flow_scale_factor', 20.0)


ADAPTERS = {'perceiver_hf': run_hugging_face}
