"""From numpy rows of this process to sharded arrays of the whole batch."""

import collections
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

# Fields that the pipeline adds to every batch.
EXTRA = {'mask': np.dtype(bool), 'replaced': np.dtype(np.int32)}


def local_rows(batch_size: int, sharding: NamedSharding) -> np.ndarray:
  """Global row numbers that the devices of this process hold, ascending.

  Raises:
    ValueError: the rows do not divide over the devices.
  """
  shards = int(np.prod([sharding.mesh.shape[a] for a in sharding.spec[0]]))
  if batch_size % shards:
    raise ValueError(
      f'batch_size={batch_size} does not divide over {shards} devices '
      f'(mesh {dict(sharding.mesh.shape)})'
    )
  indices = sharding.addressable_devices_indices_map((batch_size,)).values()
  rows = {
    row for (part,) in indices for row in range(*part.indices(batch_size))
  }
  return np.array(sorted(rows))


def check(
  batch: Mapping[str, Any], spec: Mapping[str, Any], *, where: str
) -> dict[str, Any]:
  """Picks the fields of a task's batch spec, with their types.

  Args:
    batch: numpy fields [rows, ...], or {stream: fields}.
    spec: `Task.batch_spec()`.
    where: config field that made the batch, for messages.

  Returns:
    The fields of the spec plus 'mask' and 'replaced'; integers and floats are
    cast to the width that the spec asks for.

  Raises:
    ValueError: a missing field, or one of another shape or kind.
  """
  result = {}
  for name, want in spec.items():
    if name not in batch:
      raise ValueError(
        f'{where}: the task needs {name!r}, the data give {sorted(batch)}'
      )
    if isinstance(want, Mapping):
      result[name] = check(batch[name], want, where=f'{where}.streams.{name}')
      continue
    value = batch[name]
    if tuple(value.shape[1:]) != tuple(want.shape):
      raise ValueError(
        f'{where}: {name!r} has shape {list(value.shape[1:])} per example, '
        f'the task wants {list(want.shape)}'
      )
    kinds = {'i': 'iu', 'u': 'u', 'f': 'f', 'b': 'b'}
    if value.dtype.kind not in kinds.get(np.dtype(want.dtype).kind, 'f'):
      raise ValueError(
        f'{where}: {name!r} is {value.dtype}, the task wants {want.dtype}'
      )
    result[name] = value.astype(want.dtype, copy=False)
  for name in EXTRA:
    if name in batch:
      result[name] = batch[name]
  return result


def batch_shapes(
  spec: Mapping[str, Any],
  batch_size: int | Mapping[str, int],
  sharding: NamedSharding,
) -> dict[str, Any]:
  """ShapeDtypeStructs of the global batch for a task's batch spec.

  Args:
    spec: `Task.batch_spec()`.
    batch_size: rows, or {stream: rows}.
    sharding: of the rows.
  """
  if isinstance(batch_size, Mapping):
    return {
      name: batch_shapes(spec[name], size, sharding)
      for name, size in batch_size.items()
    }
  fields = {name: (tuple(s.shape), s.dtype) for name, s in spec.items()}
  fields.update({name: ((), dtype) for name, dtype in EXTRA.items()})
  return {
    name: jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=sharding)
    for name, (shape, dtype) in fields.items()
  }


def to_global(
  batch: Any, sharding: NamedSharding, batch_size: int | None = None
) -> Any:
  """Puts this process's rows on its devices, as part of the global batch.

  Args:
    batch: tree of numpy arrays [rows here, ...], rows as in `local_rows`.
    sharding: of the rows.
    batch_size: rows of the global batch; None: those here times processes.
  """

  def one(x):
    size = batch_size or x.shape[0] * jax.process_count()
    shape = (size, *x.shape[1:])
    if x.shape[0] == size:
      return jax.device_put(x, sharding)
    rows = local_rows(size, sharding)

    def piece(index):
      start, stop, _ = index[0].indices(size)
      first = int(np.searchsorted(rows, start))
      return x[first : first + stop - start]

    return jax.make_array_from_callback(shape, sharding, piece)

  return jax.tree.map(one, batch)


def prefetch(
  batches: Iterable[Any], place: Any, *, ahead: int = 2
) -> Iterator[Any]:
  """Keeps `ahead` batches on the device beyond the one that is used."""
  queue = collections.deque()
  for batch in batches:
    queue.append(place(batch))
    if len(queue) > ahead:
      yield queue.popleft()
  while queue:
    yield queue.popleft()
