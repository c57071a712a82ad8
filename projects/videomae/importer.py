"""Reads published VideoMAE weights (arXiv 2203.12602).

Two layouts: that of transformers, `VideoMAEForPreTraining` and
`VideoMAEForVideoClassification`, whatever version wrote it, and that of the
original code. Both come as PyTorch or safetensors files.

  MaskedVideo (task.py)       pretraining files
  Classification (vidscenic)  fine-tuned files; see configs/finetuned.py
  Readout (vidscenic)         both, the encoder alone; new heads

A file does not say its number of heads. The tables of positions are not stored
either: they are computed.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from vidscenic.importers import formats, torch_layers, transforms, tree


def _hugging_face(theirs: str, ours: str):
  """Rules of one stack of blocks of transformers."""
  layer, block = theirs + r'(\d+)\.', ours + r'/block_\1/'
  attention = block + 'self_attention/'
  query = layer + r'attention\.attention\.'
  return (
    (query + 'q_bias', attention + 'query/bias', transforms.to_target),
    (query + 'v_bias', attention + 'value/bias', transforms.to_target),
    *torch_layers.linear(query + '(query|key|value)', attention + r'\2'),
    *torch_layers.linear(
      layer + r'attention\.output\.dense', attention + 'out'
    ),
    *torch_layers.linear(layer + r'intermediate\.dense', block + 'mlp/up'),
    *torch_layers.linear(layer + r'output\.dense', block + 'mlp/down'),
    *torch_layers.layer_norm(layer + 'layernorm_before', block + 'self_norm'),
    *torch_layers.layer_norm(layer + 'layernorm_after', block + 'mlp_norm'),
  )


def _original(theirs: str, ours: str):
  """Rules of one stack of blocks of the original code."""
  layer, block = theirs + r'(\d+)\.', ours + r'/block_\1/'
  attention = block + 'self_attention'
  return (
    *torch_layers.fused_qkv(layer + r'attn\.qkv', attention),
    (layer + r'attn\.q_bias', attention + '/query/bias', transforms.to_target),
    (layer + r'attn\.v_bias', attention + '/value/bias', transforms.to_target),
    *torch_layers.linear(layer + r'attn\.proj', attention + '/out'),
    *torch_layers.linear(layer + r'mlp\.fc1', block + 'mlp/up'),
    *torch_layers.linear(layer + r'mlp\.fc2', block + 'mlp/down'),
    *torch_layers.layer_norm(layer + 'norm1', block + 'self_norm'),
    *torch_layers.layer_norm(layer + 'norm2', block + 'mlp_norm'),
  )


def _rules(encoder: str):
  """All rules; `encoder` is the path of the `vit.VisionTransformer`."""
  blocks = f'{encoder}/transformer'
  stem = f'{encoder}/embedding/projection'
  patches = r'(?:videomae\.)?embeddings\.patch_embeddings\.projection'
  return (
    *torch_layers.conv(patches, stem),
    *torch_layers.conv(r'(?:encoder\.)?patch_embed\.proj', stem),
    *_hugging_face(r'(?:videomae\.)?encoder\.layer\.', blocks),
    *_hugging_face(r'decoder\.decoder_layers\.', 'decoder/transformer'),
    *_original(r'decoder\.blocks\.', 'decoder/transformer'),
    *_original(r'(?:encoder\.)?blocks\.', blocks),
    *torch_layers.layer_norm(
      r'(?:videomae\.layernorm|layernorm|(?:encoder\.)?norm)',
      f'{blocks}/final_norm',
    ),
    *torch_layers.linear('encoder_to_decoder', 'decoder/embed'),
    ('mask_token', 'decoder/mask_token', transforms.to_target),
    *torch_layers.layer_norm(r'decoder\.norm', 'decoder/norm'),
    *torch_layers.linear(r'decoder\.head', 'decoder/head'),
    *torch_layers.layer_norm('fc_norm', 'head/norm'),
    *torch_layers.linear('(?:classifier|head)', 'head/classifier'),
  )


def load(
  path: str | os.PathLike,
  target: Mapping[str, Any],
  *,
  features_only: bool = False,
) -> dict[str, Any]:
  """Reads a published file for a model.

  Args:
    path: of a PyTorch or safetensors file.
    target: shapes of the model's parameters: those of `VideoAutoencoder`, or
      those of `Classification` or `Readout` with a `VisionTransformer`.
    features_only: read the encoder alone; decoder or head keep their values.
      Always so for `Readout`.

  Returns:
    Nested dicts like target, without what keeps its values.

  Raises:
    FileNotFoundError, BadFile: as `formats.read`.
    ValueError: keys left over or missing, or shapes that do not fit.
  """
  arrays = formats.read(path)
  # The original files keep the weights below a name, beside other things.
  for name in ('model/', 'module/'):
    below = {k.removeprefix(name): a for k, a in arrays.items()
             if k.startswith(name)}  # fmt: skip
    arrays = below or arrays
  return convert(
    arrays, target, features_only=features_only, name=os.fspath(path)
  )


def convert(
  arrays: Mapping[str, np.ndarray],
  target: Mapping[str, Any],
  *,
  features_only: bool = False,
  name: str = 'the file',
) -> dict[str, Any]:
  """`load` for arrays in memory, which errors call `name`."""
  encoder = 'backbone' if 'backbone' in target else 'encoder'
  ignore, keep = (), ()
  if features_only or 'heads' in target:
    ignore = (
      r'(decoder|fc_norm|classifier|head)\..*|mask_token|encoder_to_decoder.*',
    )
    keep = (r'(decoder|heads?)/.*',)
    if 'final_norm' not in target[encoder]['transformer']:
      ignore = (*ignore, r'videomae\.layernorm\..*|(encoder\.)?norm\..*')
  try:
    params, report = tree.convert(
      arrays, target, _rules(encoder), ignore=ignore, keep=keep
    )
  except ValueError as error:
    raise ValueError(
      f'{name} does not fit the model; it holds one with '
      f'{_listed(model_fields(arrays))}. {error}'
    ) from error
  logging.info('%s: %s', name, report)
  return params


def _listed(fields):
  return ', '.join(f'{k}={v}' for k, v in fields.items())


def model_fields(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of `VideoAutoencoder` that shapes of published arrays show.

  Args:
    arrays: {published key: anything with a shape}.
  """
  fields = {}
  for key, array in arrays.items():
    shape = tuple(array.shape)
    if re.search(r'patch_embed(dings\.projection|\.proj)\.weight$', key):
      fields |= {'width': shape[0], 'patch': shape[2:]}
    elif re.search(
      r'(^|\.)layer\.0\.intermediate\.dense\.weight$'
      r'|^(encoder\.)?blocks\.0\.mlp\.fc1\.weight$',
      key,
    ):
      fields['mlp_features'] = shape[0]
    elif key == 'mask_token':
      fields['decoder_width'] = shape[-1]
    elif key == 'decoder.head.weight':
      fields['num_outputs'] = shape[0]
    elif re.search(
      r'^decoder\.(decoder_layers\.0\.intermediate\.dense'
      r'|blocks\.0\.mlp\.fc1)\.weight$',
      key,
    ):
      fields['decoder_mlp_features'] = shape[0]
  for name, stack in (
    ('depth', r'(?:videomae\.)?encoder\.layer|(?:encoder\.)?blocks'),
    ('decoder_depth', r'decoder\.(?:decoder_layers|blocks)'),
  ):
    numbers = {re.match(rf'(?:{stack})\.(\d+)\.', key) for key in arrays}
    numbers = {match[1] for match in numbers - {None}}
    if numbers:
      fields[name] = len(numbers)
  return fields
