"""Parts of a model from the fields of a config."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from projects.perceiver import decoders, encoder
from vidscenic import config_checks


def make(
  cls: type[nn.Module], options: Mapping[str, Any], part: str, dtype: Any
) -> nn.Module:
  """A module.

  Args:
    cls: its class.
    options: its fields but dtype.
    part: place in `task.kwargs.model`, for messages.
    dtype: of the arithmetic.

  Raises:
    ValueError: an unknown field.
  """
  known = cls.__dataclass_fields__.keys() - {'parent', 'name', 'dtype'}
  for name in options:
    if name not in known:
      raise ValueError(
        config_checks.unknown(f'task.kwargs.model.{part}.{name}', name, known)
      )
  return cls(**_hashable(dict(options)), dtype=dtype)


def _hashable(value):
  """A module is hashed; lists are not."""
  if isinstance(value, Mapping):
    return {name: _hashable(item) for name, item in value.items()}
  return tuple(value) if isinstance(value, list) else value


def make_encoder(options: Mapping[str, Any], dtype: Any) -> nn.Module:
  """A `PerceiverEncoder` from its fields."""
  return make(encoder.PerceiverEncoder, options, 'encoder', dtype)


def make_classifier(
  num_classes: int, options: Mapping[str, Any], dtype: Any
) -> nn.Module:
  """A decoder that gives logits.

  Args:
    num_classes: of the output.
    options: fields of `ClassificationDecoder`, or {'kind': 'projection'} for
      `ProjectionDecoder`.
    dtype: of the arithmetic.

  Raises:
    ValueError: an unknown kind or field.
  """
  options = dict(options)
  kind = options.pop('kind', 'classification')
  if kind == 'projection':
    options['num_classes'] = num_classes
    return make(decoders.ProjectionDecoder, options, 'decoder', dtype)
  if kind != 'classification':
    raise ValueError(
      f"task.kwargs.model.decoder.kind={kind!r}: want 'classification' or "
      "'projection'"
    )
  options['output_num_channels'] = num_classes
  return make(decoders.ClassificationDecoder, options, 'decoder', dtype)
