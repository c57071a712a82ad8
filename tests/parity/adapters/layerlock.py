"""4DS: depth readout and dense features. LayerLock: schedule and cost."""

import jax
import jax.numpy as jnp
import numpy as np

from projects.layerlock import flops, importer, windows
from projects.layerlock import model as model_lib
from projects.layerlock import schedule as schedule_lib
from tests.parity import gradients
from vidscenic import config as vc
from vidscenic.importers import tree
from vidscenic.layers import heads
from vidscenic.ops import video as video_ops
from vidscenic.tasks import readout
from vidscenic.train import schedules

# Compiling takes longer than running here.
FAST = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}


def run_depth(golden):
  """Features, depth and gradients, and the other modes of the readout."""
  config, arrays = golden.meta['config'], golden.below('params/')
  video = video_ops.normalize(golden.arrays['inputs/video_uint8'], 'unit')
  task = readout.Readout(
    clip=video.shape[1:4],
    backbone='projects.layerlock.model:Features',
    backbone_kwargs={
      'model': _fields(arrays),
      'relative_depth': config['readout_depth'],
    },
    heads={
      'depth': {
        'factory': 'vidscenic.tasks.attentive_heads:DenseDepth',
        'scale': 'raw',
        'width': config['readout_params'],
        'num_heads': config['readout_heads'],
        'decode_patch': tuple(config['decoding_patch_size']),
        'query_chunk': 100,
      }
    },
  )
  target, _ = jax.eval_shape(task.init, jax.random.key(0), {'video': video})
  convert = lambda source: importer.convert(source, target)
  params = convert(arrays)
  trunk = model_lib.SimpleMAE(**_fields(arrays), heads=())
  stop = model_lib.readout_blocks(trunk.depth, config['readout_depth'])
  outputs = {}

  @jax.jit
  def look_inside(params):
    found = trunk.apply(
      {'params': params['backbone']},
      video,
      (0, stop, trunk.depth - 1),
      method='streams',
    )
    keys = jax.random.split(jax.random.key(0), len(video))
    features = task.features(params, {}, video, keys=keys)
    return *found, features.tokens

  names = (
    'tokens',
    'features_readout',
    'features_last_listed',
    'readout_input',
  )
  outputs |= zip(names, look_inside(params), strict=True)

  def loss(params):
    keys = jax.random.split(jax.random.key(0), len(video))
    features = task.features(params, {}, video, keys=keys)
    head = task.heads['depth']
    depth = head.predict(params['heads']['depth'], features, {})[0]['depth']
    error = depth - golden.arrays['inputs/target']
    return jnp.mean(error**2), depth

  run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST)
  (outputs['loss'], outputs['depth']), grads = run(params)
  for name in golden.meta.get('extra_readouts', ()):
    outputs[f'readout_{name}'] = _read(golden, name)
  outputs = {f'outputs/{name}': value for name, value in outputs.items()}
  wanted = {f'params/{name}': name for name in golden.below('grads/params/')}
  found = gradients.to_source(
    convert, arrays, grads, [f'params/{name}' for name in wanted.values()]
  )
  return outputs | {f'grads/{name}': g for name, g in found.items()}


def _fields(arrays):
  return importer.model_fields(arrays) | {'posenc': 'learned'}


def _read(golden, name):
  """Another mode of the readout on the stored features."""
  config = golden.meta['extra_readouts'][name]
  features = golden.arrays['outputs/readout_input']
  arrays = golden.below(f'params_{name}/')
  plain = not config.get('match_vjepa_implementation', True)
  kind, queries = 'plain' if plain else 'learned', None
  if 'query' not in arrays:
    kind, queries = 'given', golden.arrays['inputs/queries']
  module = heads.AttentiveReadout(
    num_outputs=config['num_classes'],
    width=config['num_params'],
    num_heads=config['num_heads'],
    num_queries=config.get('num_queries', 1),
    plain=plain,
    temporal_table=config.get('add_temporal_posenc', True),
  )
  target = jax.eval_shape(module.init, jax.random.key(0), features, queries)[
    'params'
  ]
  params, _ = tree.convert(
    arrays,
    target,
    importer.readout_rules('', '', kind=kind),
  )
  return jax.jit(module.apply)({'params': params}, features, queries)


