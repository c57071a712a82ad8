"""Sound of a video goes into another one: as it is where players know it."""

import fractions
import io

import av
import numpy as np
import pytest

from tests.data import make_odd_videos
from vidscenic.data import audio, decode, soundtrack, writer

RATE = 48_000
SECONDS = 3


def chirp(seconds=SECONDS):
  """A tone whose pitch tells the time: 300 Hz + 200 Hz per second."""
  t = np.arange(int(seconds * RATE)) / RATE
  return 0.5 * np.sin(2 * np.pi * (300 * t + 100 * t**2)).astype(np.float32)


def source(path, codec, container=None, **kwargs):
  """25 frames per second for SECONDS, with the chirp."""
  with av.open(str(path), 'w', format=container) as output:
    stream = output.add_stream('libx264', rate=25)
    stream.height, stream.width, stream.pix_fmt = 64, 96, 'yuv420p'
    sound = output.add_stream(codec, rate=RATE, layout='mono', **kwargs)
    for number in range(25 * SECONDS):
      picture = make_odd_videos.draw(number)
      frame = av.VideoFrame.from_ndarray(picture, format='rgb24')
      frame.pts, frame.time_base = number, fractions.Fraction(1, 25)
      output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
    frame = av.AudioFrame.from_ndarray(
      chirp()[None], format='fltp', layout='mono'
    )
    frame.sample_rate, frame.pts = RATE, 0
    frame.time_base = fractions.Fraction(1, RATE)
    resampler = av.AudioResampler(
      format=sound.codec_context.format, layout='mono', rate=RATE
    )
    for part in resampler.resample(frame):
      output.mux(sound.encode(part))
    output.mux(sound.encode(None))
  return str(path)


def carry(path, target, first=0, last=None):
  """Writes frames first to last with the sound that belongs to them."""
  index = decode.index_video(path)
  last = index.num_frames - 1 if last is None else last
  begin = float(index.times[first])
  sound = soundtrack.copied(
    path, index.start + begin, index.duration - begin, whole=first == 0
  )
  output = writer.VideoWriter(target, 25, sound=sound)
  for number in range(first, last + 1):
    output.write(make_odd_videos.draw(number))
  output.close(sound_end=(last - first + 1) / 25 if last < 74 else None)
  return str(target)


def packets(path):
  with av.open(path) as container:
    stream = container.streams.audio[0]
    found = [p for p in container.demux(stream) if p.size]
    return [bytes(p) for p in found], [
      float(p.pts * p.time_base) for p in found
    ]


def codec(path):
  with av.open(path) as container:
    return [s.codec_context.name for s in container.streams.audio]


def difference(path, begin, *, origin=0.0, shift=0.0, seconds=0.5):
  """Power of (sound - chirp) relative to the chirp's.

  Args:
    path: a file whose sound begins `shift` seconds into the chirp.
    begin: seconds; where to listen.
    origin: of `begin` on the file's clock.
  """
  got = audio.read_audio(path, begin, begin + seconds, RATE, origin_s=origin)
  start = round((begin + shift) * RATE)
  # Matroska rounds time stamps to milliseconds, here and at the origin.
  wants = (chirp()[start + lag :][: len(got)] for lag in range(-60, 61))
  return min(np.mean((got[:, 0] - w) ** 2) / np.mean(w**2) for w in wants)


@pytest.mark.parametrize(
  ('name', 'encoder'),
  [
    ('a.mp4', 'aac'),
    ('a.mkv', 'libmp3lame'),
    ('a.mkv', 'libopus'),
    ('a.mkv', 'flac'),
    ('a.mkv', 'ac3'),
  ],
)
def test_packets_are_copied_untouched(tmp_path, name, encoder):
  path = source(tmp_path / name, encoder)
  copy = carry(path, tmp_path / 'copy.mp4')
  (data, times), (same, same_times) = packets(path), packets(copy)
  assert data == same
  np.testing.assert_allclose(times, same_times, atol=2e-3)
  assert codec(copy) == codec(path)
  assert difference(copy, 0.5) < 0.02


def test_sound_of_a_transport_stream_loses_only_its_headers(tmp_path):
  path = source(tmp_path / 'a.ts', 'aac', 'mpegts')
  copy = carry(path, tmp_path / 'copy.mp4')
  (data, _), (same, _) = packets(path), packets(copy)
  assert all(a.endswith(b) for a, b in zip(data, same, strict=True))
  assert {len(a) - len(b) for a, b in zip(data, same, strict=True)} == {7}
  assert difference(copy, 0.5) < 0.02


