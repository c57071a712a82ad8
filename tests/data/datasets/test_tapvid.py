"""TAP-Vid's pickles and csv files from miniatures."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from vidscenic.data import containers, writer
from vidscenic.data.datasets import tapvid
from vidscenic.importers import formats


def example(seed=0, frames=3, size=(6, 8)):
  rng = np.random.default_rng(seed)
  occluded = np.zeros((2, frames), bool)
  occluded[1, 0] = True
  return {
    'video': rng.integers(0, 256, (frames, *size, 3), dtype=np.uint8),
    'points': rng.random((2, frames, 2)).astype(np.float32),
    'occluded': occluded,
  }


def as_jpegs(entry):
  """The entry as generate_tapvid.py writes it."""
  images = []
  for frame in entry['video']:
    data = io.BytesIO()
    Image.fromarray(frame).save(data, 'JPEG')
    images.append(data.getvalue())
  return {
    'video': np.array(images),
    'points': entry['points'].astype(np.float64),
    'occluded': entry['occluded'],
  }


def dump(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(pickle.dumps(content, protocol=4))


def test_davis_points_become_pixels_of_the_resized_video(tmp_path):
  entry = example()
  # The zip file unpacks to a folder of its own name.
  dump(tmp_path / 'tapvid_davis/tapvid_davis.pkl', {'goat': entry})
  (record,) = list(tapvid.TapVid(str(tmp_path), size=(12, 40)))
  assert record['path'] == 'davis/goat'
  assert record['video'].shape == (3, 12, 40, 3)
  np.testing.assert_allclose(
    record['target_points'], entry['points'] * [40, 12], rtol=1e-6
  )
  x, y = entry['points'][1, 1] * [40, 12]  # track 1 is seen from frame 1 on
  np.testing.assert_allclose(record['query_points'][1], [1, y, x], rtol=1e-6)
  np.testing.assert_array_equal(record['occluded'], entry['occluded'])


def test_frames_are_resized_by_pil_lanczos(tmp_path):
  entry = example(size=(30, 40))
  dump(tmp_path / 'tapvid_davis.pkl', {'goat': entry})
  video = tapvid.TapVid(str(tmp_path), size=(16, 16))[0]['video']
  want = Image.fromarray(entry['video'][2]).resize(
    (16, 16), Image.Resampling.LANCZOS
  )
  np.testing.assert_array_equal(video[2], np.asarray(want))


def test_size_can_stay(tmp_path):
  entry = example()
  dump(tmp_path / 'tapvid_davis.pkl', {'goat': entry})
  record = tapvid.TapVid(str(tmp_path), size=(), queries='strided')[0]
  np.testing.assert_array_equal(record['video'], entry['video'])
  np.testing.assert_array_equal(record['track'], [0])  # visible in frame 0


def test_rgb_stacking_is_a_list(tmp_path):
  dump(tmp_path / 'tapvid_rgb_stacking.pkl', [example(1), example(2)])
  source = tapvid.TapVid(str(tmp_path), 'rgb_stacking')
  assert len(source) == 2
  assert source[1]['path'] == 'rgb_stacking/tapvid_rgb_stacking/1'


def test_robotap_shards_are_joined(tmp_path):
  dump(tmp_path / 'robotap_split1.pkl', {'c': example(3)})
  dump(tmp_path / 'robotap_split0.pkl', {'a': example(1), 'b': example(2)})
  source = tapvid.TapVid(str(tmp_path), 'robotap')
  assert [r['path'] for r in source] == ['robotap/a', 'robotap/b', 'robotap/c']


def test_kinetics_shards_hold_jpeg_bytes(tmp_path):
  entry = example(size=(16, 16), frames=2)
  entry['video'][:] = 90
  for i in range(2):
    dump(tmp_path / f'{i:04d}_of_0002.pkl', [as_jpegs(entry)] * (i + 1))
  source = pickle.loads(
    pickle.dumps(tapvid.TapVid(str(tmp_path), 'kinetics', size=(8, 8)))
  )
  assert len(source) == 3
  record = source[2]
  assert record['path'] == 'kinetics/0001_of_0002/1'
  assert record['video'].shape == (2, 8, 8, 3)
  assert abs(record['video'].astype(int) - 90).max() <= 1
  assert record['target_points'].dtype == np.float32


def test_a_missing_shard_is_named_with_its_origin(tmp_path):
  dump(tmp_path / '0001_of_0002.pkl', [as_jpegs(example())])
  with pytest.raises(
    FileNotFoundError, match='0000_of_0002.pkl is missing.*generate_tapvid.py'
  ):
    tapvid.TapVid(str(tmp_path), 'kinetics')
  with pytest.raises(
    FileNotFoundError,
    match='tapvid_davis.pkl is missing.*dm-tapnet/tapvid_davis.zip',
  ):
    tapvid.TapVid(str(tmp_path), 'davis')


def test_a_pickle_that_calls_something_is_refused(tmp_path):
  class Call:
    def __reduce__(self):
      return print, ('called',)

  dump(tmp_path / 'tapvid_davis.pkl', {'goat': Call()})
  with pytest.raises(formats.UnsafeFile, match='tapvid_davis.pkl'):
    tapvid.TapVid(str(tmp_path))


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    (dict(points=np.zeros((2, 4, 2))), '3 frames, points .2, 4, 2.'),
    (dict(video=np.zeros((3, 4, 5, 4), np.uint8)), 'uint8.3, 4, 5, 4.'),
    (dict(video=np.arange(3)), 'or encoded pictures'),
    (dict(video=3), 'or encoded pictures'),
    (dict(video=np.zeros((0, 4, 5, 3), np.uint8)), '0 frames'),
  ],
)
def test_an_entry_of_another_form_is_named(change, reason, tmp_path):
  dump(tmp_path / 'tapvid_davis.pkl', {'goat': example() | change})
  source = tapvid.TapVid(str(tmp_path))
  with pytest.raises(ValueError, match=f"davis.pkl, video 'goat': .*{reason}"):
    source[0]


def test_an_entry_without_points_is_named(tmp_path):
  entry = example()
  del entry['points']
  dump(tmp_path / 'tapvid_davis.pkl', {'goat': entry})
  with pytest.raises(ValueError, match="'goat': expected .*points"):
    tapvid.TapVid(str(tmp_path))[0]


def csv_row(name, track):
  return ','.join([name, *(str(value) for frame in track for value in frame)])


@pytest.fixture
def csv_folder(tmp_path):
  """Video a has 7 frames and 2 tracks; b has 4 frames and a track of 6."""
  rng = np.random.default_rng(0)
  (tmp_path / 'clips').mkdir()
  for name, frames in (('a', 7), ('b', 4)):
    writer.write_video(
      str(tmp_path / 'clips' / f'{name}.mp4'),
      np.repeat(
        np.arange(frames, dtype=np.uint8)[:, None, None, None] * 30,
        16 * 24 * 3,
        axis=1,
      ).reshape(frames, 16, 24, 3),
      fps=25,
    )
  tracks = rng.random((3, 7, 3)).round(3)
  tracks[..., 2] = [0, 1, 0, 0, 0, 0, 0]
  rows = [
    csv_row('a', tracks[0]),
    csv_row('b', tracks[1, :6]),
    csv_row('a', tracks[2]),
  ]
  (tmp_path / 'tracks.csv').write_text('\r\n'.join(rows) + '\r\n')
  return tmp_path, tracks


def test_csv_tracks_are_grouped_by_video(csv_folder):
  root, tracks = csv_folder
  source = tapvid.TapVidCsv(str(root), 'tracks.csv', 'clips', size=())
  assert [r['path'] for r in source] == ['a', 'b']
  record = source[0]
  assert record['video'].shape == (7, 16, 24, 3)
  np.testing.assert_allclose(
    record['target_points'], tracks[[0, 2], :, :2] * [24, 16], rtol=1e-6
  )
  np.testing.assert_array_equal(record['occluded'], tracks[[0, 2], :, 2] > 0)


def test_a_short_video_cuts_its_tracks(csv_folder):
  root, _ = csv_folder
  record = tapvid.TapVidCsv(str(root), 'tracks.csv', 'clips', size=(8, 8))[1]
  assert record['video'].shape == (4, 8, 8, 3)
  assert record['target_points'].shape == (1, 4, 2)


def test_a_long_video_is_cut_into_equal_parts(csv_folder):
  root, tracks = csv_folder
  source = tapvid.TapVidCsv(
    str(root), 'tracks.csv', 'clips', size=(), max_frames=3
  )
  assert [r['path'] for r in (source[i] for i in range(4))] == [
    'a/0',
    'a/1',
    'a/2',
    'b/0',
  ]
  second = source[1]
  assert second['video'].shape[0] == 2  # frames 2 and 3 of 7
  assert abs(int(second['video'][0, 0, 0, 0]) - 60) <= 4
  np.testing.assert_allclose(
    second['target_points'][0], tracks[0, 2:4, :2] * [24, 16], rtol=1e-6
  )


def test_a_part_beyond_the_end_of_the_video_is_an_error(csv_folder):
  root, _ = csv_folder
  source = tapvid.TapVidCsv(str(root), 'tracks.csv', 'clips', max_frames=1)
  with pytest.raises(containers.VideoError, match='4 frames, its tracks 6'):
    source[-1]


@pytest.mark.parametrize(
  ('line', 'reason'),
  [
    ('a,0.1,0.2', 'line 4: .* got 3 fields'),
    ('a,0.1,x,0', 'line 4: not a number'),
    ('a,0.1,0.2,2', 'line 4: occluded must be 0 or 1'),
    ('a,0.1,nan,0', 'line 4: .*finite'),
    ('a,0.1,0.2,0', 'line 4: 1 frames, but 7 of the same video in .*line 1'),
    ('c,0.1,0.2,0', 'line 4: no video .*c.mp4'),
    ('id,0,10,.1,.2,0', 'line 4: .*tapvid_kinetics.csv.*generate_tapvid.py'),
  ],
)
def test_csv_rows_are_refused_by_line(csv_folder, line, reason):
  root, _ = csv_folder
  with open(root / 'tracks.csv', 'a') as f:
    f.write(line + '\n')
  with pytest.raises((ValueError, FileNotFoundError), match=reason):
    tapvid.TapVidCsv(str(root), 'tracks.csv', 'clips')


@pytest.mark.parametrize(
  'kwargs', [dict(split='x'), dict(queries='x'), dict(size=(0, 3))]
)
def test_wrong_options_are_named(kwargs, tmp_path):
  with pytest.raises(ValueError, match=f'{next(iter(kwargs))} must be'):
    tapvid.TapVid(str(tmp_path), **kwargs)
