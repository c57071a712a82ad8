"""Chunks hold exactly the frames of the video, in order, and no more memory."""

import fractions
import itertools
import os
import threading

import av
import numpy as np
import pytest
from PIL import Image

from tests.data import make_odd_videos
from vidscenic.data import decode, resize, stream


@pytest.fixture(scope='module')
def files(odd_videos):
  return odd_videos


@pytest.fixture
def images(tmp_path):
  """A folder of 7 small pictures; picture i has value 10 * i everywhere."""
  for i in range(7):
    picture = np.full((4, 6, 3), 10 * i, np.uint8)
    Image.fromarray(picture).save(tmp_path / f'frame_{i + 5}.png')
  return tmp_path


def codes(frames):
  return [make_odd_videos.read_code(frame) for frame in frames]


def whole(video, length=16, **kwargs):
  """All frames, put together again."""
  chunks = video.chunks(length, **kwargs)
  return np.concatenate([chunk.frames[: chunk.count] for chunk in chunks])


@pytest.mark.parametrize('name', make_odd_videos.NAMES)
def test_chunks_are_the_frames_of_the_exact_reader(files, name):
  video = stream.VideoStream(files[name])
  want = decode.read_frames(files[name], range(video.num_frames))
  got = whole(video)
  first = make_odd_videos.FIRST_CODE.get(name, 0)
  assert codes(got) == list(range(first, first + video.num_frames))
  np.testing.assert_array_equal(got, want)
  np.testing.assert_array_equal(whole(video, 7), want)  # a second pass
  assert not video.damage


@pytest.mark.parametrize('name', ['open_gop.mp4', 'b_frames.avi', 'raw.h264'])
def test_a_stretch_of_the_video(files, name):
  video = stream.VideoStream(files[name])
  chunks = list(video.chunks(8, start=37, stop=57))
  assert [(c.first, c.count) for c in chunks] == [(37, 8), (45, 8), (53, 4)]
  assert codes(whole(video, 8, start=37, stop=57)) == list(range(37, 57))


@pytest.mark.parametrize(
  ('length', 'hop', 'windows'),
  [
    (3, 0, [(0, 3), (3, 3), (6, 1)]),
    (7, 0, [(0, 7)]),
    (10, 0, [(0, 7)]),
    (2, 1, [(i, 2) for i in range(6)]),  # pairs
    (4, 2, [(0, 4), (2, 4), (4, 3)]),
    (5, 2, [(0, 5), (2, 5)]),  # the second reaches the end
    (1, 3, [(0, 1), (3, 1), (6, 1)]),  # every third frame
    (2, 3, [(0, 2), (3, 2), (6, 1)]),
    (2, 6, [(0, 2), (6, 1)]),
    (1, 7, [(0, 1)]),
  ],
)
def test_windows_up_to_the_first_that_reaches_the_end(
  images, length, hop, windows
):
  video = stream.VideoStream(images)
  chunks = list(video.chunks(length, hop=hop))
  assert [(c.first, c.count) for c in chunks] == windows
  for c in chunks:
    held = np.minimum(
      np.arange(c.first, c.first + length), c.first + c.count - 1
    )
    np.testing.assert_array_equal(c.frames[:, 0, 0, 0], 10 * held)
    np.testing.assert_array_equal(
      c.times, video.times[c.first : c.first + c.count]
    )
  shorter = list(video.chunks(length, hop=hop, pad=False))
  assert [len(c.frames) for c in shorter] == [count for _, count in windows]


def test_frames_are_resized_and_given_at_full_size_too(files):
  video = stream.VideoStream(files['plain.mp4'])
  chunk = next(
    video.chunks(5, size=(20, 30), method='lanczos', with_source=True)
  )
  want = decode.read_frames(files['plain.mp4'], range(5))
  np.testing.assert_array_equal(chunk.source, want)
  np.testing.assert_array_equal(
    chunk.frames, resize.resize_frames(want, (20, 30), method='lanczos')
  )
  assert next(video.chunks(5)).source is None


def test_time_stamps_are_those_of_the_file(files):
  video = stream.VideoStream(files['variable_rate.mp4'])
  stamps = make_odd_videos.odd_files()['variable_rate.mp4']['stamps']
  exact = [fractions.Fraction(s - stamps[0], 75) for s in stamps]
  assert [int(p) * video.time_base for p in video.pts] == exact
  np.testing.assert_allclose(video.times, [float(t) for t in exact])
  ntsc = stream.VideoStream(files['ntsc.mp4'])
  assert int(ntsc.pts[30]) * ntsc.time_base == fractions.Fraction(1001, 1000)


