"""Frames are the right ones, and damaged files end in one kind of error."""

import fractions
import io
import os
import pickle
import threading

import av
import numpy as np
import pytest
from PIL import Image

from tests.data import make_odd_videos, seeks
from vidscenic.data import containers, decode, video_index

# FFmpeg's guess of the time stamps is wrong there, or there are none.
SEQUENTIAL = {'h264.avi', 'raw.h264', 'packed.avi'}


@pytest.fixture(scope='module')
def files(odd_videos):
  return odd_videos


def codes(frames):
  return [make_odd_videos.read_code(frame) for frame in frames]


def requests(num_frames):
  """Index lists that a loader may ask for."""
  rng = np.random.default_rng(0)
  last = num_frames - 1
  yield [0]
  yield [last]
  yield [num_frames // 2]
  yield range(3, 3 + 16 * 2, 2)
  yield range(last, last - 12, -1)
  yield [7, 7, 3, 7, last, last]
  yield np.linspace(0, last, 5).astype(int)
  for count in (1, 1, 1, 2, 5, 16):
    yield rng.integers(0, num_frames, count)


@pytest.mark.parametrize('name', make_odd_videos.NAMES)
def test_every_requested_frame_is_the_right_one(files, name):
  index = decode.index_video(files[name])
  first = make_odd_videos.FIRST_CODE.get(name, 0)
  expected = {'packed.avi': 61}.get(name, 90 - first)
  assert index.num_frames == expected
  assert index.sequential == (name in SEQUENTIAL)
  assert (index.height, index.width) == (64, 96)
  for indices in [range(expected), *requests(expected)]:
    frames = decode.read_frames(files[name], indices, index)
    assert codes(frames) == [first + i for i in indices], list(indices)


@pytest.mark.parametrize('name', ['open_gop.mp4', 'vp9.webm', 'b_frames.avi'])
def test_bytes_read_like_files(files, name):
  with open(files[name], 'rb') as f:
    data = f.read()
  indices = [80, 3, 41]
  np.testing.assert_array_equal(
    decode.read_frames(memoryview(data), indices),
    decode.read_frames(files[name], indices),
  )


@pytest.mark.parametrize('name', ['plain.mp4', 'vp9.webm', 'b_frames.avi'])
def test_pictures_equal_plain_decoding(files, name):
  with av.open(files[name]) as container:
    want = [f.to_ndarray(format='rgb24') for f in container.decode(video=0)]
  got = decode.read_frames(files[name], range(90))
  np.testing.assert_array_equal(got, np.stack(want))


@pytest.mark.parametrize(
  'name, fps',
  [
    ('plain.mp4', 25.0),
    ('vp9.webm', 25.0),
    ('ntsc.mp4', 30000 / 1001),
    ('open_gop.ts', 25.0),
    ('b_frames.avi', 25.0),
  ],
)
def test_frame_rate_and_times(files, name, fps):
  index = decode.index_video(files[name])
  assert index.fps == pytest.approx(fps, rel=1e-6)
  np.testing.assert_allclose(index.times, np.arange(90) / fps, atol=1.1e-3)
  assert index.duration == pytest.approx(90 / fps, abs=2e-3)


def test_times_of_a_variable_rate(files):
  index = decode.index_video(files['variable_rate.mp4'])
  stamps = make_odd_videos.odd_files()['variable_rate.mp4']['stamps']
  want = (np.array(stamps) - stamps[0]) / 75
  np.testing.assert_allclose(index.times, want, atol=1e-4)
  assert index.fps == pytest.approx(89 / want[-1], rel=0.01)


def test_start_offset_is_reported_and_sound_is_noticed(files):
  offset = decode.index_video(files['start_offset.mp4'])
  assert offset.start == pytest.approx(37 / 25)
  assert offset.times[0] == 0
  assert not offset.has_audio
  assert decode.index_video(files['fragmented.mp4']).has_audio


def test_distant_frames_are_reached_by_seeking(files, monkeypatch):
  keys = seeks.spy(monkeypatch)
  frames = decode.read_frames(files['plain.mp4'], [0, 1, 22, 62, 85, 86])
  assert codes(frames) == [0, 1, 22, 62, 85, 86]
  # Keyframes at 0, 20, 40, 60, 80.
  assert keys == [0, 1, 3, 4]


def test_resize_while_decoding(files):
  frames = decode.read_frames(files['plain.mp4'], [5, 50], size=(32, 48))
  assert frames.shape == (2, 32, 48, 3)
  full = decode.read_frames(files['plain.mp4'], [5, 50])
  want = np.stack(
    [np.asarray(Image.fromarray(f).resize((48, 32), 2)) for f in full]
  )
  assert np.abs(frames.astype(int) - want).mean() < 3


def test_empty_request_gives_no_frames(files):
  assert decode.read_frames(files['plain.mp4'], []).shape == (0, 64, 96, 3)


def test_index_is_cached_until_the_file_changes(files, tmp_path):
  path = str(tmp_path / 'clip.mp4')
  for name, length in (('plain.mp4', 90), ('edit_list.mp4', 80)):
    with open(files[name], 'rb') as f:
      data = f.read()
    with open(path, 'wb') as f:
      f.write(data)
    os.utime(path, ns=(length, length))
    index = decode.index_video(path)
    assert index.num_frames == length
    assert decode.index_video(path) is index


def test_cache_forgets_the_least_recently_used():
  cache = video_index._IndexCache(max_frames=10)

  class Index:
    num_frames = 4

  first, second, third = Index(), Index(), Index()
  cache.put('a', first)
  cache.put('b', second)
  assert cache.get('a') is first
  cache.put('c', third)
  assert cache.get('b') is None
  assert cache.get('a') is first and cache.get('c') is third


def test_threads_share_files(files):
  failures = []

  def work(seed):
    rng = np.random.default_rng(seed)
    for _ in range(6):
      name = ('open_gop.mp4', 'vp9.webm', 'plain.mp4')[rng.integers(3)]
      indices = rng.integers(0, 90, 4)
      if codes(decode.read_frames(files[name], indices)) != list(indices):
        failures.append((name, indices))

  threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not failures


@pytest.mark.parametrize(
  'indices, match',
  [([-1], '>= 0'), ([[0]], r'int\[n\]'), ([0.5], r'int\[n\]')],
)
def test_wrong_indices_are_programming_errors(files, indices, match):
  with pytest.raises(ValueError, match=match):
    decode.read_frames(files['plain.mp4'], indices)


def test_error_survives_pickling():
  error = pickle.loads(pickle.dumps(decode.VideoError('a.mp4', 'broken')))
  assert (error.file, error.reason) == ('a.mp4', 'broken')
  assert str(error) == 'a.mp4: broken'


def test_names_with_colons_and_spaces(files, tmp_path, monkeypatch):
  with open(files['plain.mp4'], 'rb') as f:
    data = f.read()
  monkeypatch.chdir(tmp_path)
  for name in ('a:b.mp4', 'file:c.mp4', 'd e %03d.mp4', 'ü#;(.mp4'):
    (tmp_path / name).write_bytes(data)
    assert codes(decode.read_frames(name, [7])) == [7]


def test_cover_picture_is_not_the_video(tmp_path):
  cover = io.BytesIO()
  Image.new('RGB', (8, 8)).save(cover, 'JPEG')
  path = str(tmp_path / 'song.mp4')
  with av.open(path, 'w') as container:
    stream = container.add_stream('mjpeg', rate=1)
    stream.height, stream.width, stream.pix_fmt = 8, 8, 'yuvj420p'
    stream.disposition = av.stream.Disposition.attached_pic
    frame = av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), 'rgb24')
    container.mux(stream.encode(frame) + stream.encode(None))
  with pytest.raises(decode.VideoError, match='no video stream'):
    decode.index_video(path)


