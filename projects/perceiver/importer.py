"""Reads the published weights of the Perceivers.

Two layouts of the same six models: the pickles of Haiku trees, and the state
dicts of the Hugging Face port, whose outputs differ where its code does
(`hugging_face` lists the options that reproduce it). Both map to one tree of
ours; every key is used exactly once.

  task, params = load.load('perceiver_imagenet_fourier')
  params = importer.load('imagenet_fourier.pystate', shapes)
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from vidscenic.importers import formats, transforms, tree

# What the Hugging Face port computes differently: options of our models with
# which its outputs are met. The optical flow model there also leaves out the
# factor 20.
HUGGING_FACE = {
  'image_classifier': {
    'input_preprocessor': {'conv_padding': 'torch'},
    'encoder': {'activation': 'gelu_erf'},
    # On in all three; off for learned positions in the released Haiku code.
    'decoder': {'activation': 'gelu_erf', 'use_query_residual': True},
  },
  'other': {
    'encoder': {'activation': 'gelu_erf'},
    'decoder': {'activation': 'gelu_erf'},
  },
}
KERNELS = ('reversed', 'torch')

_LEAF = {'w': 'kernel', 'b': 'bias', 'scale': 'scale', 'offset': 'bias'}
_PROJECTIONS = ('query', 'key', 'value', 'out')
_MLP = ('up', 'down')
_NORMS = {
  'self': ('self_norm', 'mlp_norm'),
  'cross': ('cross_norm', 'kv_norm', 'mlp_norm'),
}
# What follows the name of an attention layer in Haiku's keys.
_HAIKU_LAYER = (
  r'(?:attention/linear(?P<a>_\d)?|mlp/linear(?P<m>_\d)?'
  r'|layer_norm(?P<n>_\d)?)/(?P<leaf>w|b|scale|offset)'
)


def _haiku_layer(match, path, kind):
  groups = match.groupdict()
  text = match[0]
  number = transforms.haiku_number
  if '/attention/' in text:
    part = f'{kind}_attention/{_PROJECTIONS[number(groups["a"])]}'
  elif '/mlp/' in text:
    part = f'mlp/{_MLP[number(groups["m"])]}'
  else:
    part = _NORMS[kind][number(groups['n'])]
  return f'{path}/{part}/{_LEAF[groups["leaf"]]}'


def _haiku_cross(path):
  return lambda match: _haiku_layer(match, path, 'cross')


def _haiku_self(match):
  block = transforms.haiku_number(match['i'])
  path = f'encoder/self_attends/block_{block}'
  return _haiku_layer(match, path, 'self')


def _numbered(template):
  """Fills in {} of a path with the number behind a repeated module's name."""
  return lambda m: template.format(
    transforms.haiku_number(m['i']), leaf=_LEAF[m['leaf']]
  )


def _same(parts):
  """Means and variances are counted apart, and equally often."""
  if len({int(part) for part in parts}) > 1:
    raise ValueError(f'counters of mean and variance differ: {parts}')
  return np.asarray(parts[0])


_ENCODER = r'(?:perceiver_)?encoder'
_WB = r'(?P<leaf>[wb])'
_INPUTS = 'input_preprocessor'
_CONV = r'image_preprocessor/~/conv2_d_downsample/~/'
_POSITIONS = r'image_preprocessor/~_build_network_inputs/'


def _plain(path):
  return lambda match: f'{path}/{_LEAF[match["leaf"]]}'


