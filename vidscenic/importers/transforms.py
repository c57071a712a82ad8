"""Array changes between the layouts of published weights and ours.

A rule of `tree.convert` applies one of these, or a tuple of them in order. All
are plain functions of an array. One that returns a dict {name: array} sends
its parts to `target/name`, and what follows it in the tuple sees every part.

PyTorch's fused projection of queries, keys and values, for example:

  (r'blocks\\.(\\d+)\\.attn\\.qkv\\.weight',
   r'transformer/block_\\1/self_attention',
   (split(('query/kernel', 'key/kernel', 'value/kernel')), *LINEAR))
"""

from collections.abc import Callable, Sequence

import numpy as np


def to_target(array):
  """Reshapes to the target's shape, row by row; the last step of a rule.

  Splits or joins heads ([D, D] -> [D, heads, D/heads]), flattens the axes of a
  patch, drops axes of length one. The number of values must agree.
  """
  return array  # `tree.convert` knows the shape and does it


def transpose(*axes: int) -> Callable[[np.ndarray], np.ndarray]:
  """Permutes axes; without arguments it reverses them."""

  def apply(array):
    return np.transpose(array, axes or None)

  return apply


def conv(array):
  """PyTorch's kernel of a convolution [out, in, ...] to ours [..., in, out].

  For any number of spatial axes: OIHW -> HWIO, OITHW -> THWIO.
  """
  if array.ndim < 3:
    raise ValueError(f'a kernel [out, in, ...] has no shape {array.shape}')
  return np.moveaxis(array, (0, 1), (-1, -2))


def squeeze(array):
  """Drops axes of length one: [1, 1, 1, C] -> [C]."""
  return np.squeeze(array)


def split(
  names: Sequence[str], axis: int = 0, sizes: Sequence[int] | None = None
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
  """Cuts an axis into named parts.

  Args:
    names: of the parts; each goes to `target/name`.
    axis: to cut.
    sizes: lengths of the parts; None: equal parts.
  """

  def apply(array):
    length = array.shape[axis]
    lengths = sizes or [length // len(names)] * len(names)
    if sum(lengths) != length:
      raise ValueError(
        f'axis {axis} of {list(array.shape)} does not split into '
        f'{list(sizes) if sizes else f"{len(names)} equal parts"}'
      )
    parts = np.split(array, np.cumsum(lengths)[:-1], axis)
    return dict(zip(names, parts, strict=True))

  return apply


def concatenate(axis: int) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
  """As the `join` of a rule: puts the parts of a target behind each other."""

  def join(parts):
    return np.concatenate(parts, axis)

  return join


def add(parts: Sequence[np.ndarray]) -> np.ndarray:
  """As the `join` of a rule: the sum of the parts of a target."""
  return np.sum(parts, axis=0, dtype=parts[0].dtype)


def haiku_number(suffix: str | None) -> int:
  """Number of a repeated Haiku module: '' or None -> 0, '_3' -> 3."""
  return int(suffix.removeprefix('_')) if suffix else 0


# The weight of a PyTorch Linear [out, in], with heads if the target has them.
LINEAR = (transpose(), to_target)
