"""TAPIR, its causal and bootstrapped variants, TAP-Net, losses and metrics."""

import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from projects.tapir import importer, losses, tapnet
from projects.tapir import model as model_lib
from projects.tapir import task as task_lib
from vidscenic import config as vc
from vidscenic.data.datasets import queries as queries_lib
from vidscenic.ops import tracking
from vidscenic.ops import video as video_ops
from vidscenic.train import optim

_FIELDS = ('tracks', 'occlusion', 'expected_dist')
_NAMES = {  # of our fields whose names differ
  'num_layers': 'extra_conv_layers',
  'channel_multiplier': 'extra_conv_multiplier',
  'use_tsm': 'extra_conv_shift',
  'softmax_temperature': 'softmax_temperature',
}


def _tapir(config):
  """The model of a golden's `config`; unknown options are an error."""
  fields = dict(config)
  for name in ('highres_dim', 'lowres_dim', 'parallelize_query_extraction'):
    fields.pop(name, None)  # follow from the widths; see `_queries`
  fields.pop('bilinear_interp_with_depthwise_conv', None)  # the same numbers
  assert fields.pop('patch_size', 7) == 7
  chunk = fields.pop('feature_extractor_chunk_size', None)
  fields |= {
    _NAMES[name]: value
    for name, value in (fields.pop('extra_convs_kwargs', None) or {}).items()
  }
  return model_lib.Tapir(
    feature_extractor_chunk_size=chunk or 0,
    **{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()},
  )


def _params(golden, model, given=None):
  arrays = golden.below('params/') if given is None else given
  arrays = {k: np.asarray(v, np.float32) for k, v in arrays.items()}
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 2, 64, 64, 3)), jnp.ones((1, 1, 3))
  )['params']
  return importer.convert(arrays, shapes)


def _published(golden, tree):
  """{published key: leaf} of a tree in our layout."""
  flat = {}
  for key in golden.below('params/'):
    for source, path, *_ in importer.HAIKU:
      match = re.fullmatch(source, key)
      if match:
        path = path(match) if callable(path) else match.expand(path)
        leaf = tree
        for part in path.split('/'):
          leaf = leaf[part]
        flat[key] = leaf
  return flat


def _calls(golden):
  """(inputs, prefix of its outputs) of every call that is stored."""
  yield golden.below('inputs/'), 'outputs/'
  if golden.below('inputs_b/'):
    yield golden.below('inputs_b/'), 'outputs_b/'


def _queries(golden, queries):
  if golden.meta.get('config', {}).get('parallelize_query_extraction'):
    # It looks up one frame, that nearest to t.
    return np.concatenate([np.round(queries[..., :1]), queries[..., 1:]], -1)
  return queries


def _video(inputs):
  return video_ops.normalize(jnp.asarray(inputs['video_uint8']))


def _resolutions(call):
  wanted = call.get('refinement_resolutions')
  return None if wanted is None else tuple(map(tuple, wanted))


def _chunk(call):
  chunk = call.get('query_chunk_size') or 0
  return chunk[0] if isinstance(chunk, list) else chunk


def _stages(golden, model, params, inputs, resolutions, chunk):
  """(outputs named as in `tapir_offline`, grids, features)."""
  queries = jnp.asarray(inputs['query_points'])
  looked_up = jnp.asarray(_queries(golden, inputs['query_points']))

  def run(params, video):
    def stages(model, video):
      grids = model.feature_grids(video, resolutions)
      features = model.query_features(grids, looked_up)
      tracks, _ = model.trajectories(
        grids, features, queries=queries, query_chunk_size=chunk
      )
      return grids, features, tracks

    return model.apply(
      {'params': params}, video, method=stages, mutable=['intermediates']
    )

  (grids, features, tracks), sown = jax.jit(run)(params, _video(inputs))
  outputs = {
    **_grid_outputs(grids, features),
    **_track_outputs(tracks, model.num_pips_iter),
    **_sown_outputs(sown['intermediates']),
  }
  return outputs, grids, features


