"""Reads published V-JEPA 2 weights (arXiv 2506.09985).

Two layouts: that of transformers, `VJEPA2Model` and
`VJEPA2ForVideoClassification`, and the original files, which hold the encoder,
its average (the teacher, which is what is used downstream) and the predictor.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from vidscenic.importers import formats, torch_layers, transforms, tree

_BACKBONE = r'module\.backbone\.'


def _blocks(theirs: str, ours: str):
  """Rules of one stack of blocks; both layouts name most parts alike."""
  layer, block = theirs + r'\.(\d+)\.', ours + r'/transformer/block_\1/'
  attention = block + 'self_attention'
  return (
    *torch_layers.linear(
      layer + r'attention\.(query|key|value)', attention + r'/\2'
    ),
    *torch_layers.fused_qkv(layer + r'attn\.qkv', attention),
    *torch_layers.linear(layer + r'att(?:entio)?n\.proj', attention + '/out'),
    *torch_layers.linear(layer + r'mlp\.fc1', block + 'mlp/up'),
    *torch_layers.linear(layer + r'mlp\.fc2', block + 'mlp/down'),
    *torch_layers.layer_norm(layer + 'norm1', block + 'self_norm'),
    *torch_layers.layer_norm(layer + 'norm2', block + 'mlp_norm'),
  )


def _tower(name: str, ours: str):
  """Rules of an encoder in either layout."""
  stem = f'{ours}/embedding/projection'
  norm = f'{ours}/transformer/final_norm'
  return (
    *torch_layers.conv(rf'{name}\.embeddings\.patch_embeddings\.proj', stem),
    *torch_layers.conv(rf'{name}/{_BACKBONE}patch_embed\.proj', stem),
    *_blocks(rf'{name}\.layer', ours),
    *_blocks(rf'{name}/{_BACKBONE}blocks', ours),
    *torch_layers.layer_norm(rf'{name}\.layernorm', norm),
    *torch_layers.layer_norm(rf'{name}/{_BACKBONE}norm', norm),
  )


def _predictor():
  native = rf'predictor/{_BACKBONE}'
  return (
    *torch_layers.linear(
      r'predictor\.embeddings\.predictor_embeddings', 'predictor/embed'
    ),
    *torch_layers.linear(native + 'predictor_embed', 'predictor/embed'),
    (
      r'predictor\.embeddings\.mask_tokens',
      'predictor/mask_token',
      transforms.to_target,
    ),
    (
      native + r'mask_tokens\.(\d+)',
      r'predictor/mask_token[\1]',
      lambda token: token[0, 0],
    ),
    *_blocks(r'predictor\.layer', 'predictor'),
    *_blocks(native + 'predictor_blocks', 'predictor'),
    *torch_layers.layer_norm(r'predictor\.layernorm', 'predictor/norm'),
    *torch_layers.layer_norm(native + 'predictor_norm', 'predictor/norm'),
    *torch_layers.linear(r'predictor\.proj', 'predictor/head'),
    *torch_layers.linear(native + 'predictor_proj', 'predictor/head'),
  )


def _pooler(root: str):
  """Rules of the attentive pooler of classifiers."""
  layer = r'pooler\.self_attention_layers\.(\d+)\.'
  block = root + r'pooler_blocks/block_\1/'
  cross, ours = r'pooler\.cross_attention_layer\.', root + 'pooler/'
  rules = [
    (
      r'pooler\.query_tokens',
      ours + 'query',
      transforms.to_target,
    ),
    *torch_layers.layer_norm(layer + 'layer_norm1', block + 'self_norm'),
    *torch_layers.layer_norm(layer + 'layer_norm2', block + 'mlp_norm'),
    *torch_layers.layer_norm(cross + 'layer_norm1', ours + 'kv_norm'),
    *torch_layers.layer_norm(cross + 'layer_norm2', ours + 'mlp_norm'),
    *torch_layers.linear('classifier', 'head/classifier'),
  ]
  for theirs, part in (('fc1', 'up'), ('fc2', 'down')):
    rules += torch_layers.linear(
      layer + rf'mlp\.{theirs}', f'{block}mlp/{part}'
    )
    rules += torch_layers.linear(cross + rf'mlp\.{theirs}', f'{ours}mlp/{part}')
  for theirs, part in (
    ('q_proj', 'query'), ('k_proj', 'key'), ('v_proj', 'value'),
    ('out_proj', 'out'),
  ):  # fmt: skip
    rules += torch_layers.linear(
      layer + rf'self_attn\.{theirs}', f'{block}self_attention/{part}'
    )
    rules += torch_layers.linear(
      cross + rf'cross_attn\.{theirs}', f'{ours}attention/{part}'
    )
  return rules


def load(
  path: str | os.PathLike,
  target: Mapping[str, Any],
  *,
  encoder: str = 'target_encoder',
) -> dict[str, Any]:
  """Reads a published file for a model.

  Args:
    path: of a PyTorch or safetensors file.
    target: shapes of the model's parameters: those of `jepa.JointEmbedding`;
      of `Classification` with a `model.PooledEncoder`; or of `Readout` with a
      `JointEmbedding` as `any_backbone.Backbone`, whose heads keep their
      values. Pooler and classifier of a file are left out where there are none.
    encoder: 'target_encoder' or 'encoder' of the original files.

  Returns:
    Nested dicts like target, without what keeps its values.

  Raises:
    FileNotFoundError, BadFile: as `formats.read`.
    ValueError: keys left over or missing, or shapes that do not fit.
  """
  return convert(
    formats.read(path), target, encoder=encoder, name=os.fspath(path)
  )


def convert(
  arrays: Mapping[str, np.ndarray],
  target: Mapping[str, Any],
  *,
  encoder: str = 'target_encoder',
  name: str = 'the file',
) -> dict[str, Any]:
  """`load` for arrays in memory, which errors call `name`."""
  if encoder not in ('target_encoder', 'encoder'):
    raise ValueError(f"encoder={encoder!r}: want 'target_encoder' or 'encoder'")
  arrays = {key.removeprefix('vjepa2.'): a for key, a in arrays.items()}
  native = any(re.match(rf'\w+/{_BACKBONE}', key) for key in arrays)
  root = 'backbone/' if 'backbone' in target else ''
  # What the original files hold besides: optimizer, epoch, the other encoder.
  ignore = [r'(?!(encoder|target_encoder|predictor)/).*'] if native else []
  if native:
    other = {'encoder': 'target_encoder', 'target_encoder': 'encoder'}[encoder]
    ignore.append(f'{other}/.*')
  if root or 'predictor' not in target:
    ignore.append(r'predictor[./].*')
  if 'pooler' not in target.get('backbone', target):
    ignore.append(r'(pooler|classifier)\..*')
  rules = (
    *_tower(encoder if native else 'encoder', root + 'encoder'),
    *_predictor(),
    *_pooler(root),
  )
  try:
    params, report = tree.convert(
      arrays, target, rules, ignore=ignore, keep=(r'heads/.*',)
    )
  except ValueError as error:
    raise ValueError(f'{name} does not fit the model. {error}') from error
  logging.info('%s: %s', name, report)
  return params
