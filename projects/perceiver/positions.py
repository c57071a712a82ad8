"""Position encodings of inputs and of output queries.

Fourier features and learned tables of Perceiver (arXiv 2103.03206) and
Perceiver IO (2107.14795), as in the released code, which knows two maps from an
index to a position in [-1, 1]: grids, of all inputs and of queries that are all
decoded at once, span it with both ends, linspace(-1, 1, n); queries given by
their index are at -1 + 2 index / n, also if all are given.

Features are computed by NumPy, once for every axis, and rounded as the released
code rounds them: its weights know features with float32's errors, 1e-4 for
images and 1e-2 for sound.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from projects.perceiver import attend
from vidscenic.layers import fourier

TYPES = ('fourier', 'trainable')
INIT_SCALE = 0.02  # of everything learned that is no weight of a layer


def table_init(scale: float = INIT_SCALE):
  """Normal distribution cut off at two deviations, not widened again."""
  return nn.initializers.truncated_normal(stddev=scale)


class PositionEncoding(nn.Module):
  """Codes of the places of a grid, or of some of them.

  Parameters: with 'trainable' `table` [places, num_channels]; `projector` if
  project_pos_dim is set; `extra_0`, ... if num_extra is.
  """

  index_dims: Sequence[int]  # the grid: (rows, columns), (frames, ...), (n,)
  kind: str = 'fourier'  # one of TYPES
  # num_bands, max_resolution (None: index_dims), concat_pos, sine_only
  fourier: Mapping[str, Any] | None = None
  # num_channels, init_scale
  trainable: Mapping[str, Any] | None = None
  project_pos_dim: int = -1  # width of a linear layer behind; -1: none
  num_extra: int = 0  # residual linear layers behind, ReLU between them

  @nn.compact
  def __call__(self, indices=None):
    """Codes of the whole grid or of some places.

    Args:
      indices: int[...], row-major numbers of places; None: all.

    Returns:
      float32[places, width], or [..., width].

    Raises:
      ValueError: an unknown kind, missing or unknown options, or another grid
        than a learned table has.
    """
    if self.kind not in TYPES:
      raise ValueError(
        f'position_encoding_type={self.kind!r}: want one of {TYPES}'
      )
    if self.kind == 'trainable':
      x = self._table()
      x = x if indices is None else jnp.take(x, indices, axis=0)
    else:
      x = fourier_features(self.index_dims, indices, **(self.fourier or {}))
    if self.project_pos_dim > 0:
      x = attend.linear(
        self.project_pos_dim, dtype=jnp.float32, name='projector'
      )(x)
    for i in range(self.num_extra):
      y = attend.linear(x.shape[-1], dtype=jnp.float32, name=f'extra_{i}')(x)
      x = x + y
      x = nn.relu(x) if i < self.num_extra - 1 else x
    return x

  def _table(self):
    options = dict(self.trainable or {})
    if 'num_channels' not in options or options.keys() - _TRAINABLE:
      raise ValueError(
        f'trainable_position_encoding_kwargs={options}: want num_channels and,'
        ' if another, init_scale'
      )
    shape = (math.prod(self.index_dims), options['num_channels'])
    stored = self.variables.get('params', {}).get('table')
    if stored is not None and stored.shape != shape:
      raise ValueError(
        f'learned positions of {stored.shape[0]} places do not fit inputs of '
        f'{shape[0]} (grid {tuple(self.index_dims)}): give the size that the '
        'model was made for'
      )
    scale = options.get('init_scale', INIT_SCALE)
    return self.param('table', table_init(scale), shape, jnp.float32)


_TRAINABLE = {'num_channels', 'init_scale'}


def fourier_features(
  index_dims: Sequence[int],
  indices=None,
  *,
  num_bands: int,
  max_resolution: Sequence[int] | None = None,
  concat_pos: bool = True,
  sine_only: bool = False,
):
  """Fourier features of a grid or of some of its places.

  Args:
    index_dims: the grid.
    indices: int[...], row-major numbers of places, which may be traced; None:
      all places, with both ends of [-1, 1]. See the module.
    num_bands: frequencies per axis, evenly spaced from 1 to resolution / 2.
    max_resolution: one number per axis; None: index_dims.
    concat_pos: put the positions first.
    sine_only: leave out the cosines.

  Returns:
    float32[places, width] or [..., width], see `layers.fourier.bands`.

  Raises:
    ValueError: not one resolution per axis.
  """
  resolution = tuple(index_dims if max_resolution is None else max_resolution)
  options = dict(
    concat_positions=concat_pos, sine_only=sine_only, dtype=np.float32
  )
  if indices is None:
    axes = fourier.linear_axes(index_dims, dtype=np.float32)
    code = fourier.grid_bands(axes, num_bands, resolution, **options)
    return code.reshape(-1, code.shape[-1])
  axes = [(-1 + 2 * np.arange(n) / n).astype(np.float32) for n in index_dims]
  places = jnp.unravel_index(indices, tuple(index_dims))
  return fourier.place_bands(axes, places, num_bands, resolution, **options)
