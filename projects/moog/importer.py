"""Weights of the released MooG models, and the key layout of its code.

  params = importer.load('moog_ego4d_backbone_ckpt_164335139.npz', target)

reads the published backbone ('pretrained_model/...') and heads, and trees of
the training code ('model/...', 'readout_heads_points/...'), with or without a
leading 'params/'. Where each goes in `target` shows in the target itself: a
`Moog` alone, or one under `backbone` beside heads under `heads`. The published
backbone may lack its decoder; heads come without a backbone.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from projects.moog import decodings
from vidscenic.importers import formats, transforms, tree

BACKBONE_FILE = 'moog_ego4d_backbone_ckpt_164335139.npz'

# Our name of a stack of blocks, by its name in the released code.
_BACKBONE_STACKS = {
  'encoder/transformer': 'encoder/transformer',
  'predictor_sa': 'step/predictor',
  'predictor_ca': 'step/corrector',
  'predictor': 'step/predictor',
  'corrector': 'step/corrector',
  'decoder/transformer': 'decoder/transformer',
}
_NORMS = {
  frozenset({'self'}): 'self_norm',
  frozenset({'cross'}): 'cross_norm',
  frozenset({'self', 'cross'}): 'attention_norm',
}
_BLOCK_PARTS = {
  'self_att': 'self_attention',
  'cross_att': 'cross_attention',
  'dense_query': 'query',
  'dense_key': 'key',
  'dense_value': 'value',
  'dense_out': 'out',
  'norm_query': 'query_norm',
  'norm_key': 'key_norm',
  'norm_attn': 'mlp_norm',
  'MLP_in': 'mlp/up',
  'MLP_out': 'mlp/down',
}
_MLP = {'Dense_0': 'up', 'Dense_1': 'down'}


def load(
  path: str | os.PathLike,
  target: Mapping[str, Any],
  *,
  backbone: str = '',
  keep: tuple[str, ...] = (),
  compare_decodings: bool = True,
) -> dict[str, Any]:
  """Reads a file for a model.

  Args:
    path: of the backbone, of a head, or of a whole training tree.
    target: nested dicts of shapes: parameters of a `Moog`, or
      {'backbone': those, 'heads': {'points' or 'boxes' or 'depth': ...}}.
    backbone: for files of a head, the file of the backbone; '' looks for the
      published one in the same folder.
    keep: regexes of target leaves that stay as they are initialised.
    compare_decodings: of a published backbone with its decoder, predict a clip
      from both states that the decoder may belong to, and print their PSNR.

  Returns:
    Nested dicts of arrays.

  Raises:
    FileNotFoundError: a head without its backbone.
    ValueError: keys left over or missing, or shapes that do not fit.
  """
  source = strip(formats.read(path))
  if is_head(source) and 'backbone' in target:
    folder = os.path.dirname(os.fspath(path))
    other = backbone or os.path.join(folder, BACKBONE_FILE)
    if not os.path.isfile(other):
      raise FileNotFoundError(
        f'{path} holds a head only, and there is no backbone {other}: fetch it '
        'with python -m vidscenic.tools.weights download moog_backbone, or '
        'name it by config.init_from.kwargs.backbone'
      )
    source |= strip(formats.read(other))
  params = convert(source, target, keep=keep)
  trunk = params.get('backbone', params)
  published = any('/predictor_sa/' in key for key in source)
  if compare_decodings and published and 'decoder' in trunk:
    found = decodings.compare(model_fields(source), trunk)
    best = max(found, key=found.get)
    # Not logged: `vidscenic.tools.weights import` shows warnings only.
    print(
      'frames 2 and later of a synthetic clip, from the predicted state: '
      f'{found["predicted"]:.2f} dB, from the state that enters a step: '
      f'{found["entered"]:.2f} dB; the better one is '
      f'--config.task.kwargs.decode={best}'
    )
  return params


def strip(source: Mapping[str, Any]) -> dict[str, Any]:
  """Keys without a leading 'params/'."""
  return {key.removeprefix('params/'): value for key, value in source.items()}


def is_head(source: Mapping[str, Any]) -> bool:
  """Whether these are the arrays of a published head alone."""
  return any(key.startswith('attention_readout/') for key in source) and not (
    any(key.startswith(('pretrained_model/', 'model/')) for key in source)
  )


def convert(
  source: Mapping[str, Any],
  target: Mapping[str, Any],
  *,
  keep: tuple[str, ...] = (),
) -> dict[str, Any]:
  """`load` for arrays that are in memory.

  A decoder that the source lacks keeps its first values, and so do heads for a
  backbone alone. A target that is one head, {'query': ..., 'readout': ...},
  works too.

  Raises:
    ValueError: as `load`.
  """
  source = strip(source)
  root = 'backbone/' if 'backbone' in target else ''
  trunk = target.get('backbone', target)
  ignore = []
  if 'decoder' in trunk and not any('/decoder/' in key for key in source):
    keep = (*keep, f'{root}decoder/.*')
  if 'step' in trunk and 'decoder' not in trunk:
    ignore.append(r'(pretrained_model|model)/decoder/.*')
  heads = target.get('heads', {})
  if heads and not any(
    key.startswith(('attention_readout/', 'readout_heads_')) for key in source
  ):
    keep = (*keep, 'heads/.*')
  if 'initial_state' in trunk or 'initial_projection' in trunk:
    keep = (*keep, rf'{root}initial_(state|projection).*')
  params, _ = tree.convert(
    source, target, _rules(source, target, root), keep=keep, ignore=ignore
  )
  return params


def _rules(source, target, root):
  trunk = r'(?:pretrained_model|model)/'
  rules = [
    (trunk + r'encoder/backbone/Conv_(\d+)/(kernel|bias)',
     root + r'encoder/conv_\1/\2'),
    (trunk + r'encoder/backbone/LayerNorm_0/scale',
     root + r'encoder/conv_norm/scale'),
    (trunk + r'encoder/pos_embedding/dense_pe/(kernel|bias)',
     root + r'encoder/position/\1'),
    (trunk + r'(?:state|correction)_layer_norm/scale',
     root + r'step/state_norm/scale'),
    (trunk + r'state_grad_projector/(kernel|bias)',
     root + r'step/gradient/\1'),
    (trunk + r'decoder/recon/(kernel|bias)', root + r'decoder/recon/\1'),
  ]  # fmt: skip
  for theirs, ours in _BACKBONE_STACKS.items():
    rules += _stack(source, rf'{trunk}{theirs}/', root + ours)
  return rules + _published_head(target) + _released_heads(source)


def _stack(source, theirs, ours):
  """Rules of one stack; `theirs` is a regex, `ours` a path without slash."""
  shapes = {
    match[1]: value.shape
    for key, value in source.items()
    if (match := re.fullmatch(theirs + r'(.*)', key))
  }
  parts = {
    name
    for name in ('self', 'cross')
    if any(f'/{name}_att/' in key for key in shapes)
  }
  norm = _NORMS.get(frozenset(parts), 'self_norm')
  # The first of the linear maps is in front, unless there is only one, which
  # changes the width behind the blocks.
  scale = shapes.get('norm_encoder/scale', (0,))
  first = shapes.get('Dense_0/kernel', (0, 0))
  behind = 'Dense_1/kernel' not in shapes and first[1:] != scale
  dense = {'Dense_0': 'out' if behind else 'in', 'Dense_1': 'out'}

  def block(match):
    parts = match[2].split('/')
    parts = [norm if p == 'norm_q' else _BLOCK_PARTS.get(p, p) for p in parts]
    return f'{ours}/stack/block_{match[1]}/{"/".join(parts)}'

  return [
    (theirs + r'layer_(\d+)/(.*)', block),
    (theirs + r'norm_encoder/scale', f'{ours}/stack/final_norm/scale'),
    (theirs + r'(Dense_[01])/(kernel|bias)',
     lambda m: f'{ours}/{dense[m[1]]}/{m[2]}'),
  ]  # fmt: skip


def _published_head(target):
  """Rules of a head that reads a window at once."""
  heads = target.get('heads', {})
  windows = [name for name in heads if 'readout' in heads[name]]
  root = f'heads/{windows[0]}/' if windows else ''
  names = {
    'LayerNorm_0': 'kv_norm',
    'LayerNorm_1': 'mlp_norm',
    'Dense_0': 'query',
    'Dense_1': 'out',
    'Dense_2': 'final',
    'key_embedding': 'key',
    'value_embedding': 'value',
  }
  return [
    (r'attention_readout/temporal_posenc/embeddings',
     f'{root}readout/temporal_table'),
    (r'attention_readout/MLP_0/(Dense_[01])/(kernel|bias)',
     lambda m: f'{root}readout/mlp/{_MLP[m[1]]}/{m[2]}'),
    (r'attention_readout/(\w+)/(kernel|bias|scale)',
     lambda m: f'{root}readout/{names.get(m[1], m[1])}/{m[2]}',
     transforms.to_target),
    (r'query_initializer/layers_1/(Dense_[01])/(kernel|bias)',
     lambda m: f'{root}query/mlp/{_MLP[m[1]]}/{m[2]}'),
    (r'temporal_tile_posenc/embeddings', f'{root}tile_table'),
  ]  # fmt: skip


def _released_heads(source):
  """Rules of the readouts of the training code."""
  rules = []
  found = (re.match(r'readout_heads_(\w+?)/', key) for key in source)
  for name in sorted({match[1] for match in found if match}):
    theirs, ours = f'readout_heads_{name}/', f'heads/{name}/'
    dense = {'predictor': 'mlp', 'output_values': 'values',
             'output_logits': 'logits'}  # fmt: skip
    recurrent = any(key.startswith(theirs + 'initializer') for key in source)
    stack = 'update/attention' if recurrent else 'decoder/transformer'
    rules += [
      (theirs + r'initializer/layers_1/(Dense_[01])/(kernel|bias)',
       lambda m, ours=ours: f'{ours}query/mlp/{_MLP[m[1]]}/{m[2]}'),
      (theirs + r'(predictor|output_values|output_logits)/(Dense_[01])/(\w+)',
       lambda m, ours=ours, dense=dense:
       f'{ours}update/{dense[m[1]]}/{_MLP[m[2]]}/{m[3]}'),
      (theirs + r'state_layer_norm/scale', f'{ours}update/state_norm/scale'),
      (theirs + r'backbone/recon/(kernel|bias)', rf'{ours}decoder/recon/\1'),
      *_stack(source, theirs + r'backbone/transformer/', ours + stack),
    ]  # fmt: skip
  return rules


def model_fields(source: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of `model.Moog` that the arrays of a backbone show.

  Strides, the epsilon and the number of tokens leave no trace in them: the
  first two are the variant's, the third is free.

  Args:
    source: {key: array or shape holder}, as `formats.read` returns it.

  Returns:
    Fields, with 'variant' beside them.

  Raises:
    ValueError: no backbone, or one without a part that must be there.
  """
  shapes = {}
  for key, value in strip(source).items():
    match = re.fullmatch(r'(?:pretrained_model|model)/(.*)', key)
    if match:
      shapes[match[1]] = tuple(value.shape)
  published = any(key.startswith('predictor_sa/') for key in shapes)
  names = ('predictor_sa', 'predictor_ca') if published else (
    'predictor', 'corrector')  # fmt: skip
  try:
    convs = [
      shapes[f'encoder/backbone/Conv_{i}/kernel'][-1]
      for i in range(sum('/Conv_' in k and 'kernel' in k for k in shapes))
    ]
    token_size = shapes[
      ('state' if published else 'correction') + '_layer_norm/scale'
    ][0]
    code = 'encoder/pos_embedding/dense_pe/kernel'
    added = code in shapes
    fields = {
      'variant': 'checkpoint' if published else 'config',
      'token_size': token_size,
      'conv_features': tuple(convs),
      'position': 'add' if added else 'concat',
      'encoder_bases': (
        shapes[code][0]
        if added
        else shapes['encoder/transformer/Dense_0/kernel'][0] - convs[-1]
      )
      // 4,
      'encoder': _stack_fields(shapes, 'encoder/transformer/'),
      'predictor': _stack_fields(shapes, f'{names[0]}/'),
      'corrector': _stack_fields(shapes, f'{names[1]}/'),
      'use_loss_gradient': 'state_grad_projector/kernel' in shapes,
    }
    if 'decoder/recon/kernel' in shapes:
      width = shapes['decoder/recon/kernel'][0]
      fields['decoder'] = _stack_fields(shapes, 'decoder/transformer/')
      fields['decoder_bases'] = (width - token_size) // 4
  except KeyError as error:
    raise ValueError(f'no backbone of MooG: {error} is missing') from error
  return fields


def _stack_fields(shapes, prefix):
  layers = {
    int(match[1])
    for key in shapes
    if (match := re.match(re.escape(prefix) + r'layer_(\d+)/', key))
  }
  fields = {'depth': len(layers)}
  if f'{prefix}Dense_0/kernel' in shapes:
    fields['hidden_features'] = shapes[f'{prefix}Dense_0/kernel'][1]
  if layers:
    kind = 'self' if f'{prefix}layer_0/self_att/norm_key/scale' in shapes else (
      'cross')  # fmt: skip
    _, heads, size = shapes[f'{prefix}layer_0/{kind}_att/dense_query/kernel']
    fields['num_heads'] = heads
    fields['qkv_features'] = heads * size
    fields['mlp_features'] = shapes[f'{prefix}layer_0/MLP_in/bias'][0]
  return fields
