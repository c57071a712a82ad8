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

from vidscenic.importers import formats, published, transforms, tree

# The model that comes with this project.
OWN_WEIGHTS = pathlib.Path(__file__).parent / 'weights' / 'causal_small.npz'

_NAMES = {'w': 'kernel', 'b': 'bias', 'scale': 'scale', 'offset': 'bias',
          'weight': 'kernel', 'bias': 'bias'}  # fmt: skip
_HEADS = {
  'cost_volume_regression_1': 'position_hidden',
  'cost_volume_regression_2': 'position_output',
  'cost_volume_occlusion_1': 'occlusion_conv',
  'cost_volume_occlusion_2': 'occlusion_hidden',
  'occlusion_out': 'occlusion_output',
  'hid1': 'position_hidden',
  'hid2': 'position_output',
  'hid3': 'occlusion_conv',
  'hid4': 'occlusion_hidden',
  'occ_out': 'occlusion_output',
}
_BLOCK = {
  'layer_norm': 'time_norm',
  'layer_norm_1': 'channel_norm',
  'mlp1_up': 'time_up',
  'mlp1_up_1': 'time_down',
  'mlp2_up': 'channel_up',
  'mlp2_down': 'channel_down',
}
_ENDS = {'linear': 'input', 'layer_norm': 'norm', 'linear_1': 'output'}


def _block(match):
  number = transforms.haiku_number(match['i'])
  return f'mixer/block_{number}/{_BLOCK[match["part"]]}/{_NAMES[match["v"]]}'


def _torch_block(match):
  # A norm has one parameter here, its scale.
  name = 'scale' if 'norm' in match['part'] else _NAMES[match['v']]
  return f'mixer/block_{match["i"]}/{_BLOCK[match["part"]]}/{name}'


def _end(match):
  return f'mixer/{_ENDS[match["part"]]}/{_NAMES[match["v"]]}'


def _head(match):
  return f'cost_volume/{_HEADS[match["part"]]}/{_NAMES[match["v"]]}'


def _norm(match):
  name = 'bias' if match['v'] in ('offset', 'bias') else 'scale'
  return f'backbone/group{match["g"]}_unit{match["b"]}/norm_{match["i"]}/{name}'


def _extra_norm(match):
  number = transforms.haiku_number(match['i'])
  return f'extra_convs/layer_{number}/norm/{_NAMES[match["v"]]}'


def _extra_conv(match):
  layer, second = divmod(transforms.haiku_number(match['i']), 2)
  part = ('up', 'down')[second]
  return f'extra_convs/layer_{layer}/{part}/{_NAMES[match["v"]]}'


def _conv_or_linear(array):
  return transforms.conv(array) if array.ndim > 2 else np.transpose(array)


_TAPIR = r'(?:params/)?tapir/~/'
_RESNET = rf'{_TAPIR}resnet/~/'
_GROUP = r'block_group_(?P<g>\d+)/~/block_(?P<b>\d+)/~/'
_MIXER = rf'{_TAPIR}pips_mlp_mixer/'
HAIKU = (
  (rf'{_RESNET}initial_conv/w', 'backbone/stem/kernel'),
  (rf'{_RESNET}{_GROUP}instancenorm_(?P<i>[01])/(?P<v>scale|offset)', _norm),
  (
    rf'{_RESNET}{_GROUP}(conv_[01])/w',
    r'backbone/group\g<g>_unit\g<b>/\3/kernel',
  ),
  (
    rf'{_RESNET}{_GROUP}shortcut_conv/w',
    r'backbone/group\g<g>_unit\g<b>/shortcut/kernel',
  ),
  (
    rf'{_TAPIR}(?P<part>cost_volume_(?:regression|occlusion)_[12]|occlusion_out)'
    r'/(?P<v>[wb])',
    _head,
  ),
  (rf'{_MIXER}(?P<part>linear|linear_1)/(?P<v>[wb])', _end),
  (rf'{_MIXER}(?P<part>layer_norm)/(?P<v>scale)', _end),
  (
    rf'{_MIXER}block(?P<i>_\d+)?/'
    r'(?P<part>layer_norm|layer_norm_1|mlp1_up|mlp1_up_1|mlp2_up|mlp2_down)'
    r'/(?P<v>scale|[wb])',
    _block,
  ),
  (
    rf'{_TAPIR}extra_convs/layer_norm(?P<i>_\d+)?/(?P<v>scale|offset)',
    _extra_norm,
  ),
  (rf'{_TAPIR}extra_convs/conv2_d(?P<i>_\d+)?/(?P<v>[wb])', _extra_conv),
)

