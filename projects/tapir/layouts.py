"""Rules from published parameter names to ours, for `tree.convert`.

HAIKU and TORCH are the two layouts of TAPIR's files, TAPNET and TAPNET_STATE
those of TAP-Net's parameters and batch statistics.
"""

import numpy as np

from vidscenic.importers import transforms

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
SECOND_COUNTER = rf'{_TAPNET_AVERAGE}var_ema/counter'
_TAPNET_CONVS = {
  'conv_0': 'conv_0',
  'conv_2': 'conv_1',
  'shortcut_conv': 'shortcut',
}


def _unit(match):
  return f'backbone/group{match["g"]}_unit{match["b"]}'


def _tapnet_norm(match):
  return f'norm_{transforms.haiku_number(match["i"])}'