def test_times_of_frames_without_stamps_count_from_the_rate(files):
  video = stream.VideoStream(files['raw.h264'])
  assert video.time_base == fractions.Fraction(1, 25)
  np.testing.assert_array_equal(video.pts, np.arange(90))


def test_attributes(files, images):
  video = stream.VideoStream(files['start_offset.mp4'])
  assert (video.name, video.height, video.width) == ('start_offset', 64, 96)
  assert (video.num_frames, video.fps) == (90, 25.0)
  assert video.start == pytest.approx(37 / 25)
  assert not video.has_audio
  assert stream.VideoStream(files['fragmented.mp4']).has_audio
  folder = stream.VideoStream(f'{images}/', fps=10)
  assert (folder.name, folder.num_frames) == (images.name, 7)
  np.testing.assert_allclose(folder.times, np.arange(7) / 10)


# --- folders ---


def test_a_folder_of_pictures_equals_the_video(files, tmp_path):
  want = decode.read_frames(files['plain.mp4'], range(12))
  for i, frame in enumerate(want):
    Image.fromarray(frame).save(tmp_path / f'{i}.png')
  pictures = stream.VideoStream(tmp_path)
  video = stream.VideoStream(files['plain.mp4'])
  size = dict(size=(30, 40), with_source=True, stop=12)
  for a, b in zip(
    pictures.chunks(5, **size), video.chunks(5, **size), strict=True
  ):
    np.testing.assert_array_equal(a.frames, b.frames)
    np.testing.assert_array_equal(a.source, b.source)
    np.testing.assert_allclose(a.times, b.times)
    assert (a.first, a.count) == (b.first, b.count)


def test_pictures_come_in_natural_order_and_other_files_are_left_out(images):
  (images / 'notes.txt').write_text('frames of the cat')
  (images / '._frame_1.png').write_bytes(b'\0')  # macOS leaves these
  (images / 'masks').mkdir()
  Image.new('RGB', (6, 4)).save(images / 'Cover.PNG')
  video = stream.VideoStream(images)
  # 5, 6, ..., 9, 10, 11; capitals sort first.
  assert whole(video)[:, 0, 0, 0].tolist() == [0, *range(0, 70, 10)]


def test_a_picture_of_another_size_is_named(images):
  Image.new('RGB', (6, 5)).save(images / 'frame_7.png')
  with pytest.raises(
    decode.VideoError,
    match=r'frame_7.png: has 5x6 pixels, but frame_5.png has 4x6',
  ):
    stream.VideoStream(images)


def test_a_damaged_picture_is_named(images, caplog):
  path = images / 'frame_9.png'
  path.write_bytes(path.read_bytes()[:45])  # the header is whole
  video = stream.VideoStream(images)
  with caplog.at_level('WARNING', logger='absl'):
    assert len(whole(video)) == 4
  assert f'{path}: image 0: ' in caplog.text
  (images / 'frame_8.png').write_bytes(b'no picture')
  with pytest.raises(decode.VideoError, match='frame_8.png: Unidentified'):
    stream.VideoStream(images)


# --- damage ---


def cut_file(files, folder, share):
  """plain.mp4 without its end; the header stands in front."""
  path = str(folder / 'cut.mp4')
  make_odd_videos.encode(
    path,
    **make_odd_videos.odd_files()['plain.mp4'],
    container_options={'movflags': 'faststart'},
  )
  with open(path, 'r+b') as f:
    f.truncate(int(os.path.getsize(path) * share))
  return path


def damage_packet(source, target, number):
  """Copies an AVI and spoils the payload of one packet."""
  with open(source, 'rb') as f:
    data = bytearray(f.read())
  with av.open(source) as container:
    packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
  position, size = packets[number]
  data[position + 40 : position + size - 40] = b'\xff' * (size - 80)
  target.write_bytes(data)
  return target


def test_stream_ends_in_front_of_damage(files, tmp_path, caplog):
  path = damage_packet(files['b_frames.avi'], tmp_path / 'a.avi', 33)
  video = stream.VideoStream(path)
  assert video.num_frames == 90
  with caplog.at_level('WARNING', logger='absl'):
    got = whole(video, 8)
  # No frame of the damaged group, which begins with 30, behind the damage.
  assert 25 < len(got) < 45
  np.testing.assert_array_equal(
    got, decode.read_frames(files['b_frames.avi'], range(len(got)))
  )
  with pytest.raises(decode.VideoError):
    decode.read_frames(path, [len(got)])
  assert video.num_frames == len(video.times) == len(video.pts) == len(got)
  assert video.damage.startswith(f'frame {len(got)} of 90 cannot be decoded')
  assert f'a.avi: {video.damage}; ' not in caplog.text  # one line, not two
  assert f'the video ends at frame {len(got)}' in caplog.text
  np.testing.assert_array_equal(whole(video, 8), got)  # and does so again