# (published key, our path[, transform]); see `tree.Rule`. Keys are module/leaf,
# without the group params/ that some files have.
HAIKU = (
  (rf'{_ENCODER}/~/trainable_position_encoding/pos_embs', 'encoder/latents'),
  (
    rf'{_ENCODER}/~/cross_attention/{_HAIKU_LAYER}',
    _haiku_cross('encoder/cross_attend'),
    transforms.to_target,
  ),
  (
    rf'perceiver_encoder_shared_cross_attention/{_HAIKU_LAYER}',
    _haiku_cross('encoder/shared_cross_attend'),
    transforms.to_target,
  ),
  (
    rf'{_ENCODER}/~/self_attention(?P<i>_\d+)?/{_HAIKU_LAYER}',
    _haiku_self,
    transforms.to_target,
  ),
  # Preprocessors.
  (
    rf'image_preprocessor/~/conv2_d/{_WB}',
    _plain(f'{_INPUTS}/conv1x1'),
    transforms.to_target,
  ),
  (
    rf'{_POSITIONS}trainable_position_encoding/pos_embs',
    f'{_INPUTS}/position_encoding/table',
  ),
  (
    rf'{_POSITIONS}position_encoding_projector/linear/{_WB}',
    _plain(f'{_INPUTS}/position_encoding/projector'),
  ),
  (
    rf'{_POSITIONS}linear(?P<i>_\d+)?/{_WB}',
    _numbered(f'{_INPUTS}/position_encoding/extra_{{}}/{{leaf}}'),
  ),
  (
    rf'{_CONV}conv(?P<i>_\d+)?/{_WB}',
    _numbered(f'{_INPUTS}/conv_{{}}/{{leaf}}'),
  ),
  (
    rf'{_CONV}batchnorm(?P<i>_\d+)?/(?P<leaf>scale|offset)',
    _numbered(f'{_INPUTS}/norm_{{}}/{{leaf}}'),
    transforms.to_target,
  ),
  (
    rf'image_preprocessor/patches_linear/{_WB}',
    _plain(f'{_INPUTS}/patches_linear'),
  ),
  (
    r'multimodal_preprocessor/(\w+_(?:padding|mask_token))/pos_embs',
    rf'{_INPUTS}/\1',
  ),
  (r'embed/embeddings', f'{_INPUTS}/embedding'),
  (r'trainable_position_encoding/pos_embs', f'{_INPUTS}/positions'),
  # Decoders. The queries of the label come before those of other decoders.
  (
    r'multimodal_decoder/~/basic_decoder/cross_attention/' + _HAIKU_LAYER,
    _haiku_cross('decoder/decoder/cross_attend'),
    transforms.to_target,
  ),
  (
    rf'multimodal_decoder/~/basic_decoder/output/{_WB}',
    _plain('decoder/decoder/output'),
  ),
  (
    r'multimodal_decoder/~decoder_query/(\w+_padding)/pos_embs',
    r'decoder/\1',
  ),
  (
    rf'(?:\w+_decoder/~/)?basic_decoder/cross_attention/{_HAIKU_LAYER}',
    _haiku_cross('decoder/cross_attend'),
    transforms.to_target,
  ),
  (
    rf'(?:\w+_decoder/~/)?basic_decoder/output/{_WB}',
    _plain('decoder/output'),
  ),
  (rf'projection_decoder/~/logits/{_WB}', _plain('decoder/logits')),
  # Postprocessors.
  (r'embedding_decoder/bias', 'output_postprocessor/bias'),
  (
    rf'audio_postprocessor/linear/{_WB}',
    _plain('output_postprocessor/modalities_audio/linear'),
  ),
  (
    rf'projection_postprocessor/linear/{_WB}',
    _plain('output_postprocessor/modalities_image/linear'),
  ),
  (
    rf'classification_postprocessor/linear/{_WB}',
    _plain('output_postprocessor/modalities_label/linear'),
  ),
)
_QUERY = r'(?:\w+_decoder/~/)?basic_decoder/~/trainable_position_encoding/'

HAIKU_STATE = (
  (
    rf'{_CONV}batchnorm(?P<i>_\d+)?/~/(?P<s>mean|var)_ema/(?P<v>hidden|average)',
    lambda m: (
      f'{_INPUTS}/norm_{transforms.haiku_number(m["i"])}/{m["s"]}/{m["v"]}'
    ),
    transforms.to_target,
  ),
  (
    rf'{_CONV}batchnorm(?P<i>_\d+)?/~/(?P<s>mean|var)_ema/counter',
    lambda m: (
      f'{_INPUTS}/norm_{transforms.haiku_number(m["i"])}/counter'
      f'[{("mean", "var").index(m["s"])}]'
    ),
    (),
    _same,
  ),
)