@pytest.mark.parametrize(
  ('name', 'encoder'), [('a.mkv', 'mp2'), ('a.avi', 'pcm_s16le')]
)
def test_other_sound_is_encoded_anew(tmp_path, name, encoder, monkeypatch):
  monkeypatch.setattr(soundtrack, '_PIECE_S', 0.7)  # no seam is to be heard
  copy = carry(source(tmp_path / name, encoder), tmp_path / 'copy.mp4')
  assert codec(copy) == ['aac']
  for begin in (0.2, 1.2, 2.2):
    assert difference(copy, begin) < 0.02


@pytest.mark.parametrize('encoder', ['aac', 'pcm_s16le'])
def test_a_part_has_the_sound_of_its_time(tmp_path, encoder):
  path = source(tmp_path / 'a.mkv', encoder)
  copy = carry(path, tmp_path / 'copy.mp4', first=30, last=54)  # 1.2 to 2.2 s
  assert difference(copy, 0.3, shift=1.2) < 0.02
  _, times = packets(copy)
  assert -0.05 < times[0] < 0.03
  assert 0.9 < times[-1] < 1.0


def test_start_offset_of_the_pictures_is_taken_off(tmp_path):
  """Sound begins at 0, pictures at 0.48 s: both stay where they belong."""
  path = str(tmp_path / 'a.mkv')
  plain = source(tmp_path / 'plain.mp4', 'flac')
  with av.open(plain) as old, av.open(path, 'w') as new:
    copies = [new.add_stream_from_template(s) for s in old.streams]
    for packet in old.demux():
      if packet.size:
        kind = packet.stream.index
        if packet.stream.type == 'video':
          shift = int(fractions.Fraction(12, 25) / packet.time_base)
          packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        packet.stream = copies[kind]
        new.mux(packet)
  assert decode.index_video(path).start == pytest.approx(0.48, abs=2e-3)
  copy = carry(path, tmp_path / 'copy.mp4')
  start = decode.index_video(copy).start
  assert difference(copy, 1.0, origin=start, shift=0.48) < 0.02


def test_no_sound_adds_none(tmp_path):
  writer.write_video(tmp_path / 'a.mp4', [make_odd_videos.draw(0)] * 5, 25)
  copy = carry(str(tmp_path / 'a.mp4'), tmp_path / 'copy.mp4')
  assert codec(copy) == []


@pytest.mark.parametrize('encoder', ['flac', 'pcm_s16le'])
def test_damaged_sound_ends_with_a_warning(
  tmp_path, encoder, monkeypatch, caplog
):
  path = source(tmp_path / 'a.mkv', encoder)
  index = decode.index_video(path)
  error = decode.VideoError(path, 'broken')
  if encoder == 'flac':
    original = soundtrack.containers.packets

    def damaged(*args):
      for number, packet in enumerate(original(*args)):
        if number == 10:
          raise error
        yield packet

    monkeypatch.setattr(soundtrack.containers, 'packets', damaged)
  else:
    monkeypatch.setattr(soundtrack, '_PIECE_S', 1)
    original = audio.read_audio

    def damaged(file, start, *args, **kwargs):
      if start >= 1:
        raise error
      return original(file, start, *args, **kwargs)

    monkeypatch.setattr(audio, 'read_audio', damaged)
  sound = soundtrack.copied(path, index.start, index.duration, whole=True)
  target = io.BytesIO()
  with caplog.at_level('WARNING', logger='absl'):
    with writer.VideoWriter(target, 25, sound=sound) as output:
      for number in range(75):
        output.write(make_odd_videos.draw(number))
  assert caplog.messages == [f'{path}: broken; the sound ends there']
  monkeypatch.undo()
  got = audio.read_audio(target.getvalue(), 0, 3, RATE)[:, 0]
  assert np.abs(got[: RATE // 4]).max() > 0.3
  assert np.abs(got[2 * RATE :]).max() == 0


def test_pieces_are_joined_without_a_seam(tmp_path):
  pieces = np.split(chirp(2), [10_000, 10_001, 60_000])
  path = tmp_path / 'a.mp4'
  sound = soundtrack.encoded(iter(pieces), RATE)
  with writer.VideoWriter(path, 25, sound=sound) as output:
    for number in range(50):
      output.write(make_odd_videos.draw(number))
  for begin in (0.1, 1.1):  # around all three cuts
    assert difference(str(path), begin, seconds=0.8) < 0.02
