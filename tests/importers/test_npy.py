"""The text header of .npy files, and zip archives around them."""

import io
import zipfile

import numpy as np
import pytest

from tests.importers import weight_files
from vidscenic.importers import formats, npy, raw_arrays, zips


def header_bytes(text, version=1):
  width = 2 if version == 1 else 4
  size = len(text).to_bytes(width, 'little')
  return npy.MAGIC + bytes([version, 0]) + size + text.encode()


@pytest.mark.parametrize(
  'array',
  [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(3, np.int8),
    np.zeros((0, 4), '>f2'),
    np.array(['name', 'ä']),
    np.array([True, False]),
  ],
  ids=str,
)
@pytest.mark.parametrize('version', [(1, 0), (2, 0)])
def test_what_numpy_writes(array, version):
  buffer = io.BytesIO()
  np.lib.format.write_array(buffer, array, version=version)
  got = npy.parse(buffer.getvalue(), 'a.npy')
  np.testing.assert_array_equal(got, array)
  assert got.shape == array.shape


def test_sizes_as_python_2_wrote_them():
  text = "{'descr': '<u1', 'fortran_order': False, 'shape': (2L, 1L), }\n"
  assert npy.parse(header_bytes(text) + b'ab', 'a.npy').shape == (2, 1)


@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}", 'recor'),
    ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", 'damaged'),
    ("{'descr': '<f4', 'fortran_order': False, 'shape': (1e9,), }", 'damaged'),
    ("{'descr': '<f4', 'fortran_order': False, 'shape': (9, 9)}", 'needs 324'),
    ("{'descr': '<M8[s]', 'fortran_order': False, 'shape': ()}", 'M8'),
    ("{'descr': '<f4', 'shape': __import__('os').getpid()}", 'damaged'),
    ('(' * 3000, 'damaged'),
    (
      "{'descr': '<f4', 'fortran_order': False, 'shape': "
      f'({"9" * 18}, {"9" * 18})}}',
      'absurd shape',
    ),
    # NumPy multiplies sides and bytes of arrays without elements, too.
    (
      "{'descr': '|S2147483647', 'fortran_order': False, 'shape': "
      f'(0, {2**40})}}',
      'absurd shape',
    ),
    (
      "{'descr': '<U500000000', 'fortran_order': False, 'shape': "
      f'(0, {2**48})}}',
      'absurd shape',
    ),
  ],
)
@pytest.mark.parametrize('version', [1, 2])
def test_odd_headers(text, reason, version):
  with pytest.raises(raw_arrays.BadFile, match=f'a.npy: .*{reason}'):
    npy.parse(header_bytes(text, version) + bytes(4), 'a.npy')


def test_a_header_of_four_gigabytes():
  data = npy.MAGIC + b'\x02\x00' + b'\xff' * 4
  with pytest.raises(raw_arrays.BadFile, match='4294967295 bytes'):
    npy.parse(data, 'a.npy')


ONE = weight_files.npy_bytes(np.ones(3))


def refused(tmp_path, data, reason):
  path = tmp_path / 'a.npz'
  path.write_bytes(data)
  for look in (formats.read, formats.describe):
    with pytest.raises(raw_arrays.BadFile, match=f'a.npz.*{reason}'):
      look(path)


@pytest.mark.parametrize(
  'name',
  [
    '../w.npy',
    '/etc/w.npy',
    'a/../../w.npy',
    'C:/w.npy',
    'a\\w.npy',
    'a//w.npy',
  ],
)
def test_entry_names_that_leave_the_archive(tmp_path, name):
  refused(tmp_path, weight_files.zip_bytes({name: ONE}), 'odd entry name')


def test_two_entries_of_one_name(tmp_path):
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w') as archive:
    archive.writestr('w.npy', ONE)
    with pytest.warns(UserWarning, match='Duplicate'):
      archive.writestr('w.npy', ONE)
  refused(tmp_path, buffer.getvalue(), "two entries are called 'w.npy'")


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path, monkeypatch):
  monkeypatch.setattr(zips, '_FREE_BYTES', 1000)
  bomb = weight_files.zip_bytes(
    {'w.npy': bytes(1_000_000)}, zipfile.ZIP_DEFLATED
  )
  assert len(bomb) < 2000
  refused(tmp_path, bomb, 'zip bomb.*savez')


def test_an_entry_larger_than_its_bytes_can_be(tmp_path):
  data = weight_files.zip_bytes({'w.npy': bytes(5000)}, zipfile.ZIP_DEFLATED)
  claimed = (50_000_000).to_bytes(4, 'little')
  refused(
    tmp_path,
    data.replace((5000).to_bytes(4, 'little'), claimed),
    'claims 50000000 bytes',
  )


def test_entries_that_share_bytes(tmp_path):
  # Both lines of the table of contents point to the same entry, so that one
  # megabyte of data counts twice.
  raw = np.random.default_rng(0).bytes(1_000_000)
  data = weight_files.zip_bytes({'a.npy': raw, 'b.npy': b''})
  table = data.index(b'PK\x01\x02')
  second = data.index(b'PK\x01\x02', table + 4)
  line = data[table:second].replace(b'a.npy', b'b.npy')
  end = data.index(b'PK\x05\x06')
  refused(tmp_path, data[:second] + line + data[end:], 'its entries claim')


def test_compression_that_numpy_does_not_use(tmp_path):
  data = weight_files.zip_bytes({'w.npy': ONE}, zipfile.ZIP_LZMA)
  refused(tmp_path, data, 'neither NumPy nor PyTorch')


def test_an_encrypted_entry(tmp_path):
  data = bytearray(weight_files.zip_bytes({'w.npy': ONE}))
  data[data.index(b'PK\x01\x02') + 8] |= 1
  refused(tmp_path, bytes(data), 'encrypted')


def test_a_flipped_bit_is_found_by_the_check_sum(tmp_path):
  data = bytearray(weight_files.zip_bytes({'w.npy': ONE}))
  data[data.index(np.ones(1).tobytes()) + 7] ^= 1
  (tmp_path / 'a.npz').write_bytes(data)
  with pytest.raises(formats.BadFile, match='a.npz: w.npy: .*CRC'):
    formats.read(tmp_path / 'a.npz')


def test_an_empty_archive(tmp_path):
  refused(tmp_path, weight_files.zip_bytes({}), 'without arrays')
