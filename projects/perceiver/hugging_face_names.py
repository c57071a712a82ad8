"""Keys of the Hugging Face files of the Perceivers and where they go.

The layout of the public `transformers` classes PerceiverFor*: PyTorch's linear
weights [out, in]; the 7x7 kernel as their own conversion has stored it.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from projects.perceiver import haiku_names
from vidscenic.importers import transforms

KERNELS = ('reversed', 'torch')

_LEAF = {'weight': 'kernel', 'bias': 'bias'}
_NORM = {'weight': 'scale', 'bias': 'bias'}
_PROJECTIONS = {
  'self.query': 'query',
  'self.key': 'key',
  'self.value': 'value',
  'output.dense': 'out',
}
_NORMS = {
  'attention.self.layernorm1': 0,
  'attention.self.layernorm2': 1,
  'layernorm': -1,
}
_LAYER = (
  r'(?:attention\.(?P<a>self\.query|self\.key|self\.value|output\.dense)'
  r'|mlp\.dense(?P<m>[12])'
  r'|(?P<n>attention\.self\.layernorm[12]|layernorm))\.(?P<leaf>weight|bias)'
)
_WEIGHT = r'(?P<leaf>weight|bias)'


def _layer(match, path, kind):
  leaf = match['leaf']
  if match['n']:
    part = haiku_names.NORMS[kind][_NORMS[match['n']]]
    return f'{path}/{part}/{_NORM[leaf]}'
  if match['a']:
    part = f'{kind}_attention/{_PROJECTIONS[match["a"]]}'
  else:
    part = f'mlp/{haiku_names.MLP[int(match["m"]) - 1]}'
  return f'{path}/{part}/{_LEAF[leaf]}'


def _cross(path):
  return lambda match: _layer(match, path, 'cross')


def _self(match):
  return _layer(match, f'encoder/self_attends/block_{match["i"]}', 'self')


def _plain(path):
  return lambda match: f'{path}/{_LEAF[match["leaf"]]}'


_P = r'perceiver\.'
_IN, _OUT = rf'{_P}input_preprocessor\.', rf'{_P}output_postprocessor\.'


def rules(kernel: str) -> tuple:
  """Rules of `tree.convert` for parameters.

  Args:
    kernel: how the 7x7 convolution is stored, one of KERNELS.
  """
  conv = transforms.transpose()  # [O, I, W, H], by the port's own conversion
  if kernel == 'torch':
    conv = transforms.conv
  decoder = r'(?:decoder\.)?'
  return (
    (rf'{_P}embeddings\.latents', 'encoder/latents'),
    (
      rf'{_P}encoder\.cross_attention\.{_LAYER}',
      _cross('encoder/cross_attend'),
      transforms.LINEAR,
    ),
    (
      rf'{_P}encoder\.self_attends\.(?P<i>\d+)\.{_LAYER}',
      _self,
      transforms.LINEAR,
    ),
    (
      rf'{_IN}convnet_1x1\.{_WEIGHT}',
      _plain(f'{haiku_names.INPUTS}/conv1x1'),
      transforms.LINEAR,
    ),
    (
      rf'{_IN}position_embeddings\.position_embeddings',
      f'{haiku_names.INPUTS}/position_encoding/table',
    ),
    (
      rf'{_IN}positions_projection\.{_WEIGHT}',
      _plain(f'{haiku_names.INPUTS}/position_encoding/projector'),
      transforms.transpose(),
    ),
    (
      rf'{_IN}convnet\.conv\.weight',
      f'{haiku_names.INPUTS}/conv_0/kernel',
      conv,
    ),
    (
      rf'{_IN}convnet\.batchnorm\.(?P<leaf>weight|bias)',
      lambda m: f'{haiku_names.INPUTS}/norm_0/{_NORM[m["leaf"]]}',
    ),
    (
      rf'{_IN}conv_after_patches\.{_WEIGHT}',
      _plain(f'{haiku_names.INPUTS}/patches_linear'),
      transforms.transpose(),
    ),
    (rf'{_IN}padding\.(\w+)', rf'{haiku_names.INPUTS}/\1_padding'),
    (rf'{_IN}mask\.(\w+)', rf'{haiku_names.INPUTS}/\1_mask_token'),
    (rf'{_IN}embeddings\.weight', f'{haiku_names.INPUTS}/embedding'),
    (rf'{_IN}position_embeddings\.weight', f'{haiku_names.INPUTS}/positions'),
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
      rf'{_P}decoder\.{decoder}decoding_cross_attention\.{_LAYER}',
      _cross('decoder/cross_attend'),
      transforms.LINEAR,
    ),
    (
      rf'{_P}decoder\.{decoder}final_layer\.{_WEIGHT}',
      _plain('decoder/output'),
      transforms.transpose(),
    ),
    (
      rf'{_P}decoder\.multimodal\.decoding_cross_attention\.{_LAYER}',
      _cross('decoder/decoder/cross_attend'),
      transforms.LINEAR,
    ),
    (
      rf'{_P}decoder\.multimodal\.final_layer\.{_WEIGHT}',
      _plain('decoder/decoder/output'),
      transforms.transpose(),
    ),
    (
      rf'{_OUT}modalities\.(\w+)\.classifier\.{_WEIGHT}',
      lambda m: (
        f'output_postprocessor/modalities_{m[1]}/linear/{_LEAF[m["leaf"]]}'
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


STATE = (
  (
    rf'{_IN}convnet\.batchnorm\.running_mean',
    f'{haiku_names.INPUTS}/norm_0/mean',
    _running,
  ),
  (
    rf'{_IN}convnet\.batchnorm\.running_var',
    f'{haiku_names.INPUTS}/norm_0/var',
    _running,
  ),
  (
    rf'{_IN}convnet\.batchnorm\.num_batches_tracked',
    f'{haiku_names.INPUTS}/norm_0/counter',
    _many,
  ),
)
TRACKED = 'perceiver.input_preprocessor.convnet.batchnorm.num_batches_tracked'


def name_multimodal(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """Gives the decoder inside of the multimodal one a name of its own.

  Args:
    arrays: {key: array}; keys of other models stay as they are.
  """
  if not any('.decoder.padding.' in key for key in arrays):
    return dict(arrays)
  return {
    re.sub(
      r'^perceiver\.decoder\.decoder\.',
      'perceiver.decoder.multimodal.',
      key,
    ): array
    for key, array in arrays.items()
  }
