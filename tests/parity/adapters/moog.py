"""MooG: backbone in both variants, heads, readouts, losses and gradients."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from projects.moog import importer
from projects.moog import model as model_lib
from tests.parity import gradients, quick
from vidscenic.layers import fourier, track_readouts

_KEYS = pathlib.Path(__file__).parents[2] / 'golden/moog_ckpt_keys_full.json'


def run_positions(golden):
  """Fourier codes of grids and of given coordinates."""
  given, config = golden.below('inputs/'), golden.meta['config']
  params = golden.below('params/')
  inputs = given['grid_inputs']
  outputs = {}

  def project(name, code):
    weights = (params[f'{name}/dense_pe/{n}'] for n in ('kernel', 'bias'))
    kernel, bias = weights
    return np.asarray(code, np.float64) @ kernel + bias

  for bases in config['bases']:
    axes = [inputs.shape[axis] for axis in config['axes']]
    table = fourier.grid_octaves(fourier.linear_axes(axes), bases)
    added = project(f'fourier_b{bases}', table)
    for how in ('eager', 'jit', 'f64'):
      outputs[f'fourier_b{bases}_concat_table_{how}'] = table
      outputs[f'fourier_b{bases}_project_add_{how}'] = inputs[0, 0] + added
    for axis in config['single_axis']:
      length = inputs.shape[axis]
      code = fourier.grid_octaves(fourier.linear_axes([length]), bases)
      shape = [1] * (inputs.ndim - 1)
      shape[axis + 1] = length
      code = jnp.broadcast_to(
        code.reshape(*shape, -1), (*inputs.shape[:-1], code.shape[-1])
      )
      # The leading axes in front of the embedded one are alike.
      code = code[(0,) * (inputs.ndim + axis)]
      outputs[f'fourier_b{bases}_axis_m{-axis}'] = code
    name = f'sample_b{bases}'
    for field in ('points', 'points01', 'boxes'):
      code = fourier.octaves(given[field], bases)
      outputs[f'{name}_replace_{field}'] = code
      outputs[f'{name}_replace_{field}_f64'] = code
    code, feats = fourier.octaves(given['points'], bases), given['point_feats']
    outputs[f'{name}_concat'] = np.concatenate([feats, code], axis=-1)
    outputs[f'{name}_project_add'] = feats + project(name, code)
  return named(outputs)


def run_checkpoint(golden):
  """The model of the published weights."""
  given, config = golden.below('inputs/'), golden.meta['config']
  model = _checkpoint_model(config, config['num_tokens'], config['token_size'])
  video, state0 = given['video'], given['state0']
  shapes = jax.eval_shape(model.init, jax.random.key(0), video)['params']
  source = golden.below('params/')
  params = importer.convert(source, shapes)

  def losses(params):
    out, seen = apply(model, params, video, initial=state0)
    step = seen['step']
    loss, decoded = {}, {}
    for name, tokens in (('raw', out.entered), ('predicted', out.predicted)):
      decoded[name] = _decode_all(model, params, tokens, video.shape)
      loss[name] = jnp.mean((decoded[name] - video) ** 2)
    return loss['raw'], {
      'conv_out': seen['encoder']['conv'][0],
      'pos_embedded': seen['encoder']['positioned'][0],
      'encoder_tokens': seen['tokens'][0],
      'state_after_layer_norm': time_second(step['normalized'][0]),
      'predictor_sa_out': time_second(step['predictor_out'][0]),
      'predictor_ca_out': time_second(step['corrector_out'][0]),
      'features': out.features,
      'state': out.state,
      'decoded_from_raw_state': decoded['raw'],
      'decoded_from_predicted_state': decoded['predicted'],
      'loss_raw_state': loss['raw'],
      'loss_predicted_state': loss['predicted'],
      'loss': loss['raw'],
    }

  (_, outputs), grads = quick.jit(jax.value_and_grad(losses, has_aux=True))(
    params
  )
  if 'state0_alt' in given:
    other, _ = quick.jit(
      lambda p: apply(model, p, video, initial=given['state0_alt'])
    )(params)
    outputs['features_alt_tokens'] = other.features
  return named(outputs) | gradients_of(golden, source, shapes, grads)


def run_head(golden):
  """The published heads, which read a window at once."""
  given, config = golden.below('inputs/'), golden.meta['config']
  head = _window_head(config, config['features_shape'][1])
  features, queries = given['features'], given['queries']
  shapes = jax.eval_shape(head.init, jax.random.key(0), features, queries)
  source = golden.below('params/')
  params = importer.convert(source, shapes['params'])

  def loss(params):
    tracks, seen = head.apply(
      {'params': params},
      features,
      queries,
      capture_intermediates=lambda module, _: module.name == 'key',
      mutable='intermediates',
    )
    seen = seen['intermediates']
    outputs = _head_outputs(tracks, config)
    probe = sum(
      jnp.mean(outputs[name] ** 2)
      for name in ('values', 'logits_visible', 'logits_certainty')
      if name in outputs
    )
    return probe, outputs | {
      'query_embedding': seen['query_embedding'][0],
      'fourier': seen['query']['fourier'][0],
      'readout_raw': seen['raw'][0],
      'key': seen['readout']['key']['__call__'][0],
      'loss': probe,
    }

  (_, outputs), grads = quick.jit(jax.value_and_grad(loss, has_aux=True))(
    params
  )
  return named(outputs) | gradients_of(golden, source, shapes['params'], grads)


def run_full_rule(golden):
  """Published sizes, weights by a written rule."""
  config = golden.meta['config']
  seed, count = config['rule_seed'], config['num_tokens']
  files = json.loads(_KEYS.read_text())
  height, width, frames = config['height'], config['width'], config['frames']
  draw = lambda i: np.random.RandomState(seed * 100 + i)  # noqa: E731

  def uniform(i, *shape):
    return draw(i).random_sample(shape).astype(np.float32)

  def normal(i, *shape):
    return draw(i).standard_normal(shape).astype(np.float32)

  model = model_lib.Moog(
    **model_lib.variant('checkpoint'), num_tokens=count, remat=False
  )
  video = uniform(1, 1, frames, height, width, 3)
  state0 = np.float32(1e-4) * normal(2, 1, count, model.token_size)
  shapes = jax.eval_shape(model.init, jax.random.key(0), video)['params']
  params = importer.convert(_by_rule(files['backbone']['keys'], seed), shapes)

  @jax.jit
  def run(params):
    out, seen = apply(model, params, video, initial=state0)
    rows, columns = model.lattices(video.shape, 8)
    decoded = decode(model, params, out.entered, rows, columns, video.shape)
    return {
      'conv_out_sub': seen['encoder']['conv'][0][0, :, ::4, ::4, ::32],
      'encoder_tokens_sub': seen['tokens'][0][0, :, ::32, ::8],
      'features_sub': out.features[0, :, ::16, ::8],
      'features_mean_abs': jnp.mean(jnp.abs(out.features[0]), axis=(1, 2)),
      'decoded_from_raw_state_sub8': decoded,
    }

  outputs = dict(run(params))
  outputs['features_sub_doubleprecision_pe'] = outputs['features_sub']
  features = np.float32(1.5) * normal(3, 1, 16, count, model.token_size)
  for i, name in enumerate(('point', 'box'), start=1):
    options = {} if name == 'point' else BOX_HEAD
    head = track_readouts.WindowTracks(**options)
    queries = uniform(3 + i, 1, config['queries'], head.num_coordinates)
    shapes = jax.eval_shape(head.init, jax.random.key(0), features, queries)
    params = importer.convert(
      _by_rule(files[f'{name}_head']['keys'], seed + i), shapes['params']
    )
    tracks = jax.jit(head.apply)({'params': params}, features, queries)
    found = _head_outputs(tracks, {'certainty_threshold': 0.5})
    outputs |= {f'{name}_{key}': value for key, value in found.items()}
  return named(outputs)


BOX_HEAD = dict(
  num_coordinates=4, visibility=False, sigmoid=False, num_heads=4, tiles=1
)


# --- models of a golden's options ---


def _checkpoint_model(config, num_tokens, token_size):
  encoder = stack(config['encoder_transformer'])
  return model_lib.Moog(
    num_tokens=num_tokens,
    token_size=token_size,
    conv_features=config['conv_features'],
    strides=[stride for stride, _ in config['conv_strides']],
    position=POSITIONS[config['encoder_pos_update']],
    encoder_bases=config['encoder_fourier_bases'],
    encoder=encoder,
    predictor=stack(config['predictor_sa']),
    corrector=stack(config['predictor_ca']),
    decoder=stack(config['decoder_transformer']),
    decoder_bases=config['decoder_fourier_bases'],
    initial_scale=config['init_scale'],
    normalize_state='before',
    features='corrected',
    remat=False,
  )


def _window_head(config, num_frames):
  visibility = bool(config['predict_visibility'])
  return track_readouts.WindowTracks(
    num_frames=num_frames,
    num_coordinates=config['num_classes'] // config['num_frames_per_query']
    - visibility * (1 + bool(config['use_certainty'])),
    visibility=visibility,
    certainty=bool(config['use_certainty']),
    sigmoid=config['output_activation'] == 'sigmoid',
    width=config['num_params'],
    num_heads=config['num_heads'],
    tiles=config['temporal_tile_size'],
    query_features=config['query_mlp_hidden'],
    query_out_features=config['query_mlp_out'],
    num_bases=config['query_fourier_bases'],
  )


POSITIONS = {'concat': 'concat', 'project_add': 'add'}
_STACK = {
  'num_layers': 'depth',
  'qkv_size': 'qkv_features',
  'mlp_size': 'mlp_features',
  'hidden_size': 'hidden_features',
  'output_size': 'out_features',
  'num_heads': 'num_heads',
}


def stack(options):
  """Fields of our stacks from the constructor arguments of the reference."""
  options = without(options, 'cross_attn_only')
  return {_STACK[name]: value for name, value in options.items()}


def without(options, *names):
  return {k: v for k, v in options.items() if k not in names}


# --- outputs ---


def apply(model, params, video, **kwargs):
  out, seen = model.apply(
    {'params': params}, video, mutable='intermediates', **kwargs
  )
  return out, seen['intermediates']


def decode(model, params, tokens, rows, columns, shape):
  return model.apply(
    {'params': params},
    tokens,
    rows,
    columns,
    size=shape[2:4],
    method='decode',
  )


def _decode_all(model, params, tokens, shape):
  rows, columns = model.lattices(shape, 1)
  return decode(model, params, tokens, rows, columns, shape)


def time_second(stacked):
  """[T, B, ...], as a scan leaves it, -> [B, T, ...]."""
  return jnp.moveaxis(stacked, 0, 1)


def _head_outputs(tracks, config):
  outputs = {'values': tracks.values}
  if tracks.visible is not None:
    outputs['logits_visible'] = tracks.visible[..., None]
    # Without a certainty the released code gives the probability itself.
    seen = jax.nn.sigmoid(tracks.visible)
    if tracks.certain is not None:
      seen = tracks.seen(config.get('certainty_threshold', 0.5))
    outputs['visible'] = seen[..., None].astype(jnp.float32)
  if tracks.certain is not None:
    outputs['logits_certainty'] = tracks.certain[..., None]
  return outputs


def named(outputs):
  return {f'outputs/{name}': value for name, value in outputs.items()}


def gradients_of(golden, source, shapes, grads):
  """Gradients under the names of the source."""
  convert = lambda arrays: importer.convert(arrays, shapes)
  return gradients.stored(golden, convert, source, grads)


def _by_rule(keys, seed):
  """Weights of the rule in the golden's JSON."""
  source = {}
  for i, key in enumerate(sorted(keys)):
    shape = keys[key]
    random = np.random.RandomState(seed * 10007 + i)
    value = random.standard_normal(shape).astype(np.float32)
    last = key.rsplit('/', 1)[-1]
    if last == 'scale':
      value = 1 + np.float32(0.1) * value
    elif last == 'bias':
      value = np.float32(0.05) * value
    elif last == 'kernel':
      fan = shape[0]
      if len(shape) == 4:
        fan = shape[0] * shape[1] * shape[2]
      elif '/dense_out/' in key:
        fan = shape[0] * shape[1]
      value = value / np.float32(np.sqrt(fan))
    else:
      value = np.float32(0.5) * value
    source[key] = value.astype(np.float32)
  return source


ADAPTERS = {
  'moog_pos_embed': run_positions,
  'moog_backbone': run_checkpoint,
  'moog_point_head': run_head,
  'moog_box_head': run_head,
  'moog_full_rule': run_full_rule,
}