_TORCH_LEAF = {'weight': 'kernel', 'bias': 'bias'}
_TORCH_NORM = {'weight': 'scale', 'bias': 'bias'}
_TORCH_PROJECTIONS = {
  'self.query': 'query',
  'self.key': 'key',
  'self.value': 'value',
  'output.dense': 'out',
}
_TORCH_NORMS = {
  'attention.self.layernorm1': 0,
  'attention.self.layernorm2': 1,
  'layernorm': -1,
}
_TORCH_LAYER = (
  r'(?:attention\.(?P<a>self\.query|self\.key|self\.value|output\.dense)'
  r'|mlp\.dense(?P<m>[12])'
  r'|(?P<n>attention\.self\.layernorm[12]|layernorm))\.(?P<leaf>weight|bias)'
)
_WEIGHT = r'(?P<leaf>weight|bias)'


def _torch_layer(match, path, kind):
  leaf = match['leaf']
  if match['n']:
    part = _NORMS[kind][_TORCH_NORMS[match['n']]]
    return f'{path}/{part}/{_TORCH_NORM[leaf]}'
  if match['a']:
    part = f'{kind}_attention/{_TORCH_PROJECTIONS[match["a"]]}'
  else:
    part = f'mlp/{_MLP[int(match["m"]) - 1]}'
  return f'{path}/{part}/{_TORCH_LEAF[leaf]}'


def _torch_cross(path):
  return lambda match: _torch_layer(match, path, 'cross')


def _torch_self(match):
  return _torch_layer(match, f'encoder/self_attends/block_{match["i"]}', 'self')


def _torch_plain(path):
  return lambda match: f'{path}/{_TORCH_LEAF[match["leaf"]]}'


_P = r'perceiver\.'
_IN, _OUT = rf'{_P}input_preprocessor\.', rf'{_P}output_postprocessor\.'


def _hugging_face(kernel):
  """Rules; kernel: how the 7x7 convolution is stored, one of KERNELS."""
  conv = transforms.transpose()  # [O, I, W, H], by the port's own conversion
  if kernel == 'torch':
    conv = transforms.conv
  decoder = r'(?:decoder\.)?'
  return (
    (rf'{_P}embeddings\.latents', 'encoder/latents'),
    (
      rf'{_P}encoder\.cross_attention\.{_TORCH_LAYER}',
      _torch_cross('encoder/cross_attend'),
      transforms.LINEAR,
    ),
    (
      rf'{_P}encoder\.self_attends\.(?P<i>\d+)\.{_TORCH_LAYER}',
      _torch_self,
      transforms.LINEAR,
    ),
    (
      rf'{_IN}convnet_1x1\.{_WEIGHT}',
      _torch_plain(f'{_INPUTS}/conv1x1'),
      transforms.LINEAR,
    ),
    (
      rf'{_IN}position_embeddings\.position_embeddings',
      f'{_INPUTS}/position_encoding/table',
    ),
    (
      rf'{_IN}positions_projection\.{_WEIGHT}',
      _torch_plain(f'{_INPUTS}/position_encoding/projector'),
      transforms.transpose(),
    ),
    (rf'{_IN}convnet\.conv\.weight', f'{_INPUTS}/conv_0/kernel', conv),
    (
      rf'{_IN}convnet\.batchnorm\.(?P<leaf>weight|bias)',
      lambda m: f'{_INPUTS}/norm_0/{_TORCH_NORM[m["leaf"]]}',
    ),
    (
      rf'{_IN}conv_after_patches\.{_WEIGHT}',
      _torch_plain(f'{_INPUTS}/patches_linear'),
      transforms.transpose(),
    ),
    (rf'{_IN}padding\.(\w+)', rf'{_INPUTS}/\1_padding'),
    (rf'{_IN}mask\.(\w+)', rf'{_INPUTS}/\1_mask_token'),
    (rf'{_IN}embeddings\.weight', f'{_INPUTS}/embedding'),
    (rf'{_IN}position_embeddings\.weight', f'{_INPUTS}/positions'),
    (
      rf'{_P}decoder\.modalities\.label\.decoder\.output_position_encodings\.'
      'position_embeddings',
      'decoder/modalities_label/positions/table',
    ),
    (rf'{_P}decoder\.padding\.(\w+)', r'decoder/\1_padding'),
    (
      rf'{_P}decoder\.{decoder}output_position_encodings\.position_embeddings',
      'decoder/positions/table',
    ),
    (
      rf'{_P}decoder\.{decoder}decoding_cross_attention\.{_TORCH_LAYER}',
      _torch_cross('decoder/cross_attend'),
      transforms.LINEAR,
    ),
    (
      rf'{_P}decoder\.{decoder}final_layer\.{_WEIGHT}',
      _torch_plain('decoder/output'),
      transforms.transpose(),
    ),
    (
      rf'{_P}decoder\.multimodal\.decoding_cross_attention\.{_TORCH_LAYER}',
      _torch_cross('decoder/decoder/cross_attend'),
      transforms.LINEAR,
    ),
    (
      rf'{_P}decoder\.multimodal\.final_layer\.{_WEIGHT}',
      _torch_plain('decoder/decoder/output'),
      transforms.transpose(),
    ),
    (
      rf'{_OUT}modalities\.(\w+)\.classifier\.{_WEIGHT}',
      lambda m: (
        f'output_postprocessor/modalities_{m[1]}/linear/'
        f'{_TORCH_LEAF[m["leaf"]]}'
      ),
      transforms.transpose(),
    ),
    (r'(?:perceiver\.)?embedding_decoder\.bias', 'output_postprocessor/bias'),
  )


