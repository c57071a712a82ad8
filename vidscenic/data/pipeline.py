"""Batches as a function of (seed, batch number).

    source -> shuffle -> repeat -> sample, decode, augment -> mix -> rows of
    this process -> batch -> [start:]

Each source is seeded with (seed, its name), and the rows of a process are
taken after the random draws. So batch k is the same for any number of
processes, threads and workers, and a run resumes by slicing: no iterator state
is stored anywhere. grain cannot batch after a filter; sources filter their own
index list when they are built.
"""

import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from vidscenic import config as vc
from vidscenic.data import example_loading, example_order

Batch = dict[str, Any]

# Sources up to this size are shuffled by a list of their numbers.
_SMALL_SOURCE = 2**16


class BatchIterator:
  """Iterates over numpy batches; `close` ends threads and processes."""

  def __init__(
    self,
    examples: grain.MapDataset,
    spec: Mapping[str, Any],
    *,
    groups: int,
    start: int = 0,
  ):
    """Starts to read.

    Args:
      examples: elements [repeats, ...] of this process, in order.
      spec: a finalized `config.data_spec`.
      groups: elements in a batch.
      start: number of the first batch.
    """
    threads = spec['num_threads'] or min(16, os.cpu_count() or 1)
    workers = spec['num_workers']
    # Workers hand out shared memory that is reused: copy it.
    self._shared_memory = workers > 0
    if workers:
      if not flags.FLAGS.is_parsed():  # a script or notebook without app.run
        flags.FLAGS.mark_as_parsed()
      # On the MapDataset, so that batches do not depend on the number of
      # workers.
      batches = examples.batch(groups, drop_remainder=True)[start:]
      options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
      batches = batches.to_iter_dataset(options).mp_prefetch(
        grain.MultiprocessingOptions(
          num_workers=workers, per_worker_buffer_size=1
        ),
        worker_init_fn=_init_worker,
      )
    else:
      # Threads share the examples of a batch, so that the first one comes
      # early and two batches are in memory, not one per thread.
      options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(threads, 2 * groups)
      )
      examples = examples[start * groups :].to_iter_dataset(options)
      batches = examples.batch(groups, drop_remainder=True)
    self._iterator = iter(batches)

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    batch = next(self._iterator)
    if self._shared_memory:
      batch = {name: np.array(value) for name, value in batch.items()}
    # [groups, repeats, ...] -> [rows, ...]
    return {
      name: value.reshape(value.shape[0] * value.shape[1], *value.shape[2:])
      for name, value in batch.items()
    }

  def close(self) -> None:
    """Ends the reading threads and processes."""
    close = getattr(self._iterator, 'close', None)
    if close is not None:
      close()


class StreamsIterator:
  """Several streams side by side: batch[name] is that stream's batch."""

  def __init__(self, iterators: Mapping[str, BatchIterator]):
    self._iterators = dict(iterators)

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    return {name: next(it) for name, it in self._iterators.items()}

  def close(self) -> None:
    """Closes every stream."""
    for iterator in self._iterators.values():
      iterator.close()


def make_train_iter(
  spec: Mapping[str, Any],
  *,
  batch_size: int,
  seed: int,
  start: int = 0,
  rows: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
  name: str = 'data.train',
) -> BatchIterator | StreamsIterator:
  """Endless training batches, beginning with number `start`.

  Args:
    spec: a finalized `config.data_spec`.
    batch_size: rows of the global batch.
    seed: of the run.
    start: number of the first batch.
    rows: global rows that this process loads, in order (with streams
      {stream: rows}); None: all of them.
    name: config field that holds the spec; part of the seed and of messages.

  Returns:
    Iterator over {field: array [len(rows), ...]} with 'mask' bool[B], all
    True, and 'replaced' int32[B], 1 where an unreadable example's next readable
    neighbour stands in.

  Raises:
    ValueError: an empty source, or rows that cut a group of `repeats`; starts
      with `name`.
  """
  if len(spec['streams']):
    return StreamsIterator(
      {
        key: make_train_iter(
          part,
          batch_size=part['batch_size'],
          seed=seed,
          start=start,
          rows=None if rows is None else rows[key],
          name=f'{name}.streams.{key}',
        )
        for key, part in spec['streams'].items()
      }
    )
  if len(spec['mixture']):
    parts = [
      _examples(part, seed, f'{name}.mixture.{key}')
      for key, part in spec['mixture'].items()
    ]
    weights = np.array([p['weight'] for p in spec['mixture'].values()])
    dataset = grain.MapDataset.mix(parts, list(weights / weights.sum()))
  else:
    dataset = _examples(spec, seed, name)
  dataset, groups = _row_shard(dataset, batch_size, rows, spec['repeats'], name)
  return BatchIterator(dataset, spec, groups=groups, start=start)


