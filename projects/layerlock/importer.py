"""Reads the published weights of 4DS (arXiv 2412.15212): flat npz files.

Backbone files hold 'params/encoder/...' and 'params/processor/...'; the file
with the depth readout is a sequence of three stages, 'params/layers_0/...' the
backbone and 'params/layers_2/...' the readout. Both fit a model that has a
`backbone`; decode tokens and heads, which no file has, keep their values.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from vidscenic.importers import formats, transforms, tree

_ROOT = r'params/(?:layers_0/)?'
_READOUT = r'params/layers_2/'
_BLOCK = {
  'attention_norm': 'self_norm',
  'attention': 'self_attention',
  'mlp_norm': 'mlp_norm',
  'mlp/dense_in': 'mlp/up',
  'mlp/dense_out': 'mlp/down',
}


def backbone_rules(root: str = ''):
  """(published key, our path) of the backbone; see `tree.Rule`.

  Args:
    root: path in front of ours.
  """
  ours = root + 'backbone/'
  return (
    (
      _ROOT + r'encoder/patch_embedding/Conv_0/(kernel|bias)',
      ours + r'embedding/projection/\1',
    ),
    (_ROOT + r'encoder/posenc/embeddings', ours + 'position/table'),
    *(
      (
        _ROOT + rf'processor/layers_(\d+)/{theirs}/(.*)',
        ours + rf'transformer/block_\1/{part}/\2',
      )
      for theirs, part in _BLOCK.items()
    ),
  )


def load(path: str | os.PathLike, target: Mapping[str, Any]) -> dict[str, Any]:
  """Reads a published file for a model.

  Args:
    path: of the npz file.
    target: shapes of the model's parameters: those of `model.SimpleMAE`, or of
      `vidscenic.tasks.readout.Readout` with `model.Features`; the readout of
      the file goes to the first of its heads that has one.

  Returns:
    Nested dicts like target, without what no file or this file lacks: decode
    tokens, heads of pretraining, readouts.

  Raises:
    FileNotFoundError, BadFile: as `formats.read`.
    ValueError: the file is of another model, or its keys are not those of 4DS.
  """
  return convert(formats.read(path), target, name=os.fspath(path))


def convert(
  arrays: Mapping[str, np.ndarray],
  target: Mapping[str, Any],
  *,
  name: str = 'the file',
) -> dict[str, Any]:
  """`load` for arrays in memory, which errors call `name`."""
  fields = model_fields(arrays, name=name)
  has_readout = any(re.match(_READOUT, key) for key in arrays)
  root = 'backbone/' if 'heads' in target else ''
  keep = [r'(decode_tokens|decoder_norm|pixel_head|latent_head\w*)(/.*)?']
  ignore, rules = [], backbone_rules(root)
  heads = [n for n, h in target.get('heads', {}).items() if 'readout' in h]
  if has_readout and heads:
    rules += readout_rules(_READOUT, f'heads/{heads[0]}/readout/')
    heads = heads[1:]
  elif has_readout:
    ignore.append(_READOUT + '.*')
  keep += [f'heads/{name}/.*' for name in heads]
  try:
    params, report = tree.convert(
      arrays, target, rules, ignore=ignore, keep=keep
    )
  except ValueError as error:
    listed = ', '.join(f'{k}={v}' for k, v in fields.items())
    raise ValueError(
      f'{name} does not fit the model. It holds one with {listed}, and posenc='
      f"'learned': compare with size and the fields of task.kwargs.model. "
      f'{error}'
    ) from error
  logging.info('%s: %s', name, report)
  return params


def readout_rules(theirs: str, ours: str, *, kind: str = 'learned'):
  """Rules of an `heads.AttentiveReadout`.

  Layers are numbered in the order in which the published code makes them, which
  differs between its modes.

  Args:
    theirs: regex in front of the published names.
    ours: path in front of ours.
    kind: 'learned' queries, 'given' ones, or 'plain'.
  """
  dense = {
    'learned': ('out', 'final'),
    'given': ('query', 'out', 'final'),
    'plain': ('final',),
  }[kind]
  names = {f'Dense_{i}': name for i, name in enumerate(dense)} | {
    'LayerNorm_0': 'kv_norm',
    'LayerNorm_1': 'mlp_norm',
    'key_embedding': 'key',
    'value_embedding': 'value',
    'MLP_0/Dense_0': 'mlp/up',
    'MLP_0/Dense_1': 'mlp/down',
  }
  return (
    (theirs + 'query', ours + 'query'),
    (theirs + r'temporal_posenc/embeddings', ours + 'temporal_table'),
    *(
      (
        theirs + name + r'/(kernel|bias|scale)',
        ours + path + r'/\1',
        transforms.to_target if path == 'query' else (),
      )
      for name, path in names.items()
    ),
  )


def model_fields(
  arrays: Mapping[str, Any], *, name: str = 'the file'
) -> dict[str, Any]:
  """Fields of `model.SimpleMAE`, read off the shapes of published arrays.

  Args:
    arrays: {published key: anything with a shape}.
    name: what errors call the arrays.

  Raises:
    ValueError: a key is missing that tells a field.
  """
  shapes = {
    key.replace('params/layers_0/', 'params/'): tuple(array.shape)
    for key, array in arrays.items()
  }

  def shape(key):
    if f'params/{key}' not in shapes:
      raise ValueError(
        f"{name}: no 'params/{key}' in it, so these are no weights of 4DS"
      )
    return shapes[f'params/{key}']

  kernel = shape('encoder/patch_embedding/Conv_0/kernel')
  blocks = {
    match[1]
    for key in shapes
    if (match := re.match(r'params/processor/layers_(\d+)/', key))
  }
  return {
    'width': kernel[-1],
    'depth': len(blocks),
    'num_heads': shape('processor/layers_0/attention/query/kernel')[1],
    'mlp_features': shape('processor/layers_0/mlp/dense_in/kernel')[1],
    'patch': kernel[:3],
    'grid': shape('encoder/posenc/embeddings')[:3],
  }
