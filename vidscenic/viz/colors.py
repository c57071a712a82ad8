"""Colours for numbers: heat maps, depth, optical flow, series of items.

All functions take arrays of any leading shape and return uint8 RGB. What is
unknown is black.
"""

import functools

import numpy as np

# Every 15th of the 256 colours; linear in between stays within 6 of 255 of the
# whole tables. Turbo: Google 2019. Inferno: matplotlib 2015, public domain.
_KNOTS = {
  'turbo': (
    '30123b 3f3e9c 4666dd 458cfd 2fb2f4 1ad4d0 22ebaa 52fa7a 8bff4b '
    'b7f735 dbe236 f5c53a fea130 f9751d e84b0c ce2d04 a91601 7a0403'
  ),
  'inferno': (
    '000004 0a0722 1e0c45 380962 510e6c 69166e 801f6c 982766 b0315b '
    'c63d4d d94d3d e9612b f47918 fa9407 fcb014 f8cd37 f2ea69 fcffa4'
  ),
}
_WHEEL_STEPS = 256  # per colour of the flow wheel
# Flow beyond this in any component is unknown, as in .flo files.
_UNKNOWN_FLOW = 1e9


@functools.cache
def table(name: str) -> np.ndarray:
  """Colours from low to high: uint8[256, 3], read-only.

  Args:
    name: 'turbo', dark blue over green to dark red, or 'inferno', black over
      purple and orange to light yellow.

  Raises:
    ValueError: another name.
  """
  if name not in _KNOTS:
    raise ValueError(f'table must be one of {[*_KNOTS]}, got {name!r}')
  knots = np.array([[*bytes.fromhex(knot)] for knot in _KNOTS[name].split()])
  places = np.linspace(0, 255, len(knots))
  channels = [np.interp(np.arange(256), places, knots[:, i]) for i in range(3)]
  result = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
  result.setflags(write=False)
  return result


def rainbow(count: int) -> np.ndarray:
  """Bright colours for a series of items, from blue to red: uint8[count, 3]."""
  # Without the dark ends of turbo. The middle of its span for one item.
  steps = np.linspace(20, 235, count) if count > 1 else np.full(count, 127)
  return table('turbo')[np.rint(steps).astype(int)]


def distinct(count: int) -> np.ndarray:
  """Colours that differ from those shortly before: uint8[count, 3].

  Colour k is the same for any count.
  """
  # Steps of the golden ratio leave no two of a few close to each other.
  places = (0.5 + np.arange(count) * (np.sqrt(5) - 1) / 2) % 1
  return table('turbo')[np.rint(20 + 215 * places).astype(int)]


def checked(colors: np.ndarray, count: int | None = None) -> np.ndarray:
  """Returns a caller's colours as an array, or says what is wrong with them.

  Args:
    colors: uint8[count, 3].
    count: how many there must be; None allows any number.

  Raises:
    ValueError: another shape or dtype.
  """
  colors = np.asarray(colors)
  wanted = (len(colors) if count is None and colors.ndim else count, 3)
  if colors.dtype != np.uint8 or colors.shape != wanted:
    raise ValueError(
      f'colors must be uint8[{"K" if count is None else count}, 3], got'
      f' {colors.dtype}{[*colors.shape]}'
    )
  return colors


def heat_colors(
  values: np.ndarray,
  *,
  low: float | None = None,
  high: float | None = None,
  name: str = 'inferno',
) -> np.ndarray:
  """Colours for numbers between low and high.

  Args:
    values: float[...]; NaN and infinity are unknown.
    low: gets the first colour; None takes the least value.
    high: gets the last colour; None takes the greatest value. Give both for
      parts of a longer video, so that colours keep their meaning.
    name: of a `table`.

  Returns:
    uint8[..., 3].
  """
  values = np.asarray(values, np.float32)
  known = np.isfinite(values)
  if not known.any():
    return np.zeros((*values.shape, 3), np.uint8)
  low = values.min(initial=np.inf, where=known) if low is None else low
  high = values.max(initial=-np.inf, where=known) if high is None else high
  # Values that are all alike get the first colour.
  scale = 255 / (high - low) if high > low else 0.0
  steps = np.clip((np.where(known, values, low) - low) * scale, 0, 255)
  result = table(name)[np.rint(steps).astype(np.uint8)]
  result[~known] = 0
  return result


