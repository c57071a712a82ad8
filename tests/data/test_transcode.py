"""Re-encoding keeps frames, times, colours and sound."""

import fractions
import os

import av
import numpy as np
import pytest

from tests.data import make_odd_videos
from vidscenic.data import audio, containers, decode, transcode, writer

ODD = make_odd_videos.odd_files()


def run(source, tmp_path, **settings):
  """(index, frames) of the result."""
  target = str(tmp_path / 'out.mp4')
  transcode.transcode(str(source), target, transcode.Settings(**settings))
  index = decode.index_video(target)
  return index, decode.read_frames(target, np.arange(index.num_frames))


def codes(frames):
  return [make_odd_videos.read_code(frame) for frame in frames]


def write(path, num_frames=8, size=(64, 96), **stream):
  """Bar code frames with attributes set on the stream or its encoder."""
  rotation = stream.pop('rotation', 0)
  pix_fmt = stream.pop('pix_fmt', 'yuv420p')
  with av.open(str(path), 'w') as container:
    output = container.add_stream('libx264', rate=25, options={'crf': '5'})
    output.height, output.width, output.pix_fmt = *size, pix_fmt
    if rotation:
      output.set_display_rotation(rotation)
    for name, value in stream.items():
      setattr(output.codec_context, name, value)
    for number in range(num_frames):
      frame = av.VideoFrame.from_ndarray(
        make_odd_videos.draw(number, *size), format='rgb24'
      ).reformat(
        format=pix_fmt,
        dst_colorspace=stream.get('colorspace'),
        dst_color_range=stream.get('color_range'),
      )
      frame.pts, frame.time_base = number, fractions.Fraction(1, 25)
      container.mux(output.encode(frame))
    container.mux(output.encode(None))
  return path


@pytest.mark.parametrize(
  'name',
  ['variable_rate.mp4', 'start_offset.mp4', 'b_frames.avi', 'raw.h264'],
)
def test_every_frame_keeps_its_place_and_time(name, tmp_path):
  source = str(tmp_path / name)
  make_odd_videos.encode(source, **ODD[name])
  index, frames = run(source, tmp_path)
  assert codes(frames) == list(range(90))
  want = decode.index_video(source)
  np.testing.assert_allclose(index.times, want.times, atol=1e-6)
  assert not index.sequential
  keys = np.searchsorted(index.pts, index.key_pts)
  assert np.diff([*keys, 90]).max() <= 32


def test_pictures_are_those_of_the_input(tmp_path):
  source = write(tmp_path / 'in.mp4')
  _, frames = run(source, tmp_path, crf=5)
  want = decode.read_frames(str(source), np.arange(8))
  assert np.abs(frames.astype(int) - want).mean() < 1  # of 255


@pytest.mark.parametrize(
  'how',
  [
    {'colorspace': 1, 'color_range': 1},  # BT.709
    {'colorspace': 1, 'color_range': 2, 'pix_fmt': 'yuvj420p'},  # 0 to 255
    {'colorspace': 1, 'color_range': 1, 'pix_fmt': 'yuv422p'},
  ],
)
def test_colours_keep_their_meaning(how, tmp_path):
  source = write(tmp_path / 'in.mp4', **how)
  _, frames = run(source, tmp_path, crf=5)
  want = decode.read_frames(str(source), np.arange(8))
  # Without its tags BT.709 is off by 1 to 2 in the mean of a channel.
  difference = (frames.astype(int) - want).mean((0, 1, 2))
  np.testing.assert_allclose(difference, 0, atol=0.4)


