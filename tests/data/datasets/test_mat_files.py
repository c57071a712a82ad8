"""MATLAB 5 files; SciPy writes them, the reader is ours."""

import struct

import numpy as np
import pytest
import scipy.io

from vidscenic.data import containers
from vidscenic.data.datasets import mat_files

POSITIONS = np.random.default_rng(0).normal(size=(2, 15, 40))


def save(path, variables, packed=False):
  scipy.io.savemat(path, variables, do_compression=packed)
  return path


@pytest.mark.parametrize('packed', [False, True])
def test_a_variable_is_found_among_others(tmp_path, packed):
  variables = {
    'viewpoint': 'E',
    'scale': {'cell': np.arange(3)},
    'pos_img': POSITIONS,
    'pos_world': POSITIONS * 2,
  }
  path = save(tmp_path / 'a.mat', variables, packed)
  np.testing.assert_array_equal(
    mat_files.read_array(path, 'pos_img'), POSITIONS
  )
  np.testing.assert_array_equal(
    mat_files.read_array(path, 'pos_world'), POSITIONS * 2
  )


@pytest.mark.parametrize('dtype', ['f4', 'f8', 'i1', 'u2', 'i4', 'u8'])
def test_numeric_types(tmp_path, dtype):
  values = np.arange(24).reshape(2, 3, 4).astype(dtype)
  path = save(tmp_path / 'a.mat', {'x': values})
  read = mat_files.read_array(path, 'x')
  assert read.dtype == values.dtype
  np.testing.assert_array_equal(read, values)


def test_big_endian_files_with_small_elements(tmp_path):
  # An element of up to 4 bytes stands in its own tag: size, type, data.
  parts = (
    struct.pack('>IIII', 6, 8, 6, 0)  # flags: double
    + struct.pack('>IIii', 5, 8, 1, 2)  # shape 1 x 2
    + struct.pack('>HH4s', 1, 1, b'x')  # name
    + struct.pack('>HHBBxx', 2, 2, 7, 9)  # two doubles, stored as uint8
  )
  header = b'MATLAB 5.0 MAT-file'.ljust(124) + struct.pack('>H2s', 0x100, b'MI')
  path = tmp_path / 'a.mat'
  path.write_bytes(header + struct.pack('>II', 14, len(parts)) + parts)
  np.testing.assert_array_equal(mat_files.read_array(path, 'x'), [[7, 9]])


@pytest.mark.parametrize(
  ('variables', 'reason'),
  [
    ({'pos_world': POSITIONS}, "no variable 'pos_img', only .*pos_world"),
    ({'pos_img': 'text'}, 'no numeric array'),
    ({'pos_img': {'a': 1}}, 'no numeric array'),
    ({'pos_img': POSITIONS + 1j}, 'no real array'),
  ],
)
def test_other_variables_are_refused(tmp_path, variables, reason):
  path = save(tmp_path / 'a.mat', variables)
  with pytest.raises(containers.VideoError, match=f'a.mat: .*{reason}'):
    mat_files.read_array(path, 'pos_img')


def test_other_files_are_refused(tmp_path):
  path = tmp_path / 'a.mat'
  path.write_bytes(b'\x89HDF\r\n' + bytes(200))
  with pytest.raises(containers.VideoError, match='not a MATLAB 5 file'):
    mat_files.read_array(path, 'x')
  # MATLAB 7.3 files begin like version 5 and go on as HDF5.
  header = b'MATLAB 7.3 MAT-file'.ljust(124) + struct.pack('<H2s', 0x200, b'IM')
  path.write_bytes(header + bytes(200))
  with pytest.raises(containers.VideoError, match='0x200: save it with -v7'):
    mat_files.read_array(path, 'x')
  with pytest.raises(containers.VideoError, match='FileNotFound'):
    mat_files.read_array(tmp_path / 'b.mat', 'x')


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
  monkeypatch.setattr(mat_files, '_MAX_BYTES', 10_000)
  path = save(tmp_path / 'a.mat', {'x': np.zeros((100, 100))}, packed=True)
  with pytest.raises(containers.VideoError, match='cut off or too large'):
    mat_files.read_array(path, 'x')


@pytest.mark.parametrize('packed', [False, True])
def test_damaged_files_end_in_an_error_or_a_result(tmp_path, packed):
  path = save(tmp_path / 'a.mat', {'a': 1, 'pos_img': POSITIONS}, packed)
  good = path.read_bytes()
  rng = np.random.default_rng(0)
  refused = 0
  for _ in range(100):
    data = bytearray(good)
    if rng.random() < 0.3:
      data = data[: rng.integers(len(data))]
    else:
      for _ in range(rng.integers(1, 4)):
        data[rng.integers(min(len(data), 500))] = rng.integers(256)
    path.write_bytes(data)
    try:
      assert mat_files.read_array(path, 'pos_img').size == POSITIONS.size
    except containers.VideoError:
      refused += 1
  assert refused >= 30
