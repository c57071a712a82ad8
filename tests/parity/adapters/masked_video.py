"""VideoMAE, ViViT and V-JEPA 2 as others run them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np

from projects.videomae import importer as videomae_importer
from projects.videomae import model as videomae_model
from projects.vivit import importer as vivit_importer
from projects.vivit import model as vivit_model
from projects.vjepa import importer as vjepa_importer
from projects.vjepa import model as vjepa_model
from tests.parity import gradients, quick
from vidscenic.layers import jepa, vit
from vidscenic.ops import losses, masking, targets
from vidscenic.ops import video as video_ops
from vidscenic.tasks import classification

_ACTIVATIONS = {
  'gelu': 'gelu_erf',
  'gelu_fast': 'gelu_tanh',
  'gelu_new': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh',
}


def _video(array, tubelet):
  """[B, T, C, H, W] -> [B, T', H, W, C] of whole tubelets.

  Convolutions with a stride drop the frames behind the last whole one.
  """
  count = array.shape[1] // tubelet * tubelet or array.shape[1]
  return np.moveaxis(array[:, :count], 2, -1)


def _named(outputs):
  return {f'outputs/{name}': value for name, value in outputs.items()}


def _blocks(prefix, hidden, suffix=''):
  return {f'{prefix}_{i}{suffix}': x for i, x in enumerate(hidden)}


def _mean_pair(pair):
  return pair[0] / pair[1]


# VideoMAE.


def _videomae_encoder(config):
  """Fields of encoders, `VideoAutoencoder` or ViT, and of their blocks."""
  has_bias = config.get('qv_bias', config.get('qkv_bias', True))
  options = {
    'qkv_bias': ('query', 'value') if has_bias else (),
    'norm_eps': config.get('layer_norm_eps', 1e-12),
  }
  fields = {
    'width': config['hidden_size'],
    'depth': config['num_hidden_layers'],
    'num_heads': config['num_attention_heads'],
    'mlp_features': config['intermediate_size'],
    'patch': (config['tubelet_size'], *[config['patch_size']] * 2),
    'positions': 'sincos_flat',
    'final_norm': not config.get('use_mean_pooling', True),
  }
  return fields, options


def run_videomae_pretrain(golden):
  """Encoder, decoder, losses with and without normalised targets."""
  config, arrays = golden.meta['config'], golden.below('params/')
  fields, options = _videomae_encoder(config)
  patch = fields['patch']
  model = videomae_model.VideoAutoencoder(
    num_outputs=3 * patch[0] * patch[1] * patch[2],
    decoder_width=config['decoder_hidden_size'],
    decoder_depth=config['decoder_num_hidden_layers'],
    decoder_heads=config['decoder_num_attention_heads'],
    decoder_mlp_features=config['decoder_intermediate_size'],
    **fields,
    **options,
  )
  video = _video(golden.arrays['inputs/pixel_values'], patch[0])
  hidden = golden.arrays['inputs/bool_masked_pos'].astype(bool)
  mask = masking.mask_from_hidden(hidden, int((~hidden[0]).sum()))
  target = jax.eval_shape(
    model.init, jax.random.key(0), video, mask.keep_ids, mask.drop_ids
  )['params']
  convert = lambda source: videomae_importer.convert(source, target)
  params = convert(arrays)

  @quick.jit
  def look_inside(params):
    bound = model.bind({'params': params})
    encoded = bound.encoder(video, ids=mask.keep_ids, return_intermediates=True)
    decoded = bound.decoder(
      encoded['tokens'],
      mask.keep_ids,
      mask.drop_ids,
      grid=encoded['grid'],
      return_intermediates=True,
    )
    embedded = bound.encoder.embed(video, ids=mask.keep_ids)
    whole = bound.encoder(video)['tokens']
    return encoded, decoded, embedded['tokens'], whole

  encoded, decoded, embedded, whole = look_inside(params)
  outputs = {
    'embeddings_visible': embedded,
    'encoder_last_hidden_state': encoded['tokens'],
    'encoder_full_last_hidden_state': whole,
    'encoder_to_decoder': decoded['embedded'],
    'decoder_input': decoded['inputs'],
    'logits': decoded['predicted'],
    **_blocks('encoder_block', encoded['intermediates']),
    **_blocks('decoder_block', decoded['intermediates']),
  }
  # Targets are pixels, whatever the normalisation of the input.
  std, mean = (jnp.array(x) for x in (video_ops.IMAGENET_STD,
                                      video_ops.IMAGENET_MEAN))  # fmt: skip
  truth = {
    norm: masking.take_tokens(
      targets.pixels(video * std + mean, patch, norm=norm), mask.drop_ids
    )
    for norm in ('patch_channel', 'none')
  }

  def loss(params, norm):
    predicted = model.apply(
      {'params': params}, video, mask.keep_ids, mask.drop_ids
    )
    return _mean_pair(losses.squared(predicted - truth[norm]))

  norms = 'patch_channel', 'none'
  used = norms[not config.get('norm_pix_loss', True)]
  outputs['loss'], grads = quick.jit(
    jax.value_and_grad(lambda p: loss(p, used))
  )(params)
  outputs['loss_norm_pix_false'] = quick.jit(lambda p: loss(p, 'none'))(params)
  return _named(outputs) | gradients.stored(golden, convert, arrays, grads)


def run_videomae_cls(golden):
  """A fine-tuned classifier."""
  config = golden.meta['config']
  fields, options = _videomae_encoder(config)
  pooled = config.get('use_mean_pooling', True)
  return _classify(
    golden,
    backbone=vit.VisionTransformer(
      **fields, block=videomae_model.block_fields(**options)
    ),
    head={
      'pool': 'mean' if pooled else 'token',
      'norm': pooled,
      'norm_eps': 1e-5,
    },
    video=_video(golden.arrays['inputs/pixel_values'], fields['patch'][0]),
    importer=videomae_importer,
  )


def _classify(golden, *, backbone, head, video, importer):
  """Logits, cross-entropy, blocks and gradients of a classifier."""
  arrays = golden.below('params/')
  labels = golden.arrays['inputs/labels']
  model = classification.Classifier(
    backbone=backbone, num_classes=golden.meta['config']['num_labels'], **head
  )
  target = jax.eval_shape(model.init, jax.random.key(0), video)['params']
  convert = lambda source: importer.convert(source, target)
  params = convert(arrays)

  def loss(params):
    logits = model.apply({'params': params}, video)
    return _mean_pair(losses.softmax_cross_entropy(logits, labels)), logits

  (value, logits), grads = quick.jit(jax.value_and_grad(loss, has_aux=True))(
    params
  )
  outputs = {'loss': value, 'logits': logits}
  if isinstance(backbone, vit.VisionTransformer):
    outputs |= _inside_vit(backbone, params['backbone'], video)
  else:
    inside = functools.partial(backbone.apply, intermediates=True)
    pooled, seen = quick.jit(inside)({'params': params['backbone']}, video)
    outputs |= {
      'encoder_last_hidden_state': seen['encoded'],
      'pooler_output': pooled,
      **_blocks('pooler_self_block', seen['blocks']),
    }
  return _named(outputs) | gradients.stored(golden, convert, arrays, grads)


def _inside_vit(module, params, video):
  @quick.jit
  def look_inside(params):
    bound = module.bind({'params': params})
    return bound.embed(video)['tokens'], bound(video, return_intermediates=True)

  embedded, result = look_inside(params)
  return {
    'embeddings': embedded,
    'last_hidden_state': result['tokens'],
    **_blocks('encoder_block', result['intermediates']),
  }


# ViViT.


def _vivit_fields(golden, video):
  config = golden.meta['config']
  patch = tuple(config['tubelet_size'])
  return vivit_model.backbone_fields(
    width=config['hidden_size'],
    depth=config['num_hidden_layers'],
    num_heads=config['num_attention_heads'],
    mlp_features=config['intermediate_size'],
    patch=patch,
    grid=tuple(n // p for n, p in zip(video.shape[1:4], patch, strict=True)),
    block={
      'use_bias': config.get('qkv_bias', True),
      'norm_eps': config.get('layer_norm_eps', 1e-6),
      'activation': _ACTIVATIONS[config.get('hidden_act', 'gelu_fast')],
    },
  )


def run_vivit_model(golden):
  """The model without classifier."""
  arrays = golden.below('params/')
  tubelet = golden.meta['config']['tubelet_size'][0]
  video = _video(golden.arrays['inputs/pixel_values'], tubelet)
  model = vivit_model.ViViT(_vivit_fields(golden, video))
  target = jax.eval_shape(model.init, jax.random.key(0), video)['params']
  convert = lambda source: vivit_importer.convert(source, target)
  params = convert(arrays)

  def loss(params):
    pooled = model.apply({'params': params}, video)['pooled']
    return jnp.mean(pooled**2), pooled

  (value, pooled), grads = quick.jit(jax.value_and_grad(loss, has_aux=True))(
    params
  )
  backbone = vit.VisionTransformer(**model.backbone_fields)
  outputs = _inside_vit(backbone, params['backbone'], video)
  outputs |= {'loss': value, 'pooler_output': pooled}
  return _named(outputs) | gradients.stored(golden, convert, arrays, grads)


def run_vivit_cls(golden):
  """A fine-tuned classifier."""
  tubelet = golden.meta['config']['tubelet_size'][0]
  video = _video(golden.arrays['inputs/pixel_values'], tubelet)
  return _classify(
    golden,
    backbone=vit.VisionTransformer(**_vivit_fields(golden, video)),
    head={'pool': 'token'},
    video=video,
    importer=vivit_importer,
  )


# V-JEPA 2.


def _vjepa_fields(config):
  """Fields of `JointEmbedding` from the config of transformers."""
  width, small = config['hidden_size'], config['pred_hidden_size']
  assert config.get('hidden_act', 'gelu') == 'gelu'
  assert config.get('qkv_bias', True)
  return {
    'width': width,
    'depth': config['num_hidden_layers'],
    'num_heads': config['num_attention_heads'],
    'mlp_features': int(width * config['mlp_ratio']),
    'predictor_width': small,
    'predictor_depth': config['pred_num_hidden_layers'],
    'predictor_heads': config['pred_num_attention_heads'],
    'predictor_mlp_features': int(small * config['pred_mlp_ratio']),
    'num_mask_tokens': config['pred_num_mask_tokens'],
    'patch': (config['tubelet_size'], *[config['patch_size']] * 2),
    'norm_eps': config.get('layer_norm_eps', 1e-6),
    'mask_index': 1 % config['pred_num_mask_tokens'],
  }


def run_vjepa_model(golden):
  """Encoder on all tokens, predictor with given and with all ids, loss."""
  config, arrays = golden.meta['config'], golden.below('params/')
  model = jepa.JointEmbedding(**_vjepa_fields(config))
  tubelet = config['tubelet_size']
  pixels = golden.arrays['inputs/pixel_values_videos']
  video = _video(pixels, tubelet)
  context, wanted = (
    golden.arrays[f'inputs/{name}_mask'] for name in ('context', 'target')
  )
  target = jax.eval_shape(
    model.init, jax.random.key(0), video, context, wanted
  )['params']
  convert = lambda source: vjepa_importer.convert(source, target)
  params = convert(arrays)

  @quick.jit
  def look_inside(params):
    bound = model.bind({'params': params})
    embedded = bound.encoder.embed(_fill(video, tubelet))['tokens']
    encoded = bound.encode(video, return_intermediates=True)
    tokens, grid = encoded['tokens'], encoded['grid']
    every = jnp.arange(tokens.shape[1])
    some = bound.predict(
      masking.take_tokens(tokens, context),
      context,
      wanted,
      grid=grid,
      return_intermediates=True,
    )
    return (
      embedded,
      encoded,
      some,
      bound.predict(tokens, every, every, grid=grid),
      bound.encode(video[:, :1])['tokens'],
    )

  embedded, encoded, some, every, single = look_inside(params)
  tokens = encoded['tokens']
  order = np.argsort(np.concatenate([context, wanted], 1), 1, kind='stable')
  outputs = {
    'embeddings': embedded,
    'encoder_last_hidden_state': tokens,
    'encoder_single_frame_last_hidden_state': single,
    'masked_hidden_state': masking.take_tokens(tokens, context),
    'predictor_last_hidden_state': some['predicted'],
    'predictor_target_hidden_state': masking.take_tokens(tokens, wanted),
    'predictor_full_last_hidden_state': every,
    **_blocks('encoder_block', encoded['intermediates']),
    **_blocks(
      'predictor_block',
      [masking.take_tokens(x, order) for x in some['intermediates']],
      '_sorted',
    ),
  }

  def loss(params):
    bound = model.bind({'params': params})
    encoded = bound.encode(video)
    features, grid = encoded['tokens'], encoded['grid']
    truth = targets.features(features, norm='layernorm')
    predicted = bound.predict(
      masking.take_tokens(features, context), context, wanted, grid=grid
    )
    error = predicted - masking.take_tokens(truth, wanted)
    return _mean_pair(losses.l1(error))

  outputs['loss'], grads = quick.jit(jax.value_and_grad(loss))(params)
  return _named(outputs) | gradients.stored(golden, convert, arrays, grads)


def _fill(video, tubelet):
  """Repeats a clip that is shorter than a tubelet."""
  return video if video.shape[1] >= tubelet else jnp.tile(
    video, (1, tubelet, 1, 1, 1)
  )  # fmt: skip


def run_vjepa_cls(golden):
  """A classifier with attentive pooling."""
  config = golden.meta['config']
  fields = _vjepa_fields(config)
  encoder = {
    name: value
    for name, value in fields.items()
    if not name.startswith('predictor_')
  }
  pixels = golden.arrays['inputs/pixel_values_videos']
  return _classify(
    golden,
    backbone=vjepa_model.PooledEncoder(
      encoder, num_pooler_blocks=config['num_pooler_layers']
    ),
    head={},
    video=_video(pixels, config['tubelet_size']),
    importer=vjepa_importer,
  )


def run_vjepa_train(golden):
  """One step of training: two masks, a teacher, its average."""
  config, arrays = golden.meta['config'], golden.below('params/')
  width, small = config['embed_dim'], config['pred_embed_dim']
  model = jepa.JointEmbedding(
    width=width,
    depth=config['depth'],
    num_heads=config['num_heads'],
    mlp_features=int(width * config['mlp_ratio']),
    predictor_width=small,
    predictor_depth=config['pred_depth'],
    predictor_heads=config['pred_num_heads'],
    predictor_mlp_features=int(small * config.get('pred_mlp_ratio', 4)),
    num_mask_tokens=config['num_mask_tokens'],
    patch=(config['tubelet_size'], *[config['patch_size']] * 2),
  )
  clip = golden.arrays['inputs/clip']
  video = _video(np.moveaxis(clip, 1, 2), config['tubelet_size'])
  given = golden.below('inputs/masks_')
  numbers = sorted(int(name[4:]) for name in given if name.startswith('enc_'))
  masks = [(given[f'enc_{i}'], given[f'pred_{i}']) for i in numbers]
  target = jax.eval_shape(model.init, jax.random.key(0), video, *masks[0])
  target = target['params']
  convert = functools.partial(
    vjepa_importer.convert, target=target, encoder='encoder'
  )
  params = convert(arrays)
  teacher = vjepa_importer.convert(arrays, target)

  def loss(params):
    raw = model.apply({'params': teacher}, video, method='encode')['tokens']
    truth = targets.features(raw, norm='layernorm')
    outputs, total = {'target_encoder_raw': raw}, 0.0
    for i, (context, wanted) in zip(numbers, masks, strict=True):
      bound = model.bind({'params': params})
      encoded = bound.encode(video, ids=context)
      outputs[f'context_{i}'] = encoded['tokens']
      outputs[f'prediction_{i}'] = bound.predict(
        encoded['tokens'], context, wanted, grid=encoded['grid']
      )
      outputs[f'target_{i}'] = masking.take_tokens(truth, wanted)
      error = outputs[f'prediction_{i}'] - outputs[f'target_{i}']
      total += _mean_pair(losses.l1(error)) / len(masks)
    return total, outputs

  (value, outputs), grads = quick.jit(jax.value_and_grad(loss, has_aux=True))(
    params
  )
  outputs['loss'] = value
  momentum = float(re.search(r'm=([\d.]+\d)', golden.meta['ema'])[1])
  scale = lambda tree: tree['encoder']['transformer']['final_norm']['scale']
  outputs['ema_target_norm_weight'] = momentum * scale(teacher) + (
    1 - momentum
  ) * scale(params)
  return _named(outputs) | gradients.stored(golden, convert, arrays, grads)


ADAPTERS = {
  'videomae_pretrain': run_videomae_pretrain,
  'videomae_cls': run_videomae_cls,
  'vivit_model': run_vivit_model,
  'vivit_cls': run_vivit_cls,
  'vjepa2_encoder_predictor': run_vjepa_model,
  'vjepa2_cls': run_vjepa_cls,
  'vjepa2_train_step': run_vjepa_train,
}
