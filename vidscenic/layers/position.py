"""Position codes: learned and sin-cos tables, rotary codes.

Constant codes are computed by NumPy in double precision while the program is
traced and enter it as float32 constants. Where a channel of a grid's code
depends on one axis only, these are one small table per axis, which the program
spreads over the grid. Fourier features are in `layers.fourier`.

Grids are (t, h, w) or any other number of axes; tokens are numbered row-major,
the last axis fastest. Sources: the released code of RVM (arXiv 2512.13684), 4DS
(2412.15212), VideoMAE (2203.12602) and V-JEPA 2 (2506.09985).
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

PAIRINGS = ('half', 'interleaved', 'vjepa')


def grid_indices(grid: Sequence[int]) -> np.ndarray:
  """Index of every token along every axis: int64[N, len(grid)], row-major."""
  axes = np.meshgrid(*(np.arange(n) for n in grid), indexing='ij')
  return np.stack(axes, axis=-1).reshape(-1, len(grid))


def join_axes(tables: Sequence[np.ndarray], join=jnp.concatenate):
  """Code of a grid from one table per axis, each a constant of the program.

  Args:
    tables: [n, C] for an axis of length n.
    join: what puts the channels of the axes together, or jnp.stack.

  Returns:
    float32[*grid, sum of C], with stack [*grid, C, axes].
  """
  grid = tuple(len(table) for table in tables)
  parts = []
  for axis, table in enumerate(tables):
    ones = [1] * len(grid)
    ones[axis] = grid[axis]
    # float32 before it enters the program.
    table = jnp.asarray(table.astype(np.float32)).reshape(*ones, -1)
    parts.append(jnp.broadcast_to(table, (*grid, table.shape[-1])))
  return join(parts, axis=-1)


# Sin-cos tables.


def sincos_1d(num_positions: int, width: int, *, interleaved: bool = False):
  """Sin-cos code of 0, ..., num_positions - 1 (base 10000).

  Args:
    num_positions: number of rows.
    width: number of channels; even unless interleaved.
    interleaved: channel 2j is the sine and 2j + 1 the cosine of frequency j
      (RVM, VideoMAE); otherwise all sines come first (MAE, V-JEPA).

  Returns:
    float32[num_positions, width].

  Raises:
    ValueError: odd width without interleaving.
  """
  if width % 2 and not interleaved:
    raise ValueError(f'width must be even, got {width}')
  frequency = 10000.0 ** (-2 * np.arange((width + 1) // 2) / width)
  angle = np.arange(num_positions)[:, None] * frequency
  table = np.stack([np.sin(angle), np.cos(angle)], axis=2 if interleaved else 1)
  return table.reshape(num_positions, -1)[:, :width].astype(np.float32)


def sincos_flat(grid: Sequence[int], width: int):
  """1-D code of the flattened token index: float32[*grid, width].

  The quirk of VideoMAE and RVM: neighbours in a column are as far apart as
  the row is long. sin and cos are interleaved.
  """
  table = sincos_1d(math.prod(grid), width, interleaved=True)
  return table.reshape(*grid, width)


def sincos_2d(grid: Sequence[int], width: int, *, resized=None):
  """Half of the channels for the row, half for the column.

  Args:
    grid: (h, w).
    width: a multiple of 4.
    resized: (h', w') to which `resize_table` would bring the table.

  Returns:
    float32[h, w, width], or [h', w', width].
  """
  return _sincos_axes(grid, (width // 2, width // 2), width, resized)


def sincos_3d(grid: Sequence[int], width: int, *, resized=None):
  """Half of the channels for time, a quarter each for row and column (V-JEPA).

  Args:
    grid: (t, h, w).
    width: a multiple of 8.
    resized: (t', h', w') to which `resize_table` would bring the table.

  Returns:
    float32[t, h, w, width], or [t', h', w', width].
  """
  widths = (width // 2, width // 4, width // 4)
  return _sincos_axes(grid, widths, width, resized)


def _sincos_axes(grid, widths, width, resized):
  if sum(widths) != width or any(w % 2 for w in widths):
    raise ValueError(
      f'width={width} cannot be split into even parts over {len(grid)} axes'
    )
  resized = grid if resized is None else resized
  # Along the other axes a channel is constant, which a resize does not change.
  return join_axes(
    [
      resize_table(sincos_1d(size, part), (new,))
      for size, part, new in zip(grid, widths, resized, strict=True)
    ]
  )


# Learned tables.


class LearnedPositions(nn.Module):
  """A learned vector per grid position, resized when the grid differs.

  Parameters: `table` [*grid, D]; if separable `temporal` [t, D] and `spatial`
  [h, w, D], whose sum is used (MAE-ST).
  """

  grid: Sequence[int]  # (t, h, w) for which the parameters are made
  width: int
  separable: bool = False
  stddev: float = 0.02
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, grid: Sequence[int] | None = None):
    """grid: (t, h, w) wanted, None for the own -> [t, h, w, D]."""
    grid = tuple(self.grid) if grid is None else tuple(grid)
    init = nn.initializers.normal(self.stddev)

    def table(name, shape, wanted):
      shape = (*shape, self.width)
      value = self.param(name, init, shape, self.param_dtype)
      return resize_table(value, wanted)

    if not self.separable:
      return table('table', self.grid, grid)
    temporal = table('temporal', self.grid[:1], grid[:1])
    spatial = table('spatial', self.grid[1:], grid[1:])
    return temporal[:, None, None] + spatial


def resize_table(table, grid: Sequence[int]):
  """Resizes a table of positions as jax.image.resize(..., 'cubic') does.

  Keys' cubic with a = -0.5, half-pixel centres, widened when shrinking
  (antialias), weights renormalised at the border. PyTorch's
  bicubic has a = -0.75 and clamps; tables then differ by up to 1.0.

  Args:
    table: [*old grid, D]. A NumPy table gives a NumPy table and is computed
      in float64.
    grid: new sizes of all axes but the last.

  Returns:
    [*grid, D] in the dtype of table.

  Raises:
    ValueError: another number of axes.
  """
  if len(grid) != table.ndim - 1:
    raise ValueError(f'cannot resize a table {table.shape} to grid {grid}')
  is_numpy = isinstance(table, np.ndarray)
  out = table.astype(np.float64) if is_numpy else table
  for axis, size in enumerate(grid):
    out = resize_axis(out, axis=axis, size=size)
  return out.astype(table.dtype)


def resize_axis(x, *, axis: int, size: int):
  """Cubic resize of one axis, formula of `resize_table`; also of features.

  Args:
    x: NumPy or JAX array.
    axis: axis to resize.
    size: its new length.

  Returns:
    x with that length, unchanged if it has it already.
  """
  if x.shape[axis] == size:
    return x
  weights = _cubic_weights(x.shape[axis], size)
  if isinstance(x, np.ndarray):
    out = np.tensordot(weights, x, axes=(1, axis))
    return np.moveaxis(out, 0, axis)
  # Accelerators must not round the table to a shorter format here.
  out = jnp.tensordot(
    weights.astype(np.float32),
    x,
    axes=(1, axis),
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )
  return jnp.moveaxis(out, 0, axis).astype(x.dtype)


def _cubic_weights(old, new):
  """float64[new, old]; every row sums to 1."""
  widen = max(old / new, 1.0)
  centre = (np.arange(new) + 0.5) * old / new - 0.5
  x = np.abs(centre[:, None] - np.arange(old)) / widen
  near = 1.5 * x**3 - 2.5 * x**2 + 1
  far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
  weights = np.where(x < 1, near, np.where(x < 2, far, 0))
  return weights / weights.sum(axis=1, keepdims=True)


# Rotary codes.


@flax.struct.dataclass
class Rotary:
  """Rotation of channel pairs by the positions of N tokens; see `rotary`."""

  cos: jax.Array  # float32[..., N, R]
  sin: jax.Array  # float32[..., N, R], signed: out = x * cos + partner * sin
  sizes: tuple[int, ...] = flax.struct.field(pytree_node=False)
  adjacent: bool = flax.struct.field(pytree_node=False)

  def apply(self, x, *, heads: bool = False):
    """Rotates the first R = sum(sizes) channels of x in float32.

    Args:
      x: [..., N, C], with heads [..., N, heads, C]; C >= R.
      heads: whether x has a head axis.

    Returns:
      x rotated, in its dtype.
    """
    cos, sin = self.cos, self.sin
    if heads:
      cos, sin = cos[..., None, :], sin[..., None, :]
    width = sum(self.sizes)
    y = x[..., :width].astype(jnp.float32)
    y = y * cos + self._partner(y) * sin
    return jnp.concatenate([y.astype(x.dtype), x[..., width:]], axis=-1)

  def _partner(self, y):
    """The other channel of every pair."""
    if self.adjacent:
      pairs = y.reshape(*y.shape[:-1], -1, 2)
      return jnp.flip(pairs, axis=-1).reshape(y.shape)
    parts, begin = [], 0
    for size in self.sizes:
      middle, end = begin + size // 2, begin + size
      parts += [y[..., middle:end], y[..., begin:middle]]
      begin = end
    return jnp.concatenate(parts, axis=-1)

  def take(self, ids):
    """The rows ids, int[..., K], of a table for all N tokens."""
    cos, sin = (jnp.take(x, ids, axis=0) for x in (self.cos, self.sin))
    return self.replace(cos=cos, sin=sin)

  def prepend(self, count: int):
    """Adds `count` tokens that are not rotated, such as a class token."""
    before = [(0, 0)] * (self.cos.ndim - 2) + [(count, 0), (0, 0)]
    cos = jnp.pad(self.cos, before, constant_values=1)
    return self.replace(cos=cos, sin=jnp.pad(self.sin, before))


def rotary(
  positions: np.ndarray,
  sizes: Sequence[int],
  *,
  pairing: str = 'half',
  base: float = 10000.0,
) -> Rotary:
  """Rotary code with one group of channels per axis, in the order of the axes.

  A group of s channels has the frequencies base^(-2j / s), j < s / 2. Channels
  behind the groups are left alone. Pairings:

    'half'         channels j and j + s/2 of a group turn by frequency j
    'interleaved'  channels 2j and 2j + 1 turn by frequency j
    'vjepa'        channels 2j and 2j + 1 are combined as in a rotation, but
                   channel c uses the angle of frequency c mod s/2. Not a
                   rotation, yet what V-JEPA 2 was trained with (mae_family.md
                   5.3).

  Args:
    positions: [N, A], constants; `grid_indices(grid)` for a grid.
    sizes: A even numbers of channels; `rotary_sizes` for fractions of a width.
    pairing: see above.
    base: inverse of the lowest frequency, about.

  Raises:
    ValueError: unknown pairing, odd sizes, or not one size per axis.
  """
  sizes = tuple(sizes)
  if pairing not in PAIRINGS:
    raise ValueError(f'pairing must be one of {PAIRINGS}, got {pairing!r}')
  if len(sizes) != positions.shape[-1] or any(size % 2 for size in sizes):
    raise ValueError(
      f'sizes must be {positions.shape[-1]} even numbers, got {sizes}'
    )
  adjacent = pairing != 'half'
  cos, sin = [], []
  for position, size in zip(positions.T.astype(np.float64), sizes, strict=True):
    angle = position[:, None] * base ** (-np.arange(0, size, 2) / max(size, 1))
    if pairing == 'interleaved':
      angle = np.repeat(angle, 2, axis=-1)
      sign = np.tile([-1.0, 1.0], size // 2)
    else:
      angle = np.tile(angle, 2)
      sign = np.tile([-1.0, 1.0], size // 2)
      if pairing == 'half':
        sign = np.repeat([-1.0, 1.0], size // 2)
    cos.append(np.cos(angle))
    sin.append(np.sin(angle) * sign)
  cos, sin = (np.concatenate(x, axis=-1).astype(np.float32) for x in (cos, sin))
  return Rotary(cos, sin, sizes, adjacent)


def rotary_sizes(width: int, fractions: Sequence[float]) -> tuple[int, ...]:
  """Even channel counts 2 * floor(width * fraction / 2) for `rotary`.

  (0.1, 0.25, 0.25) is LayerLock's split for (t, h, w), (1/3, 1/3, 1/3) V-JEPA
  2's of a head.
  """
  # The small number undoes rounding: width / 3 must not floor below itself.
  return tuple(2 * math.floor(width * f / 2 + 1e-6) for f in fractions)
