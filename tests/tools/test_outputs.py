"""Results belong to their video, and are complete or not there at all."""

import contextlib
import csv
import errno
import fractions
import os
import resource

import av
import numpy as np
import pytest
from PIL import Image

from tests.data import make_odd_videos
from vidscenic.data import decode, stream
from vidscenic.tools import outputs

STAMPS = [0, 1, 5, 6, 7, 20, 21, 30, 31, 32, 33, 50]  # in 1/25 s


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  """12 frames at a variable rate, with 2 s of sound."""
  file = tmp_path_factory.mktemp('source') / 'clip.mp4'
  make_odd_videos.encode(
    str(file),
    'libx264',
    num_frames=12,
    rate=6,
    time_base=fractions.Fraction(1, 25),
    stamps=STAMPS,
    audio=True,
  )
  return file


@pytest.fixture
def video(path):
  return stream.VideoStream(path)


def draw(numbers, **kwargs):
  return np.stack([make_odd_videos.draw(i, **kwargs) for i in numbers])


def read(path):
  """(numbers on the frames, stamps in 1/25 s)."""
  index = decode.index_video(path)
  frames = decode.read_frames(path, range(index.num_frames), index)
  codes = [make_odd_videos.read_code(frame) for frame in frames]
  return codes, (index.times * 25).round(6).tolist()


def sound(path):
  with av.open(str(path)) as container:
    stream_ = container.streams.audio[0]
    unit = stream_.time_base
    found = [p for p in container.demux(stream_) if p.size]
    return [bytes(p) for p in found], [float(p.pts * unit) for p in found]


def names(folder):
  return sorted(os.listdir(folder))


# --- videos ---


def test_video_has_times_and_sound_of_its_source(video, path, tmp_path):
  with outputs.Outputs(tmp_path / 'out', video) as out:
    for chunk in video.chunks(5):
      numbers = range(chunk.first, chunk.first + chunk.count)
      out.frames('overlay', draw(numbers, height=48, width=120))
  (written,) = out.written
  assert written == tmp_path / 'out' / 'overlay.mp4'
  assert read(written) == (list(range(12)), STAMPS)
  data, times = sound(written)
  assert data == sound(path)[0]
  np.testing.assert_allclose(times, sound(path)[1], atol=1e-4)
  assert decode.index_video(written).height == 48


def test_a_part_gets_the_sound_of_that_part(video, tmp_path):
  with outputs.Outputs(tmp_path, video) as out:
    out.frames('part', draw(range(5, 9)), first=5)
    out.frames('part', draw([9]))
  codes, stamps = read(tmp_path / 'part.mp4')
  assert codes == [5, 6, 7, 8, 9]
  assert stamps == [s - 20 for s in STAMPS[5:10]]
  _, times = sound(tmp_path / 'part.mp4')
  # From frame 5 (0.8 s) to frame 10 (1.32 s).
  assert -0.065 < times[0] <= 0
  assert 0.52 - 0.065 < times[-1] < 0.52


def test_frames_may_be_left_out(video, tmp_path):
  with outputs.Outputs(tmp_path, video) as out:
    for number in (2, 5, 11):
      out.frames('some', draw([number]), first=number)
  assert read(tmp_path / 'some.mp4') == ([2, 5, 11], [0, 15, 45])


def test_videos_of_phones_are_written_upright(tmp_path):
  path = tmp_path / 'phone.mp4'
  make_odd_videos.encode(
    str(path), 'libx264', num_frames=9, turn=(-90, False, False)
  )
  video = stream.VideoStream(path)
  assert (video.height, video.width) == (64, 96)
  with outputs.Outputs(tmp_path / 'out', video) as out:
    for chunk in video.chunks(4, pad=False):
      out.frames('copy', chunk.frames)
  with av.open(str(tmp_path / 'out' / 'copy.mp4')) as container:
    frames = list(container.decode(video=0))
  assert not any(frame.rotation for frame in frames)
  pictures = [frame.to_ndarray(format='rgb24') for frame in frames]
  assert pictures[0].shape == (64, 96, 3)
  codes = [make_odd_videos.read_code(picture) for picture in pictures]
  assert codes == [*range(9)]


def test_source_without_sound_or_stamps(tmp_path):
  for i in range(3):
    Image.fromarray(make_odd_videos.draw(i)).save(tmp_path / f'{i}.png')
  video = stream.VideoStream(tmp_path, fps=10)
  with outputs.Outputs(tmp_path / 'out', video) as out:
    for chunk in video.chunks(2, pad=False):
      out.frames('same', chunk.frames)
  assert read(tmp_path / 'out' / 'same.mp4') == ([0, 1, 2], [0, 2.5, 5])
  assert decode.index_video(tmp_path / 'out' / 'same.mp4').fps == 10


