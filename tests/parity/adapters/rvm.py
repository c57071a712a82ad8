"""RVM: table of positions, streaming, masked reconstruction, gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from projects.rvm import importer, streaming, task
from projects.rvm import model as model_lib
from tests.parity import quick
from vidscenic.layers import position
from vidscenic.ops import losses, masking
from vidscenic.ops import video as video_ops
from vidscenic.train import paths


def run_posenc(golden):
  """Tables of the encoder, resized, and of the decoder, never resized."""
  config, outputs = golden.meta['config'], {}
  for name in golden.below('outputs/'):
    if match := re.fullmatch(r'base(\d+)x(\d+)_to_(\d+)x(\d+)_lead\d+', name):
      base, grid = np.array(match.groups(), int).reshape(2, 2)
      table = position.sincos_flat(base, config['d'])
      outputs[f'outputs/{name}'] = position.resize_table(table, grid)
    elif match := re.fullmatch(r'nobase_(\d+)x(\d+)', name):
      grid = [int(n) for n in match.groups()]
      outputs[f'outputs/{name}'] = position.sincos_flat(grid, config['d'])
  return outputs


def make_model(golden):
  """The model of a golden and its parameters, by the importer."""
  config, arrays = golden.meta['config'], golden.below('params/')
  model = model_lib.RVM(
    **importer.model_fields(arrays),
    base_grid=tuple(config['base_token_shape']),
    state_norm_eps=config['state_layer_norm_epsilon'],
  )
  height, width = (4 * p for p in model.patch)
  video = jnp.zeros((1, 1, height, width, 3))
  ids = jnp.zeros((1, 1, 1), int)
  target = jax.eval_shape(
    model.init, jax.random.key(0), video, video, ids, ids[..., 0]
  )['params']
  return model, importer.convert(arrays, target)


def run_stream(golden):
  """Features after every step, intermediates, other starts and sizes."""
  model, params = make_model(golden)
  given = golden.below('inputs/')
  frames = given['frames_uint8']
  outputs = {'features': _stream(model, params, frames)}
  if 'state_given' in given:
    state = given['state_given']
    count = golden.arrays['outputs/features_from_given_state'].shape[1]
    outputs['features_from_given_state'] = _stream(
      model, params, frames[:, :count], state
    )
  if 'frames_otherres_uint8' in given:
    other = given['frames_otherres_uint8']
    outputs['features_otherres'] = _stream(model, params, other)
  outputs |= _intermediates(golden, model, params, frames, outputs['features'])
  return {f'outputs/{name}': value for name, value in outputs.items()}


def _stream(model, params, frames, state=None):
  if state is None:
    state = streaming.init_state(
      model, batch=len(frames), size=frames.shape[2:4]
    )
  features = []
  for t in range(frames.shape[1]):
    each, state = streaming.step(model, params, state, frames[:, t])
    features.append(each)
  return np.stack(features, axis=1)


def _intermediates(golden, model, params, frames, features):
  """What is stored under names such as encoded_t0 and update_gate_t1."""

  @quick.jit
  def look_inside(params, state, frame):
    bound = model.bind({'params': params}, mutable=['intermediates'])
    tokens = bound.encoder.embed(frame[..., None, :, :, :])['tokens']
    bound.step(state, frame)
    inside = bound.variables['intermediates']['core']
    return {
      'tokens': streaming.feature_map(model, tokens, frame.shape[1:3]),
      'encoded': bound.encode_frames(frame),
      'update_gate': inside['update'][0],
      'reset_gate': inside['reset'][0],
      'core_kv': inside['kv'][0],
      'candidate': inside['candidate'][0],
    }

  stored = [
    (name, match[1], int(match[2]))
    for name in golden.below('outputs/')
    if (match := re.fullmatch(r'(\w+)_t(\d+)', name))
  ]
  seen = {}
  for t in {t for _, _, t in stored}:
    state = features[:, t - 1] if t else np.zeros_like(features[:, 0])
    frame = video_ops.normalize(frames[:, t], 'unit')
    seen[t] = look_inside(params, state, frame)
  return {name: seen[t][what] for name, what, t in stored}


def run_reconstruct(golden):
  """Reconstructions, masks, losses and their gradients."""
  model, params = make_model(golden)
  given, config = golden.below('inputs/'), golden.meta['config']
  sources, targets = (
    video_ops.normalize(given[f'{name}_uint8'], 'unit')
    for name in ('source', 'target')
  )
  deltas = given.get('target_deltas')
  lead, grid = targets.shape[:2], streaming.grid(model, targets.shape[2:4])
  num_tokens = grid[0] * grid[1]
  num_keep = masking.num_visible(num_tokens, config['masking_ratio'])
  zeros = streaming.init_state(model, batch=lead[0], size=targets.shape[2:4])
  masks = {
    name.removeprefix('perm_'): masking.mask_from_permutation(
      np.broadcast_to(order, (*lead, num_tokens)), num_keep
    )
    for name, order in given.items()
    if name.startswith('perm_')
  }

  def loss(params, ids, deltas, state, weight):
    result = model.apply(
      {'params': params}, sources, targets, ids, deltas, state
    )
    error = result['reconstructed'] - targets
    total, count = losses.squared(error, weight=weight)
    return total / count, result

  gradient = quick.jit(jax.value_and_grad(loss, has_aux=True))
  everywhere = jnp.ones((*targets.shape[:-1], 1))
  outputs = {}
  for kind, mask in masks.items():
    (_, result), _ = gradient(params, mask.keep_ids, deltas, zeros, everywhere)
    outputs[f'{kind}/reconstructed'] = result['reconstructed']
    outputs[f'{kind}/mask'] = mask.hidden.reshape(*lead, *grid)
  outputs['features'], outputs['state'] = result['features'], result['state']

  mask = masks['independent']
  _, result = quick.jit(loss)(params, mask.keep_ids, None, zeros, everywhere)
  outputs['independent/reconstructed_no_deltas'] = result['reconstructed']
  if 'state_given' in given:
    state = given['state_given']
    (_, result), _ = gradient(params, mask.keep_ids, deltas, state, everywhere)
    name = 'independent/reconstructed_from_given_state'
    outputs[name] = result['reconstructed']

  hidden = task.hidden_pixels(mask.hidden, grid=grid, patch=model.patch)
  hidden = hidden.astype(np.float32)
  gradients = {}
  for name, weight in (
    ('', everywhere),
    ('_masked_only', hidden),
    ('_visible_only', 1 - hidden),
  ):
    (value, _), tree = gradient(params, mask.keep_ids, deltas, zeros, weight)
    outputs[f'loss{name}'] = value
    gradients[f'grads{name}/'] = paths.named_leaves(tree)
  outputs['grad_global_norm'] = np.sqrt(
    sum(np.sum(np.square(g)) for g in gradients['grads/'].values())
  )
  outputs = {f'outputs/{name}': value for name, value in outputs.items()}
  for prefix, leaves in gradients.items():
    for key in golden.below(prefix):
      outputs[f'{prefix}{key}'] = leaves[_our_path(key)]
  return outputs


def _our_path(key):
  """Where the importer puts a published key."""
  for pattern, path in importer.RULES:
    if match := re.fullmatch(pattern, key):
      return match.expand(path)
  raise ValueError(f'{key}: no rule of the importer')


ADAPTERS = {
  'rvm_posenc': run_posenc,
  'rvm_stream': run_stream,
  'rvm_reconstruct': run_reconstruct,
}
