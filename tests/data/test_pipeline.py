"""The stream of batches is a function of (seed, batch number)."""

import itertools

import numpy as np
import pytest

from vidscenic import config as vc
from vidscenic.data import decode, pipeline


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


def spec_of(**changes):
  changes.setdefault('source', f'{__name__}:Rows')
  if changes.get('mixture') or changes.get('streams'):
    changes['source'] = ''
  spec = vc.data_spec(transform=f'{__name__}:Noise', **changes)
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


def test_stream_depends_on_the_seed_only():
  assert_same(take(spec_of(), 4), take(spec_of(), 4))
  other = take(spec_of(), 4, seed=2)
  assert any(
    (a['index'] != b['index']).any()
    for a, b in zip(take(spec_of(), 4), other, strict=True)
  )


def test_resuming_is_slicing():
  assert_same(take(spec_of(), 7)[4:], take(spec_of(), 3, start=4))


@pytest.mark.parametrize('changes', [{'num_threads': 3}, {'num_workers': 2}])
def test_readers_do_not_change_the_batches(changes):
  assert_same(take(spec_of(num_threads=1), 4), take(spec_of(**changes), 4))


@pytest.mark.parametrize('mixed', [False, True])
def test_rows_of_processes_make_up_the_global_batch(mixed):
  part = {'source': f'{__name__}:Rows', 'transform': f'{__name__}:Noise'}
  mixture = {
    'a': {**part, 'weight': 1.0},
    'b': {**part, 'weight': 3.0, 'source_kwargs': {'offset': 100}},
  }
  spec = spec_of(mixture=mixture) if mixed else spec_of()
  whole = take(spec, 5)
  parts = [take(spec, 5, rows=range(p * 2, p * 2 + 2)) for p in range(4)]
  joined = [
    {k: np.concatenate([p[i][k] for p in parts]) for k in whole[i]}
    for i in range(5)
  ]
  assert_same(whole, joined)


def test_processes_draw_different_augmentations():
  first, second = (take(spec_of(), 3, rows=range(p, p + 4)) for p in (0, 4))
  for a, b in zip(first, second, strict=True):
    assert not np.intersect1d(a['sampled'], b['sampled']).size


@pytest.mark.parametrize('small', [0, 20])
def test_every_epoch_holds_every_row_once_in_a_new_order(small, monkeypatch):
  monkeypatch.setattr(pipeline, '_SMALL_SOURCE', small)  # both ways to shuffle
  batches = take(spec_of(), 10, batch_size=4)
  rows = np.concatenate([b['index'] for b in batches])
  first, second = rows[:20], rows[20:]
  assert sorted(first) == sorted(second) == list(range(20))
  assert (first != second).any()


def test_mixture_follows_its_weights():
  part = {'source': f'{__name__}:Rows', 'transform': f'{__name__}:Noise'}
  spec = spec_of(
    mixture={
      'a': {**part, 'weight': 1.0},
      'b': {**part, 'weight': 3.0, 'source_kwargs': {'offset': 100}},
    }
  )
  rows = np.concatenate([b['index'] for b in take(spec, 50)])
  assert np.mean(rows >= 100) == pytest.approx(0.75, abs=0.01)


def test_adding_a_source_leaves_the_others_order():
  part = {'source': f'{__name__}:Rows', 'transform': f'{__name__}:Noise'}
  far = {**part, 'source_kwargs': {'offset': 100}}
  one = spec_of(mixture={'a': part, 'b': far})
  two = spec_of(mixture={'a': part, 'b': far, 'c': far})
  rows = [
    [i for b in take(s, 9) for i in b['index'] if i < 100][:20]
    for s in (one, two)
  ]
  np.testing.assert_array_equal(*rows)


def test_repeats_share_the_sample_but_not_the_augmentation():
  (batch,) = take(spec_of(repeats=2), 1)
  assert batch['index'].shape == (8,)
  np.testing.assert_array_equal(batch['sampled'][::2], batch['sampled'][1::2])
  assert (batch['augmented'][::2] != batch['augmented'][1::2]).all()


def test_repeats_that_processes_would_cut_are_refused():
  with pytest.raises(ValueError, match='repeats=4 must divide'):
    take(spec_of(repeats=4), 1, rows=range(2))


def test_streams_have_their_own_batch_sizes():
  part = {'source': f'{__name__}:Rows', 'transform': f'{__name__}:Noise'}
  spec = spec_of(
    streams={
      'labelled': {**part, 'batch_size': 2},
      'unlabelled': {**part, 'batch_size': 6},
    }
  )
  (batch,) = take(spec, 1)
  assert batch['labelled']['index'].shape == (2,)
  assert batch['unlabelled']['index'].shape == (6,)
  assert (batch['labelled']['index'] != batch['unlabelled']['index'][:2]).any()


def test_unreadable_example_is_replaced_by_the_next_and_counted(caplog):
  spec = spec_of(source_kwargs={'broken': (3, 4)})
  batches = take(spec, 5, batch_size=4)
  rows = np.concatenate([b['index'] for b in batches])
  replaced = np.concatenate([b['replaced'] for b in batches])
  assert sorted(rows) == sorted(
    [i for i in range(20) if i not in (3, 4)] + [5, 5]
  )
  assert sorted(replaced) == [0] * 18 + [1, 2]
  assert 'row3.mp4' in caplog.text


def test_source_without_a_readable_example_is_an_error():
  spec = spec_of(source_kwargs={'broken': tuple(range(20))})
  with pytest.raises(decode.VideoError, match='in a row are unreadable'):
    take(spec, 1)


@pytest.mark.parametrize('num_processes', [1, 2])
def test_evaluation_pads_with_masked_zeros(num_processes):
  local = 8 // num_processes
  for p in range(num_processes):
    batches = list(
      pipeline.make_eval_iter(
        spec_of(), batch_size=8, rows=range(p * local, p * local + local)
      )
    )
    assert len(batches) == 3
    last = batches[-1]
    real = np.arange(16 + p * local, 16 + p * local + local) < 20
    np.testing.assert_array_equal(last['mask'], real)
    assert not last['index'][~real].any()
    assert (last['index'][real] >= 16).all()


def test_evaluation_reads_in_order_and_alike_every_time():
  runs = [list(pipeline.make_eval_iter(spec_of(), batch_size=8)) for _ in '12']
  assert_same(*runs)
  rows = np.concatenate([b['index'][b['mask']] for b in runs[0]])
  np.testing.assert_array_equal(rows, np.arange(20))


def test_unreadable_example_in_evaluation_is_an_error():
  spec = spec_of(source_kwargs={'broken': (3,)})
  with pytest.raises(decode.VideoError, match='row3.mp4'):
    list(pipeline.make_eval_iter(spec, batch_size=8))


def test_missing_source_names_the_field():
  with pytest.raises(ValueError, match='data.train.source is empty'):
    take(spec_of(source=''), 1)
