"""Reads the published weights of the Perceivers.

Two layouts of the same six models: the pickles of Haiku trees, and the state
dicts of the Hugging Face port, whose outputs differ where its code does
(`HUGGING_FACE` has the options that reproduce it). Both map to one tree of
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

from projects.perceiver import haiku_names, hugging_face_names
from vidscenic.importers import formats, tree

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
  if kernel not in hugging_face_names.KERNELS:
    raise ValueError(
      f'kernel={kernel!r}: want one of {hugging_face_names.KERNELS}'
    )
  arrays = dict(arrays)
  if is_hugging_face(arrays):
    rules, state_rules = (
      hugging_face_names.rules(kernel),
      hugging_face_names.STATE,
    )
    arrays = hugging_face_names.name_multimodal(arrays)
    if any('.running_mean' in key for key in arrays):
      arrays.setdefault(hugging_face_names.TRACKED, np.int64(0))
  else:
    rules, state_rules = _haiku_rules(arrays), haiku_names.STATE
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
    latents = _only(
      keys, rf'{haiku_names.ENCODER}/~/trainable_position_encoding/pos_embs'
    )
    layer = rf'{haiku_names.ENCODER}/~/self_attention(_\d+)?'
    hidden = _only(
      keys, rf'{haiku_names.ENCODER}/~/self_attention/mlp/linear/w'
    ).shape[1]
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
  return (
    (rf'{haiku_names.QUERY}pos_embs', f'decoder/{place}positions/table'),
    *haiku_names.RULES,
  )


def _below(group, rule):
  source, target, *rest = rule
  if callable(target):
    return source, lambda m: f'{group}/{target(m)}', *rest
  return source, f'{group}/{target}', *rest
