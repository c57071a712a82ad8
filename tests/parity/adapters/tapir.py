"""TAPIR, its causal and bootstrapped variants, TAP-Net."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from projects.tapir import importer, tapnet
from projects.tapir import model as model_lib
from tests.parity import quick
from vidscenic.ops import tracking
from vidscenic.ops import video as video_ops

_FIELDS = ('tracks', 'occlusion', 'expected_dist')
_NAMES = {  # of our fields whose names differ
  'num_layers': 'extra_conv_layers',
  'channel_multiplier': 'extra_conv_multiplier',
  'use_tsm': 'extra_conv_shift',
  'softmax_temperature': 'softmax_temperature',
}


def make_model(config):
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


def parameters(golden, model, given=None):
  arrays = golden.below('params/') if given is None else given
  arrays = {k: np.asarray(v, np.float32) for k, v in arrays.items()}
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jnp.zeros((1, 2, 64, 64, 3)),
    jnp.ones((1, 1, 3)),
  )['params']
  return importer.convert(arrays, shapes)


def calls(golden):
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


def resolutions_of(call):
  wanted = call.get('refinement_resolutions')
  return None if wanted is None else tuple(map(tuple, wanted))


def _chunk(call):
  chunk = call.get('query_chunk_size') or 0
  return chunk[0] if isinstance(chunk, list) else chunk


def stage_outputs(golden, model, params, inputs, resolutions, chunk):
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

  (grids, features, tracks), sown = quick.jit(run)(params, _video(inputs))
  outputs = {
    **_grid_outputs(grids, features),
    **_track_outputs(tracks, model.num_pips_iter),
    **(_sown_outputs(sown['intermediates']) if not chunk else {}),
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
    values = jnp.concatenate(sown[name])
    for i, value in enumerate(values):
      outputs[f'{name}/{i}'] = value
  return outputs


def named(outputs, prefix):
  return {f'{prefix}{name}': value for name, value in outputs.items()}


def run_offline(golden):
  """Forward of whole clips, with all that lies on the way."""
  call = golden.meta.get('call', {})
  model = make_model(golden.meta['config'])
  params = parameters(golden, model)
  outputs = {}
  for inputs, prefix in calls(golden):
    resolutions = resolutions_of(call)
    found, _, _ = stage_outputs(golden, model, params, inputs, resolutions, 0)
    if 0 < _chunk(call) < inputs['query_points'].shape[1]:
      stages, _, _ = stage_outputs(
        golden, model, params, inputs, resolutions, _chunk(call)
      )
      found |= {k: v for k, v in stages.items() if k.startswith(_FIELDS)}
    if f'{prefix}single_res/tracks' in golden.arrays:
      single = (model.initial_resolution,)
      tracks = quick.jit(
        lambda p, v, q, r=single: model.apply(
          {'params': p}, v, q, refinement_resolutions=r
        )
      )(params, _video(inputs), inputs['query_points'])
      final = tracks.final(model.num_pips_iter)
      for name, value in zip(_FIELDS, final, strict=True):
        found[f'single_res/{name}'] = value
    outputs |= named(found, prefix)
  return outputs


def run_causal(golden):
  """The causal model: whole clips, frame by frame, several frames at once."""
  call = golden.meta.get('call', {})
  model = make_model(golden.meta['config'])
  params = parameters(golden, model)
  outputs = {}
  for inputs, prefix in calls(golden):
    found = causal_outputs(golden, model, params, inputs, call, prefix)
    outputs |= named(found, prefix)
  return outputs


def causal_outputs(golden, model, params, inputs, call, prefix):
  found, grids, features = stage_outputs(
    golden, model, params, inputs, resolutions_of(call), 0
  )
  variables = {'params': params}
  video = _video(inputs)

  @quick.jit
  def step(frames, features, state):
    def stages(model, frames):
      grids = model.feature_grids(frames, resolutions_of(call))
      return model.trajectories(
        grids,
        features,
        state=state,
        query_chunk_size=call.get('online_query_chunk_size') or 0,
      )

    return model.apply(variables, frames, method=stages)

  tracks, _ = quick.jit(
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
        model,
        variables,
        inputs,
        int(match[1]),
        step,
        features,
        states,
        start,
        call,
      )
  return found


def _replaced(
  model, variables, inputs, frame, step, features, states, start, call
):
  """New points in some slots from a frame on."""
  video = _video(inputs)
  slots = inputs['replacement_slots']
  # They count frames from that one.
  queries = inputs[f'replacement_query_points_on_frame_{frame}']

  @quick.jit
  def look_up(frames):
    def stages(model, frames):
      grids = model.feature_grids(frames, resolutions_of(call))
      return model.query_features(grids, queries)

    return model.apply(variables, frames, method=stages)

  found = look_up(video[:, frame : frame + 1])
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


def run_tapnet(golden):
  """TAP-Net with running averages, and in training."""
  fields = {
    'stem_channels': golden.meta['config']['stem_channels'],
    'channels_per_group': tuple(golden.meta['config']['unit_output_channels']),
    'blocks_per_group': tuple(golden.meta['config']['blocks_per_unit']),
    'channel_shift_fraction': tuple(
      golden.meta['config']['channel_shift_fraction']
    ),
    'softmax_temperature': golden.meta['config']['softmax_temperature'],
  }
  assert golden.meta['config']['feature_grid_stride'] == 8
  assert golden.meta['config']['num_heads'] == 1
  model = tapnet.TapNet(**fields)
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jnp.zeros((1, 2, 64, 64, 3)),
    jnp.ones((1, 1, 3)),
  )
  arrays = {
    k: np.asarray(v, np.float32) if v.dtype == np.float16 else v
    for k, v in golden.arrays.items()
    if k.startswith(('params/', 'state/'))
  }
  params, state = importer.convert(
    arrays, shapes['params'], {'batch_stats': shapes['batch_stats']}
  )
  outputs = {}
  for inputs, prefix in calls(golden):
    for train, name in ((False, ''), (True, 'training/')):
      out, changed = quick.jit(
        lambda v, q, t=train: model.apply(
          {'params': params, **state}, v, q, train=t, mutable=['batch_stats'],
          query_chunk_size=0 if t else _chunk(golden.meta.get('call', {})),
        )
      )(_video(inputs), inputs['query_points'])  # fmt: skip
      found = {
        f'{name}tracks': out.tracks.points[0],
        f'{name}occlusion': out.tracks.occlusion[0],
        f'{name}feature_grid': out.grid,
        f'{name}query_feats': out.features,
      }
      if train:
        found |= _published_averages(golden, changed['batch_stats'], prefix)
      outputs |= named(found, prefix)
  return outputs


def _published_averages(golden, stats, prefix):
  found = {}
  start = f'{prefix}training/'
  for key in golden.below(f'{start}state/'):
    match = re.search(
      r'unit_(\d+)/block_(\d+)/batch_norm(_1)?/~/(mean|var)_ema/(\w+)$', key
    )
    group, unit, second, kind, name = match.groups()
    norm = stats['backbone'][f'group{group}_unit{unit}']
    norm = norm[f'norm_{1 if second else 0}']
    value = norm['counter'] if name == 'counter' else norm[kind][name]
    shape = golden.arrays[f'{start}state/{key}'].shape
    found[f'training/state/{key}'] = jnp.reshape(value, shape)
  return found


ADAPTERS = {
  'tapir_offline': run_offline,
  'tapir_boots': run_offline,
  'tapir_causal': run_causal,
  'tapir_tapnet': run_tapnet,
}