def test_tags_in_an_old_code_page_are_no_damage(tmp_path):
  path = tmp_path / 'old.mp4'
  with av.open(str(path), 'w') as container:
    container.metadata['title'] = 'Cafe XYZ'
    stream = container.add_stream('libx264', rate=25)
    stream.height, stream.width, stream.pix_fmt = 64, 96, 'yuv420p'
    frame = av.VideoFrame.from_ndarray(make_odd_videos.draw(0), 'rgb24')
    container.mux(stream.encode(frame) + stream.encode(None))
  content = path.read_bytes()
  assert content.count(b'Cafe XYZ') == 1
  path.write_bytes(content.replace(b'Cafe XYZ', 'Café XYZ'.encode('latin-1')))
  assert decode.index_video(path).num_frames == 1


def test_rotation_is_applied_and_aspect_warns_once(
  tmp_path, monkeypatch, caplog
):
  monkeypatch.setattr(containers, '_warned', set())
  path = str(tmp_path / 'phone.mp4')
  with av.open(path, 'w') as container:
    stream = container.add_stream('libx264', rate=25)
    stream.height, stream.width, stream.pix_fmt = 64, 96, 'yuv420p'
    stream.codec_context.sample_aspect_ratio = fractions.Fraction(4, 3)
    stream.set_display_rotation(90)
    for i in range(5):
      stored = make_odd_videos.stored(
        make_odd_videos.draw(i, 96, 64), (90, False, False)
      )
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), 'rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  with caplog.at_level('WARNING', logger='absl'):
    for _ in range(3):
      with open(path, 'rb') as f:
        frames = decode.read_frames(f.read(), [0, 4], name='phone.mp4')
  assert codes(frames) == [0, 4]
  messages = [record.getMessage() for record in caplog.records]
  assert not [m for m in messages if 'rotated by' in m]
  assert len([m for m in messages if 'aspect ratio 4/3' in m]) == 1
