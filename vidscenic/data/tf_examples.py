"""Fields of tf.train.Example records as TFDS stores them, without TensorFlow.

A record is a flat map from names to lists of int64, float32 or bytes. Nested
names are joined by '/', and a folder that TFDS prepared holds a `features.json`
with the type and shape that each field had before. Pictures and videos stay
the bytes that were stored: decoding waits until a clip says which it needs.
"""

import functools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from google.protobuf import message

from vidscenic import config_checks as checks
from vidscenic.data.datasets import tables

FEATURES = 'features.json'

_HINT = 'TFDS writes it beside the records'
_FLAT = '/ragged_flat_values'
_LENGTHS = '/ragged_row_lengths_'
_SHAPE, _VALUE = '/shape', '/value'


class Field(NamedTuple):
  """How a stored field was declared.

  Attributes:
    dtype: of numpy, or 'bytes', 'str'.
    shape: of one item, None where it varies; () for bytes.
    sequences: how many sequences the item is nested in.
    encoding: 'none', or 'bytes' or 'zlib': each item is packed into bytes.
    is_image: the bytes are a picture.
  """

  dtype: str
  shape: tuple[int | None, ...] = ()
  sequences: int = 0
  encoding: str = 'none'
  is_image: bool = False


def read_features(path: str) -> dict[str, Field]:
  """Reads `features.json`.

  Args:
    path: of the file.

  Returns:
    {stored name: Field}. Fields of kinds that are not known here are absent and
    read as they are stored; so are all of a file written by TFDS before 4.5.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not JSON, or a field lacks its type.
  """
  fields = {}
  root = tables.read_json(path, _HINT)
  if 'featuresDict' not in root:
    logging.warning(
      '%s is of a TFDS version before 4.5: fields keep their stored types',
      path,
    )
    return fields
  try:
    _add_fields(root, '', 0, fields)
  except (KeyError, TypeError, ValueError, AttributeError) as e:
    raise ValueError(f'{path}: {type(e).__name__} {e}') from e
  return fields


class Parser:
  """From serialized records to {name: value}.

  Values by field:
    bytes and pictures: bytes; in a sequence a list of bytes.
    text: str, or a list of str.
    class labels: np.int32.
    numbers: arrays of the declared type and shape, scalars for shape ().
    sequences within sequences: nested lists of arrays, for rows differ.
    unknown to `features`: array or list of bytes, just the value if it is one.

  Args:
    features: from `read_features`; {} if there is no such file.
    names: {name of the result: stored name}; {} takes every stored field.

  Raises:
    ValueError: `names` asks for a field that `features` lacks.
  """

  def __init__(self, features: Mapping[str, Field], names: Mapping[str, str]):
    self._features = dict(features)
    self._names = dict(names)
    for ours, stored in self._names.items():
      if self._features and stored not in self._features:
        raise ValueError(_no_field(ours, stored, self._features))

  def __call__(self, serialized: bytes) -> dict[str, Any]:
    """Parses one record.

    Raises:
      ValueError: not a tf.train.Example, a field of `names` is missing, or a
        field does not fit its declaration.
    """
    try:
      stored = _message().FromString(serialized).features.feature
    except message.DecodeError as e:
      raise ValueError(f'no tf.train.Example: {e}') from e
    known = {_base(key, self._features) for key in stored}
    names = self._names or {name: name for name in sorted(known)}
    record = {}
    for ours, name in names.items():
      if name not in known:
        raise ValueError(_no_field(ours, name, known))
      try:
        record[ours] = _value(stored, name, self._features.get(name))
      except (ValueError, TypeError, zlib.error) as e:
        raise ValueError(f'field {name!r}: {e}') from e
    return record


# --- private ---


@functools.cache
def _message():
  # 0.6 s, and no TensorFlow.
  from tensorflow_datasets.proto import tf_example_pb2

  return tf_example_pb2.Example


def _no_field(ours, stored, known):
  parts = [name for name in sorted(known) if name.startswith(f'{stored}/')]
  if parts:
    return f'fields.{ours}={stored!r} has parts, name one: {", ".join(parts)}'
  return checks.unknown(f'fields.{ours}={stored!r}', stored, known)


def _add_fields(node, name, sequences, fields):
  """Walks the tree of declarations; leaves get the name of their path."""
  if 'featuresDict' in node:
    for key, child in node['featuresDict'].get('features', {}).items():
      _add_fields(child, f'{name}/{key}' if name else key, sequences, fields)
  elif 'sequence' in node:
    _add_fields(node['sequence']['feature'], name, sequences + 1, fields)
  elif 'translation' in node:
    for language in node['translation'].get('languages', ()):
      fields[f'{name}/{language}'] = Field('str', (), sequences)
  elif 'video' in node:
    fields[name] = Field('bytes', (), sequences + 1, is_image=True)
  elif 'image' in node:
    fields[name] = Field('bytes', (), sequences, is_image=True)
  elif 'text' in node:
    fields[name] = Field('str', (), sequences)
  elif 'classLabel' in node:
    fields[name] = Field('int32', (), sequences)
  elif 'boundingBox' in node:
    fields[name] = Field('float32', (4,), sequences)
  elif 'audio' in node and node['audio'].get('lazyDecode'):
    fields[name] = Field('bytes', (), sequences)
  elif 'tensor' in node or 'audio' in node:
    leaf = node['tensor'] if 'tensor' in node else node['audio']
    dtype = leaf['dtype']
    sizes = [int(d) for d in leaf.get('shape', {}).get('dimensions', ())]
    fields[name] = Field(
      'bytes' if dtype in ('string', 'object') else np.dtype(dtype).name,
      tuple(None if size < 0 else size for size in sizes),
      sequences,
      leaf.get('encoding', 'none'),
    )