def _running(array):
  """Averages without a count of updates: as after very many."""
  return {'hidden': array, 'average': array}


def _many(count):
  # A count of 0, which a converted file has, would divide by zero; after a
  # thousand updates there is nothing left to correct.
  return np.asarray(np.maximum(count, 1000), np.int32)


_STATE_TORCH = (
  (
    rf'{_IN}convnet\.batchnorm\.running_mean',
    f'{_INPUTS}/norm_0/mean',
    _running,
  ),
  (rf'{_IN}convnet\.batchnorm\.running_var', f'{_INPUTS}/norm_0/var', _running),
  (
    rf'{_IN}convnet\.batchnorm\.num_batches_tracked',
    f'{_INPUTS}/norm_0/counter',
    _many,
  ),
)
_TRACKED = 'perceiver.input_preprocessor.convnet.batchnorm.num_batches_tracked'


def load(
  path: str | os.PathLike,
  target: Mapping[str, Any],
  *,
  model_state: Mapping[str, Any] | None = None,
  kernel: str = 'reversed',
) -> Any:
  """Reads a published file for a model.

  Args:
    path: .pystate or .pickle (Haiku), .bin or .safetensors (Hugging Face).
    target: shapes of the model's parameters.
    model_state: shapes of its batch statistics ('imagenet_conv').
    kernel: 'reversed' for the published Hugging Face file, whose 7x7 kernel
      its conversion has stored as [out, in, column, row]; 'torch' for models
      that PyTorch has trained itself.

  Returns:
    Nested dicts like target; with model_state a pair of such dicts.

  Raises:
    FileNotFoundError, BadFile: as `formats.read`.
    ValueError: keys or shapes are not those of the model.
  """
  return convert(
    formats.read(path),
    target,
    model_state=model_state,
    kernel=kernel,
    name=os.fspath(path),
  )


def convert(
  arrays: Mapping[str, np.ndarray],
  target: Mapping[str, Any],
  *,
  model_state: Mapping[str, Any] | None = None,
  kernel: str = 'reversed',
  name: str = 'the file',
) -> Any:
  """`load` for arrays in memory, which errors call `name`."""
  if kernel not in KERNELS:
    raise ValueError(f'kernel={kernel!r}: want one of {KERNELS}')
  arrays = dict(arrays)
  if is_hugging_face(arrays):
    rules, state_rules = _hugging_face(kernel), _STATE_TORCH
    arrays = _multimodal_torch(arrays)
    if any('.running_mean' in key for key in arrays):
      arrays.setdefault(_TRACKED, np.int64(0))
  else:
    rules, state_rules = _haiku_rules(arrays), HAIKU_STATE
    arrays = {k.removeprefix('params/'): v for k, v in arrays.items()}
    arrays = {k.removeprefix('state/'): v for k, v in arrays.items()}
  # Parameters and batch statistics are one conversion, so that every key of the
  # file is accounted for.
  trees = {'params': target}
  state = (model_state or {}).get('batch_stats')
  if state:
    trees['state'] = state
  rules = [_below('params', rule) for rule in rules]
  rules += [_below('state', rule) for rule in state_rules]
  try:
    made, report = tree.convert(arrays, trees, rules)
  except ValueError as error:
    raise ValueError(
      f'{name} does not fit the model; {describe(arrays)}: compare with '
      f'task.kwargs.model. {error}'
    ) from error
  logging.info('%s: %s', name, report)
  if model_state is None:
    return made['params']
  state = {'batch_stats': made['state']} if 'state' in made else {}
  return made['params'], state