def run_windows(golden):
  """Windowed dense features with a resized table of positions."""
  config, arrays = golden.meta['config'], golden.below('params/')
  video, size = golden.arrays['inputs/video_uint8'], config['window']
  model = model_lib.SimpleMAE(**_fields(arrays), heads=())
  shape = (1, *(n * p for n, p in zip(model.grid, model.patch, strict=True)), 3)
  target = jax.eval_shape(
    lambda key, clip: model.init(key, clip, method='features'),
    jax.random.key(0),
    jnp.zeros(shape),
  )['params']
  params = importer.convert(arrays, target)
  parts = [video[i : i + size] for i in range(0, len(video), size)]
  padded = [
    np.pad(part, ((0, size - len(part)), *[(0, 0)] * 3)) for part in parts
  ]
  windows_ = [
    windows.encode_window(model, params, part[None])[0] for part in padded
  ]
  features = windows.dense_features(model, params, parts, window=size)
  return {
    'outputs/window_features': np.stack(windows_),
    'outputs/features': np.concatenate(list(features)),
  }


def run_schedule(golden):
  """Frozen blocks, targets and rates at listed steps; FLOPs of listed steps."""
  outputs = {}
  for name, case in golden.meta['configs'].items():
    config = case['config']
    schedule = schedule_lib.Schedule(
      start=config['freeze_start_step'],
      interval=config['freeze_interval'],
      max_frozen=config['max_frozen_layers'],
      jump=config['freeze_jump'],
      first_at_start=config['first_freeze_at_start'],
      latent=config['latent_targets'],
      mode=config['target_mode'],
      warmup_steps=config['mini_warmup_steps'],
      warmup_init=config['mini_warmup_init'],
    )
    base = schedules.make_schedule(
      vc.schedule_spec(
        name='cosine',
        warmup_steps=config['warmup_steps'],
        end=config['final_lr'] / config['base_lr'],
      ),
      config['total_steps'],
    )
    place = f'configs/{name}'
    steps = np.array([row['step'] for row in case['table']])
    factors = np.asarray(schedule.lr_scale(steps), np.float64)
    rates = np.asarray(base(steps), np.float64) * config['base_lr']
    switches = (s for s in schedule.switches() if s < config['total_steps'])
    starts = sorted({0, *switches})
    for i, step in enumerate(starts):
      event = {'first_step': step} | _state(schedule, step)
      outputs |= _leaves(event, f'{place}/events/{i}')
    for i, step in enumerate(steps.tolist()):
      state = _state(schedule, step)
      since = schedule.steps_since_switch(step)
      row = {
        'step': step,
        **state,
        'freeze_embeddings': state['frozen_layers'] > 0,
        'steps_since_switch': 'null' if since is None else since,
        'lr_multiplier': factors[i],
        'lr': factors[i] * rates[i],
      }
      outputs |= _leaves(row, f'{place}/table/{i}')
  for i, row in enumerate(golden.meta['flops']['rows']):
    cost = flops.Sizes(
      width=row['width'],
      depth=row['depth'],
      mlp_features=row['mlp'],
      num_decoder_layers=row['decoder_layers'],
      num_visible=row['visible'],
      num_decode=row['decode_tokens'],
      patch_values=row['patch_values'],
    ).cost(
      row['frozen'],
      latent=row['target'] != 'pixels',
      target_tokens=row['target_tokens'] or 0,
    )
    place = f'flops/rows/{i}'
    outputs[f'{place}/forward'] = cost.forward
    outputs[f'{place}/backward'] = cost.backward
    outputs[f'{place}/target_forward'] = cost.target
    outputs[f'{place}/total'] = cost.total
  return outputs


def _state(schedule, step):
  frozen = schedule.frozen_blocks(step)
  targets = [f'h{k}' for k in schedule.targets(frozen)] or ['pixels']
  return {'frozen_layers': frozen, 'target': targets}


def _leaves(value, place):
  if isinstance(value, (dict, list)):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = {}
    for key, item in items:
      found |= _leaves(item, f'{place}/{key}')
    return found
  return {place: np.asarray(value)}


ADAPTERS = {
  'scaling4d_depth': run_depth,
  'scaling4d_windows': run_windows,
  'layerlock_schedule': run_schedule,
}
REQUIRED = {
  'layerlock_schedule': (
    r'^configs/[^/]+/(events|table)/'
    r'|^flops/rows/\d+/(forward|backward|target_forward|total)$'
  ),
}
