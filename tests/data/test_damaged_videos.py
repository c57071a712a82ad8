"""Damaged and odd files end in one kind of error, or in right frames."""

import io
import os

import av
import numpy as np
import pytest

from tests.data import make_odd_videos, seeks
from vidscenic.data import containers, decode, resize


@pytest.fixture(scope='module')
def files(odd_videos):
  return odd_videos


def codes(frames):
  return [make_odd_videos.read_code(frame) for frame in frames]


def damaged_files(files, folder):
  """{kind: path or bytes} that must all end in a VideoError."""
  with open(files['plain.mp4'], 'rb') as f:
    plain = f.read()
  rng = np.random.default_rng(0)

  def write(name, data):
    path = str(folder / name)
    with open(path, 'wb') as f:
      f.write(data)
    return path

  audio_only = io.BytesIO()
  with av.open(audio_only, 'w', format='mp4') as container:
    stream = container.add_stream('aac', rate=16000, layout='mono')
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 4096), np.float32), format='fltp', layout='mono'
    )
    frame.sample_rate = 16000
    container.mux(stream.encode(frame) + stream.encode(None))
  no_frames = io.BytesIO()
  with av.open(no_frames, 'w', format='matroska') as container:
    stream = container.add_stream('mpeg4', rate=25)
    stream.height, stream.width, stream.pix_fmt = 32, 32, 'yuv420p'
    container.start_encoding()
  pipe = str(folder / 'pipe.mp4')
  os.mkfifo(pipe)
  return {
    'missing': str(folder / 'nothing.mp4'),
    'missing folder': str(folder / 'no' / 'such' / 'clip.mp4'),
    'directory': str(folder),
    'pipe': pipe,
    'null byte': 'a\0b.mp4',
    'empty': write('empty.mp4', b''),
    'empty bytes': b'',
    'text': write('text.mp4', b'this is no video\n' * 50),
    'noise': write('noise.mp4', rng.bytes(20_000)),
    'header only': write('header.mp4', plain[:40]),
    'truncated mp4': write('truncated.mp4', plain[: len(plain) // 2]),
    'address': 'http://127.0.0.1:9/clip.mp4',
    'audio only': write('sound.mp4', audio_only.getvalue()),
    'no frames': write('none.mkv', no_frames.getvalue()),
    'playlist': write(
      'list.m3u8', b'#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n'
    ),
  }


def test_unreadable_files_end_in_an_error_that_names_them(files, tmp_path):
  for kind, file in damaged_files(files, tmp_path).items():
    name = '' if isinstance(file, str) else 'shard-0[17]'
    for read in (
      lambda f, n: decode.index_video(f, name=n),
      lambda f, n: decode.read_frames(f, [0], name=n),
    ):
      with pytest.raises(decode.VideoError) as info:
        read(file, name)
      assert info.value.file == (name or file), kind
      assert (name or file) in str(info.value), kind
      assert info.value.reason, kind


def test_truncated_file_delivers_what_it_holds_and_no_more(files, tmp_path):
  path = str(tmp_path / 'front.mp4')
  make_odd_videos.encode(
    path,
    **make_odd_videos.odd_files()['plain.mp4'],
    container_options={'movflags': 'faststart'},  # the header survives a cut
  )
  whole = decode.index_video(path)
  with open(path, 'rb') as f:
    data = f.read()
  cut = data[: len(data) * 2 // 3]
  index = decode.index_video(cut)
  assert 40 < index.num_frames < 90
  assert codes(decode.read_frames(cut, [0, 25], index)) == [0, 25]
  # As with an index from before the accident.
  with pytest.raises(decode.VideoError, match='frame 89 of 90 cannot'):
    decode.read_frames(cut, [3, 89], whole)
  with pytest.raises(decode.VideoError, match='frame 89 asked for, has'):
    decode.read_frames(cut, [89], index)


@pytest.mark.parametrize('name', ['vp9.webm', 'b_frames.avi', 'open_gop.ts'])
def test_truncated_streams_deliver_right_frames_up_to_the_cut(files, name):
  with open(files[name], 'rb') as f:
    data = f.read()
  for share in (0.3, 0.5, 0.77, 0.99):
    cut = data[: int(len(data) * share)]
    index = decode.index_video(cut)
    for i in range(0, index.num_frames, 3):
      # In the last group a frame may be missing that was stored behind a
      # later one; nothing tells.
      complete = i < index.num_frames - 12
      try:
        got = codes(decode.read_frames(cut, [i], index))
      except decode.VideoError:
        assert not complete
      else:
        assert got == [i] or not complete


def test_damage_inside_a_group_of_pictures_is_confined(files):
  with open(files['b_frames.avi'], 'rb') as f:
    data = bytearray(f.read())
  with av.open(files['b_frames.avi']) as container:
    packets = [
      (p.pos, p.size, p.is_keyframe) for p in container.demux(video=0) if p.size
    ]
  position, size, key = packets[33]
  assert not key
  # Behind the picture's header, well before the next chunk's.
  data[position + 40 : position + size - 40] = b'\xff' * (size - 80)
  data = bytes(data)
  index = decode.index_video(data)
  good = decode.read_frames(files['b_frames.avi'], range(90))
  delivered = []
  for i in range(90):
    try:
      frame = decode.read_frames(data, [i], index)[0]
    except decode.VideoError:
      continue
    delivered.append(i)
    # One keyframe every 15 frames: what is delivered is undamaged.
    np.testing.assert_array_equal(frame, good[i])
  assert set(range(25)) <= set(delivered)
  assert set(range(50, 90)) <= set(delivered)
  assert len(delivered) < 90


def test_many_keyframes_and_damage_stay_cheap(files, monkeypatch):
  with open(files['all_intra.mp4'], 'rb') as f:
    data = bytearray(f.read())
  with av.open(files['all_intra.mp4']) as container:
    packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
  position, size = packets[85]
  data[position + 4 : position + size] = bytes(size - 4)
  keys = seeks.spy(monkeypatch)
  with pytest.raises(decode.VideoError, match='frame 85'):
    decode.read_frames(bytes(data), [85])
  assert 5 < len(keys) < 9  # 1, 2, 4, ... keyframes back, not one by one


@pytest.mark.parametrize('seed', range(3))
def test_random_damage_raises_nothing_else(files, seed):
  rng = np.random.default_rng(seed)
  for name in make_odd_videos.NAMES:
    with open(files[name], 'rb') as f:
      data = bytearray(f.read())
    for position in rng.integers(0, len(data), 12):
      data[position] = rng.integers(256)
    data = bytes(data[: rng.integers(len(data) // 2, len(data))])
    try:
      index = decode.index_video(data)
      decode.read_frames(data, rng.integers(0, index.num_frames, 3), index)
    except decode.VideoError:
      continue


@pytest.mark.parametrize('kind', [ValueError, KeyError, MemoryError, OSError])
def test_mistakes_of_callers_are_no_damage(files, kind):
  with pytest.raises(kind, match='ours'):
    with containers.opened(files['plain.mp4']):
      raise kind('ours')


def test_mistakes_while_storing_frames_are_no_damage(files, monkeypatch):
  def fail(self, number, frame):
    raise ValueError('ours')

  monkeypatch.setattr(decode._Sink, 'put', fail)
  for name in ('plain.mp4', 'raw.h264'):
    with pytest.raises(ValueError, match='ours'):
      decode.read_frames(files[name], [3])


@pytest.mark.parametrize('kind', [ValueError, LookupError, MemoryError])
def test_errors_of_the_library_name_the_file(files, kind, monkeypatch):
  def fail(*args):
    raise kind('absurd size')

  monkeypatch.setattr(resize, 'to_rgb', fail)
  with pytest.raises(decode.VideoError, match='plain.mp4.*'):
    decode.read_frames(files['plain.mp4'], [3])
