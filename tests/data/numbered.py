"""Sources, transforms and specs for tests of the pipeline."""

import itertools
import sys

import numpy as np

from vidscenic import config as vc
from vidscenic.data import decode, pipeline

TRANSFORM = f'{__name__}:Noise'


class Rows:
  """Row i holds i; listed rows cannot be read."""

  def __init__(self, size=20, offset=0, broken=()):
    self._size, self._offset, self._broken = size, offset, broken

  def __len__(self):
    return self._size

  def __getitem__(self, index):
    if index in self._broken:
      raise decode.VideoError(f'row{index}.mp4', 'broken on purpose')
    return {'index': np.int32(index + self._offset), 'path': f'row{index}'}


class Noise:
  """Adds one number per sample and one per augmentation."""

  def sample(self, record, rng):
    return {**record, 'sampled': np.float32(rng.random())}

  def augment(self, clip, rng):
    return {**clip, 'augmented': np.float32(rng.random())}


class Counting(Rows):
  """Counts how often a row is read, over all copies in this process."""

  reads = []

  def __getitem__(self, index):
    self.reads.append(index)
    return super().__getitem__(index)


class Platform:
  """Reports what jax, which grain imports, would run on."""

  def sample(self, record, rng):
    platforms = sys.modules['jax'].config.jax_platforms
    return {**record, 'is_cpu': np.bool_(platforms == 'cpu')}

  def augment(self, clip, rng):
    return clip


class Empty:
  """A field with an axis of length zero."""

  def sample(self, record, rng):
    return {**record, 'none': np.zeros((0, 2), np.float32)}

  def augment(self, clip, rng):
    return clip


def spec_of(**changes):
  changes.setdefault('source', f'{__name__}:Rows')
  changes.setdefault('transform', TRANSFORM)
  if changes.get('mixture') or changes.get('streams'):
    changes['source'] = ''
  spec = vc.data_spec(**changes)
  config = vc.base_config()
  config.data.train = spec
  if changes.get('streams'):
    config.batch_size = sum(
      s['batch_size'] for s in changes['streams'].values()
    )
  return vc.finalize(config).data.train


def take(spec, count, **kwargs):
  kwargs = {'batch_size': 8, 'seed': 1, **kwargs}
  iterator = pipeline.make_train_iter(spec, **kwargs)
  try:
    return list(itertools.islice(iterator, count))
  finally:
    iterator.close()


def assert_same(a, b):
  assert len(a) == len(b)
  for x, y in zip(a, b, strict=True):
    assert x.keys() == y.keys()
    for name in x:
      np.testing.assert_array_equal(x[name], y[name], err_msg=name)


def flat(batches):
  """Fields of streams become 'stream/field'."""
  out = []
  for batch in batches:
    nested = {k: v for k, v in batch.items() if isinstance(v, dict)}
    plain = {k: v for k, v in batch.items() if k not in nested}
    for stream, fields in nested.items():
      plain |= {f'{stream}/{name}': v for name, v in fields.items()}
    out.append(plain)
  return out


PART = {'source': f'{__name__}:Rows', 'transform': TRANSFORM}
FAR = {**PART, 'source_kwargs': {'offset': 100}}
KINDS = {
  'plain': {},
  'repeats': {'repeats': 2},
  'mixture': {
    'mixture': {'a': {**PART, 'weight': 1.0}, 'b': {**FAR, 'weight': 3.0}}
  },
  'repeated mixture': {
    'repeats': 2,
    'mixture': {'a': {**PART, 'repeats': 2}, 'b': {**FAR, 'repeats': 2}},
  },
  'streams': {
    'streams': {
      'a': {**PART, 'batch_size': 8},
      'b': {
        'source': '',
        'batch_size': 8,
        'repeats': 2,
        'mixture': {'c': {**PART, 'repeats': 2}, 'd': {**FAR, 'repeats': 2}},
      },
    }
  },
}