@pytest.mark.parametrize(
  ('calls', 'message'),
  [
    (
      [(3, None), (9, None), (1, None)],
      'a.mp4: got frames 12 to 12, want .* 12',
    ),
    ([(2, -1)], 'a.mp4: got frames -1 to 0'),
    ([(2, 4), (1, 5)], 'a.mp4: got frames 5 to 5, want frames from 6 on'),
    ([(1, 12)], 'a.mp4: got frames 12 to 12'),
  ],
)
def test_frames_that_the_source_does_not_have(video, tmp_path, calls, message):
  with pytest.raises(ValueError, match=message):
    with outputs.Outputs(tmp_path, video) as out:
      for count, first in calls:
        out.frames('a', draw(range(count)), first=first)
  assert not names(tmp_path)


@pytest.mark.parametrize(
  'frames', [np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)]
)
def test_frames_of_a_wrong_type(video, tmp_path, frames):
  with pytest.raises(
    ValueError, match=r'a: frames must be uint8\[T, H, W, 3\]'
  ):
    with outputs.Outputs(tmp_path, video) as out:
      out.frames('a', frames)


# --- arrays, tables, pictures ---


def test_arrays_are_what_was_appended(video, tmp_path):
  rng = np.random.default_rng(0)
  parts = [rng.standard_normal((n, 3, 2)).astype(np.float32) for n in (4, 0, 7)]
  flags = rng.random(9) > 0.5
  with outputs.Outputs(tmp_path, video) as out:
    for part in parts:
      out.arrays('tracks', part.transpose(0, 2, 1))  # not contiguous
    for flag in flags:
      out.arrays('visible', [flag])
    out.arrays('empty', np.zeros((0, 5), np.int64))
    out.arrays('names', np.array(['cat', 'apple']))
  assert names(tmp_path) == ['results.npz']
  with np.load(tmp_path / 'results.npz') as got:
    assert set(got) == {'tracks', 'visible', 'empty', 'names'}
    want = np.concatenate(parts).transpose(0, 2, 1)
    np.testing.assert_array_equal(got['tracks'], want, strict=True)
    np.testing.assert_array_equal(got['visible'], flags, strict=True)
    assert (got['empty'].shape, got['empty'].dtype) == ((0, 5), np.int64)
    assert got['names'].tolist() == ['cat', 'apple']


@pytest.mark.parametrize(
  ('second', 'message'),
  [
    (np.zeros((1, 2)), r'a: got float64\[1, 2\], before float32\[.T., 2\]'),
    (np.zeros((1, 3), np.float32), r'a: got float32\[1, 3\], before'),
    (np.float32(0), r'a: got float32\[\], want numbers \[T, ...\]'),
    (np.array([{}]), r'a: got object\[1\], want numbers'),
  ],
)
def test_arrays_that_do_not_fit(video, tmp_path, second, message):
  with pytest.raises(ValueError, match=message):
    with outputs.Outputs(tmp_path, video) as out:
      out.arrays('a', np.zeros((1, 2), np.float32))
      out.arrays('a', second)
  assert not names(tmp_path)


def test_numbers_that_numpy_cannot_store_are_refused(video, tmp_path):
  import ml_dtypes

  with pytest.raises(ValueError, match='convert bfloat16 to float32 first'):
    outputs.Outputs(tmp_path, video).arrays(
      'a', np.zeros(3, ml_dtypes.bfloat16)
    )


def test_table_grows_by_rows(video, tmp_path):
  header = ('frame', 'label', 'score')
  with outputs.Outputs(tmp_path, video) as out:
    out.table('found', header, [(0, 'cat, sitting', 0.5)])
    out.table('found', header, ((i, 'dog', np.float32(0.25)) for i in (1, 2)))
  with open(tmp_path / 'found.csv', newline='') as f:
    assert list(csv.reader(f)) == [
      list(header),
      ['0', 'cat, sitting', '0.5'],
      ['1', 'dog', '0.25'],
      ['2', 'dog', '0.25'],
    ]


@pytest.mark.parametrize(
  ('header', 'row', 'message'),
  [
    (
      ('a', 'c'),
      (1, 2),
      r"t: got the columns \['a', 'c'\], before \['a', 'b'\]",
    ),
    (('a', 'b'), (1,), r'got the row \[1\] for the columns'),
  ],
)
def test_table_rows_that_do_not_fit(video, tmp_path, header, row, message):
  with pytest.raises(ValueError, match=message):
    with outputs.Outputs(tmp_path, video) as out:
      out.table('t', ('a', 'b'), [(1, 2)])
      out.table('t', header, [row])
  assert not names(tmp_path)


