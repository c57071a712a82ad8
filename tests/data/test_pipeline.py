"""The stream of batches is a function of (seed, batch number)."""

import io
import itertools
import multiprocessing
import pickle
import sys

import av
import numpy as np
import pytest

from tests.data import make_odd_videos
from vidscenic import config as vc
from vidscenic.data import decode, pipeline, writer

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


def test_stream_depends_on_the_seed_only():
  assert_same(take(spec_of(), 4), take(spec_of(), 4))
  other = take(spec_of(), 4, seed=2)
  assert any(
    (a['index'] != b['index']).any()
    for a, b in zip(take(spec_of(), 4), other, strict=True)
  )


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
EACH_KIND = pytest.mark.parametrize('kind', KINDS)


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


def rows_of(kind, rows):
  return {'a': rows, 'b': rows} if kind == 'streams' else rows


@EACH_KIND
def test_resuming_is_slicing(kind):
  spec = spec_of(**KINDS[kind])
  assert_same(flat(take(spec, 7)[4:]), flat(take(spec, 3, start=4)))
  rows = rows_of(kind, range(4, 8))
  assert_same(
    flat(take(spec, 7, rows=rows)[4:]),
    flat(take(spec, 3, rows=rows, start=4)),
  )


def test_workers_resume_like_threads():
  want = take(spec_of(), 7)[4:]
  spec = spec_of(num_workers=2)
  assert_same(want, take(spec, 3, start=4))
  half = take(spec, 3, rows=range(4, 8), start=4)
  assert_same([{k: v[4:] for k, v in b.items()} for b in want], half)


def test_workers_resume_mixtures_and_streams_like_threads():
  streams = KINDS['streams']['streams']  # of which b is a mixture
  want = take(spec_of(streams=streams), 7)[4:]
  streams = {**streams, 'b': {**streams['b'], 'num_workers': 2}}
  assert_same(flat(want), flat(take(spec_of(streams=streams), 3, start=4)))


def test_workers_leave_jax_on_the_cpu(monkeypatch):
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  spec = spec_of(num_workers=1, transform=f'{__name__}:Platform')
  (batch,) = take(spec, 1)
  assert batch['is_cpu'].all()


def test_axes_of_length_zero_are_kept():
  spec = spec_of(transform=f'{__name__}:Empty', repeats=2)
  (batch,) = take(spec, 1)
  assert batch['none'].shape == (8, 0, 2)


@pytest.mark.parametrize('changes', [{'num_threads': 3}, {'num_workers': 2}])
def test_readers_do_not_change_the_batches(changes):
  assert_same(take(spec_of(num_threads=1), 4), take(spec_of(**changes), 4))


@EACH_KIND
def test_rows_of_processes_make_up_the_global_batch(kind):
  spec = spec_of(**KINDS[kind])
  whole = flat(take(spec, 5))
  parts = [
    flat(take(spec, 5, rows=rows_of(kind, range(p * 2, p * 2 + 2))))
    for p in range(4)
  ]
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
  # A share of rows, which the guard sums: not the number of skips.
  assert sorted(replaced) == [0] * 18 + [1, 1]
  assert 'data.train: the next readable' in caplog.text
  assert 'row3.mp4' in caplog.text


def test_hole_of_many_neighbours_is_crossed():
  kwargs = {'size': 300, 'broken': tuple(range(40, 290))}
  batches = take(spec_of(source_kwargs=kwargs), 75, batch_size=4)
  rows = np.concatenate([b['index'] for b in batches])
  replaced = np.concatenate([b['replaced'] for b in batches])
  assert set(rows) == {*range(40), *range(290, 300)}
  assert replaced.sum() == 250 and (rows[replaced > 0] == 290).all()


def test_source_without_a_readable_example_is_an_error():
  spec = spec_of(source_kwargs={'broken': tuple(range(20))})
  with pytest.raises(decode.VideoError, match='none of its 20 .* is readable'):
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


@pytest.mark.parametrize('workers', [0, 1])
def test_padding_reads_no_example_again(workers, monkeypatch):
  monkeypatch.setattr(Counting, 'reads', [])
  spec = spec_of(
    source=f'{__name__}:Counting',
    source_kwargs={'size': 9},
    num_workers=workers,
    num_threads=1,
  )
  batches = list(pipeline.make_eval_iter(spec, batch_size=8))
  assert [b['mask'].sum() for b in batches] == [8, 1]
  assert not batches[1]['sampled'][1:].any()
  if not workers:
    assert sorted(Counting.reads) == list(range(9))


def test_padded_rows_alone_take_the_shape_of_an_example():
  batches = list(
    pipeline.make_eval_iter(
      spec_of(source_kwargs={'size': 3}), batch_size=8, rows=range(4, 8)
    )
  )
  (batch,) = batches
  assert batch['index'].shape == (4,) and not batch['mask'].any()


def test_evaluation_reader_pickles():
  source = Rows(3)
  load = pipeline._LoadInOrder(source, Noise(), 2)
  load.map(0)
  again = pickle.loads(pickle.dumps(load))
  assert_same([again.map(1), again.map(2)], [load.map(1), load.map(2)])


# --- names and checks ---


def test_missing_source_names_the_field():
  with pytest.raises(ValueError, match='^data.train.source is empty'):
    take(spec_of(source=''), 1)
  with pytest.raises(ValueError, match='^data.source is empty'):
    pipeline.make_eval_iter(spec_of(source=''), batch_size=8)
  with pytest.raises(ValueError, match='^evals.a.kwargs.data.source is empty'):
    pipeline.make_eval_iter(
      spec_of(source=''), batch_size=8, name='evals.a.kwargs.data'
    )


