"""Batches as a function of (seed, batch number).

    source -> shuffle -> repeat -> sample, decode, augment -> mix -> rows of
    this process -> batch -> [start:]

Each source is seeded with (seed, its name), and the rows of a process are
taken after the random draws. So batch k is the same for any number of
processes, threads and workers, and a run resumes by slicing: no iterator state
is stored anywhere. grain cannot batch after a filter; sources filter their own
index list when they are built.
"""

import functools
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags, logging

from vidscenic import config as vc
from vidscenic.data import decode

Batch = dict[str, Any]

# Unreadable examples in a row that one row may meet.
MAX_REPLACEMENTS = 50
# Sources up to this size are shuffled by a list of their numbers.
_SMALL_SOURCE = 2**16


class BatchIterator:
  """Iterates over numpy batches; `close` ends threads and processes."""

  def __init__(self, dataset: grain.MapDataset, spec: Mapping[str, Any]):
    threads = spec['num_threads'] or min(16, os.cpu_count() or 1)
    workers = spec['num_workers']
    # Workers hand out shared memory that is reused: copy it.
    self._shared_memory = workers > 0
    if workers:
      if not flags.FLAGS.is_parsed():  # a script or notebook without app.run
        flags.FLAGS.mark_as_parsed()
      options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
      dataset = dataset.to_iter_dataset(options).mp_prefetch(
        grain.MultiprocessingOptions(
          num_workers=workers, per_worker_buffer_size=1
        ),
        worker_init_fn=_init_worker,
      )
    else:
      # Elements of the dataset are whole batches, so this many are in memory.
      options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=threads
      )
      dataset = dataset.to_iter_dataset(options)
    self._iterator = iter(dataset)

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    batch = next(self._iterator)
    if self._shared_memory:
      batch = {name: np.array(value) for name, value in batch.items()}
    # [groups, repeats, ...] -> [rows, ...]
    return {
      name: value.reshape(-1, *value.shape[2:]) for name, value in batch.items()
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
  name: str = 'train',
) -> BatchIterator | StreamsIterator:
  """Endless training batches, beginning with number `start`.

  Args:
    spec: a finalized `config.data_spec`.
    batch_size: rows of the global batch.
    seed: of the run.
    start: number of the first batch.
    rows: global rows that this process loads, in order (with streams
      {stream: rows}); None: all of them.
    name: of the stream; part of the seed and of messages.

  Returns:
    Iterator over {field: array [len(rows), ...]} with 'mask' bool[B], all
    True, and 'replaced' int32[B], the number of unreadable examples that the
    next one stood in for.

  Raises:
    ValueError: an empty source, or rows that cut a group of `repeats`.
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
          name=f'{name}/{key}',
        )
        for key, part in spec['streams'].items()
      }
    )
  if len(spec['mixture']):
    parts = [
      _examples(part, seed, f'{name}/{key}')
      for key, part in spec['mixture'].items()
    ]
    weights = np.array([p['weight'] for p in spec['mixture'].values()])
    dataset = grain.MapDataset.mix(parts, list(weights / weights.sum()))
  else:
    dataset = _examples(spec, seed, name)
  dataset = _batches(dataset, batch_size, rows, spec['repeats'], name)
  return BatchIterator(dataset[start:] if start else dataset, spec)


def make_eval_iter(
  spec: Mapping[str, Any],
  *,
  batch_size: int,
  rows: Sequence[int] | None = None,
  limit: int = 0,
  name: str = 'eval',
) -> BatchIterator:
  """One pass over a source in its own order, padded to whole batches.

  Args:
    spec: a finalized `config.data_spec` with a source.
    batch_size: rows of the global batch.
    rows: global rows that this process loads; None: all of them.
    limit: only the first examples; 0: all.
    name: for messages.

  Returns:
    Iterator with the same number of batches on every process; 'mask' is False
    and every field zero in padded rows. An unreadable example is an error.
  """
  _require_source(spec, name)
  source, transform = _source_and_transform(spec, name)
  count = min(limit, len(source)) if limit else len(source)
  load = _LoadInOrder(source, transform, count, spec['repeats'])
  groups = batch_size // spec['repeats']
  padded = -(-count // groups) * groups
  dataset = grain.MapDataset.range(padded).map(load)
  dataset = _batches(dataset, batch_size, rows, spec['repeats'], name)
  return BatchIterator(dataset, spec)


# --- private ---


class _LoadAtRandom(grain.transforms.RandomMap):
  """Index -> example with random sampling and augmentation."""

  def __init__(self, source, transform, repeats, name):
    self._source = source
    self._transform = transform
    self._repeats = repeats
    self._name = name

  def random_map(self, element, rng):
    index = int(element)
    for failures in range(MAX_REPLACEMENTS):
      try:
        clip = self._transform.sample(self._source[index], rng)
        break
      except decode.VideoError as e:
        logging.warning(
          '%s: example %d replaced (%d in a row): %s',
          self._name,
          index,
          failures + 1,
          e,
        )
        index = (index + 1) % len(self._source)
    else:
      raise decode.VideoError(
        f'data.{self._name}',
        f'{MAX_REPLACEMENTS} examples in a row are unreadable, the last one '
        f'has index {index}',
      )
    group = [
      self._transform.augment(dict(clip), rng) for _ in range(self._repeats)
    ]
    return _finish(group, failures, True)


class _LoadInOrder(grain.transforms.Map):
  """Index -> example, the same every time; beyond the end a row of zeros."""

  def __init__(self, source, transform, count, repeats):
    self._source = source
    self._transform = transform
    self._count = count
    self._repeats = repeats

  def map(self, element):
    index = int(element)
    real = index < self._count
    index = index if real else self._count - 1
    rng = np.random.default_rng(index)
    clip = self._transform.sample(self._source[index], rng)
    group = [
      self._transform.augment(dict(clip), rng) for _ in range(self._repeats)
    ]
    example = _finish(group, 0, real)
    if not real:
      example = {k: np.zeros_like(v) for k, v in example.items()}
    return example


class _ShuffleSmall(grain.MapDataset):
  """Another order in every epoch, for sources of which a list fits anywhere.

  grain's own shuffle draws until a number falls into the range, which costs
  0.1 ms per example of a source of 256, 3 ms of 8 and 12 ms of 2 (measured).
  """

  _MUTATES_ELEMENT_SPEC = False

  def __init__(self, parent, seed):
    super().__init__(parent)
    self._seed = seed

  def __len__(self):
    return len(self._parent)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    epoch, position = divmod(index, len(self))
    order = _shuffled(self._seed, epoch, len(self))
    return self._parent[epoch * len(self) + int(order[position])]

  def __str__(self):
    return 'ShuffleSmall'


@functools.lru_cache(maxsize=32)
def _shuffled(seed, epoch, length):
  # Only the raw stream is the same in every version of numpy.
  numbers = np.random.default_rng([seed, epoch]).random(length)
  return np.argsort(numbers, kind='stable')


class _RowShard(grain.MapDataset):
  """Keeps chosen elements out of every `period`, whatever the epoch."""

  _MUTATES_ELEMENT_SPEC = False

  def __init__(self, parent, period, chosen):
    super().__init__(parent)
    self._period = period
    self._chosen = [int(i) for i in chosen]

  def __len__(self):
    return len(self._parent) // self._period * len(self._chosen)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    block, position = divmod(index, len(self._chosen))
    return self._parent[block * self._period + self._chosen[position]]

  def __str__(self):
    return f'RowShard({len(self._chosen)} of {self._period})'


def _source_and_transform(spec, name):
  source, transform = (
    _build(spec[part], spec[f'{part}_kwargs'], f'data.{name}', part)
    for part in ('source', 'transform')
  )
  if not len(source):
    raise ValueError(f'data.{name}: the source {spec["source"]} is empty')
  return source, transform


def _build(factory, kwargs, where, part):
  """Builds a source or transform; its complaints say whose they are."""
  try:
    return vc.build(factory, field=f'{where}.{part}', **kwargs)
  except (FileNotFoundError, ValueError) as e:
    if str(e).startswith(where):
      raise
    kind = ValueError if isinstance(e, ValueError) else FileNotFoundError
    raise kind(f'{where}: {e}') from e


def _require_source(spec, name):
  if not spec['source']:
    raise ValueError(f'data.{name}.source is empty: name a source')


def _examples(spec, seed, name):
  _require_source(spec, name)
  source, transform = _source_and_transform(spec, name)
  own_seed = zlib.crc32(f'{seed}/{name}'.encode())
  dataset = grain.MapDataset.range(len(source)).seed(own_seed)
  if spec['shuffle'] and len(source) <= _SMALL_SOURCE:
    dataset = _ShuffleSmall(dataset, own_seed)
  elif spec['shuffle']:
    dataset = dataset.shuffle()
  return dataset.repeat().random_map(
    _LoadAtRandom(source, transform, spec['repeats'], name)
  )


def _batches(dataset, batch_size, rows, repeats, name):
  rows = list(range(batch_size)) if rows is None else list(rows)
  starts = rows[::repeats]
  whole = [s + i for s in starts for i in range(repeats)]
  if batch_size % repeats or whole != rows or any(s % repeats for s in starts):
    raise ValueError(
      f'data.{name}.repeats={repeats} must divide the rows of every device: '
      f'batch_size={batch_size}, rows here {rows}'
    )
  if len(rows) < batch_size:
    groups = [s // repeats for s in starts]
    dataset = _RowShard(dataset, batch_size // repeats, groups)
  # On the MapDataset, so that batches do not depend on the number of workers.
  return dataset.batch(len(starts), drop_remainder=True)


def _finish(group, replaced, real):
  """Stacks the repeats and adds 'mask' and 'replaced'; keeps numbers only."""
  example = {}
  for name in group[0]:
    parts = [np.asarray(part[name]) for part in group]
    if parts[0].dtype.kind in 'biuf':
      # One part is not copied: the batch is made of copies anyway.
      example[name] = np.stack(parts) if len(parts) > 1 else parts[0][None]
  example['mask'] = np.full(len(group), real)
  example['replaced'] = np.full(len(group), replaced, np.int32)
  return example


def _init_worker(worker_index, worker_count):
  """Runs in a worker process before it touches anything."""
  del worker_index, worker_count
  os.environ['JAX_PLATFORMS'] = 'cpu'
