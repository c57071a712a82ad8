"""From the number of an example to its arrays: read, sample, augment.

The steps of the pipeline that call sources and transforms. What they return are
the `repeats` of one example, [repeats, ...] per field, with 'mask' and
'replaced'.
"""

import threading

import grain
import numpy as np
from absl import logging

from vidscenic.data import decode


class AtRandom(grain.transforms.RandomMap):
  """Index -> example with random sampling and augmentation.

  An unreadable example is replaced by the next readable one, with a warning
  that names it.

  Args:
    source: random access to records.
    transform: with `sample` and `augment`.
    repeats: examples made of one sampled clip.
    name: config field that holds the spec, for messages.
  """

  def __init__(self, source, transform, repeats, name):
    self._source = source
    self._transform = transform
    self._repeats = repeats
    self._name = name

  def random_map(self, element, rng):
    """Example `element` of the source, drawn with `rng`.

    Raises:
      VideoError: the source has no readable example at all.
    """
    index = int(element)
    first_error = None
    for _ in range(len(self._source)):
      try:
        clip = self._transform.sample(self._source[index], rng)
        break
      except decode.VideoError as e:
        if first_error is None:
          first_error = e
          logging.warning(
            '%s: the next readable example replaces number %d: %s',
            self._name,
            index,
            e,
          )
        index = (index + 1) % len(self._source)
    else:
      raise decode.VideoError(
        f'{self._name}.source',
        f'none of its {len(self._source)} examples is readable, number {index} '
        f'for one: {first_error}',
      ) from first_error
    group = [
      self._transform.augment(dict(clip), rng) for _ in range(self._repeats)
    ]
    return _finish(group, replaced=first_error is not None)


class InOrder(grain.transforms.Map):
  """Index -> example, the same every time; beyond the end a row of zeros.

  Args:
    source: random access to records.
    transform: with `sample` and `augment`.
    count: how many examples are read.
  """

  def __init__(self, source, transform, count):
    self._source = source
    self._transform = transform
    self._count = count
    self._zeros = None  # shaped like the first example of this process
    self._lock = threading.Lock()

  def __getstate__(self):
    return {**self.__dict__, '_lock': None}

  def __setstate__(self, state):
    self.__dict__.update(state, _lock=threading.Lock())

  def map(self, element):
    """Example `element` of the source.

    Raises:
      VideoError: it cannot be read.
    """
    index = int(element)
    if index < self._count:
      example = self._load(index)
      if self._zeros is None:
        with self._lock:
          self._zeros = _zeros_like(example)
      return example
    with self._lock:
      if self._zeros is None:
        self._zeros = _zeros_like(self._load(0))
      return self._zeros

  def _load(self, index):
    rng = np.random.default_rng(index)
    clip = self._transform.sample(self._source[index], rng)
    return _finish([self._transform.augment(clip, rng)], replaced=False)


def _zeros_like(example):
  return {name: np.zeros_like(value) for name, value in example.items()}


def _finish(group, *, replaced):
  """Stacks the repeats and adds 'mask' and 'replaced'; keeps numbers only."""
  example = {}
  for name in group[0]:
    parts = [np.asarray(part[name]) for part in group]
    if parts[0].dtype.kind in 'biuf':
      # One part is not copied: the batch is made of copies anyway.
      example[name] = np.stack(parts) if len(parts) > 1 else parts[0][None]
  example['mask'] = np.ones(len(group), bool)
  example['replaced'] = np.full(len(group), replaced, np.int32)
  return example
