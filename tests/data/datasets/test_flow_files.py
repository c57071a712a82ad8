""".flo and KITTI files; bytes are laid out by hand."""

import struct

import numpy as np
import pytest

from tests.data import test_png16
from vidscenic.data import containers
from vidscenic.data.datasets import flow_files


def flo_bytes(width, height, values):
  header = b'PIEH' + struct.pack('<ii', width, height)
  return header + struct.pack(f'<{len(values)}f', *values)


def test_width_comes_before_height(tmp_path):
  path = tmp_path / 'a.flo'
  path.write_bytes(flo_bytes(3, 2, range(12)))
  flow, known = flow_files.read_flo(path)
  assert flow.shape == (2, 3, 2)
  np.testing.assert_array_equal(flow[1, 0], [6, 7])  # (dx, dy)
  assert known.all()


def test_large_values_and_nan_are_unknown(tmp_path):
  path = tmp_path / 'a.flo'
  path.write_bytes(flo_bytes(3, 1, [1, 2, 1.7e9, 0, float('nan'), 0]))
  flow, known = flow_files.read_flo(path)
  np.testing.assert_array_equal(known, [[True, False, False]])
  np.testing.assert_array_equal(flow[0], [[1, 2], [0, 0], [0, 0]])


def test_what_is_written_is_read(tmp_path):
  rng = np.random.default_rng(0)
  flow = rng.normal(size=(5, 7, 2)).astype(np.float32)
  known = rng.random((5, 7)) < 0.7
  flow_files.write_flo(tmp_path / 'a.flo', flow, known)
  read, also_known = flow_files.read_flo(tmp_path / 'a.flo')
  np.testing.assert_array_equal(also_known, known)
  np.testing.assert_array_equal(read, flow * known[..., None])


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    (b'', 'not a .flo file'),
    (b'PIEX' + bytes(20), 'not a .flo file'),
    (flo_bytes(3, 2, range(11)), '44 bytes of flow, 3 x 2 pixels need 48'),
    (flo_bytes(3, 2, range(13)), '52 bytes of flow'),
    (flo_bytes(-1, -1, range(2)), 'absurd size: -1 x -1'),
    (flo_bytes(2**31 - 1, 2**31 - 1, []), 'absurd size'),
    (flo_bytes(10_000, 10_000, []), '0 bytes of flow'),
  ],
)
def test_damaged_files_are_named(content, reason, tmp_path):
  path = tmp_path / 'bad.flo'
  path.write_bytes(content)
  with pytest.raises(containers.VideoError, match=f'bad.flo: {reason}'):
    flow_files.read_flo(path)


def test_flow_that_cannot_be_written_is_refused(tmp_path):
  with pytest.raises(ValueError, match='finite'):
    flow_files.write_flo(tmp_path / 'a.flo', np.full((2, 2, 2), np.inf))
  with pytest.raises(ValueError, match=r'float\[H, W, 2\]'):
    flow_files.write_flo(tmp_path / 'a.flo', np.zeros((2, 2)))
  assert not (tmp_path / 'a.flo').exists()


def test_kitti_flow_is_scaled_by_64_around_2_to_the_15(tmp_path):
  image = np.array(
    [[[32768 + 64, 32768 - 32, 1], [1, 2, 0]]], np.uint16
  )  # valid; not valid
  path = tmp_path / 'a.png'
  path.write_bytes(test_png16.encode(image))
  flow, known = flow_files.read_kitti_flow(path)
  np.testing.assert_array_equal(flow, [[[1, -0.5], [0, 0]]])
  np.testing.assert_array_equal(known, [[True, False]])


def test_kitti_flow_has_three_channels(tmp_path):
  path = tmp_path / 'a.png'
  path.write_bytes(test_png16.encode(np.zeros((2, 2, 1), np.uint16)))
  with pytest.raises(containers.VideoError, match='3 channels, got 1'):
    flow_files.read_kitti_flow(path)