def test_evaluation_refuses_repeats():
  with pytest.raises(ValueError, match='^data.repeats=2: evaluation wants 1'):
    pipeline.make_eval_iter(spec_of(repeats=2), batch_size=8)


@pytest.mark.parametrize('field', ['num_threads', 'num_workers'])
def test_parts_of_a_mixture_have_no_readers(field):
  with pytest.raises(ValueError, match=f'data.train.mixture.a.{field}=2: set'):
    spec_of(mixture={'a': {**PART, field: 2}})


def test_check_spec_reads_no_example():
  spec = spec_of(source_kwargs={'broken': tuple(range(20))})
  assert pipeline.check_spec(spec, 'data.train') is None


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({}, 'x'),
    ({'mixture': {'a': PART, 'b': None}}, 'x.mixture.b'),
    ({'streams': {'b': {'batch_size': 1}}}, 'x.streams.b'),
    (
      {'streams': {'b': {'batch_size': 1, 'mixture': {'c': None}}}},
      'x.streams.b.mixture.c',
    ),
  ],
)
@pytest.mark.parametrize(
  ('wrong', 'error'),
  [
    ({'source': ''}, r'\.source is empty'),
    ({'source': 'no.such:Source'}, r"\.source='no.such:Source': no module"),
    ({'source_kwargs': {'sise': 3}}, ": .*'sise' is unknown"),
    ({'source_kwargs': {'size': 0}}, ': the source .* is empty'),
    ({'transform': f'{__name__}:Nose'}, r'\.transform=.*did you mean'),
  ],
)
def test_check_spec_names_the_field(changes, message, wrong, error):
  wrong = {**PART, **wrong}

  def fill(value):
    if value is None:
      return wrong
    if isinstance(value, dict):
      value = {k: fill(v) for k, v in value.items()}
      if 'batch_size' in value and 'mixture' not in value:
        value = {**wrong, **value}
    return value

  spec = spec_of(**(fill(changes) if changes else wrong))
  with pytest.raises(ValueError, match=f'^{message}{error}'):
    pipeline.check_spec(spec, 'x')


# --- files ---


def folder_spec(path, **changes):
  return spec_of(
    source='vidscenic.data.sources:VideoFolder',
    source_kwargs={'path': str(path)},
    transform='vidscenic.data.clips:ClipTransform',
    transform_kwargs={
      'num_frames': 4,
      'size': (32, 40),
      'train': changes.pop('train', True),
    },
    **changes,
  )


def write_videos(folder, count=4):
  for i in range(count):
    frames = np.stack([make_odd_videos.draw(8 * i + t) for t in range(6)])
    writer.write_video(folder / f'good{i}.mp4', frames, 8)


def test_workers_read_files_like_threads_and_end(tmp_path):
  write_videos(tmp_path)
  want = take(folder_spec(tmp_path, num_threads=2), 2)
  before = set(multiprocessing.active_children())
  got = take(folder_spec(tmp_path, num_workers=2), 2)
  assert_same(want, got)
  for child in set(multiprocessing.active_children()) - before:
    child.join(10)
  assert set(multiprocessing.active_children()) <= before


def bad_files(folder):
  """Writes one file of each kind; returns their names."""
  good = (folder / 'good0.mp4').read_bytes()
  (folder / 'empty.mp4').write_bytes(b'')
  (folder / 'truncated.mp4').write_bytes(good[: len(good) // 2])
  sound, nothing = io.BytesIO(), io.BytesIO()
  with av.open(sound, 'w', format='mp4') as container:
    stream = container.add_stream('aac', rate=16000, layout='mono')
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 4096), np.float32), format='fltp', layout='mono'
    )
    frame.sample_rate = 16000
    container.mux(stream.encode(frame) + stream.encode(None))
  with av.open(nothing, 'w', format='matroska') as container:
    stream = container.add_stream('mpeg4', rate=25)
    stream.height, stream.width, stream.pix_fmt = 32, 32, 'yuv420p'
    container.start_encoding()
  (folder / 'audio_only.mp4').write_bytes(sound.getvalue())
  (folder / 'no_frames.mkv').write_bytes(nothing.getvalue())
  names = ['empty', 'truncated', 'audio_only']
  return [f'{name}.mp4' for name in names] + ['no_frames.mkv', 'missing.mp4']


def test_bad_files_are_replaced_counted_and_named(tmp_path, caplog):
  write_videos(tmp_path)
  bad = bad_files(tmp_path)
  names = [f'good{i}.mp4' for i in range(4)] + bad
  (tmp_path / 'list.txt').write_text('\n'.join(f'{n} 0' for n in names))
  spec = folder_spec(tmp_path / 'list.txt')
  batches = take(spec, 3, batch_size=3)  # one epoch
  assert sum(b['replaced'].sum() for b in batches) == len(bad)
  assert all(b['mask'].all() and b['video'].any() for b in batches)
  for name in bad:
    assert name in caplog.text


@pytest.mark.parametrize('index', range(5))
def test_bad_files_end_an_evaluation(tmp_path, index):
  write_videos(tmp_path, 1)
  name = bad_files(tmp_path)[index]
  (tmp_path / 'list.txt').write_text(f'good0.mp4 0\n{name} 0')
  spec = folder_spec(tmp_path / 'list.txt', train=False)
  with pytest.raises(decode.VideoError, match=name):
    list(pipeline.make_eval_iter(spec, batch_size=2))
