"""TAPIR, its causal and bootstrapped variants, TAP-Net, losses and metrics."""

import functools
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from projects.tapir import features as features_lib
from projects.tapir import importer, losses, tapnet
from projects.tapir import model as model_lib
from projects.tapir.configs import kubric
from tests.parity import gradients
from vidscenic import config as vc
from vidscenic.data.datasets import queries as queries_lib
from vidscenic.ops import tracking
from vidscenic.ops import video as video_ops
from vidscenic.train import optim

# Compiling takes longer than running here.
_jit = functools.partial(
  jax.jit,
  compiler_options={
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
  },
)
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
    model.init,
    jax.random.key(0),
    jnp.zeros((1, 2, 64, 64, 3)),
    jnp.ones((1, 1, 3)),
  )['params']
  return importer.convert(arrays, shapes)


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

  (grids, features, tracks), sown = _jit(run)(params, _video(inputs))
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
    if 0 < _chunk(call) < inputs['query_points'].shape[1]:
      stages, _, _ = _stages(
        golden, model, params, inputs, resolutions, _chunk(call)
      )
      found |= {k: v for k, v in stages.items() if k.startswith(_FIELDS)}
    if f'{prefix}single_res/tracks' in golden.arrays:
      single = (model.initial_resolution,)
      tracks = _jit(
        lambda p, v, q, r=single: model.apply(
          {'params': p}, v, q, refinement_resolutions=r
        )
      )(params, _video(inputs), inputs['query_points'])
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

  @_jit
  def step(frames, features, state):
    def stages(model, frames):
      grids = model.feature_grids(frames, _resolutions(call))
      return model.trajectories(
        grids,
        features,
        state=state,
        query_chunk_size=call.get('online_query_chunk_size') or 0,
      )

    return model.apply(variables, frames, method=stages)

  tracks, _ = _jit(
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
  # They count frames from that one.
  queries = inputs[f'replacement_query_points_on_frame_{frame}']

  @_jit
  def look_up(frames):
    def stages(model, frames):
      return model.query_features(model.feature_grids(frames), queries)

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
      prefix = f'{prefix}{name}/' if name else prefix
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
  norm = 'norm' in module.rpartition('/')[2]
  names = {'kernel': 'w', 'w': 'w', 'scale': 'scale'}
  name = names.get(name, 'offset' if norm else 'b')
  return f'tapir/~/{module}/{name}'


def _numbered(name, number):
  return f'{name}_{number}' if number else name


def run_train(golden):
  """Losses and gradients with and without gradient chunks; the optimizer."""
  config = dict(golden.meta['config'])
  model = _tapir(config)
  params = _params(golden, model)
  inputs = golden.below('inputs/')
  sizes = golden.meta['call']['query_chunk_size']
  sizes = sizes if isinstance(sizes, list) else [sizes]
  num_queries = inputs['query_points'].shape[1]
  outputs = {}
  for size in sizes:
    suffix = f'_chunk{size}'
    order = inputs.get(f'query_permutation{suffix}')
    if order is None:
      order, suffix = np.arange(num_queries), ''
    batch = {
      'video': inputs['video_uint8'],
      'query_points': inputs['query_points'][:, order],
      'target_points': inputs['target_points'][:, order],
      'occluded': inputs['occluded'][:, order],
      'mask': np.ones(len(inputs['occluded']), bool),
    }
    (loss, terms), grads = _value_and_grad(model, params, batch, size)
    outputs[f'outputs/loss{suffix}'] = loss
    for name, value in terms.items():
      kind, _, number = name.partition('_')
      kind = {'uncertainty': 'prob'}.get(kind, kind)
      name = f'{kind}_loss_{number}' if number else f'{kind}_loss'
      outputs[f'outputs/loss_terms{suffix}/{name}'] = value
    norm = sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)) ** 0.5
    outputs[f'outputs/grad_global_norm{suffix}'] = norm
    stored = golden.below(f'grads{suffix}/')
    for key, value in _published(golden, params, grads, stored).items():
      outputs[f'grads{suffix}/{key}'] = value
  return outputs | _optimizer_steps(golden, params)


def _published(golden, params, tree, names):
  """{published key: leaf} of a tree in our layout."""
  return gradients.to_source(
    lambda arrays: importer.convert(arrays, params),
    golden.below('params/'),
    tree,
    names,
  )


def _value_and_grad(model, params, batch, size):
  def loss(params):
    tracks = model.apply(
      {'params': params},
      video_ops.normalize(batch['video']),
      batch['query_points'],
      query_chunk_size=size,
      grad_chunks=1,
    )
    terms = losses.trajectory_losses(
      tracks,
      model.num_pips_iter,
      target_points=batch['target_points'],
      target_occluded=batch['occluded'],
      size=batch['video'].shape[2:4],
      rows=batch['mask'],
    )
    terms = {name: s * total / n for name, (total, n, s) in terms.items()}
    return sum(terms.values()), terms

  return _jit(jax.value_and_grad(loss, has_aux=True))(params)


