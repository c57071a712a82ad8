"""16-bit PNGs come back exactly; the files are made by hand with zlib."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vidscenic.data import decode, png16

COLOUR_TYPES = {1: 0, 3: 2, 4: 6}


def encode(image):
  """The bytes of a 16-bit PNG of uint16[H, W, C]."""
  height, width, channels = image.shape
  header = struct.pack(
    '>IIBBBBB', width, height, 16, COLOUR_TYPES[channels], 0, 0, 0
  )
  rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in image)
  chunks = [(b'IHDR', header), (b'IDAT', zlib.compress(rows)), (b'IEND', b'')]
  return b'\x89PNG\r\n\x1a\n' + b''.join(
    struct.pack('>I', len(data))
    + kind
    + data
    + struct.pack('>I', zlib.crc32(kind + data))
    for kind, data in chunks
  )


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_every_value_survives(channels, tmp_path):
  rng = np.random.default_rng(channels)
  image = rng.integers(0, 65536, (17, 23, channels), dtype=np.uint16)
  image[0, 0], image[0, 1] = 0, 65535
  path = tmp_path / 'image.png'
  path.write_bytes(encode(image))
  for file in (path, encode(image)):
    got = png16.read_png16(file)
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got, image)


def test_unreadable_images_are_named(tmp_path):
  data = encode(np.full((9, 9, 3), 77, np.uint16))
  shallow = io.BytesIO()
  Image.new('RGB', (5, 5)).save(shallow, 'PNG')
  for broken, reason in (
    (b'', 'End of file'),
    (data[:20], 'Invalid data'),
    (data[: len(data) // 2], 'Invalid data'),
    (b'no picture' * 20, 'Invalid data'),
    (shallow.getvalue(), 'not a 16-bit PNG'),
  ):
    with pytest.raises(decode.VideoError, match=reason) as info:
      png16.read_png16(broken, name='depth/3.png')
    assert info.value.file == 'depth/3.png'
  with pytest.raises(decode.VideoError, match='gone.png'):
    png16.read_png16(tmp_path / 'gone.png')
