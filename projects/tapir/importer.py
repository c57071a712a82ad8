"""Reads published weights of TAPIR, BootsTAPIR and TAP-Net, and our own.

  model = task.PointTracking(model=importer.model_options(path))
  params = importer.load(path, shapes_of_its_parameters)

Three layouts: Haiku's (.npy, all five published models), PyTorch's state dict
(.pt) and ours (.npz with the names of `model.Tapir`). Files show the sizes of a
model, but not whether it is causal nor the temperature of its soft argmax: ours
say them, for published files they follow from the file's name, else one has to
say them. Parameters are values of float32, whatever the file stores.
"""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from projects.tapir import layouts
from vidscenic.importers import formats, published, tree

# What predictions and `Tracker` use if no others are named: a small causal
# model trained on synthetic clips, see README.md.
OWN_WEIGHTS = str(pathlib.Path(__file__).with_name('causal_small.npz'))
_OWN = ((r'params/(.*)', r'\1'),)
# Parameters whose shapes `sizes` reads in every model.
_TELLING = re.compile(
  r'backbone/(stem|group\d+_unit0/conv_0)/kernel|mixer/(input|output)/kernel'
)
_NO_STATE = r'(?!state/).*'
_NOT_NEEDED = (r'opt_state(/.*)?', 'global_step', 'config/.*')


def load(
  path: str | os.PathLike,
  target: Mapping[str, Any],
  model_state: Mapping[str, Any] | None = None,
):
  """Reads a file into the parameter tree of a model.

  Args:
    path: a local file.
    target: nested dicts of shapes: the parameters of `model.Tapir` or
      `tapnet.TapNet`.
    model_state: the shapes of TAP-Net's batch statistics.

  Returns:
    The parameters, or (parameters, model state) if that is asked for.

  Raises:
    OSError, ValueError: unreadable; no weights of these models; or those of
      another variant than the target's, naming the field to change.
  """
  path = os.fspath(path)
  return convert(formats.read(path), target, model_state, where=path)


def convert(
  arrays: Mapping[str, np.ndarray],
  target: Mapping[str, Any],
  model_state: Mapping[str, Any] | None = None,
  *,
  where: str = 'weights',
):
  """As `load`, for arrays as `formats.read` gives them; `where` names them."""
  rules = _rules(arrays, where)
  _check_variant(arrays, rules, target, where)
  params, _ = tree.convert(
    arrays, target, rules, ignore=(*_NOT_NEEDED, 'state(/.*)?')
  )
  if model_state is None:
    return params
  state, _ = tree.convert(
    arrays,
    model_state,
    layouts.TAPNET_STATE,
    ignore=(_NO_STATE, layouts.SECOND_COUNTER),
  )
  return params, state


def model_options(
  path: str | os.PathLike,
  *,
  use_causal_conv: bool | None = None,
  softmax_temperature: float | None = None,
) -> dict[str, Any]:
  """The `model` argument of a task for the weights in a file.

  Args:
    path: a local file.
    use_causal_conv, softmax_temperature: what the file does not show; None:
      what it says itself, or what is known of a published file of its name.

  Returns:
    Fields of `model.Tapir`, or of `tapnet.TapNet` with name='tapnet'.

  Raises:
    OSError, ValueError: as `load`; or one of the two must be given, or
      contradicts the file.
  """
  path = os.fspath(path)
  if not os.path.exists(path):
    raise FileNotFoundError(
      f'{path}: no such file, and no name{published.hint(path)}'
    )
  arrays = formats.read(path)
  rules = _rules(arrays, path)
  options = sizes(renamed_shapes(arrays, path))
  if rules is layouts.TAPNET:
    return {'name': 'tapnet', **options}
  known = {
    name.removeprefix('config/'): _plain(value)
    for name, value in arrays.items()
    if name.startswith('config/')
  }
  entry = published.find_file(path)
  if entry is not None and entry.project == 'tapir':
    known = dict(entry.task_kwargs['model'])
  for name, given in (
    ('use_causal_conv', use_causal_conv),
    ('softmax_temperature', softmax_temperature),
  ):
    if given is None and name not in known:
      raise ValueError(
        f'{path}: the arrays do not show {name}: give it (published models: '
        'use_causal_conv=True for those called causal, else False; '
        'softmax_temperature=10.0 for BootsTAPIR, else 20.0; in predict.py as '
        'causal=1 or 0 and temperature=10 or 20)'
      )
    if given is not None and known.get(name, given) != given:
      raise ValueError(
        f'{path}: {name}={given!r} was given, but this file has {known[name]!r}'
      )
    options[name] = known[name] if given is None else given
  # Alike in all published models; our files say them.
  for name in ('initial_resolution', 'num_pips_iter'):
    if name in known:
      options[name] = known[name]
  return options