def _grid_outputs(grids, features):
  """Levels are numbered as in the list of initial and refinement ones."""
  outputs = {}
  for i, level in enumerate((0, *grids.refinement)):
    outputs[f'resolutions/{i}'] = grids.resolution(level)
    for name in ('lowres', 'hires'):
      grid, query = grids.levels[level], features[level]
      outputs[f'feature_grids/{name}/{i}'] = getattr(grid, name)
      outputs[f'query_features/{name}/{i}'] = getattr(query, name)
  return outputs


def _track_outputs(tracks, num_pips_iter):
  final = tracks.final(num_pips_iter)
  outputs = dict(zip(_FIELDS, final, strict=True))
  for name, values in zip(_FIELDS, tracks, strict=True):
    for i, value in enumerate(values):
      outputs[f'iters/{name}/{i}'] = value
  outputs['visibles'] = ~tracking.predicted_occluded(
    final.occlusion, final.expected_dist
  )
  return outputs


def _sown_outputs(sown):
  """Only of calls without chunks: their values have further axes."""
  outputs = {'heatmap_logits': sown['cost_volume']['heatmap_logits'][0]}
  for name in ('mixer_in', 'mixer_out'):
    values = jnp.concatenate([value for value in sown[name]])
    for i, value in enumerate(values):
      outputs[f'{name}/{i}'] = value
  return outputs


def _stored(golden, outputs, prefix):
  outputs = {f'{prefix}{name}': value for name, value in outputs.items()}
  return {k: v for k, v in outputs.items() if k in golden.arrays}


def run_offline(golden):
  """Forward of whole clips, with all that lies on the way."""
  call = golden.meta.get('call', {})
  model = _tapir(golden.meta['config'])
  params = _params(golden, model)
  outputs = {}
  for inputs, prefix in _calls(golden):
    resolutions = _resolutions(call)
    found, _, _ = _stages(golden, model, params, inputs, resolutions, 0)
    chunked = jax.jit(
      lambda p, v, q, r=resolutions: model.apply(
        {'params': p}, v, q, query_chunk_size=_chunk(call),
        refinement_resolutions=r,
      )
    )(params, _video(inputs), inputs['query_points'])
    # The way users go, where they go in chunks.
    if not golden.meta['config'].get('parallelize_query_extraction'):
      found |= _track_outputs(chunked, model.num_pips_iter)
    single = jax.jit(
      lambda p, v, q: model.apply(
        {'params': p}, v, q, refinement_resolutions=(model.initial_resolution,)
      )
    )
    if f'{prefix}single_res/tracks' in golden.arrays:
      tracks = single(params, _video(inputs), inputs['query_points'])
      final = tracks.final(model.num_pips_iter)
      for name, value in zip(_FIELDS, final, strict=True):
        found[f'single_res/{name}'] = value
    outputs |= _stored(golden, found, prefix)
  return outputs


def run_causal(golden):
  """The causal model: whole clips, frame by frame, several frames at once."""
  call = golden.meta.get('call', {})
  model = _tapir(golden.meta['config'])
  params = _params(golden, model)
  outputs = {}
  for inputs, prefix in _calls(golden):
    found = _causal(golden, model, params, inputs, call, prefix)
    outputs |= _stored(golden, found, prefix)
  return outputs