def _optimizer_steps(golden, params):
  """Parameters without a stored gradient get none, and are not compared."""
  options = golden.meta['optimizer']
  schedule = options['schedule']
  optimizer = optim.make_optimizer(
    {
      'name': 'adamw',
      'lr': schedule['peak'],
      'schedule': vc.schedule_spec(
        name='cosine',
        warmup_steps=schedule['warmup_steps'],
        warmup_init=schedule['init'] / schedule['peak'],
        end=schedule['end'] / schedule['peak'],
        decay_steps=schedule['total_steps'],
      ),
      'weight_decay': options['weight_decay'],
      'decay_exclude': kubric.get_config().optim.decay_exclude,
      **options['adam'],
    },
    params,
    schedule['total_steps'],
  )
  counts = jnp.arange(schedule['total_steps'] + 1)
  outputs = {'outputs/optimizer_schedule': jax.vmap(optimizer.lr)(counts)}
  none = {k: np.zeros_like(v) for k, v in golden.below('params/').items()}
  update = _jit(optimizer.tx.update)
  state = optimizer.tx.init(params)
  for step in range(options['steps']):
    given = golden.below(f'inputs/optimizer_grads/{step}/')
    # As the training step does with gradients that are not finite.
    if all(np.isfinite(g).all() for g in given.values()):
      grads = importer.convert(none | given, params)
      updates, state = update(grads, state, params)
      params = jax.tree.map(jnp.add, params, updates)
    for key, value in _published(golden, params, params, given).items():
      outputs[f'outputs/optimizer_params/{step}/{key}'] = value
  return outputs


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
  for inputs, prefix in _calls(golden):
    for train, name in ((False, ''), (True, 'training/')):
      out, changed = _jit(
        lambda v, q, t=train: model.apply(
          {'params': params, **state}, v, q, train=t, mutable=['batch_stats'],
          query_chunk_size=0 if t else _chunk(golden.meta['call']),
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
      outputs |= _stored(golden, found, prefix)
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


def run_metrics(golden):
  """Scores, query sampling, losses of one set of predictions, resolutions."""
  outputs = {}
  given = golden.below('inputs/metrics/')
  for name in golden.below('outputs/metrics/'):
    mode, per, score = name.split('/')
    outputs.setdefault((mode, per), {})[name] = score
  found = {}
  for (mode, per), names in outputs.items():
    scores = _scores(given, mode, per)
    found |= {f'metrics/{name}': scores[key] for name, key in names.items()}
  given = golden.below('inputs/sampling/')
  for mode in queries_lib.MODES:
    got = queries_lib.sample_queries(
      given['target_points'], given['target_occluded'], mode
    )
    for name, value in got._asdict().items():
      name = {'track': 'trackgroup'}.get(name, name)
      found[f'sampling/{mode}/{name}'] = np.asarray(value)[None]
  found |= _loss_variants(golden)
  for name, (size, initial) in golden.below('inputs/resolutions/').items():
    resolutions = features_lib.default_resolutions(
      size.tolist(), initial.tolist()
    )
    found[f'resolutions/{name}'] = np.array(resolutions)
  return _stored(golden, found, 'outputs/')


def _scores(given, mode, per):
  scores = tracking.tap_vid(
    query_points=given['query_points'],
    target_points=given['gt_tracks'],
    target_occluded=given['gt_occluded'],
    points=given['pred_tracks'],
    occluded=given['pred_occluded'],
    mode=mode,
    per=per.removeprefix('per_'),
  )
  if per == 'per_track':
    # The released code stacks [b, n] arrays on axis 1 and averages over it,
    # which is the mean over thresholds, as ours.
    return scores
  return scores


def _loss_variants(golden):
  given = golden.below('inputs/loss/')
  if not given:
    return {}
  weighted = {'position': losses.POSITION_WEIGHT}
  options = {
    'plain': {},
    'masked': {'mask': given['mask']},
    'rebalanced': {'rebalance': _rebalance(golden)},
    'all': {
      'mask': given['mask'],
      'rebalance': _rebalance(golden),
      'occlusion_mask': given['occlusion_loss_mask'],
    },
  }
  found = {
    'visible_from_logits': ~tracking.predicted_occluded(
      given['occlusion_logits'], given['expected_dist_logits']
    )
  }
  for name, option in options.items():
    terms = losses.point_losses(
      given['points'],
      given['occlusion_logits'],
      given['expected_dist_logits'],
      target_points=given['target_points'],
      target_occluded=given['target_occluded'],
      size=given['video_hw'],
      **option,
    )
    for term, (total, entries) in terms.items():
      found[f'loss/{name}/{term}'] = weighted.get(term, 1.0) * total / entries
  return found


def _rebalance(golden):
  # The JSON does not always say it; the stored sums do: 0.5.
  return golden.meta.get('loss', {}).get('rebalance_factor', 0.5)


ADAPTERS = {
  'tapir_offline': run_offline,
  'tapir_boots': run_offline,
  'tapir_causal': run_causal,
  'tapir_fullsize': run_fullsize,
  'tapir_train': run_train,
  'tapir_tapnet': run_tapnet,
  'tapir_metrics': run_metrics,
}