def convert_upsampler(
  arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]
) -> dict[str, Any]:
  """Weights of an upsampler, which no published file has.

  Args:
    arrays: {'.../transp_conv_1/w' or '.../conv3d_transpose_0/w': [..., out,
      in], and the biases}.
    target: shapes of `Conv2DUpsample` or `Conv3DUpsample`.

  Raises:
    ValueError: as `tree.convert`.
  """
  swap = lambda kernel: np.swapaxes(kernel, -1, -2)
  rules = []
  for name, first in (('transp_conv', 1), ('conv3d_transpose', 0)):
    number = lambda m, first=first: int(m[1]) - first
    rules += [
      (
        rf'.*/{name}_(\d)/w',
        lambda m, number=number: f'conv_{number(m)}/kernel',
        swap,
      ),
      (
        rf'.*/{name}_(\d)/b',
        lambda m, number=number: f'conv_{number(m)}/bias',
      ),
    ]
  params, _ = tree.convert(arrays, target, rules)
  return params


def is_hugging_face(arrays: Mapping[str, Any]) -> bool:
  """Whether keys are those of the Hugging Face port."""
  return any(key.startswith('perceiver.') for key in arrays)


def model_fields(arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Fields of the encoder that the shapes of published arrays show.

  Heads and the number of passes leave no trace.

  Args:
    arrays: {published key: anything with a shape}.

  Returns:
    Fields of `encoder.PerceiverEncoder`.

  Raises:
    ValueError: a key is missing that tells a field.
  """
  keys = {key.removeprefix('params/'): array for key, array in arrays.items()}
  if is_hugging_face(keys):
    latents = _only(keys, r'perceiver\.embeddings\.latents')
    layer = r'perceiver\.encoder\.self_attends\.(\d+)'
    up = _only(
      keys, r'perceiver\.encoder\.self_attends\.0\.mlp\.dense1\.weight'
    )
    hidden = up.shape[0]
  else:
    latents = _only(keys, rf'{_ENCODER}/~/trainable_position_encoding/pos_embs')
    layer = rf'{_ENCODER}/~/self_attention(_\d+)?'
    hidden = _only(keys, rf'{_ENCODER}/~/self_attention/mlp/linear/w').shape[1]
  count, width = latents.shape
  layers = {m[1] for key in keys if (m := re.match(rf'{layer}[/.]', key))}
  return {
    'z_index_dim': count,
    'num_z_channels': width,
    'num_self_attends_per_block': len(layers),
    'self_attend_widening_factor': hidden // width,
  }


def describe(arrays: Mapping[str, Any]) -> str:
  """What a file holds, for error messages."""
  try:
    fields = model_fields(arrays)
  except ValueError as error:
    return str(error)
  return 'it holds ' + ', '.join(f'{k}={v}' for k, v in fields.items())


def _only(keys, pattern):
  found = [array for key, array in keys.items() if re.fullmatch(pattern, key)]
  if len(found) != 1:
    raise ValueError(f'no key {pattern!r}, so these are no Perceiver weights')
  return found[0]


def _haiku_rules(arrays):
  """The learned query of a lone decoder, or that of the label among several."""
  several = any('multimodal_decoder/' in key for key in arrays)
  place = 'modalities_label/' if several else ''
  return ((rf'{_QUERY}pos_embs', f'decoder/{place}positions/table'), *HAIKU)


def _multimodal_torch(arrays):
  """Names the decoder inside the multimodal one, as its own tree does."""
  if not any('.decoder.padding.' in key for key in arrays):
    return arrays
  return {
    re.sub(
      r'^perceiver\.decoder\.decoder\.',
      'perceiver.decoder.multimodal.',
      key,
    ): array
    for key, array in arrays.items()
  }


def _below(group, rule):
  source, target, *rest = rule
  if callable(target):
    return source, lambda m: f'{group}/{target(m)}', *rest
  return source, f'{group}/{target}', *rest
