"""MooG's training code with its readouts: losses and gradients."""

import jax
import jax.numpy as jnp

from projects.moog import importer
from projects.moog import model as model_lib
from tests.parity import quick
from tests.parity.adapters import moog
from vidscenic.layers import pixel_decoder, track_readouts
from vidscenic.ops import metrics


def run_train(golden):
  """The model of the training code with its readouts, both modes."""
  given, config = golden.below('inputs/'), golden.meta['config']
  video, shape = given['video'], given['video'].shape
  model = _model(config)
  points = track_readouts.RecurrentTracks(
    features=config['head_size'],
    num_bases=config['point_bases'],
    **moog.without(moog.stack(config['point_tr']), 'out_features'),
  )
  depth = pixel_decoder.PixelDecoder(
    num_outputs=given['depth_video'].shape[-1],
    num_bases=config['dec_bases'],
    **moog.stack(config['depth_tr']),
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
    out, seen = moog.apply(
      model,
      params['backbone'],
      video,
      initial=state0,
      factor=factor,
      offsets=offsets,
    )
    rows, columns = model.lattices(shape, factor, offsets)
    targets = pixel_decoder.take_lattice(video, rows, columns)
    decoded = moog.decode(
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
        'predictor_out': moog.time_second(step['predictor_out'][0]),
        'corrector_out': moog.time_second(step['corrector_out'][0]),
        'decoder_queries_step0': jnp.pad(
          code, [(0, 0)] * 3 + [(model.token_size, 0)]
        ),
      }
    if config['use_loss_gradient']:
      name = 'state_grad_projection'
      outputs[name if train else f'eval/{name}'] = moog.time_second(
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
        'points/states': moog.time_second(update['state'][0]),
        'points/states_corrected': moog.time_second(update['corrected'][0]),
        'loss': loss,
        'readout_probe_loss': probe,
      }
      loss = loss + probe
    return loss, outputs

  step = jax.value_and_grad(lambda p: run(p, True), has_aux=True)
  (_, outputs), grads = quick.jit(step)(params)
  _, held = quick.jit(lambda p: run(p, False))(params)
  # Without the loss gradient the states are the same in both modes, and only
  # stored once.
  return moog.named(outputs | held) | moog.gradients_of(
    golden, source, shapes, grads
  )


def _model(config):
  return model_lib.Moog(
    num_tokens=config['num_tokens'],
    token_size=config['token_size'],
    conv_features=config['conv_features'],
    strides=[stride for stride, _ in config['conv_strides']],
    position=moog.POSITIONS[config['enc_update']],
    encoder_bases=config['enc_bases'],
    encoder=moog.stack(config['enc_tr']),
    predictor=moog.stack(config['predictor']),
    corrector=moog.stack(config['corrector']),
    decoder=moog.stack(config['decoder']),
    decoder_bases=config['dec_bases'],
    initial_scale=config['init_scale'],
    normalize_state='after',
    features='predicted_and_corrected',
    use_loss_gradient=config['use_loss_gradient'],
    stop_gradient_prob=config['stop_gradient_prob'] or 0.0,
    remat=False,
  )


ADAPTERS = {'moog_train': run_train, 'moog_train_lossgrad': run_train}
