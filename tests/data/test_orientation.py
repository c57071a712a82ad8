"""Display matrices: what makes the pictures of phones upright."""

import dataclasses

import av
import numpy as np
import pytest

from tests.data import make_odd_videos
from vidscenic.data import (
  containers,
  decode,
  mp4_boxes,
  orientation,
  resize,
  stream,
  video_index,
)

UPRIGHT = orientation.Turn()
SIZE = (64, 96)


def write(path, turn, num_frames=6, **kwargs):
  make_odd_videos.encode(
    str(path), 'libx264', num_frames=num_frames, turn=turn, **kwargs
  )
  return str(path)


def first_frame(path):
  with av.open(path) as container:
    return next(container.decode(video=0))


def from_header(path):
  """What our own parser finds, whatever PyAV can do."""
  matrix = mp4_boxes.display_matrix(path, 1)
  return orientation._from_matrix(matrix, path)


def codes(frames):
  return [make_odd_videos.read_code(frame) for frame in frames]


@pytest.mark.parametrize('turn', make_odd_videos.TURNS)
def test_all_eight_orientations_are_shown_upright(tmp_path, turn):
  path = write(tmp_path / 'phone.mp4', turn)
  index = video_index.index_video(path)
  assert (index.height, index.width) == SIZE
  frames = decode.read_frames(path, [5, 0, 3])
  assert codes(frames) == [5, 0, 3]
  # The pixels are those of the stored picture and no others.
  kept = first_frame(path).to_ndarray(format='rgb24')
  np.testing.assert_array_equal(make_odd_videos.stored(frames[1], turn), kept)
  chunks = stream.VideoStream(path).chunks(4, pad=False)
  assert codes(f for chunk in chunks for f in chunk.frames) == [*range(6)]


@pytest.mark.parametrize('turn', make_odd_videos.TURNS)
def test_header_and_frames_agree(tmp_path, turn):
  path = write(tmp_path / 'phone.mp4', turn)
  want = orientation.of_frame(first_frame(path), path)
  assert video_index.index_video(path).turn == want == from_header(path)
  assert any(want) == (turn != (0, False, False))


@pytest.mark.parametrize('turn', make_odd_videos.TURNS)
def test_filters_do_the_same_to_a_frame(turn, tmp_path):
  turn = from_header(write(tmp_path / 'phone.mp4', turn))
  picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
  graph = av.filter.Graph()
  last = graph.add_buffer(width=8, height=6, format='rgb24', time_base='1/25')
  for name, argument in [*turn.filters(), ('buffersink', '')]:
    node = graph.add(name, argument)
    last.link_to(node)
    last = node
  graph.configure()
  graph.push(av.VideoFrame.from_ndarray(picture, format='rgb24'))
  np.testing.assert_array_equal(graph.pull().to_ndarray(), turn.apply(picture))
  assert turn.size(6, 8) == turn.apply(picture).shape[:2]


def test_pictures_scaled_while_decoding_are_upright_too(tmp_path):
  path = write(tmp_path / 'phone.mp4', (90, False, False), size=(128, 192))
  frames = decode.read_frames(path, range(6), size=SIZE)
  whole = decode.read_frames(path, range(6))
  assert codes(whole) == [*range(6)]
  want = whole.reshape(6, 64, 2, 96, 2, 3).mean((2, 4))
  assert frames.shape == want.shape
  assert np.abs(frames - want).mean() < 6  # the filters differ


def test_bytes_are_turned_like_files(tmp_path):
  path = write(tmp_path / 'phone.mp4', (90, False, False))
  with open(path, 'rb') as f:
    data = f.read()
  assert codes(decode.read_frames(data, [4, 2], name='shard')) == [4, 2]


@pytest.mark.parametrize(
  'movflags', ['faststart', 'frag_keyframe+empty_moov', 'empty_moov']
)
def test_headers_in_any_place(tmp_path, movflags):
  path = write(
    tmp_path / 'phone.mp4',
    (-90, False, False),
    audio=True,
    container_options={'movflags': movflags},
  )
  assert from_header(path) == orientation.of_frame(first_frame(path), path)
  assert mp4_boxes.display_matrix(path, 2).tolist() == [[1, 0], [0, 1]]
  assert mp4_boxes.display_matrix(path, 3) is None


def change_matrix(path, box, numbers):
  """Puts (a, b, c, d) into a header of version 0."""
  with open(path, 'r+b') as f:
    data = f.read()
    place = data.index(box) + 4 + {b'mvhd': 36, b'tkhd': 40}[box]
    a, b, c, d = (int(65536 * n) for n in numbers)
    f.seek(place)
    f.write(np.array([a, b, 0, c, d], '>i4').tobytes())


def test_the_matrix_of_the_whole_movie_counts_too(tmp_path):
  path = write(tmp_path / 'phone.mp4', (90, False, False))
  change_matrix(path, b'mvhd', (-1, 0, 0, 1))  # mirrors what the track turned
  want = orientation.of_frame(first_frame(path), path)
  assert from_header(path) == want
  assert want != orientation.Turn(True, False, True)  # of the track alone


def test_other_angles_are_ignored_with_a_warning(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(containers, '_warned', set())
  path = write(tmp_path / 'phone.mp4', (0, False, False))
  change_matrix(path, b'tkhd', (0.8, 0.6, -0.6, 0.8))
  with caplog.at_level('WARNING', logger='absl'):
    assert video_index.index_video(path).turn == UPRIGHT
  assert 'phone.mp4 is to be shown neither upright nor turned' in caplog.text


def test_frames_that_are_flagged_alone_stay_and_are_told(
  tmp_path, caplog, monkeypatch
):
  monkeypatch.setattr(containers, '_warned', set())
  path = write(tmp_path / 'phone.mp4', (90, False, False))
  index = dataclasses.replace(video_index.index_video(path), turn=UPRIGHT)
  with caplog.at_level('WARNING', logger='absl'):
    got = decode.read_frames(path, [0, 1], index)
  want = resize.to_rgb(first_frame(path), *SIZE)
  np.testing.assert_array_equal(got[0], want)
  assert len(caplog.messages) == 1
  assert 'flagged as rotated by 90 degrees, its header is not' in caplog.text


@pytest.mark.parametrize('cut', [0, 7, 40, 200, 700])
def test_damaged_headers_have_no_matrix(tmp_path, cut):
  path = write(
    tmp_path / 'phone.mp4',
    (90, False, False),
    container_options={'movflags': 'faststart'},
  )
  with open(path, 'rb') as f:
    data = f.read()
  rng = np.random.default_rng(cut)
  noisy = bytearray(data)
  for place in rng.integers(0, 800, 60):
    noisy[place] = rng.integers(256)
  for damaged in (data[:cut], rng.bytes(cut), bytes(noisy)):
    matrix = mp4_boxes.display_matrix(damaged, 1)
    assert matrix is None or matrix.shape == (2, 2)
