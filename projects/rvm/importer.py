"""Reads the published weights of RVM: one npz file per size.

The flat keys of a file ('encoder/layers_0/attention/query/kernel') are renamed;
arrays stay as they are. What the arrays show of the model, which is all but the
grid of its positions and the constants of its norms, is compared with the model
first, so that a wrong size is one clear error.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from projects.rvm import model as model_lib
from vidscenic.importers import formats, tree

# The decoder's side, in files and in the model.
_DECODER = (
  r'mask_token|(?:decoder_embedder|delta_embedder|decoder|detokenizer)/.*'
)
_OUR_DECODER = r'mask_token|(?:embedder|delta|decoder|head)/.*'
_NAMES = {
  'attention': 'self_attention',
  'attention_norm': 'self_norm',
  'ca_attention': 'cross_attention',
  'ca_attention_norm': 'cross_norm',
  'mlp_norm': 'mlp_norm',
  'mlp/dense_in': 'mlp/up',
  'mlp/dense_out': 'mlp/down',
}
_STACKS = {
  r'encoder/layers_(\d+)': 'encoder/transformer',
  r'rnn_core/transformer/xa_blocks_(\d+)': 'core/transformer',
  r'decoder/xa_blocks_(\d+)': 'decoder',
}

# (published key, our path); see `tree.Rule`.
RULES = (
  (r'cls_token', 'encoder/class_token'),
  (
    r'tokenizer/patch_embedding/Conv_0/(.*)',
    r'encoder/embedding/projection/\1',
  ),
  (r'encoder/LayerNorm_0/(.*)', r'encoder/transformer/final_norm/\1'),
  (r'rnn_core/((?:input|state)_(?:update|reset)/kernel)', r'core/\1'),
  (r'rnn_core/state_layer_norm/scale', 'core/state_norm/scale'),
  (
    r'rnn_core/transformer/output_norm/(.*)',
    r'core/transformer/final_norm/\1',
  ),
  (r'mask_token', 'mask_token'),
  (r'decoder_embedder/(.*)', r'embedder/\1'),
  (r'delta_embedder/(.*)', r'delta/\1'),
  (r'decoder/output_norm/(.*)', r'decoder/final_norm/\1'),
  (r'detokenizer/Dense_0/(.*)', r'head/\1'),
  *(
    (rf'{stack}/{theirs}/(.*)', rf'{path}/block_\1/{ours}/\2')
    for stack, path in _STACKS.items()
    for theirs, ours in _NAMES.items()
  ),
)


def load(
  path: str | os.PathLike,
  target: Mapping[str, Any],
  *,
  encoder_only: bool = False,
) -> dict[str, Any]:
  """Reads a published file for a model.

  Args:
    path: of the npz file.
    target: shapes of the model's parameters.
    encoder_only: read encoder and core alone, as for a model without decoder.
      A decoder that the model has keeps its own values.

  Returns:
    Nested dicts like target, without what keeps its values.

  Raises:
    FileNotFoundError, BadFile: as `formats.read`.
    ValueError: the file is of another model, or its keys are not those of RVM.
  """
  return convert(
    formats.read(path), target, encoder_only=encoder_only, name=os.fspath(path)
  )


def convert(
  arrays: Mapping[str, np.ndarray],
  target: Mapping[str, Any],
  *,
  encoder_only: bool = False,
  name: str = 'the file',
) -> dict[str, Any]:
  """`load` for arrays in memory, which errors call `name`."""
  encoder_only |= 'mask_token' not in target
  fields = model_fields(arrays, with_decoder=not encoder_only, name=name)
  try:
    params, report = tree.convert(
      arrays,
      target,
      RULES,
      ignore=(_DECODER,) if encoder_only else (),
      keep=(_OUR_DECODER,) if encoder_only else (),
    )
  except ValueError as error:
    raise ValueError(
      f'{name} does not fit the model; by its shapes the file is one of '
      f'task.kwargs.model {_describe(fields)}. {error}'
    ) from error
  logging.info('%s: %s', name, report)
  return params


def _describe(fields):
  """The name of a published size, or all fields."""
  for size in model_lib.SIZES:
    if model_lib.RVM(**fields) == model_lib.RVM(**model_lib.rvm_config(size)):
      return f'size={size!r}'
  return ', '.join(f'{name}={value}' for name, value in fields.items())


def model_fields(
  arrays: Mapping[str, Any],
  *,
  with_decoder: bool = True,
  name: str = 'the file',
) -> dict[str, Any]:
  """Fields of `model.RVM`, read off the shapes of published arrays.

  What no shape shows is left out: base_grid and state_norm_eps.

  Args:
    arrays: {published key: anything with a shape}.
    with_decoder: also those of the decoder.
    name: what errors call the arrays.

  Raises:
    ValueError: a key is missing that tells a field.
  """
  shapes = {key: tuple(array.shape) for key, array in arrays.items()}

  def shape(key):
    if key not in shapes:
      raise ValueError(
        f'{name}: no {key!r} in it, so these are no weights of RVM'
      )
    return shapes[key]

  kernel = shape('tokenizer/patch_embedding/Conv_0/kernel')
  fields = {'width': kernel[-1], 'patch': kernel[-4:-2]}
  stacks = [
    ('', 'encoder/layers'),
    ('core_', 'rnn_core/transformer/xa_blocks'),
  ]
  if with_decoder:
    fields['decoder_width'] = shape('mask_token')[1]
    fields['num_deltas'] = shape('delta_embedder/kernel')[0]
    stacks.append(('decoder_', 'decoder/xa_blocks'))
  for part, stack in stacks:
    numbers = {re.match(rf'{stack}_(\d+)/', key) for key in shapes}
    fields[f'{part}depth'] = len({match[1] for match in numbers - {None}})
    heads = shape(f'{stack}_0/attention/query/kernel')[1]
    fields[f'{part or "num_"}heads'] = heads
    hidden = shape(f'{stack}_0/mlp/dense_in/kernel')[1]
    fields[f'{part}mlp_features'] = hidden
  return fields