def depth_colors(
  depth: np.ndarray,
  mask: np.ndarray | None = None,
  *,
  inverse: bool = True,
  low: float | None = None,
  high: float | None = None,
) -> np.ndarray:
  """Colours for depth: near is red, far is blue, unknown is black.

  Args:
    depth: float[..., 1], positive.
    mask: bool[..., 1], where depth is known; besides, what is not finite or
      not above 0 is unknown.
    inverse: steps of colour are steps of 1 / depth, which shows differences
      where they matter for what is near; otherwise of depth.
    low: the least depth of the range of colours, in the unit of depth; None
      takes the 2nd percentile of what is known.
    high: the greatest depth; None takes the 98th percentile. Give both for
      parts of a longer video and to compare a prediction with the truth.

  Returns:
    uint8[..., 3].

  Raises:
    ValueError: the last axis is not 1, or not 0 < low <= high.
  """
  depth = np.asarray(depth, np.float32)
  if depth.shape[-1:] != (1,):
    raise ValueError(f'depth must be float[..., 1], got shape {depth.shape}')
  depth = depth[..., 0]
  known = np.isfinite(depth) & (depth > 0)
  if mask is not None:
    known &= np.asarray(mask, bool)[..., 0]
  seen = depth[known]
  if not seen.size:
    return np.zeros((*depth.shape, 3), np.uint8)
  low = np.percentile(seen, 2) if low is None else low
  high = np.percentile(seen, 98) if high is None else high
  if not 0 < low <= high:
    raise ValueError(f'need 0 < low <= high, got low={low} high={high}')
  depth = np.where(known, np.clip(depth, low, high), np.nan)
  if inverse:
    return heat_colors(1 / depth, low=1 / high, high=1 / low, name='turbo')
  return heat_colors(-depth, low=-high, high=-low, name='turbo')


def flow_colors(
  flow: np.ndarray,
  mask: np.ndarray | None = None,
  *,
  largest: float | None = None,
) -> np.ndarray:
  """Colours for optical flow: the hue tells where to, the saturation how far.

  The wheel of Baker et al., A Database and Evaluation Methodology for Optical
  Flow, 2011 (Middlebury): no motion is white, right is red, down is yellow,
  left is cyan, up is blue.

  Args:
    flow: float[..., 2], (dx, dy), x to the right, y down.
    mask: bool[...], where flow is known; besides, what is not finite or beyond
      1e9 is unknown.
    largest: the length with full saturation; longer flow is darker. None takes
      the greatest length of all that is known.

  Returns:
    uint8[..., 3].

  Raises:
    ValueError: the last axis is not 2, or largest is not above 0.
  """
  flow = np.asarray(flow, np.float32)
  if flow.shape[-1:] != (2,):
    raise ValueError(f'flow must be float[..., 2], got shape {flow.shape}')
  if largest is not None and not largest > 0:
    raise ValueError(f'largest must be above 0, got {largest}')
  right, down = np.moveaxis(flow, -1, 0).copy()
  # False for NaN.
  known = (np.abs(right) <= _UNKNOWN_FLOW) & (np.abs(down) <= _UNKNOWN_FLOW)
  if mask is not None:
    known &= np.asarray(mask, bool)
  right[~known] = down[~known] = 0
  length = np.hypot(right, down)
  length /= largest or max(length.max(initial=0), np.finfo(np.float32).tiny)
  # The wheel starts and ends where the flow points right. Adding 0 turns -0
  # into 0, so that level flow lies on one side of the seam.
  angle = np.arctan2(-(down + 0), -right)
  wheel = _wheel()
  place = (angle / np.float32(np.pi) + 1) * ((len(wheel) - 1) / 2)
  color = wheel[np.rint(place).astype(np.int32)]
  # Towards white within the disc; cut to whole numbers as published.
  scale = np.where(length <= 1, length, np.float32(0.75)) * known
  white = np.where(length <= 1, 255 - 255 * length, 0) * known
  color *= scale[..., None]
  color += white[..., None]
  return color.astype(np.uint8)


def flow_wheel(size: int) -> np.ndarray:
  """The key to `flow_colors`: uint8[size, size, 3], white outside the disc."""
  offset = (np.arange(size) + 0.5) / size * 2 - 1
  flow = np.stack(np.meshgrid(offset, offset), axis=-1)
  inside = np.hypot(flow[..., 0], flow[..., 1]) <= 1
  return flow_colors(flow * inside[..., None], largest=1.0)


@functools.cache
def _wheel() -> np.ndarray:
  """Colours around the circle, float32[54 * 256 + 1, 3], not divided by 255."""
  corners = np.eye(3, dtype=int)[[0, 0, 1, 1, 2, 2]] * 255
  corners[1::2] += corners[[2, 4, 0]]  # red, yellow, green, cyan, blue, magenta
  steps = 15, 6, 4, 11, 13, 6
  colors = []
  for start, stop, count in zip(
    corners, np.roll(corners, -1, axis=0), steps, strict=True
  ):
    # Cut to whole numbers towards the corner that is left, as published.
    moved = 255 * np.arange(count)[:, None] // count
    colors.append(start + np.sign(stop - start) * moved)
  colors = np.concatenate(colors)
  fine = np.arange((len(colors) - 1) * _WHEEL_STEPS + 1) / _WHEEL_STEPS
  channels = [
    np.interp(fine, range(len(colors)), colors[:, i]) for i in range(3)
  ]
  return np.stack(channels, axis=1).astype(np.float32)
