"""What a config says of a model: names, sizes and the grid of its tokens.

A task hands `task.kwargs.model` to a Linen module. The functions here refuse
what the module would refuse late or without a name.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vidscenic import config_checks
from vidscenic.layers import vit

FIELD = 'task.kwargs.model'


def with_size(given: Mapping[str, Any]) -> dict[str, Any]:
  """Fills in the fields of `size`, one of `vit.SIZES`; given ones win.

  Raises:
    ValueError: an unknown size.
  """
  fields = dict(given)
  if 'size' not in fields:
    return fields
  size = fields.pop('size')
  if size not in vit.SIZES:
    raise ValueError(f'{FIELD}.size={size!r}: known are {tuple(vit.SIZES)}')
  return vit.vit_config(size) | fields


def checked(
  module: type[nn.Module],
  given: Mapping[str, Any],
  *,
  fixed: Iterable[str] = (),
  also: Iterable[str] = (),
) -> dict[str, Any]:
  """Fields for a module: known, hashable, `dtype` as a dtype.

  Args:
    module: class of the module.
    given: its fields from the config.
    fixed: fields that the task sets.
    also: names that the config may hold besides, for messages.

  Raises:
    ValueError: an unknown name, with the nearest one, or no dtype.
  """
  known = module.__dataclass_fields__.keys() - {'parent', 'name', *fixed}
  fields = {}
  for name, value in given.items():
    if name not in known:
      raise ValueError(
        config_checks.unknown(f'{FIELD}.{name}', name, known | set(also))
      )
    fields[name] = tuple(value) if isinstance(value, list) else value
  if 'dtype' in fields:
    try:
      fields['dtype'] = jnp.dtype(fields['dtype'])
    except TypeError as error:
      raise ValueError(f'{FIELD}.dtype={fields["dtype"]!r}: {error}') from error
  return fields


def token_grid(
  clip: Sequence[int], patch: Sequence[int]
) -> tuple[int, int, int]:
  """(t, h, w) tokens of a clip.

  Args:
    clip: (T, H, W), `task.kwargs.clip`.
    patch: (frames, rows, columns) of a token.

  Raises:
    ValueError: sizes that are not positive, or that the patch does not divide.
  """
  clip, patch = tuple(clip), tuple(patch)
  if len(patch) != 3 or min(patch) < 1:
    raise ValueError(
      f'{FIELD}.patch={patch}: want (frames, rows, columns), each 1 or more'
    )
  if len(clip) != 3 or any(
    n < 1 or n % p for n, p in zip(clip, patch, strict=True)
  ):
    raise ValueError(
      f'task.kwargs.clip={clip} is not made of whole patches of {patch}'
    )
  return tuple(n // p for n, p in zip(clip, patch, strict=True))
