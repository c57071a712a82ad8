"""Sound is cut by time and written files read back."""

import io

import av
import numpy as np
import pytest

from tests.data import make_odd_videos
from vidscenic.data import audio, decode, writer

RATE = 16_000


def sines(times):
  """float[S, 2]: 440 Hz left, 880 Hz right, silent outside [0, 3) seconds."""
  waves = np.stack(
    [
      0.5 * np.sin(2 * np.pi * 440 * times),
      0.3 * np.sin(2 * np.pi * times * 880),
    ],
    axis=1,
  )
  return waves * ((times >= 0) & (times < 3))[:, None]


@pytest.fixture(scope='module')
def clip():
  """The bytes of 75 frames at 25 per second with 3 s of stereo sound."""
  file = io.BytesIO()
  frames = (make_odd_videos.draw(i) for i in range(75))
  sound = sines(np.arange(3 * RATE) / RATE)
  writer.write_video(file, frames, 25, sound, audio_rate=RATE)
  return file.getvalue()


@pytest.mark.parametrize('rate', [16_000, 48_000, 11_025])
@pytest.mark.parametrize('start, end', [(0.7, 1.3), (2.0, 2.5), (0.2, 2.9)])
def test_sound_is_that_of_the_times(clip, rate, start, end):
  got = audio.read_audio(clip, start, end, rate, mono=False)
  assert got.shape == (round((end - start) * rate), 2)
  assert got.dtype == np.float32
  want = sines(start + np.arange(len(got)) / rate)
  # AAC; a shift by one sample at 16 kHz would give 0.1.
  assert np.abs(got - want).max() < 0.06


def test_silence_outside_the_file_and_mono(clip):
  got = audio.read_audio(clip, -1.0, 4.0, RATE)
  assert got.shape == (5 * RATE, 1)
  assert np.abs(got[: int(0.9 * RATE)]).max() == 0
  assert np.abs(got[int(4.1 * RATE) :]).max() == 0
  middle = got[2 * RATE : 3 * RATE, 0]
  times = 1 + np.arange(RATE) / RATE
  assert np.abs(middle - sines(times).mean(1)).max() < 0.06


@pytest.mark.parametrize(
  'layout, left, right',
  [
    ('mono', [1], [1]),
    ('stereo', [1, 0], [0, 1]),
    ('5.1', [1, 0, 0.71, 0, 0.71, 0], [0, 1, 0.71, 0, 0, 0.71]),
  ],
)
def test_every_channel_reaches_the_two(tmp_path, layout, left, right):
  path = str(tmp_path / 'sound.mkv')
  rng = np.random.default_rng(0)
  sound = rng.uniform(-1, 1, (len(left), RATE)).astype(np.float32)
  with av.open(path, 'w') as container:
    stream = container.add_stream('pcm_f32le', rate=RATE, layout=layout)
    interleaved = np.ascontiguousarray(sound.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(interleaved, 'flt', layout)
    frame.sample_rate, frame.pts = RATE, 0
    container.mux(stream.encode(frame) + stream.encode(None))
  got = audio.read_audio(path, 0, 1, RATE, mono=False)
  gains = np.array([left, right])
  if len(left) > 1:
    gains = gains / gains.sum(1).max()
  np.testing.assert_allclose(got, (gains @ sound).T, atol=1e-4)
  assert np.abs(got).max() <= 1


def test_origin_shifts_the_clock(clip):
  a = audio.read_audio(clip, 1.0, 1.2, RATE)
  b = audio.read_audio(clip, 0.5, 0.7, RATE, origin_s=0.5)
  np.testing.assert_array_equal(a, b)


def test_sound_beside_other_sources_of_time_stamps(tmp_path):
  # Matroska rounds stamps to milliseconds, Opus runs at 48 kHz.
  path = str(tmp_path / 'sound.mkv')
  with av.open(path, 'w') as container:
    stream = container.add_stream('libopus', rate=48_000, layout='mono')
    times = np.arange(3 * 48_000) / 48_000
    frame = av.AudioFrame.from_ndarray(
      sines(times)[None, :, 0].astype(np.float32), format='flt', layout='mono'
    )
    frame.sample_rate = 48_000
    container.mux(stream.encode(frame) + stream.encode(None))
  got = audio.read_audio(path, 1.0, 2.0, 8_000)
  wave = got[:, 0] @ np.exp(2j * np.pi * 440 * np.arange(8_000) / 8_000)
  delay = np.angle(wave / 1j) / (2 * np.pi * 440)
  assert 2 * np.abs(wave) / 8_000 == pytest.approx(0.5, rel=0.02)
  assert np.abs(delay) < 6e-4
  with pytest.raises(decode.VideoError, match='no video stream'):
    decode.index_video(path)


def test_no_sound_and_no_file_are_errors(clip, tmp_path):
  silent = io.BytesIO()
  writer.write_video(silent, np.zeros((3, 16, 16, 3), np.uint8), 5)
  with pytest.raises(decode.VideoError, match='silent.mp4: no sound'):
    audio.read_audio(silent.getvalue(), 0, 1, RATE, name='silent.mp4')
  with pytest.raises(decode.VideoError, match='no such file'):
    audio.read_audio(str(tmp_path / 'gone.mp4'), 0, 1, RATE)
  with pytest.raises(decode.VideoError):
    audio.read_audio(clip[: len(clip) // 2], 0, 1, RATE)
  with pytest.raises(ValueError, match='end_s'):
    audio.read_audio(clip, 1, 1, RATE)


@pytest.mark.parametrize('fps', [5, 29.97, 12.5])
def test_written_video_reads_back(tmp_path, fps):
  path = tmp_path / 'out.mp4'
  frames = np.stack([make_odd_videos.draw(i, 49, 97) for i in range(40)])
  writer.write_video(path, frames, fps)
  index = decode.index_video(path)
  assert index.num_frames == 40
  assert (index.height, index.width) == (48, 96)  # even sizes only
  assert index.fps == pytest.approx(fps, rel=1e-3)
  assert not index.sequential
  got = decode.read_frames(path, range(40), index)
  assert [make_odd_videos.read_code(f) for f in got] == list(range(40))
  error = np.abs(got.astype(int) - frames[:, :48, :96])
  assert error[:, 16:].mean() < 12  # 4:2:0 colour of a busy picture
  assert len(index.key_pts) == 2  # one every 32 frames


@pytest.mark.parametrize(
  'frames, fps, match',
  [
    (np.zeros((0, 8, 8, 3), np.uint8), 5, 'empty'),
    (np.zeros((2, 8, 8, 3), np.float32), 5, 'uint8'),
    (np.zeros((2, 8, 8), np.uint8), 5, 'uint8'),
    (np.zeros((2, 1, 8, 3), np.uint8), 5, '2x2'),
    (np.zeros((2, 8, 8, 3), np.uint8), 0, 'fps'),
  ],
)
def test_unwritable_videos_are_refused(frames, fps, match):
  with pytest.raises(ValueError, match=match):
    writer.write_video(io.BytesIO(), frames, fps)


def test_resampling_errors_name_the_file(clip, monkeypatch):
  def fail(*args):
    raise ValueError('odd layout')

  monkeypatch.setattr(audio, '_resample', fail)
  with pytest.raises(decode.VideoError, match='clip 7: ValueError: odd layout'):
    audio.read_audio(clip, 0, 1, 8_000, name='clip 7')
