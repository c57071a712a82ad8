"""TAPIR of published widths, with parameters from a recipe."""

import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from projects.tapir import importer
from tests.parity.adapters import tapir


def run_fullsize(golden):
  """Published widths, with parameters from a recipe."""
  outputs = {}
  variants = golden.meta.get('variants')
  if variants is None:
    variants = {'': {'kwargs': golden.meta['config']}}
  for name, variant in variants.items():
    model = tapir.make_model(variant['kwargs'])
    shapes = jax.eval_shape(
      model.init,
      jax.random.key(0),
      jnp.zeros((1, 2, *model.initial_resolution, 3)),
      jnp.ones((1, 1, 3)),
    )['params']
    arrays = _recipe(shapes, golden.meta['seed'])
    params = importer.convert(arrays, shapes)
    sums = [
      [value.sum(), (value**2).sum()]
      for _, value in sorted(
        (k, np.asarray(v, np.float64)) for k, v in arrays.items()
      )
    ]
    call = golden.meta.get('call', {})
    for inputs, prefix in tapir.calls(golden):
      prefix = f'{prefix}{name}/' if name else prefix
      found, grids, features = tapir.stage_outputs(
        golden, model, params, inputs, tapir.resolutions_of(call), 0
      )
      grid = grids.levels[0]
      found |= {
        'param_checksums': np.array(sums),
        'query_features/lowres': features[0].lowres,
        'query_features/hires': features[0].hires,
        'feature_grids/lowres_frame0_every4': grid.lowres[:, 0, ::4, ::4],
        'feature_grids/hires_frame0_every8': grid.hires[:, 0, ::8, ::8],
      }
      if any(key.startswith(f'{prefix}online') for key in golden.arrays):
        found |= tapir.causal_outputs(
          golden, model, params, inputs, call, prefix
        )
      outputs |= tapir.named(found, prefix)
  return outputs


def _recipe(shapes, seed):
  """{published key: values} for parameters of the given shapes."""
  flat = dict(_flat(shapes, ''))
  arrays = {}
  for path, leaf in flat.items():
    key = _haiku_key(path)
    rng = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32)
    z = rng.standard_normal(leaf.shape)
    name = key.rsplit('/', 1)[1]
    value = {
      'w': lambda z: z / np.sqrt(np.prod(z.shape[:-1])),
      'scale': lambda z: 1 + 0.1 * z,
    }.get(name, lambda z: 0.1 * z)(z)
    arrays[key] = value.astype(np.float16).astype(np.float32)
  for key, index, change in (
    ('cost_volume_regression_1/w', np.s_[1, 1, 0, :8], lambda x: x + 1.5),
    ('cost_volume_regression_2/w', np.s_[1, 1, :8, 0], lambda x: x + 0.35),
    ('pips_mlp_mixer/linear_1/w', np.s_[:, :2], lambda x: x * 1.5),
  ):
    value = arrays[f'tapir/~/{key}']
    value[index] = change(value[index])
    value[...] = value.astype(np.float16)
  return arrays


def _flat(tree, prefix):
  for name, child in tree.items():
    if isinstance(child, dict):
      yield from _flat(child, f'{prefix}{name}/')
    else:
      yield f'{prefix}{name}', child


_HAIKU_PARTS = (
  (r'backbone/stem/kernel', 'resnet/~/initial_conv/w'),
  (
    r'backbone/group(\d+)_unit(\d+)/norm_(\d)/(\w+)',
    r'resnet/~/block_group_\1/~/block_\2/~/instancenorm_\3/\4',
  ),
  (
    r'backbone/group(\d+)_unit(\d+)/(conv_\d)/kernel',
    r'resnet/~/block_group_\1/~/block_\2/~/\3/w',
  ),
  (
    r'backbone/group(\d+)_unit(\d+)/shortcut/kernel',
    r'resnet/~/block_group_\1/~/block_\2/~/shortcut_conv/w',
  ),
  (r'cost_volume/position_hidden/(\w+)', r'cost_volume_regression_1/\1'),
  (r'cost_volume/position_output/(\w+)', r'cost_volume_regression_2/\1'),
  (r'cost_volume/occlusion_conv/(\w+)', r'cost_volume_occlusion_1/\1'),
  (r'cost_volume/occlusion_hidden/(\w+)', r'cost_volume_occlusion_2/\1'),
  (r'cost_volume/occlusion_output/(\w+)', r'occlusion_out/\1'),
  (r'mixer/input/(\w+)', r'pips_mlp_mixer/linear/\1'),
  (r'mixer/output/(\w+)', r'pips_mlp_mixer/linear_1/\1'),
  (r'mixer/norm/(\w+)', r'pips_mlp_mixer/layer_norm/\1'),
)


def _haiku_key(path):
  """The published key of one of our parameters, written by hand."""
  match = re.fullmatch(r'mixer/block_(\d+)/(\w+)/(\w+)', path)
  if match:
    part = {
      'time_norm': 'layer_norm',
      'channel_norm': 'layer_norm_1',
      'time_up': 'mlp1_up',
      'time_down': 'mlp1_up_1',
      'channel_up': 'mlp2_up',
      'channel_down': 'mlp2_down',
    }[match[2]]
    block = _numbered('block', int(match[1]))
    key = f'pips_mlp_mixer/{block}/{part}/{match[3]}'
  elif match := re.fullmatch(r'extra_convs/layer_(\d+)/(\w+)/(\w+)', path):
    layer = int(match[1])
    part = {
      'norm': _numbered('layer_norm', layer),
      'up': _numbered('conv2_d', 2 * layer),
      'down': _numbered('conv2_d', 2 * layer + 1),
    }[match[2]]
    key = f'extra_convs/{part}/{match[3]}'
  else:
    key = next(
      match.expand(template)
      for pattern, template in _HAIKU_PARTS
      if (match := re.fullmatch(pattern, path))
    )
  module, _, name = key.rpartition('/')
  norm = 'norm' in module.rpartition('/')[2]
  names = {'kernel': 'w', 'w': 'w', 'scale': 'scale'}
  name = names.get(name, 'offset' if norm else 'b')
  return f'tapir/~/{module}/{name}'


def _numbered(name, number):
  return f'{name}_{number}' if number else name


ADAPTERS = {'tapir_fullsize': run_fullsize}