def test_truncated_file_gives_what_it_holds(files, tmp_path):
  video = stream.VideoStream(cut_file(files, tmp_path, 2 / 3))
  got = codes(whole(video))
  assert got == list(range(len(got)))
  assert 40 < len(got) < 90
  assert video.num_frames == len(got)


def test_a_start_behind_damage(files, tmp_path):
  path = damage_packet(files['b_frames.avi'], tmp_path / 'a.avi', 33)
  video = stream.VideoStream(path)
  with pytest.raises(decode.VideoError, match='a.avi: frame 40 of 90 cannot'):
    next(video.chunks(4, start=40))  # keyframes at 30 and 45
  assert codes(whole(video, start=60)) == list(range(60, 90))
  assert not video.damage


def test_odd_decoder_output_is_settled_by_the_exact_reader(files, monkeypatch):
  """As if frames came out of order from number 21 on."""
  original = stream._decode
  monkeypatch.setattr(
    stream, '_decode', lambda *args: itertools.islice(original(*args), 21)
  )
  video = stream.VideoStream(files['open_gop.mp4'])
  assert codes(whole(video)) == list(range(90))
  assert codes(whole(video, start=50)) == list(range(50, 90))


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda d: d / 'none.mp4', 'none.mp4: .*No such file'),
    (lambda d: d, "a folder without pictures .*write '.*/[*].mp4'"),
    (lambda d: text(d, 'list.txt'), 'list.txt: a text file, not a video'),
    (lambda d: text(d, 'a.mp4'), 'a.mp4: InvalidDataError'),
    (lambda d: text(d, 'a.mp4', ''), 'a.mp4: empty'),
  ],
)
def test_what_is_no_video_is_refused_at_once(tmp_path, make, message):
  with pytest.raises(decode.VideoError, match=message):
    stream.VideoStream(make(tmp_path))


def text(folder, name, content='no video\n' * 99):
  (folder / name).write_text(content)
  return folder / name


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    (dict(length=0), 'length=0'),
    (dict(length=2, hop=-1), 'hop=-1'),
    (dict(length=2, start=7), 'start=7 stop=7, want 0 <= start < stop <= 7'),
    (dict(length=2, start=3, stop=3), 'start=3 stop=3'),
    (dict(length=2, stop=8), 'stop=8'),
  ],
)
def test_wrong_arguments_are_refused_before_reading(images, kwargs, message):
  with pytest.raises(ValueError, match=message):
    stream.VideoStream(images).chunks(**kwargs)


# --- reading ahead ---


def test_one_chunk_is_read_ahead_and_no_more(files, monkeypatch):
  converted = []
  original = resize.to_rgb
  monkeypatch.setattr(
    resize, 'to_rgb', lambda *a: converted.append(1) or original(*a)
  )
  video = stream.VideoStream(files['plain.mp4'])
  converted.clear()
  for number, chunk in enumerate(video.chunks(10)):
    assert len(converted) <= 10 * (number + 2)
    assert len(converted) >= chunk.first + chunk.count
  assert len(converted) == 90


def test_leaving_early_ends_the_thread(files):
  chunks = stream.VideoStream(files['plain.mp4']).chunks(4)
  next(chunks)
  assert any(t.name.startswith('decode') for t in threading.enumerate())
  chunks.close()
  assert not any(t.name.startswith('decode') for t in threading.enumerate())


def test_mistakes_in_the_thread_reach_the_caller(images):
  with pytest.raises(ValueError, match='resize method must be one of'):
    next(stream.VideoStream(images).chunks(2, size=(2, 2), method='magic'))


def test_progress_counts_frames_that_were_used(images):
  video = stream.VideoStream(images)
  calls = []
  video.progress = lambda done, total: calls.append((done, total))
  chunks = video.chunks(3)
  next(chunks)
  assert calls == [(0, 7)]  # still at work on the first chunk
  assert len(list(chunks)) == 2
  assert calls == [(0, 7), (3, 7), (6, 7), (7, 7)]
  list(video.chunks(4, hop=2, start=1))
  assert calls[4:] == [(0, 6), (4, 6), (6, 6)]
