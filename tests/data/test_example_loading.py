"""Examples are sampled, augmented, padded; unreadable ones are replaced."""

import io
import multiprocessing
import pickle

import av
import numpy as np
import pytest

from tests.data import make_odd_videos, numbered
from vidscenic.data import decode, example_loading, pipeline, writer


def test_repeats_share_the_sample_but_not_the_augmentation():
  (batch,) = numbered.take(numbered.spec_of(repeats=2), 1)
  assert batch['index'].shape == (8,)
  np.testing.assert_array_equal(batch['sampled'][::2], batch['sampled'][1::2])
  assert (batch['augmented'][::2] != batch['augmented'][1::2]).all()


def test_axes_of_length_zero_are_kept():
  spec = numbered.spec_of(transform=f'{numbered.__name__}:Empty', repeats=2)
  (batch,) = numbered.take(spec, 1)
  assert batch['none'].shape == (8, 0, 2)


def test_unreadable_example_is_replaced_by_the_next_and_counted(caplog):
  spec = numbered.spec_of(source_kwargs={'broken': (3, 4)})
  batches = numbered.take(spec, 5, batch_size=4)
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
  batches = numbered.take(
    numbered.spec_of(source_kwargs=kwargs), 75, batch_size=4
  )
  rows = np.concatenate([b['index'] for b in batches])
  replaced = np.concatenate([b['replaced'] for b in batches])
  assert set(rows) == {*range(40), *range(290, 300)}
  assert replaced.sum() == 250 and (rows[replaced > 0] == 290).all()


def test_source_without_a_readable_example_is_an_error():
  spec = numbered.spec_of(source_kwargs={'broken': tuple(range(20))})
  with pytest.raises(decode.VideoError, match='none of its 20 .* is readable'):
    numbered.take(spec, 1)


@pytest.mark.parametrize('num_processes', [1, 2])
def test_evaluation_pads_with_masked_zeros(num_processes):
  local = 8 // num_processes
  for p in range(num_processes):
    batches = list(
      pipeline.make_eval_iter(
        numbered.spec_of(),
        batch_size=8,
        rows=range(p * local, p * local + local),
      )
    )
    assert len(batches) == 3
    last = batches[-1]
    real = np.arange(16 + p * local, 16 + p * local + local) < 20
    np.testing.assert_array_equal(last['mask'], real)
    assert not last['index'][~real].any()
    assert (last['index'][real] >= 16).all()


def test_evaluation_reads_in_order_and_alike_every_time():
  runs = [
    list(pipeline.make_eval_iter(numbered.spec_of(), batch_size=8))
    for _ in '12'
  ]
  numbered.assert_same(*runs)
  rows = np.concatenate([b['index'][b['mask']] for b in runs[0]])
  np.testing.assert_array_equal(rows, np.arange(20))


def test_unreadable_example_in_evaluation_is_an_error():
  spec = numbered.spec_of(source_kwargs={'broken': (3,)})
  with pytest.raises(decode.VideoError, match='row3.mp4'):
    list(pipeline.make_eval_iter(spec, batch_size=8))


@pytest.mark.parametrize('workers', [0, 1])
def test_padding_reads_no_example_again(workers, monkeypatch):
  monkeypatch.setattr(numbered.Counting, 'reads', [])
  spec = numbered.spec_of(
    source=f'{numbered.__name__}:Counting',
    source_kwargs={'size': 9},
    num_workers=workers,
    num_threads=1,
  )
  batches = list(pipeline.make_eval_iter(spec, batch_size=8))
  assert [b['mask'].sum() for b in batches] == [8, 1]
  assert not batches[1]['sampled'][1:].any()
  if not workers:
    assert sorted(numbered.Counting.reads) == list(range(9))


def test_padded_rows_alone_take_the_shape_of_an_example():
  batches = list(
    pipeline.make_eval_iter(
      numbered.spec_of(source_kwargs={'size': 3}),
      batch_size=8,
      rows=range(4, 8),
    )
  )
  (batch,) = batches
  assert batch['index'].shape == (4,) and not batch['mask'].any()


def test_evaluation_reader_pickles():
  source = numbered.Rows(3)
  load = example_loading.InOrder(source, numbered.Noise(), 2)
  load.map(0)
  again = pickle.loads(pickle.dumps(load))
  numbered.assert_same([again.map(1), again.map(2)], [load.map(1), load.map(2)])


# --- files ---


def folder_spec(path, **changes):
  return numbered.spec_of(
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
  want = numbered.take(folder_spec(tmp_path, num_threads=2), 2)
  before = set(multiprocessing.active_children())
  got = numbered.take(folder_spec(tmp_path, num_workers=2), 2)
  numbered.assert_same(want, got)
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
  batches = numbered.take(spec, 3, batch_size=3)  # one epoch
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
