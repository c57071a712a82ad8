"""Pickles that are no attack on the program but on its time and memory."""

import pickle
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from tests.importers import weight_files
from vidscenic.importers import pickle_machine, pickle_values, raw_arrays

P = b'\x80\x04'
NUMPY = b'cnumpy.core.multiarray\n'


def load(data, kind=pickle_values.WeightValues):
  return pickle_machine.load(data, kind('a.pkl', len(data)))


def refused(data, reason):
  with pytest.raises(raw_arrays.BadFile, match=f'^a.pkl: .*{reason}'):
    load(data)


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_plain_values_come_back_as_they_were(protocol):
  value = {
    'numbers': [0, 255, 65_535, -1, 2**31, -(2**63), 2**100, 0.5, True, None],
    'text': ['', 'ascii', 'grüße', 'x' * 300],
    'bytes': [b'', b'ab', b'\xff' * 300],
    'tuples': [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    7: {'nested': {}, 'list': []},
  }
  assert load(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize(
  'array',
  [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    np.arange(5, dtype='>i2'),
    np.zeros((3, 0, 2), np.float16),
    np.array(True),
    np.array([b'\xff\xd8', b'abc']),
    np.array(['ä', 'bcd']),
    np.array([1 + 2j], np.complex64),
    np.array([[b'jpeg', None], ['a', {'b': 1}]], object),
    np.array([1.5, -3], ml_dtypes.bfloat16),
    np.array([1.5, -3], ml_dtypes.float8_e4m3fn),
  ],
  ids=str,
)
def test_arrays_come_back_as_they_were(array, protocol):
  got = load(pickle.dumps([array], protocol))[0]
  assert got.dtype == array.dtype.newbyteorder('=')
  np.testing.assert_array_equal(got, array, strict=array.dtype.isnative)


def test_numpy_scalars():
  [got] = load(pickle.dumps([np.float32(0.5)]))
  assert type(got) is np.float32 and got == 0.5


@pytest.mark.parametrize(
  ('module', 'name'),
  [
    ('jax._src.array', '_reconstruct_array'),
    ('jax._src.device_array', 'reconstruct_device_array'),
  ],
)
def test_jax_arrays_are_read_without_jax(module, name):
  array = np.arange(3, dtype=np.float32)
  with weight_files.stand_ins(**{name: module}) as made:
    function = getattr(made, name)
    data = pickle.dumps(
      weight_files.Call(function, *array.__reduce__(), {'weak_type': False})
    )
  np.testing.assert_array_equal(load(data), array)


def test_a_part_that_is_named_twice_stays_one_object():
  part = {'a': np.ones(3)}
  got = load(pickle.dumps({'params': part, 'ema': part}))
  assert got['params'] is got['ema']


def test_values_that_hold_each_other_for_ever():
  # 60 pairs of the pair before: 2**60 values in 200 bytes.
  pairs = P + b')\x94'
  for index in range(60):
    pairs += b'0h' + bytes([index]) + b'h' + bytes([index]) + b'\x86\x94'
  refused(pairs + b'.', '500000 values')
  refused(P + b'}' + pairs[2:] + b'Ns.', 'a key of type tuple')


def test_values_that_hold_themselves():
  refused(P + b']\x94h\x00a.', 'holds itself')
  refused(P + b'}\x94K\x01h\x00s.', 'holds itself')
  # An array of objects whose only object is the array.
  body = NUMPY + b'_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x00\x87R\x94'
  dtype = b'cnumpy\ndtype\n\x8c\x01O\x89\x88\x87R'
  state = b'(K\x01K\x01\x85' + dtype + b'\x89]h\x00atb'
  refused(P + body + state + b'.', 'holds itself')


def test_a_list_that_grows_after_it_became_an_array():
  body = (
    b']\x940' + NUMPY + b'_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x00\x87R'
  )
  dtype = b'cnumpy\ndtype\n\x8c\x01O\x89\x88\x87R'
  filled = b'(K\x01K\x00\x85' + dtype + b'\x89h\x00tb'
  assert load(P + body + filled + b'.').shape == (0,)
  refused(P + body + filled + b'h\x00Na0.', 'odd size')


def test_deep_nests():
  refused(P + b')' + b'\x85' * 1000 + b'.', 'more than 64 deep')
  # Each part is made before it is used, so none is deep by itself.
  steps = P + b']('
  steps += b'}\x94'
  for index in range(200):
    steps += b'}\x8c\x01ah' + bytes([index]) + b's\x94'
  refused(steps + b'e.', 'more than 64 deep')


def test_endless_programs(monkeypatch):
  monkeypatch.setattr(pickle_machine, 'MAX_OPCODES', 1000)
  refused(P + b'(' * (pickle_machine.MAX_OPCODES + 1), 'steps')


@pytest.mark.parametrize(
  ('body', 'reason'),
  [
    (b'B\xff\xff\xff\xff', 'truncated'),
    (b'\x8e' + b'\xff' * 8, 'truncated'),
    (b'\x95' + b'\xff' * 8, 'truncated'),
    (b'\x8b\xff\xff\xff\x7f', 'an integer of'),
    (b'K\x01', 'truncated'),
    (b'.', 'too little on the stack'),
    (b'\x86.', 'too little on the stack'),
    (b'K\x01(\x85.', 'too little on the stack'),
    (b't.', 'no mark'),
    (b'h\x05.', 'nothing was kept as 5'),
    (b'K\x01K\x02.', 'several values'),
    (b'K\x01.junk', '4 bytes follow'),
    (b'}(K\x01u.', 'a key without a value'),
    (b'}(\x8c\x01aN\x8c\x01aNu.', "'a' comes twice"),
    (b'}G' + bytes(8) + b'Ns.', 'a key of type float'),
    (b'}\x8a\x08' + b'\x7f' * 8 + b'Ns.', 'a key of type int'),
    (b']K\x01K\x02s.', 'no dict'),
    (b'X\x02\0\0\0\xff\xff.', 'UTF-8'),
    (b'c' + b'a' * 300, 'a name of more'),
    (b'\x8c\x01aQ.', 'PyTorch'),
    (b'cnumpy\nndarray\n.', 'holds numpy.ndarray itself'),
    (NUMPY + b'_reconstruct\ncnumpy\nndarray\nK\0\x85C\0\x87R.', 'contents'),
    (b'ccollections\nOrderedDict\n]R.', 'arguments that are no tuple'),
  ],
)
def test_damaged_pickles(body, reason):
  refused(P + body, reason)


def arrays_of(data, shape, dtype=b'f4', count=1):
  """A list of arrays that all name the same bytes."""
  sides = b''.join(b'\x8a\x08' + side.to_bytes(8, 'little') for side in shape)
  array = NUMPY + b'_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x00\x87R'
  array += b'(K\x01(' + sides + b't'
  array += b'cnumpy\ndtype\n\x8c' + bytes([len(dtype)]) + dtype
  array += b'\x89\x88\x87R\x89h\x00tb'
  size = len(data).to_bytes(8, 'little')
  return P + b'\x8e' + size + data + b'\x940(' + array * count + b'l.'


def test_the_arrays_of_the_next_tests_are_sound():
  [got] = load(arrays_of(np.float32(1).tobytes() * 6, (2, 3)))
  np.testing.assert_array_equal(got, np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
  ('shape', 'dtype', 'reason'),
  [
    ((2**40, 2**20), b'f4', 'absurd shape'),
    ((2**62, 0), b'f4', 'absurd shape'),
    ((1,) * 33, b'f4', 'absurd shape'),
    ((2**40,), b'f4', 'needs 4398046511104 bytes, 8 are there'),
    ((3,), b'f4', 'needs 12 bytes, 8 are there'),
    ((1,), b'f4', 'needs 4 bytes, 8 are there'),
    ((1,), b'O8', 'needs 8 bytes'),
    ((1,), b'M8', "'M8' are not read"),
    ((1,), b'S0', "'S0' are not read"),
    ((1,), b'f4,f4', "'f4,f4' are not read"),
    ((8,), b'b1', 'other bytes than 0 and 1'),
    ((2,), b'U1', 'no text'),
  ],
)
def test_absurd_arrays(shape, dtype, reason):
  refused(arrays_of(b'\xff' * 8, shape, dtype), reason)


def test_many_arrays_of_the_same_bytes_do_not_fill_the_memory():
  data = arrays_of(bytes(100_000), (25_000,), count=1000)
  tracemalloc.start()
  refused(data, 'many times the memory')
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 8e6  # 100 MB if all were made