def test_picture_is_stored_without_loss(video, tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  with outputs.Outputs(tmp_path, video) as out:
    out.picture('strip', image)
    out.picture('mask', image[..., 0])
    with pytest.raises(ValueError, match='strip.png is written already'):
      out.picture('strip', image)
    with pytest.raises(ValueError, match='must be uint8'):
      out.picture('other', image / 255)
  np.testing.assert_array_equal(Image.open(tmp_path / 'strip.png'), image)
  np.testing.assert_array_equal(
    Image.open(tmp_path / 'mask.png'), image[..., 0]
  )


@pytest.mark.parametrize('name', ['', '../a', 'a/b', '.hidden', 'a b', '-a'])
def test_names_stay_in_the_folder(video, tmp_path, name):
  with pytest.raises(ValueError, match='want a name of letters, digits'):
    outputs.Outputs(tmp_path, video).arrays(name, [1])


# --- all or nothing ---


def write_some(out):
  out.frames('a', draw(range(3)))
  out.arrays('b', [1, 2])
  out.table('c', ('x',), [(1,)])
  out.picture('d', np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize('kind', [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing(video, tmp_path, kind):
  folder = tmp_path / 'new' / 'clip'
  with pytest.raises(kind):
    with outputs.Outputs(folder, video) as out:
      write_some(out)
      assert {n[-5:] for n in names(folder)} == {'.part'}
      raise kind
  assert not folder.exists()


def test_an_error_leaves_older_files_alone(video, tmp_path):
  (tmp_path / 'c.csv').write_text('precious')
  with pytest.raises(RuntimeError):
    with outputs.Outputs(tmp_path, video, overwrite=True) as out:
      write_some(out)
      raise RuntimeError
  assert names(tmp_path) == ['c.csv']
  assert (tmp_path / 'c.csv').read_text() == 'precious'


def test_complete_files_replace_others_only_when_told(video, tmp_path):
  (tmp_path / 'c.csv').write_text('old')
  (tmp_path / 'killed.mp4.part').touch()  # of an earlier run
  with pytest.raises(
    FileExistsError, match=r'holds c.csv already: choose .* pass --overwrite'
  ):
    outputs.Outputs(tmp_path, video)
  with outputs.Outputs(tmp_path, video, overwrite=True) as out:
    write_some(out)
  assert (tmp_path / 'c.csv').read_text() == 'x\n1\n'
  assert {p.name for p in out.written} == {
    'a.mp4',
    'results.npz',
    'c.csv',
    'd.png',
  }
  (tmp_path / 'c.csv').unlink()


@contextlib.contextmanager
def files_of_at_most(size):
  """Makes writing more fail, as on a full disk; Python ignores the signal."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noise(out, rng):
  out.frames('a', rng.integers(0, 256, (12, 256, 256, 3), np.uint8))


@pytest.mark.parametrize(
  ('file', 'write'),
  [
    ('a.mp4', noise),
    ('b.npy', lambda out, rng: out.arrays('b', np.zeros(99_999))),
    (
      'c.csv',
      lambda out, rng: out.table('c', 'x', ([i] for i in range(99_999))),
    ),
    (
      'd.png',
      lambda out, rng: out.picture(
        'd', rng.integers(0, 256, (300, 300, 3), np.uint8)
      ),
    ),
  ],
)
def test_full_disk_names_file_and_remedy(video, tmp_path, file, write):
  with files_of_at_most(50_000), pytest.raises(OSError) as info:
    with outputs.Outputs(tmp_path, video) as out:
      write(out, np.random.default_rng(0))
  assert info.value.errno == errno.EFBIG
  text = str(info.value)
  assert f'cannot write {tmp_path / file}' in text
  assert text.endswith('Raise the limit on file sizes (ulimit -f).')
  assert not names(tmp_path)


def test_failure_while_completing_leaves_nothing(video, tmp_path):
  """Each array fits, the file that joins them does not."""
  with contextlib.ExitStack() as limits:
    with pytest.raises(OSError, match=r'cannot write .*results.npz'):
      with outputs.Outputs(tmp_path, video) as out:
        write_some(out)
        out.arrays('e', np.zeros(5000))
        out.arrays('f', np.zeros(5000))
        limits.enter_context(files_of_at_most(50_000))
  assert not names(tmp_path)


@pytest.mark.parametrize(
  ('folder', 'message'),
  [
    ('gs://bucket/out', '--output=gs://bucket/out: want a local folder'),
    ('a_file', 'a_file is a file; choose another --output'),
    ('a_file/out', 'cannot write .*a_file/out.*Choose another --output'),
  ],
)
def test_folders_that_cannot_be_used(
  video, tmp_path, monkeypatch, folder, message
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'a_file').touch()
  with pytest.raises(OSError, match=message):
    outputs.Outputs(folder, video)
  assert names(tmp_path) == ['a_file']