def _causal(golden, model, params, inputs, call, prefix):
  found, grids, features = _stages(
    golden, model, params, inputs, _resolutions(call), 0
  )
  variables = {'params': params}
  video = _video(inputs)

  @jax.jit
  def step(frames, features, state):
    def stages(model, frames):
      grids = model.feature_grids(frames, _resolutions(call))
      return model.trajectories(
        grids, features, state=state,
        query_chunk_size=call.get('online_query_chunk_size') or 0,
      )

    return model.apply(variables, frames, method=stages)

  tracks, _ = jax.jit(
    lambda g, f: model.apply(variables, g, f, method=model.trajectories)
  )(grids, features)
  for name, values in zip(_FIELDS, tracks, strict=True):
    for i, value in enumerate(values):
      found[f'offline_no_query_constraint/{name}/{i}'] = value
  levels = len(grids.refinement)
  num_points = inputs['query_points'].shape[1]
  start = model.initial_state(num_points, levels, len(video))
  num_frames = video.shape[1]
  states, state = [], start
  for t in range(num_frames):
    tracks, state = step(video[:, t : t + 1], features, state)
    states.append(state)
    for name, value in zip(_FIELDS, tracks, strict=True):
      found[f'online/{name}/{t}'] = value[-1]
    found |= {
      f'online/causal_state_after_frame_{t}/{key}': value
      for key, value in published_state(state).items()
    }
  for name in {
    re.match(r'online_chunks_([\d_]+)/', key)[1]
    for key in golden.below(prefix)
    if key.startswith('online_chunks_')
  }:
    state, begin, parts = start, 0, []
    for length in map(int, name.split('_')):
      tracks, state = step(video[:, begin : begin + length], features, state)
      parts.append([value[-1] for value in tracks])
      begin += length
    for field, *values in zip(_FIELDS, *parts, strict=True):
      joined = jnp.concatenate(values, axis=2)
      found[f'online_chunks_{name}/{field}'] = joined
  pattern = r'replacement_query_points_on_frame_(\d+)'
  for key in inputs:
    if match := re.fullmatch(pattern, key):
      found |= _replaced(
        model, variables, inputs, int(match[1]), step, features, states, start
      )
  return found


def _replaced(model, variables, inputs, frame, step, features, states, start):
  """New points in some slots from a frame on."""
  video = _video(inputs)
  slots = inputs['replacement_slots']
  queries = inputs[f'replacement_query_points_on_frame_{frame}'].copy()

  def look_up(model, frames, queries):
    return model.query_features(model.feature_grids(frames), queries)

  # The queries count frames of the whole video, as the stored ones do.
  found = model.apply(variables, video, queries, method=look_up)
  features = jax.tree.map(lambda x, y: x.at[:, slots].set(y), features, found)
  state = states[frame - 1] if frame else start
  state = jax.tree.map(lambda x: x.at[:, :, slots].set(0), state)
  outputs = {}
  for t in range(frame, video.shape[1]):
    tracks, state = step(video[:, t : t + 1], features, state)
    for name, value in zip(_FIELDS, tracks, strict=True):
      outputs[f'online_after_replacement/{name}/{t}'] = value[-1]
  return outputs


def published_state(state):
  """Our state in the names and axes of the released code."""
  iterations = {}
  first = 0
  for level in state:
    for block, (up, down) in level.items():
      number = int(block.removeprefix('block_'))
      name = f'block_{number}' if number else 'block'
      # Value j of channel c is number 4 c + j.
      down = jnp.swapaxes(down, -1, -2)
      down = down.reshape(*down.shape[:-2], -1)
      for part, values in ((1, up), (2, down)):
        for i, value in enumerate(values):
          key = f'{first + i}/tapir/~/pips_mlp_mixer/{name}_causal_{part}'
          iterations[key] = value
    first += len(up)
  return iterations


def run_fullsize(golden):
  """Published widths, with parameters from a recipe."""
  outputs = {}
  variants = golden.meta.get('variants')
  if variants is None:
    variants = {'': {'kwargs': golden.meta['config']}}
  for name, variant in variants.items():
    model = _tapir(variant['kwargs'])
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
    for inputs, prefix in _calls(golden):
      found, grids, features = _stages(
        golden, model, params, inputs, _resolutions(call), 0
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
        found |= _causal(golden, model, params, inputs, call, prefix)
      prefix = f'{prefix}{name}/' if name else prefix
      outputs |= _stored(golden, found, prefix)
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
  norm = 'norm' in module.rsplit('/', 1)[1]
  names = {'kernel': 'w', 'w': 'w', 'scale': 'scale'}
  name = names.get(name, 'offset' if norm else 'b')
  return f'tapir/~/{module}/{name}'


def _numbered(name, number):
  return f'{name}_{number}' if number else name