@pytest.mark.parametrize('degrees', [90, -90, 180])
def test_flagged_rotation_is_applied(degrees, tmp_path):
  source = write(tmp_path / 'in.mp4', rotation=degrees)
  _, frames = run(source, tmp_path, crf=5)
  upright = np.rot90(make_odd_videos.draw(0), degrees // 90)
  assert frames[0].shape == upright.shape
  assert np.abs(frames[0].astype(int) - upright).mean() < 5  # chroma, 4:2:0


def test_pixels_become_square(tmp_path):
  wide = fractions.Fraction(2)
  source = write(tmp_path / 'in.mp4', sample_aspect_ratio=wide)
  index, frames = run(source, tmp_path)
  assert (index.height, index.width) == (64, 192)
  assert codes(frames) == list(range(8))


@pytest.mark.parametrize(
  ('size', 'short_side', 'want'),
  [
    ((64, 96), 32, (32, 48)),
    ((96, 64), 32, (48, 32)),
    ((64, 96), 64, (64, 96)),
    ((64, 96), 256, (64, 96)),  # none is enlarged
    ((64, 90), 31, (32, 44)),  # sides are even
  ],
)
def test_short_side(size, short_side, want, tmp_path):
  source = write(tmp_path / 'in.mp4', num_frames=2, size=size)
  index, _ = run(source, tmp_path, short_side=short_side)
  assert (index.height, index.width) == want


def test_odd_edge_is_cropped_not_scaled(tmp_path):
  source = str(tmp_path / 'in.mkv')
  with av.open(source, 'w') as container:
    stream = container.add_stream('ffv1', rate=25)
    stream.height, stream.width, stream.pix_fmt = 65, 97, 'yuv444p'
    frame = av.VideoFrame.from_ndarray(
      make_odd_videos.draw(5, 65, 97), format='rgb24'
    )
    frame.pts, frame.time_base = 0, fractions.Fraction(1, 25)
    container.mux(stream.encode(frame) + stream.encode(None))
  _, frames = run(source, tmp_path, crf=0)
  want = make_odd_videos.draw(5, 65, 97)[:64, :96]
  assert np.abs(frames[0, :16].astype(int) - want[:16]).mean() < 1


def test_constant_rate_shows_what_was_seen_then(tmp_path):
  source = str(tmp_path / 'variable_rate.mp4')
  make_odd_videos.encode(source, **ODD['variable_rate.mp4'])
  times = decode.index_video(source).times
  index, frames = run(source, tmp_path, fps=12.5)
  assert index.fps == 12.5
  np.testing.assert_allclose(np.diff(index.times), 1 / 12.5, atol=1e-6)
  shown = times[codes(frames)]
  # Frames are at most 5/75 s apart and times are rounded to 1/12.5 s.
  assert np.abs(shown - index.times).max() <= 0.5 / 12.5 + 5 / 75


@pytest.mark.parametrize('channels', [1, 2])
def test_sound_stays_with_the_pictures(channels, tmp_path, monkeypatch):
  monkeypatch.setattr(transcode, '_SOUND_S', 0.3)  # seams
  t = np.arange(32_000) / 16_000
  sound = 0.5 * np.sin(2 * np.pi * np.outer(t, [440, 660][:channels]))
  sound[: 8_000 + 1_000 * channels] = 0
  source = str(tmp_path / 'in.mp4')
  frames = [make_odd_videos.draw(i) for i in range(50)]
  writer.write_video(source, frames, 25, sound, audio_rate=16_000)
  index, _ = run(source, tmp_path)
  assert transcode.describe(str(tmp_path / 'out.mp4'))['audio_rate'] == 16_000
  got = audio.read_audio(
    str(tmp_path / 'out.mp4'),
    0.0,
    2.0,
    16_000,
    channels == 1,
    origin_s=index.start,
  )
  assert np.abs(got - sound).mean() < 0.005  # one sample off: 0.03


def test_sound_can_be_dropped(tmp_path):
  source = str(tmp_path / 'in.mp4')
  frames = [make_odd_videos.draw(i) for i in range(4)]
  writer.write_video(source, frames, 25, np.zeros(4_000), audio_rate=16_000)
  index, _ = run(source, tmp_path, sound=False)
  assert not index.has_audio


def test_damaged_file_is_an_error(tmp_path):
  source = str(tmp_path / 'plain.mp4')
  make_odd_videos.encode(source, **ODD['plain.mp4'])
  with open(source, 'r+b') as f:
    f.seek(os.path.getsize(source) // 2)
    f.write(bytes(200))
  with pytest.raises(containers.VideoError, match='plain.mp4'):
    run(source, tmp_path)


def test_unwritable_target_is_no_fault_of_the_video(tmp_path):
  source = write(tmp_path / 'in.mp4')
  with pytest.raises(OSError, match='No such file'):
    transcode.transcode(
      str(source), str(tmp_path / 'none' / 'out.mp4'), transcode.Settings()
    )


def test_suitable_files_are_copied(tmp_path):
  source = tmp_path / 'in.mp4'
  frames = [make_odd_videos.draw(i) for i in range(40)]
  writer.write_video(source, frames, 25, np.zeros(1_000), keyframe_every=32)
  settings = transcode.Settings(short_side=64, only_if_needed=True)
  target = tmp_path / 'out.mp4'
  assert not transcode.transcode(str(source), str(target), settings)
  assert target.read_bytes() == source.read_bytes()
  for change in (
    {'short_side': 48},
    {'fps': 20},
    {'sound': False},
    {'only_if_needed': False},
  ):
    changed = settings._replace(**change)
    assert transcode.transcode(str(source), str(target), changed), change


@pytest.mark.parametrize(
  'how',
  [
    {'rotation': 90},
    {'sample_aspect_ratio': fractions.Fraction(4, 3)},
    {'num_frames': 60},  # x264 would make one group of it
    {'pix_fmt': 'yuv444p'},
  ],
)
def test_unsuitable_files_are_not_copied(how, tmp_path):
  source = write(tmp_path / 'in.mp4', **how)
  settings = transcode.Settings(only_if_needed=True)
  assert transcode.transcode(str(source), str(tmp_path / 'o.mp4'), settings)


def test_damaged_file_is_not_copied(tmp_path):
  source = str(tmp_path / 'in.mp4')
  frames = [make_odd_videos.draw(i) for i in range(64)]
  writer.write_video(source, frames, 25)
  with open(source, 'r+b') as f:
    f.seek(os.path.getsize(source) // 2)
    f.write(bytes(200))
  settings = transcode.Settings(only_if_needed=True)
  with pytest.raises(containers.VideoError, match='in.mp4'):
    transcode.transcode(source, str(tmp_path / 'out.mp4'), settings)


@pytest.mark.parametrize(
  'setting', [{'short_side': 1}, {'fps': -1.0}, {'crf': 52}]
)
def test_settings_are_checked(setting, tmp_path):
  source = write(tmp_path / 'in.mp4', num_frames=1)
  with pytest.raises(ValueError, match=f'{list(setting)[0]} must be'):
    run(source, tmp_path, **setting)