def known_options(weights: str, **given) -> dict[str, Any]:
  """`model_options` of a published name, without its file, or of a file.

  Raises:
    ValueError: what `model_options` raises, as text: the flags of configs make
      errors anew from that.
  """
  for entry in published.WEIGHTS:
    if entry.name == weights:
      return dict(entry.task_kwargs['model'])
  try:
    return model_options(weights, **given)
  except (OSError, ValueError) as error:
    raise ValueError(f'weights={weights}: {error}') from error


def _plain(value):
  value = value.tolist()
  return tuple(value) if isinstance(value, list) else value


def _rules(arrays, where) -> Sequence[tuple]:
  """The rules of the layout that the keys show."""
  for pattern, rules in (
    (r'(params/)?tapir/~/', layouts.HAIKU),
    (r'(params/)?tap_net/~/', layouts.TAPNET),
    (r'torch_pips_mixer\.', layouts.TORCH),
    (r'params/mixer/', _OWN),
  ):
    if any(re.match(pattern, key) for key in arrays):
      return rules
  some = ', '.join(list(arrays)[:3])
  raise ValueError(
    f'{where}: no weights of TAPIR, BootsTAPIR or TAP-Net; it holds {some}, ...'
  )


def renamed_shapes(
  arrays: Mapping[str, np.ndarray], where: str = 'weights'
) -> dict[str, tuple[int, ...]]:
  """{our path: shape} of the parameters in a file."""
  rules = _rules(arrays, where)
  shapes = {}
  for key, array in arrays.items():
    for source, path, *transform in rules:
      match = re.fullmatch(source, key)
      if match:
        array = transform[0](array) if transform else array
        path = path(match) if callable(path) else match.expand(path)
        shapes[path] = array.shape
        break
  return shapes


def sizes(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
  """Fields of the model that shapes of parameters show."""
  groups = sorted(
    {int(m[1]) for n in shapes if (m := re.match(r'backbone/group(\d+)', n))}
  )
  units = [
    len(
      {n.split('/')[1] for n in shapes if n.startswith(f'backbone/group{g}_')}
    )
    for g in groups
  ]
  channels = [
    shapes[f'backbone/group{g}_unit0/conv_0/kernel'][-1] for g in groups
  ]
  options = {
    'stem_channels': shapes['backbone/stem/kernel'][-1],
    'channels_per_group': tuple(channels),
    'blocks_per_group': tuple(units),
  }
  if 'mixer/input/kernel' not in shapes:
    return options
  rows, width = shapes['mixer/input/kernel']
  features = shapes['mixer/output/kernel'][-1]
  blocks = {n.split('/')[1] for n in shapes if n.startswith('mixer/block_')}
  options |= {
    'pyramid_level': (rows - features) // 49 - 2,
    'mixer_hidden_dim': width,
    'num_mixer_blocks': len(blocks),
    'mixer_kernel_shape': shapes['mixer/block_0/time_up/kernel'][0],
  }
  layers = {n.split('/')[1] for n in shapes if n.startswith('extra_convs/')}
  options['extra_convs'] = bool(layers)
  if layers:
    *_, inputs, outputs = shapes['extra_convs/layer_0/up/kernel']
    options |= {
      'extra_conv_layers': len(layers),
      'extra_conv_multiplier': outputs // channels[-1],
      'extra_conv_shift': inputs != channels[-1],
    }
  return options


def _check_variant(arrays, rules, target, where):
  """Explains a file of another variant better than a list of keys does."""
  shapes = {name: leaf.shape for name, leaf in _leaves(target, '')}
  if ('mixer/input/kernel' in shapes) == (rules is layouts.TAPNET):
    names = ('TAP-Net', 'TAPIR')
    have, want = names if rules is layouts.TAPNET else names[::-1]
    raise ValueError(
      f'{where} holds {have}, the model is {want}: set '
      f"task.kwargs.model.name='{have.lower().replace('-', '')}'"
    )
  held = renamed_shapes(arrays, where)
  if not {name for name in shapes if _TELLING.fullmatch(name)} <= set(held):
    return  # incomplete: the list of missing keys says more
  have, want = sizes(held), sizes(shapes)
  wrong = [
    f'{name}={have[name]!r} (the model has {want.get(name)!r})'
    for name in have
    if have[name] != want.get(name)
  ]
  if wrong:
    raise ValueError(
      f'{where} holds another variant: set task.kwargs.model to '
      f'{", ".join(wrong)}'
    )


def _leaves(target, prefix):
  for name, child in target.items():
    if isinstance(child, Mapping):
      yield from _leaves(child, f'{prefix}{name}/')
    else:
      yield f'{prefix}{name}', child
