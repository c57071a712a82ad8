"""Reads published ViViT weights in the layout of transformers.

`VivitModel` fits `model.ViViT`, `VivitForVideoClassification` a
`Classification` with the backbone of `model.backbone_fields`, and both a
`Readout` with it, whose heads keep their values. The class token
has a position of its own there; the two vectors are added.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from vidscenic.importers import formats, torch_layers, transforms, tree

_LAYER, _BLOCK = r'encoder\.layer\.(\d+)\.', r'backbone/transformer/block_\1/'
_ATTENTION = _BLOCK + 'self_attention/'


def _cut_positions(table):
  """[1, N + 1, D] -> position of the class token, positions of the tokens."""
  return {'class_token[1]': table[0, :1], 'position/table': table[0, 1:]}


RULES = (
  (
    r'embeddings\.cls_token',
    'backbone/class_token[0]',
    lambda token: token[0],
    transforms.add,
  ),
  (
    r'embeddings\.position_embeddings',
    'backbone',
    (_cut_positions, transforms.to_target),
  ),
  *torch_layers.conv(
    r'embeddings\.patch_embeddings\.projection', 'backbone/embedding/projection'
  ),
  *torch_layers.linear(
    _LAYER + r'attention\.attention\.(query|key|value)', _ATTENTION + r'\2'
  ),
  *torch_layers.linear(
    _LAYER + r'attention\.output\.dense', _ATTENTION + 'out'
  ),
  *torch_layers.linear(_LAYER + r'intermediate\.dense', _BLOCK + 'mlp/up'),
  *torch_layers.linear(_LAYER + r'output\.dense', _BLOCK + 'mlp/down'),
  *torch_layers.layer_norm(_LAYER + 'layernorm_before', _BLOCK + 'self_norm'),
  *torch_layers.layer_norm(_LAYER + 'layernorm_after', _BLOCK + 'mlp_norm'),
  *torch_layers.layer_norm('layernorm', 'backbone/transformer/final_norm'),
  *torch_layers.linear(r'pooler\.dense', 'pooler'),
  *torch_layers.linear('classifier', 'head/classifier'),
)


def load(path: str | os.PathLike, target: Mapping[str, Any]) -> dict[str, Any]:
  """Reads a published file for a model.

  Args:
    path: of a PyTorch or safetensors file.
    target: shapes of the model's parameters, see the module.

  Returns:
    Nested dicts like target, without the heads of a `Readout`.

  Raises:
    FileNotFoundError, BadFile: as `formats.read`.
    ValueError: keys left over or missing, or shapes that do not fit.
  """
  return convert(formats.read(path), target, name=os.fspath(path))


def convert(
  arrays: Mapping[str, np.ndarray],
  target: Mapping[str, Any],
  *,
  name: str = 'the file',
) -> dict[str, Any]:
  """`load` for arrays in memory, which errors call `name`."""
  arrays = {key.removeprefix('vivit.'): a for key, a in arrays.items()}
  ignore = [r'(pooler|classifier)\..*'] if 'heads' in target else ()
  try:
    params, report = tree.convert(
      arrays, target, RULES, ignore=ignore, keep=(r'heads/.*',)
    )
  except ValueError as error:
    raise ValueError(f'{name} does not fit the model. {error}') from error
  logging.info('%s: %s', name, report)
  return params