def _base(key, features):
  """The declared name behind a stored key."""
  if key in features:
    return key
  for part in (_FLAT, _LENGTHS):
    name, found, rest = key.rpartition(part)
    if found and (not rest or rest.isdigit()):
      return name
  for part in (_SHAPE, _VALUE):
    name = key.removesuffix(part)
    if name != key and name in features:
      return name
  return key


def _value(stored, name, field):
  if name + _FLAT in stored:
    values = _items(_list(stored[name + _FLAT]), field, None)
    lengths = []
    while f'{name}{_LENGTHS}{len(lengths)}' in stored:
      key = f'{name}{_LENGTHS}{len(lengths)}'
      lengths.append(_list(stored[key]))
    return _ragged(values, lengths)
  if name in stored:
    values, shapes = _list(stored[name]), None
  else:  # several sizes vary: they are stored beside the value
    values = _list(stored[name + _VALUE])
    shapes = np.asarray(_list(stored[name + _SHAPE]), np.int64)
  if field is None:
    values = values if isinstance(values, list) else np.asarray(values)
    return values[0] if len(values) == 1 else values
  items = _items(values, field, shapes)
  if field.sequences:
    return items
  if len(items) != 1:
    raise ValueError(f'expected one value, got {len(items)}')
  return items[0]


def _list(feature):
  """The list of a field: of bytes, else something that numpy takes."""
  kind = feature.WhichOneof('kind')
  if kind == 'bytes_list':
    return list(feature.bytes_list.value)
  values = getattr(feature, kind).value if kind else ()
  return values if len(values) else []  # empty lists have any kind, or none


def _items(values, field, shapes):
  """All items of a field in one row: a list, or an array with a first axis."""
  if field is None:
    return values if isinstance(values, list) else np.asarray(values)
  if field.dtype in ('bytes', 'str'):
    if not isinstance(values, list):
      raise ValueError(f'expected bytes, got numbers such as {values[0]}')
    if field.dtype == 'bytes':
      return values
    return [text.decode('utf-8', 'surrogateescape') for text in values]
  dtype = np.dtype(field.dtype)
  if field.encoding != 'none':
    return _unpacked(values, field, dtype, shapes)
  if isinstance(values, list) and values:
    raise ValueError(f'expected {dtype}, got bytes')
  if dtype == np.uint64:  # stored as int64 of the same bits
    values = np.array(values, np.int64).view(dtype)
  values = np.array(values, dtype)
  sizes = [-1 if size is None else size for size in field.shape]
  if -1 not in sizes:
    return values.reshape(-1, *sizes)
  if field.sequences:
    raise ValueError(f'shape {field.shape} in a sequence is not supported')
  return values.reshape(1, *sizes)


def _unpacked(values, field, dtype, shapes):
  """Arrays out of bytes; stacked if they are of one shape."""
  if shapes is None:
    shapes = [field.shape] * len(values)
  else:
    shapes = shapes.reshape(len(values), len(field.shape)).tolist()
  arrays = []
  for data, shape in zip(values, shapes, strict=True):
    if field.encoding == 'zlib':
      data = _inflated(data, shape, dtype)
    sizes = [-1 if size is None else size for size in shape]
    # A copy, because arrays over bytes cannot be written to.
    arrays.append(np.frombuffer(data, dtype).reshape(sizes).copy())
  if len({array.shape for array in arrays}) == 1:
    return np.stack(arrays)
  return arrays


def _inflated(data, shape, dtype):
  """Never more than the shape says, whatever the bytes would unfold to."""
  if None in shape:
    return zlib.decompress(data)
  inflater = zlib.decompressobj()
  size = math.prod(shape) * dtype.itemsize
  out = inflater.decompress(data, size + 1)
  if len(out) != size:
    raise ValueError(f'expected {size} bytes for {list(shape)} {dtype}')
  return out


def _ragged(values, lengths: Sequence[Sequence[int]]):
  """Cuts one row into rows of rows, the innermost lengths first."""
  for row_lengths in reversed(lengths):
    rows, start = [], 0
    for length in row_lengths:
      rows.append(values[start : start + length])
      start += length
    if start != len(values):
      raise ValueError(
        f'rows of {start} values in all, there are {len(values)}'
      )
    values = rows
  return values
