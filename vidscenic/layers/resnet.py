"""Pre-activation residual network (ResNet v2) for frames.

The backbone of TAPIR (arXiv 2306.08637) and TAP-Net (2211.03726). A unit is
norm, relu, 3x3 convolution, norm, relu, 3x3 convolution, plus a shortcut. The
first unit of every group projects the *activated* input for the shortcut, also
where nothing changes its shape. Convolutions have no bias and pad as XLA's
SAME: at stride 2 an even size gets 0 before and 1 after (2 and 3 for the 7x7
stem). Nothing follows the last unit.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vidscenic.layers import norms

NORMS = ('instance', 'batch')


class ResNet(nn.Module):
  """Features of every frame at several strides.

  Parameters: stem/kernel; group{g}_unit{u}/{norm_0, conv_0, norm_1, conv_1,
  shortcut}. With norm='batch' the running statistics are in 'batch_stats', see
  `norms.BatchNorm`.
  """

  features: Sequence[int] = (64, 128, 256, 256)  # channels per group
  strides: Sequence[int] = (1, 2, 2, 1)  # of the first unit of each group
  num_units: Sequence[int] = (2, 2, 2, 2)  # per group
  stem_features: int = 64
  stem_pool: bool = False  # 3x3 max pool of stride 2 behind the stem (TAP-Net)
  norm: str = 'instance'  # one of NORMS
  norm_eps: float = 1e-5
  norm_decay: float = 0.9  # of the running statistics, for norm='batch'
  # Applied as mix(x, group) to a unit's activated input before its first
  # convolution, not to the shortcut: TAP-Net's temporal shift.
  mix: Callable[[Any, int], Any] | None = None
  dtype: Any = jnp.float32  # compute
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, frames, *, train: bool = False):
    """Applies the network.

    Args:
      frames: [..., H, W, C], any leading axes, any H and W.
      train: normalise with the batch's statistics and update the running ones
        (norm='batch' only; needs mutable=['batch_stats']).

    Returns:
      Tuple with the output of every group, [..., ceil(H/s), ceil(W/s),
      features], s = 2 (4 with stem_pool) times the strides so far.

    Raises:
      ValueError: unknown norm, or sequences of different length.
    """
    lengths = {len(x) for x in (self.features, self.strides, self.num_units)}
    if len(lengths) > 1:
      raise ValueError(
        'features, strides and num_units need one entry per group, got '
        f'{self.features}, {self.strides}, {self.num_units}'
      )
    if self.norm not in NORMS:
      raise ValueError(f'norm must be one of {NORMS}, got {self.norm!r}')
    conv = functools.partial(
      nn.Conv,
      padding='SAME',
      use_bias=False,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )
    norm = self._make_norm(train)
    x = conv(self.stem_features, (7, 7), (2, 2), name='stem')(frames)
    if self.stem_pool:
      x = nn.max_pool(x, (3, 3), (2, 2), padding='SAME')
    outputs = []
    for group, (features, stride, num_units) in enumerate(
      zip(self.features, self.strides, self.num_units, strict=True)
    ):
      mix = None if self.mix is None else functools.partial(self._mix, group)
      for unit in range(num_units):
        x = _Unit(
          features,
          stride=stride if unit == 0 else 1,
          project=unit == 0,
          conv=conv,
          norm=norm,
          mix=mix,
          name=f'group{group}_unit{unit}',
        )(x)
      outputs.append(x)
    return tuple(outputs)

  @nn.nowrap
  def _mix(self, group, x):
    return self.mix(x, group)

  @nn.nowrap
  def _make_norm(self, train):
    options = dict(
      eps=self.norm_eps, dtype=self.dtype, param_dtype=self.param_dtype
    )
    if self.norm == 'instance':
      return functools.partial(norms.InstanceNorm, **options)

    def batch_norm(name):
      norm = norms.BatchNorm(self.norm_decay, **options, name=name)
      return functools.partial(norm, train=train)

    return batch_norm


class _Unit(nn.Module):
  """Two convolutions and a shortcut: [..., H, W, C] -> [..., H', W', C']."""

  features: int
  stride: int
  project: bool  # shortcut by a 1x1 convolution
  conv: Callable[..., nn.Module]
  norm: Callable[..., Callable]  # norm(name=...)(x)
  mix: Callable[[Any], Any] | None

  @nn.compact
  def __call__(self, x):
    strides = (self.stride, self.stride)
    y = nn.relu(self.norm(name='norm_0')(x))
    if self.project:
      x = self.conv(self.features, (1, 1), strides, name='shortcut')(y)
    if self.mix is not None:
      y = self.mix(y)
    y = self.conv(self.features, (3, 3), strides, name='conv_0')(y)
    y = nn.relu(self.norm(name='norm_1')(y))
    return x + self.conv(self.features, (3, 3), name='conv_1')(y)