_TORCH_UNIT = r'resnet_torch\.block_groups\.(?P<g>\d+)\.blocks\.(?P<b>\d+)\.'
_TORCH_BLOCK = r'torch_pips_mixer\.blocks\.(?P<i>\d+)\.'
TORCH = (
  (
    r'resnet_torch\.initial_conv\.weight',
    'backbone/stem/kernel',
    transforms.conv,
  ),
  (rf'{_TORCH_UNIT}bn_(?P<i>[01])\.(?P<v>weight|bias)', _norm),
  (
    rf'{_TORCH_UNIT}(conv_[01])\.weight',
    r'backbone/group\g<g>_unit\g<b>/\3/kernel',
    transforms.conv,
  ),
  (
    rf'{_TORCH_UNIT}proj_conv\.weight',
    r'backbone/group\g<g>_unit\g<b>/shortcut/kernel',
    transforms.conv,
  ),
  (
    r'torch_cost_volume_track_mods\.(?P<part>hid[1-4]|occ_out)'
    r'\.(?P<v>weight|bias)',
    _head,
    _conv_or_linear,
  ),
  (
    r'torch_pips_mixer\.(?P<part>linear|linear_1)\.(?P<v>weight|bias)',
    _end,
    transforms.transpose(),
  ),
  (r'torch_pips_mixer\.layer_norm\.weight', 'mixer/norm/scale'),
  (
    rf'{_TORCH_BLOCK}(?:conv_channels_mixer\.)?'
    r'(?P<part>layer_norm|layer_norm_1|mlp1_up|mlp1_up_1|mlp2_up|mlp2_down)'
    r'\.(?P<v>weight|bias)',
    _torch_block,
    transforms.transpose(),
  ),
  (
    r'extra_convs\.blocks\.(\d+)\.layer_norm\.weight',
    r'extra_convs/layer_\1/norm/scale',
  ),
  (
    r'extra_convs\.blocks\.(\d+)\.layer_norm\.bias',
    r'extra_convs/layer_\1/norm/bias',
  ),
  (
    r'extra_convs\.blocks\.(?P<i>\d+)\.conv(?P<second>_1)?\.(?P<v>weight|bias)',
    lambda m: (
      f'extra_convs/layer_{m["i"]}/{"down" if m["second"] else "up"}/'
      f'{_NAMES[m["v"]]}'
    ),
    lambda array: transforms.conv(array) if array.ndim > 2 else array,
  ),
)

_TAPNET_UNIT = (
  r'tap_net/~/tsm_resnet_video/tsm_resnet_unit_(?P<g>\d+)/block_(?P<b>\d+)/'
)
_TAPNET_HEADS = '|'.join(name for name in _HEADS if '_' in name)
TAPNET = (
  (
    r'(?:params/)?tap_net/~/tsm_resnet_video/tsm_resnet_stem/w',
    'backbone/stem/kernel',
  ),
  (
    rf'(?:params/)?{_TAPNET_UNIT}(?P<part>conv_0|conv_2|shortcut_conv)/w',
    lambda m: f'{_unit(m)}/{_TAPNET_CONVS[m["part"]]}/kernel',
  ),
  (
    rf'(?:params/)?{_TAPNET_UNIT}batch_norm(?P<i>_1)?/(?P<v>scale|offset)',
    lambda m: f'{_unit(m)}/{_tapnet_norm(m)}/{_NAMES[m["v"]]}',
    transforms.to_target,
  ),
  (
    rf'(?:params/)?tap_net/~/(?P<part>{_TAPNET_HEADS})/(?P<v>[wb])',
    _head,
    transforms.to_target,
  ),
)
_TAPNET_AVERAGE = rf'state/{_TAPNET_UNIT}batch_norm(?P<i>_1)?/~/'
TAPNET_STATE = (
  (
    rf'{_TAPNET_AVERAGE}(?P<part>mean|var)_ema/(?P<v>average|hidden)',
    lambda m: f'batch_stats/{_unit(m)}/{_tapnet_norm(m)}/{m["part"]}/{m["v"]}',
    transforms.to_target,
  ),
  (
    rf'{_TAPNET_AVERAGE}mean_ema/counter',
    lambda m: f'batch_stats/{_unit(m)}/{_tapnet_norm(m)}/counter',
  ),
)
# Mean and variance count the same updates.
_SECOND_COUNTER = rf'{_TAPNET_AVERAGE}var_ema/counter'
_TAPNET_CONVS = {
  'conv_0': 'conv_0',
  'conv_2': 'conv_1',
  'shortcut_conv': 'shortcut',
}
_OWN = ((r'params/(.*)', r'\1'),)
# Parameters whose shapes `sizes` reads in every model.
_TELLING = re.compile(
  r'backbone/(stem|group\d+_unit0/conv_0)/kernel|mixer/(input|output)/kernel'
)
_NO_STATE = r'(?!state/).*'
_NOT_NEEDED = (r'opt_state(/.*)?', 'global_step', 'config/.*')


def _unit(match):
  return f'backbone/group{match["g"]}_unit{match["b"]}'


def _tapnet_norm(match):
  return f'norm_{transforms.haiku_number(match["i"])}'


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
    arrays, model_state, TAPNET_STATE, ignore=(_NO_STATE, _SECOND_COUNTER)
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
  arrays = formats.read(path)
  rules = _rules(arrays, path)
  options = sizes(renamed_shapes(arrays, path))
  if rules is TAPNET:
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
        'softmax_temperature=10.0 for BootsTAPIR, else 20.0)'
      )
    if given is not None and known.get(name, given) != given:
      raise ValueError(
        f'{path}: {name}={given!r} was given, but this file has {known[name]!r}'
      )
    options[name] = known[name] if given is None else given
  # What a model was trained at.
  if 'initial_resolution' in known:
    options['initial_resolution'] = known['initial_resolution']
  return options


def _plain(value):
  value = value.tolist()
  return tuple(value) if isinstance(value, list) else value


def _rules(arrays, where) -> Sequence[tuple]:
  """The rules of the layout that the keys show."""
  for pattern, rules in (
    (r'(params/)?tapir/~/', HAIKU),
    (r'(params/)?tap_net/~/', TAPNET),
    (r'torch_pips_mixer\.', TORCH),
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
  if ('mixer/input/kernel' in shapes) == (rules is TAPNET):
    names = ('TAP-Net', 'TAPIR')
    have, want = names if rules is TAPNET else names[::-1]
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
