import ml_dtypes
import numpy as np
import pytest

from tests.importers import weight_files
from vidscenic.importers import formats, safetensors

TABLE = weight_files.table_bytes


def entry(dtype='F32', shape=(1,), offsets=(0, 4)):
  return {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(offsets)}


def refused(tmp_path, data, reason):
  path = tmp_path / 'a.safetensors'
  path.write_bytes(data)
  for look in (formats.read, formats.describe):
    with pytest.raises(formats.BadFile, match=f'a.safetensors: .*{reason}'):
      look(path)


@pytest.mark.parametrize(
  ('name', 'dtype'),
  [
    ('F64', np.float64),
    ('F16', np.float16),
    ('BF16', ml_dtypes.bfloat16),
    ('F8_E4M3', ml_dtypes.float8_e4m3fn),
    ('F8_E5M2', ml_dtypes.float8_e5m2),
    ('I64', np.int64),
    ('U8', np.uint8),
    ('BOOL', np.bool_),
    ('C64', np.complex64),
  ],
)
def test_types(tmp_path, name, dtype):
  array = np.array([[1, 0, 1]]).astype(dtype)
  path = tmp_path / 'a.safetensors'
  path.write_bytes(weight_files.safetensors_bytes({'w': (name, array)}))
  np.testing.assert_array_equal(formats.read(path)['w'], array, strict=True)


def test_arrays_may_be_listed_in_any_order(tmp_path):
  table = {'b': entry(offsets=(4, 8)), 'a': entry(offsets=(0, 4))}
  path = tmp_path / 'a.safetensors'
  path.write_bytes(TABLE(table) + np.array([1, 2], np.float32).tobytes())
  got = formats.read(path)
  assert list(got) == ['b', 'a'] and got['a'] == 1 and got['b'] == 2


@pytest.mark.parametrize(
  ('table', 'reason'),
  [
    ({'w': entry(offsets=(0, 8), shape=(2,))}, 'w: truncated'),
    ({'w': entry(shape=(2,))}, 'needs 8 bytes, the table gives 4'),
    ({'w': entry(shape=(2**40, 2**40))}, 'absurd shape'),
    ({'w': entry(shape=(-1, -1))}, 'absurd shape'),
    ({'w': entry(shape=(1.0,))}, 'absurd shape'),
    ({'w': entry(shape=(True,))}, 'absurd shape'),
    ({'w': entry(dtype='F4')}, "type 'F4' is not read"),
    ({'w': entry(offsets=(4, 0))}, 'odd data_offsets'),
    ({'w': entry(offsets=(-4, 0))}, 'odd data_offsets'),
    ({'w': entry(offsets=(0, 10**4000))}, 'truncated'),
    ({'w': {'dtype': 'F32'}}, 'damaged table entry'),
    ({'w': 1}, 'damaged table entry'),
    ({'\x1b[2J': entry()}, r"odd name '\\x1b"),
    ({'v': entry(), 'w': entry()}, 'w: overlaps'),
    ({}, 'arrays end at byte'),
  ],
)
def test_tables_that_do_not_fit_the_file(tmp_path, table, reason):
  refused(tmp_path, TABLE(table) + bytes(4), reason)


def test_gaps(tmp_path):
  table = {'w': entry(offsets=(4, 8))}
  refused(tmp_path, TABLE(table) + bytes(8), 'leaves a gap')


@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    (b'{"w": 1, "w": 2}', 'a name comes twice'),
    (b'{"w": ', 'damaged table'),
    (b'{"w": ' + b'[' * 100_000, 'damaged table'),
    (b'{\xff', 'damaged table'),
  ],
)
def test_damaged_tables(tmp_path, text, reason):
  refused(tmp_path, len(text).to_bytes(8, 'little') + text, reason)


@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    (b'{"w": 1, "a": "' + b'a' * 10_000_000 + b'"}', 'more than 10,000,000'),
    (b'{"w": [' + b'[],' * 200_000 + b'[]]}', '200003 brackets for 0 arrays'),
    (b'{"w": [' + b'{},' * 200_000 + b'{}]}', '200003 brackets for 0 arrays'),
  ],
  ids=['long', 'lists', 'objects'],
)
def test_tables_that_would_take_much_memory_are_not_parsed(
  tmp_path, monkeypatch, text, reason
):
  monkeypatch.setattr(safetensors.json, 'loads', None)
  refused(tmp_path, len(text).to_bytes(8, 'little') + text, reason)


def test_a_table_longer_than_the_file(tmp_path):
  size = (10_000).to_bytes(8, 'little')
  refused(tmp_path, size + b'{"w": 1}', 'its table should have 10000 bytes')