def make_eval_iter(
  spec: Mapping[str, Any],
  *,
  batch_size: int,
  rows: Sequence[int] | None = None,
  limit: int = 0,
  name: str = 'data',
) -> BatchIterator:
  """One pass over a source in its own order, padded to whole batches.

  Args:
    spec: a finalized `config.data_spec` with a source, repeats 1.
    batch_size: rows of the global batch.
    rows: global rows that this process loads; None: all of them.
    limit: only the first examples; 0: all.
    name: config field that holds the spec, such as 'evals.heldout.kwargs.data';
      for messages.

  Returns:
    Iterator with the same number of batches on every process; 'mask' is False
    and every field zero in padded rows. An unreadable example is an error.

  Raises:
    ValueError: an empty source, or repeats other than 1; starts with `name`.
  """
  _require_source(spec, name)
  if spec['repeats'] != 1:
    raise ValueError(f'{name}.repeats={spec["repeats"]}: evaluation wants 1')
  source, transform = _source_and_transform(spec, name)
  count = min(limit, len(source)) if limit else len(source)
  padded = -(-count // batch_size) * batch_size
  dataset = grain.MapDataset.range(padded)
  dataset = dataset.map(example_loading.InOrder(source, transform, count))
  dataset, groups = _row_shard(dataset, batch_size, rows, 1, name)
  return BatchIterator(dataset, spec, groups=groups)


def check_spec(spec: Mapping[str, Any], name: str) -> None:
  """Builds every source and transform of a spec; reads no example.

  Args:
    spec: a finalized `config.data_spec`.
    name: config field that holds it, for messages.

  Raises:
    ValueError, FileNotFoundError: what `make_train_iter` would raise.
  """
  for group in ('streams', 'mixture'):
    if len(spec[group]):
      for key, part in spec[group].items():
        check_spec(part, f'{name}.{group}.{key}')
      return
  _require_source(spec, name)
  _source_and_transform(spec, name)


# --- private ---


def _source_and_transform(spec, name):
  source, transform = (
    _build(spec[part], spec[f'{part}_kwargs'], name, part)
    for part in ('source', 'transform')
  )
  if not len(source):
    raise ValueError(f'{name}: the source {spec["source"]} is empty')
  flip = getattr(transform, 'flip', 0)
  if flip and not getattr(source, 'flip_allowed', True):
    raise ValueError(
      f'{name}.transform_kwargs.flip={flip}: mirrored videos of '
      f'{spec["source"]} belong to another class; set '
      f'{name}.transform_kwargs.flip=0'
    )
  return source, transform


def _build(factory, kwargs, where, part):
  """Builds a source or transform; its complaints say whose they are."""
  try:
    return vc.build(factory, field=f'{where}.{part}', **kwargs)
  except (FileNotFoundError, ValueError) as e:
    if str(e).startswith(f'{where}.'):
      raise
    kind = ValueError if isinstance(e, ValueError) else FileNotFoundError
    raise kind(f'{where}: {e}') from e


def _require_source(spec, name):
  if not spec['source']:
    raise ValueError(f'{name}.source is empty: name a source')


def _examples(spec, seed, name):
  _require_source(spec, name)
  source, transform = _source_and_transform(spec, name)
  own_seed = zlib.crc32(f'{seed}/{name}'.encode())
  dataset = grain.MapDataset.range(len(source)).seed(own_seed)
  if spec['shuffle'] and len(source) <= _SMALL_SOURCE:
    dataset = example_order.Shuffled(dataset, own_seed)
  elif spec['shuffle']:
    dataset = dataset.shuffle()
  return dataset.repeat().random_map(
    example_loading.AtRandom(source, transform, spec['repeats'], name)
  )


def _row_shard(dataset, batch_size, rows, repeats, name):
  """(examples of these rows only, how many of them make a batch)."""
  rows = list(range(batch_size)) if rows is None else list(rows)
  starts = rows[::repeats]
  whole = [s + i for s in starts for i in range(repeats)]
  if batch_size % repeats or whole != rows or any(s % repeats for s in starts):
    raise ValueError(
      f'{name}.repeats={repeats} must divide the rows of every device: '
      f'batch_size={batch_size}, rows here {rows}'
    )
  if len(rows) < batch_size:
    groups = [s // repeats for s in starts]
    dataset = example_order.RowShard(dataset, batch_size // repeats, groups)
  return dataset, len(starts)


def _init_worker(worker_index, worker_count):
  """Runs in a worker process before it touches anything."""
  del worker_index, worker_count
  os.environ['JAX_PLATFORMS'] = 'cpu'
  if 'jax' in sys.modules:  # grain has imported it: too late for the variable
    sys.modules['jax'].config.update('jax_platforms', 'cpu')
