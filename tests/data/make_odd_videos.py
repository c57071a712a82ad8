"""Small video files that trip frame arithmetic, built in seconds.

  python tests/data/make_odd_videos.py FOLDER     # writes them and checks them

Every frame carries its number as a bar code: 12 bars over the width of the top
16 rows, white for 1, most significant bit first. `read_code` gets it back.
"""

import fractions
import io
import os
import re
import sys

import av
import numpy as np

HEIGHT, WIDTH = 64, 96
CODE_ROWS, CODE_BITS = 16, 12


def draw(number, height=HEIGHT, width=WIDTH):
  """uint8[H, W, 3]: a moving gradient under the bar code of `number`."""
  y, x = np.mgrid[:height, :width]
  frame = np.stack(
    [(2 * x + 5 * number) % 200, (3 * y + number) % 200, (x + y) % 200], -1
  ).astype(np.uint8)
  bits = [number >> (CODE_BITS - 1 - bit) & 1 for bit in range(CODE_BITS)]
  bars = np.repeat(np.array(bits, np.uint8) * 255, width // CODE_BITS)
  frame[:CODE_ROWS] = 0
  frame[:CODE_ROWS, : len(bars)] = bars[:, None]
  return frame


def read_code(frame):
  """The number in a frame of uint8[H, W, 3]."""
  bar = frame.shape[1] // CODE_BITS
  rows = frame[CODE_ROWS // 4 : 3 * CODE_ROWS // 4].mean((0, 2))
  bars = rows[: bar * CODE_BITS].reshape(CODE_BITS, bar)
  bits = bars[:, bar // 4 : bar - bar // 4].mean(1) > 128
  return int(sum(int(bit) << (CODE_BITS - 1 - i) for i, bit in enumerate(bits)))


# All eight orientations that a display matrix of right angles can have.
TURNS = [
  (degrees, mirrored, False)
  for mirrored in (False, True)
  for degrees in (0, 90, 180, -90)
]


def stored(upright, turn):
  """What a camera stores that asks for a turn, [H, W, 3]."""
  degrees, left_right, up_down = turn or (0, False, False)
  upright = upright[:, ::-1] if left_right else upright
  upright = upright[::-1] if up_down else upright
  return np.rot90(upright, -degrees // 90)


def encode(
  target,
  codec,
  *,
  num_frames,
  container='',
  rate=25,
  time_base=None,
  stamps=None,
  options=None,
  container_options=None,
  size=(HEIGHT, WIDTH),
  audio=False,
  turn=None,
):
  """Writes bar code frames; stamps are in units of time_base.

  With turn=(degrees, hflip, vflip), as PyAV names them, the pictures are stored
  as a phone does: upright only with the display matrix.
  """
  rate = fractions.Fraction(rate)
  time_base = fractions.Fraction(time_base or 1 / rate)
  stamps = range(num_frames) if stamps is None else stamps
  with av.open(
    target, 'w', format=container or None, options=container_options or {}
  ) as output:
    stream = output.add_stream(codec, rate=rate, options=options or {})
    stream.height, stream.width = stored(draw(0, *size), turn).shape[:2]
    stream.pix_fmt = 'yuv420p'
    stream.time_base = stream.codec_context.time_base = time_base
    if turn:
      stream.set_display_rotation(*turn)
    sound = output.add_stream('aac', rate=16000) if audio else None
    for number, stamp in zip(range(num_frames), stamps, strict=True):
      picture = np.ascontiguousarray(stored(draw(number, *size), turn))
      frame = av.VideoFrame.from_ndarray(picture, format='rgb24')
      frame.pts, frame.time_base = stamp, time_base
      output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
    if sound:
      tone = np.sin(np.arange(int(16000 * num_frames / rate)) * 0.1)[None]
      part = av.AudioFrame.from_ndarray(
        0.5 * tone.astype(np.float32), format='fltp', layout='mono'
      )
      part.sample_rate, part.pts = 16000, 0
      part.time_base = fractions.Fraction(1, 16000)
      output.mux(sound.encode(part) + sound.encode(None))


def _variable_stamps(num_frames):
  """Gaps of 1 to 5 units, fixed pattern."""
  gaps = [1 + (7 * i + i * i) % 5 for i in range(num_frames)]
  return np.cumsum(gaps).tolist()


def _x264(**options):
  params = ':'.join(f'{k.replace("_", "-")}={v}' for k, v in options.items())
  return {'preset': 'veryfast', 'x264-params': params}


def odd_files():
  """{file name: keyword arguments of `encode`}."""
  gop = _x264(keyint=20, min_keyint=20)
  open_gop, short_open_gop = (
    _x264(
      keyint=keyint,
      min_keyint=keyint // 2,
      open_gop=1,
      bframes=5,
      b_adapt=0,
      b_pyramid='normal',
      scenecut=0,
    )
    for keyint in (12, 6)
  )
  n = 90
  return {
    'plain.mp4': dict(codec='libx264', num_frames=n, options=gop),
    'one_gop.mp4': dict(
      codec='libx264', num_frames=n, options=_x264(keyint=250)
    ),
    'ntsc.mp4': dict(
      codec='libx264',
      num_frames=n,
      rate=fractions.Fraction(30000, 1001),
      options=gop,
    ),
    'start_offset.mp4': dict(
      codec='libx264', num_frames=n, stamps=range(37, 37 + n), options=gop
    ),
    'variable_rate.mp4': dict(
      codec='libx264',
      num_frames=n,
      time_base=fractions.Fraction(1, 75),
      stamps=_variable_stamps(n),
      options=gop,
    ),
    'open_gop.mp4': dict(codec='libx264', num_frames=n, options=open_gop),
    # Keyframes are stored before the one in front of them is shown, so that a
    # search lands one too late.
    'short_open_gop.mp4': dict(
      codec='libx264', num_frames=n, options=short_open_gop
    ),
    'open_gop.ts': dict(codec='libx264', num_frames=n, options=open_gop),
    'all_intra.mp4': dict(
      codec='libx264', num_frames=n, options=_x264(keyint=1)
    ),
    'b_frames.avi': dict(
      codec='mpeg4', num_frames=n, options={'bf': '2', 'g': '15', 'b': '1M'}
    ),
    # AVI stores decoding order; stamps with B pyramids are wrong guesses.
    'h264.avi': dict(codec='libx264', num_frames=n, options=gop),
    # A raw stream has no stamps at all and cannot be searched.
    'raw.h264': dict(
      codec='libx264', num_frames=n, container='h264', options=gop
    ),
    'vp9.webm': dict(
      codec='libvpx-vp9',
      num_frames=n,
      options={'g': '20', 'deadline': 'realtime', 'cpu-used': '8', 'b': '1M'},
    ),
    'vp8.webm': dict(
      codec='libvpx',
      num_frames=n,
      options={'g': '20', 'deadline': 'realtime', 'cpu-used': '8', 'b': '1M'},
    ),
    'hevc.mp4': dict(
      codec='libx265',
      num_frames=n,
      options={
        'preset': 'ultrafast',
        'x265-params': 'log-level=none:keyint=20:min-keyint=20:open-gop=1'
        ':bframes=4:pools=1:frame-threads=1',
      },
    ),
    'av1.mp4': dict(
      codec='libsvtav1',
      num_frames=n,
      options={'preset': '12', 'g': '20', 'svtav1-params': 'lp=1'},
    ),
    'mpeg2_open_gop.mpg': dict(
      codec='mpeg2video', num_frames=n, options={'g': '12', 'bf': '2'}
    ),
    'fragmented.mp4': dict(
      codec='libx264',
      num_frames=n,
      options=gop,
      container_options={'movflags': 'frag_keyframe+empty_moov'},
      audio=True,
    ),
  }


def hide_beginning(source, target, num_hidden, ticks_per_frame=512):
  """Copies an mp4 so that its edit list hides the first frames."""
  options = {'avoid_negative_ts': 'disabled', 'use_editlist': '1'}
  with av.open(source) as old, av.open(target, 'w', options=options) as new:
    stream = old.streams.video[0]
    copy = new.add_stream_from_template(stream)
    for packet in old.demux(stream):
      if packet.size:
        packet.pts -= num_hidden * ticks_per_frame
        packet.dts -= num_hidden * ticks_per_frame
        packet.stream = copy
        new.mux(packet)


def cut_front(source, target, first_packet):
  """Copies the packets of the only stream from a number on."""
  with av.open(source) as old, av.open(target, 'w') as new:
    stream = old.streams.video[0]
    copy = new.add_stream_from_template(stream)
    for number, packet in enumerate(old.demux(stream)):
      if packet.size and number >= first_packet:
        packet.stream = copy
        new.mux(packet)


def insert_hidden(source, target):
  """Copies a VP8 webm, putting a copy that is not shown before keyframes.

  libvpx does so with alternative reference frames, in two passes only.
  """
  with av.open(source) as old, av.open(target, 'w') as new:
    stream = old.streams.video[0]
    copy = new.add_stream_from_template(stream)
    for packet in old.demux(stream):
      if not packet.size:
        continue
      if packet.is_keyframe and packet.pts:
        data = bytes(packet)
        hidden = av.Packet(bytes([data[0] & ~0x10]) + data[1:])
        hidden.pts = hidden.dts = packet.pts - 1
        hidden.time_base, hidden.stream = packet.time_base, copy
        hidden.is_keyframe = True
        new.mux(hidden)
      packet.stream = copy
      new.mux(packet)


def pack_bitstream(target, num_frames):
  """MPEG-4 in AVI as DivX wrote it (UCF101): a B frame travels in the packet
  of the frame that it refers to, and an empty packet follows."""
  packets = []
  with av.open(io.BytesIO(), 'w', format='avi') as scratch:
    stream = scratch.add_stream(
      'mpeg4', rate=25, options={'bf': '1', 'g': '12', 'b': '1M'}
    )
    stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, 'yuv420p'
    for number in [*range(num_frames), None]:
      frame = None
      if number is not None:
        frame = av.VideoFrame.from_ndarray(draw(number), format='rgb24')
        frame.pts, frame.time_base = number, fractions.Fraction(1, 25)
      for packet in stream.encode(frame):
        scratch.mux(packet)
        packets.append((bytes(packet), packet.is_keyframe))
  not_coded = b'\0\0\1\xb6\x50\x5f'  # P, five bits of time, not coded
  chunks = []
  for data, key in packets:
    data = re.sub(
      rb'\x00\x00\x01\xb2Lavc[^\x00]*', b'\0\0\1\xb2DivX503b1393p', data
    )
    if data[data.index(b'\0\0\1\xb6') + 4] >> 6 == 2:  # a B frame
      chunks[-1] = (chunks[-1][0] + data, chunks[-1][1])
      chunks.append((not_coded, False))
    else:
      chunks.append((data, key))
  with av.open(target, 'w', format='avi') as output:
    stream = output.add_stream('mpeg4', rate=25)
    stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, 'yuv420p'
    for number, (data, key) in enumerate(chunks):
      packet = av.Packet(data)
      packet.stream, packet.dts = stream, number
      packet.is_keyframe, packet.time_base = key, fractions.Fraction(1, 25)
      output.mux(packet)


# {new file: (file, number of its first packet)}: in the middle of a group of
# pictures, and at a keyframe whose leading B frames refer to what is cut away.
FRONT_CUTS = {
  'cut.ts': ('open_gop.ts', 4),
  'cut_at_key.ts': ('open_gop.ts', 7),
  'cut.mpg': ('mpeg2_open_gop.mpg', 4),
  'cut_at_key.mpg': ('mpeg2_open_gop.mpg', 10),
}
# {file name: number on its first frame}, where that is not 0.
FIRST_CODE = {'edit_list.mp4': 10} | dict.fromkeys(FRONT_CUTS, 12)


# Of all the files that `make` writes.
NAMES = [
  *odd_files(),
  'edit_list.mp4',
  'vp8_hidden.webm',
  'packed.avi',
  *FRONT_CUTS,
]


def make(folder):
  """Writes the files; returns {name: path}."""
  os.environ.setdefault('SVT_LOG', '1')  # errors only
  folder = str(folder)
  paths = {}
  for name, kwargs in odd_files().items():
    paths[name] = os.path.join(folder, name)
    encode(paths[name], **kwargs)
  paths['edit_list.mp4'] = os.path.join(folder, 'edit_list.mp4')
  hide_beginning(
    paths['plain.mp4'],
    paths['edit_list.mp4'],
    FIRST_CODE['edit_list.mp4'],
  )
  paths['vp8_hidden.webm'] = os.path.join(folder, 'vp8_hidden.webm')
  insert_hidden(paths['vp8.webm'], paths['vp8_hidden.webm'])
  for name, (source, first_packet) in FRONT_CUTS.items():
    paths[name] = os.path.join(folder, name)
    cut_front(paths[source], paths[name], first_packet)
  paths['packed.avi'] = os.path.join(folder, 'packed.avi')
  pack_bitstream(paths['packed.avi'], 61)
  return paths


if __name__ == '__main__':
  from vidscenic.data import decode

  for _name, _path in make(sys.argv[1]).items():
    _index = decode.index_video(_path)
    _frames = decode.read_frames(_path, range(_index.num_frames), _index)
    _first = FIRST_CODE.get(_name, 0)
    _wrong = [i for i, f in enumerate(_frames) if read_code(f) != i + _first]
    print(
      f'{_name:22} {_index.num_frames:4} frames {_index.fps:7.3f} fps '
      f'sequential={_index.sequential} wrong={_wrong}'
    )
