"""MooG: backbone in both variants, heads, readouts, losses and gradients."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from projects.moog import importer
from projects.moog import model as model_lib
from vidscenic.layers import fourier, pixel_decoder, track_readouts
from vidscenic.ops import metrics

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
  outputs = {f'outputs/{name}': value for name, value in outputs.items()}
  return {name: v for name, v in outputs.items() if name in golden.arrays}


def run_checkpoint(golden):
  """The model of the published weights."""
  given, config = golden.below('inputs/'), golden.meta['config']
  model = _checkpoint_model(config, config['num_tokens'], config['token_size'])
  video, state0 = given['video'], given['state0']
  shapes = jax.eval_shape(model.init, jax.random.key(0), video)['params']
  source = golden.below('params/')
  params = importer.convert(source, shapes)

  def losses(params):
    out, seen = _apply(model, params, video, initial=state0)
    step = seen['step']
    loss, decoded = {}, {}
    for name, tokens in (('raw', out.entered), ('predicted', out.predicted)):
      decoded[name] = _decode_all(model, params, tokens, video.shape)
      loss[name] = jnp.mean((decoded[name] - video) ** 2)
    return loss['raw'], {
      'conv_out': seen['encoder']['conv'][0],
      'pos_embedded': seen['encoder']['positioned'][0],
      'encoder_tokens': seen['tokens'][0],
      'state_after_layer_norm': _time(step['normalized'][0]),
      'predictor_sa_out': _time(step['predictor_out'][0]),
      'predictor_ca_out': _time(step['corrector_out'][0]),
      'features': out.features,
      'state': out.state,
      'decoded_from_raw_state': decoded['raw'],
      'decoded_from_predicted_state': decoded['predicted'],
      'loss_raw_state': loss['raw'],
      'loss_predicted_state': loss['predicted'],
      'loss': loss['raw'],
    }

  (_, outputs), grads = _compiled(jax.value_and_grad(losses, has_aux=True))(
    params
  )
  other, _ = _compiled(
    lambda p: _apply(model, p, video, initial=given['state0_alt'])
  )(params)
  outputs['features_alt_tokens'] = other.features
  return _named(outputs) | _gradients(golden, source, shapes, grads)


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

  (_, outputs), grads = _compiled(jax.value_and_grad(loss, has_aux=True))(
    params
  )
  return _named(outputs) | _gradients(golden, source, shapes['params'], grads)


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
    out, seen = _apply(model, params, video, initial=state0)
    rows, columns = model.lattices(video.shape, 8)
    decoded = _decode(model, params, out.entered, rows, columns, video.shape)
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
  return _named(outputs)


BOX_HEAD = dict(
  num_coordinates=4, visibility=False, sigmoid=False, num_heads=4, tiles=1
)


def run_train(golden):
  """The model of the training code with its readouts, both modes."""
  given, config = golden.below('inputs/'), golden.meta['config']
  video, shape = given['video'], given['video'].shape
  model = _config_model(config)
  points = track_readouts.RecurrentTracks(
    features=config['head_size'],
    num_bases=config['point_bases'],
    **_without(_stack(config['point_tr']), 'out_features'),
  )
  depth = pixel_decoder.PixelDecoder(
    num_outputs=given['depth_video'].shape[-1],
    num_bases=config['dec_bases'],
    **_stack(config['depth_tr']),
  )
  queries = given['query_points_video']
  mask = given['query_points_frame_mask']
  size = shape[2:4]
  init = lambda module, *a, **k: jax.eval_shape(
    lambda key: module.init(key, *a, **k)['params'], jax.random.key(0)
  )
  tokens = jnp.zeros((*shape[:2], 2 * config['num_tokens'], model.token_size))
  index = jnp.zeros(1, int)
  shapes = {
    'backbone': init(model, video, factor=config['subsample']),
    'heads': {
      'points': init(points, tokens, queries, mask),
      'depth': {'decoder': init(depth, tokens, index, index, size=size)},
    },
  }
  source = golden.below('params/')
  params = importer.convert(source, shapes)

  def run(params, train):
    outputs = {}
    factor = config['subsample' if train else 'eval_subsample']
    offsets = given['decoder_offsets'] if train else None
    state0 = given['state0']
    out, seen = _apply(
      model,
      params['backbone'],
      video,
      initial=state0,
      factor=factor,
      offsets=offsets,
    )
    rows, columns = model.lattices(shape, factor, offsets)
    targets = pixel_decoder.take_lattice(video, rows, columns)
    decoded = _decode(
      model, params['backbone'], out.predicted, rows, columns, shape
    )
    loss = jnp.mean((decoded - targets) ** 2)
    total, count = metrics.psnr(
      decoded.reshape(-1, *decoded.shape[2:]),
      targets.reshape(-1, *targets.shape[2:]),
    )
    mode = 'train' if train else 'eval'
    outputs |= {
      f'{mode}/video_predicted': decoded,
      f'{mode}/subsampled_targets_predicted': targets,
      f'{mode}/states_predicted': out.predicted,
      f'{mode}/states_corrected': out.corrected,
      f'{mode}/loss': loss,
      f'{mode}/psnr': total / count,
    }
    step = seen['step']
    if train:
      code = pixel_decoder.lattice_code(
        rows[:, 0], columns[:, 0], size=size, num_bases=config['dec_bases']
      )
      outputs |= {
        'conv_out': seen['encoder']['conv'][0],
        'pos_embedded': seen['encoder']['positioned'][0],
        'encoder_tokens': seen['tokens'][0],
        'state0_after_layer_norm': seen['start'][0],
        'predictor_out': _time(step['predictor_out'][0]),
        'corrector_out': _time(step['corrector_out'][0]),
        'decoder_queries_step0': jnp.pad(
          code, [(0, 0)] * 3 + [(model.token_size, 0)]
        ),
      }
    if config['use_loss_gradient']:
      name = 'state_grad_projection'
      outputs[name if train else f'eval/{name}'] = _time(
        step['gradient_out'][0]
      )
    features = out.features
    if not config['finetune']:
      features = jax.lax.stop_gradient(features)
    tracks, seen = points.apply(
      {'params': params['heads']['points']},
      features,
      queries,
      mask,
      mutable='intermediates',
    )
    update = seen['intermediates']['update']
    logits = jnp.stack([tracks.visible, tracks.certain], axis=-1)
    rows, columns = model.lattices(
      shape, factor, given['depth_offsets'] if train else None
    )
    values = depth.apply(
      {'params': params['heads']['depth']['decoder']},
      features,
      rows,
      columns,
      size=size,
    )
    known, wanted = (
      pixel_decoder.take_lattice(given[name], rows, columns)
      for name in ('depth_mask', 'depth_video')
    )
    outputs |= {
      f'{mode}/depth_values': values,
      f'{mode}/depth_subsampled_mask': known,
      f'{mode}/depth_subsampled_targets': wanted,
    }
    if train:
      square = jnp.sum(known * (values - wanted) ** 2) / jnp.sum(known)
      probe = jnp.mean(tracks.values**2) + jnp.mean(logits**2) + square
      outputs |= {
        'points/values': tracks.values,
        'points/logits': logits,
        'points/visible': tracks.seen()[..., None],
        'points/state': tracks.state,
        'points/states': _time(update['state'][0]),
        'points/states_corrected': _time(update['corrected'][0]),
        'loss': loss,
        'readout_probe_loss': probe,
      }
      loss = loss + probe
    return loss, outputs

  step = jax.value_and_grad(lambda p: run(p, True), has_aux=True)
  (_, outputs), grads = _compiled(step)(params)
  _, held = _compiled(lambda p: run(p, False))(params)
  found = _named(outputs | held)
  # Without the loss gradient the states are the same in both modes, and only
  # stored once.
  found = {k: v for k, v in found.items() if k in golden.arrays}
  return found | _gradients(golden, source, shapes, grads)


# --- models of a golden's options ---


def _checkpoint_model(config, num_tokens, token_size):
  encoder = _stack(config['encoder_transformer'])
  return model_lib.Moog(
    num_tokens=num_tokens,
    token_size=token_size,
    conv_features=config['conv_features'],
    strides=[stride for stride, _ in config['conv_strides']],
    position=_POSITIONS[config['encoder_pos_update']],
    encoder_bases=config['encoder_fourier_bases'],
    encoder=encoder,
    predictor=_stack(config['predictor_sa']),
    corrector=_stack(config['predictor_ca']),
    decoder=_stack(config['decoder_transformer']),
    decoder_bases=config['decoder_fourier_bases'],
    initial_scale=config['init_scale'],
    normalize_state='before',
    features='corrected',
    remat=False,
  )


def _config_model(config):
  return model_lib.Moog(
    num_tokens=config['num_tokens'],
    token_size=config['token_size'],
    conv_features=config['conv_features'],
    strides=[stride for stride, _ in config['conv_strides']],
    position=_POSITIONS[config['enc_update']],
    encoder_bases=config['enc_bases'],
    encoder=_stack(config['enc_tr']),
    predictor=_stack(config['predictor']),
    corrector=_stack(config['corrector']),
    decoder=_stack(config['decoder']),
    decoder_bases=config['dec_bases'],
    initial_scale=config['init_scale'],
    normalize_state='after',
    features='predicted_and_corrected',
    use_loss_gradient=config['use_loss_gradient'],
    stop_gradient_prob=config['stop_gradient_prob'] or 0.0,
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


_POSITIONS = {'concat': 'concat', 'project_add': 'add'}
_STACK = {
  'num_layers': 'depth',
  'qkv_size': 'qkv_features',
  'mlp_size': 'mlp_features',
  'hidden_size': 'hidden_features',
  'output_size': 'out_features',
  'num_heads': 'num_heads',
}


def _stack(options):
  """Fields of our stacks from the constructor arguments of the reference."""
  options = _without(options, 'cross_attn_only')
  return {_STACK[name]: value for name, value in options.items()}


def _without(options, *names):
  return {k: v for k, v in options.items() if k not in names}


# --- outputs ---


def _compiled(function):
  """jit in less time: compiling takes longer than running here."""
  options = {
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
    'xla_cpu_use_fusion_emitters': False,
  }
  return jax.jit(function, compiler_options=options)


def _apply(model, params, video, **kwargs):
  out, seen = model.apply(
    {'params': params}, video, mutable='intermediates', **kwargs
  )
  return out, seen['intermediates']


def _decode(model, params, tokens, rows, columns, shape):
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
  return _decode(model, params, tokens, rows, columns, shape)


def _time(stacked):
  """[T, B, ...], as a scan leaves it, -> [B, T, ...]."""
  return jnp.moveaxis(stacked, 0, 1)


def _head_outputs(tracks, config):
  outputs = {'values': tracks.values}
  if tracks.visible is not None:
    outputs['logits_visible'] = tracks.visible[..., None]
    seen = tracks.seen(config['certainty_threshold'])[..., None]
    outputs['visible'] = seen.astype(jnp.float32)
  if tracks.certain is not None:
    outputs['logits_certainty'] = tracks.certain[..., None]
  return outputs


def _named(outputs):
  return {f'outputs/{name}': value for name, value in outputs.items()}


def _gradients(golden, source, shapes, grads):
  """Gradients under the names of the source.

  The importer moves values and changes none, so it also tells where each value
  of the source went.
  """
  start, places = 0, {}
  for name, array in source.items():
    numbers = np.arange(start, start + array.size, dtype=np.float64)
    places[name] = numbers.reshape(array.shape)
    start += array.size
  wide = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s.shape, np.float64), shapes
  )
  numbers = importer.convert(places, _Float64(wide))
  flat = np.zeros(start)
  for index, grad in zip(
    jax.tree.leaves(numbers), jax.tree.leaves(grads), strict=True
  ):
    flat[np.asarray(index, np.int64).ravel()] = np.asarray(grad).ravel()
  return {
    f'grads/{name}': flat[places[name].astype(np.int64)]
    for name in golden.below('grads/')
  }


def _Float64(tree):
  """jax has no float64 shapes by default; NumPy has."""
  return jax.tree.map(lambda s: np.broadcast_to(np.float64(0), s.shape), tree)


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
  'moog_train': run_train,
  'moog_train_lossgrad': run_train,
}
