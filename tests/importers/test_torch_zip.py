import argparse
import collections
import pickle

import ml_dtypes
import numpy as np
import pytest

from tests.importers import weight_files
from vidscenic.importers import formats

Storage = weight_files.Storage
Tensor = weight_files.Tensor
ROW = np.arange(12, dtype=np.float32)


def write(tmp_path, tree):
  path = tmp_path / 'a.pt'
  path.write_bytes(weight_files.torch_bytes(tree))
  return path


def refused(path, reason):
  with pytest.raises(formats.BadFile, match=f'a.pt.*{reason}'):
    formats.read(path)


def test_a_state_dict_with_version_numbers(tmp_path):
  state = collections.OrderedDict(w=weight_files.tensor(ROW))
  state._metadata = collections.OrderedDict({'': {'version': 1}})
  got = formats.read(write(tmp_path, state))
  assert list(got) == ['w']
  np.testing.assert_array_equal(got['w'], ROW)


@pytest.mark.parametrize(
  ('kind', 'dtype'),
  [
    ('FloatStorage', np.float32),
    ('HalfStorage', np.float16),
    ('BFloat16Storage', ml_dtypes.bfloat16),
    ('LongStorage', np.int64),
  ],
)
def test_types(tmp_path, kind, dtype):
  array = ROW.astype(dtype)
  got = formats.read(write(tmp_path, {'w': weight_files.tensor(array, kind)}))
  np.testing.assert_array_equal(got['w'], array, strict=True)


def test_views_of_one_storage(tmp_path):
  storage = Storage(ROW)
  got = formats.read(
    write(
      tmp_path,
      {
        'all': Tensor(storage, (3, 4), (4, 1)),
        'transposed': Tensor(storage, (4, 3), (1, 4)),
        'part': Tensor(storage, (2, 2), (4, 1), offset=5),
        'every other': Tensor(storage, (6,), (2,)),
        'scalar': Tensor(storage, (), (), offset=11),
        'empty': Tensor(storage, (0, 4), (4, 1)),
        'step of no meaning': Tensor(storage, (1, 12), (10**30, 1)),
      },
    )
  )
  grid = ROW.reshape(3, 4)
  np.testing.assert_array_equal(got['all'], grid)
  np.testing.assert_array_equal(got['transposed'], grid.T)
  np.testing.assert_array_equal(got['part'], grid[1:, 1:3])
  np.testing.assert_array_equal(got['every other'], ROW[::2])
  np.testing.assert_array_equal(got['step of no meaning'], ROW[None])
  assert got['scalar'] == 11 and got['empty'].shape == (0, 4)
  assert np.shares_memory(got['all'], got['transposed'])


@pytest.mark.parametrize('name', ['float8_e4m3fn', 'float8_e5m2'])
def test_types_without_a_storage_class(tmp_path, name):
  array = np.array([1.5, -2], getattr(ml_dtypes, name))
  with weight_files.stand_ins(**{name: 'torch'}) as made:
    dtype = pickle.dumps(getattr(made, name), 2)[2:-1]
  entries = weight_files.torch_entries({'w': weight_files.tensor(array)})
  # The newer function has the type as its last argument.
  data = entries['archive/data.pkl']
  data = data.replace(b'tensor_v2', b'tensor_v3')
  data = data.replace(b'torch\nFloatStorage', b'torch\nUntypedStorage')
  end = data.rindex(b't', 0, data.rindex(b'R'))
  entries['archive/data.pkl'] = data[:end] + dtype + data[end:]
  path = tmp_path / 'a.pt'
  path.write_bytes(weight_files.zip_bytes(entries))
  np.testing.assert_array_equal(formats.read(path)['w'], array, strict=True)


def test_big_endian_files(tmp_path):
  entries = weight_files.torch_entries({'w': weight_files.tensor(ROW)})
  entries['archive/byteorder'] = b'big'
  entries['archive/data/0'] = ROW.astype('>f4').tobytes()
  path = tmp_path / 'a.pt'
  path.write_bytes(weight_files.zip_bytes(entries))
  np.testing.assert_array_equal(formats.read(path)['w'], ROW, strict=True)


def test_what_training_scripts_save_beside_the_weights(tmp_path):
  tree = {
    'model': {'w': weight_files.tensor(ROW)},
    'args': argparse.Namespace(lr=0.5, name='vit', sizes=[2, 3]),
    'optimizer': {'state': {0: {'step': 3}}, 'betas': (0.9, 0.95)},
    'loss': np.float64(0.25),
  }
  got = formats.read(write(tmp_path, tree))
  assert {key: float(got[key]) for key in got if key != 'model/w'} == {
    'args/lr': 0.5,
    'args/sizes/0': 2,
    'args/sizes/1': 3,
    'optimizer/state/0/step': 3,
    'optimizer/betas/0': 0.9,
    'optimizer/betas/1': 0.95,
    'loss': 0.25,
  }


@pytest.mark.parametrize(
  ('shape', 'stride', 'offset', 'reason'),
  [
    ((12,), (1,), 1, 'beyond its storage'),
    ((3, 4), (5, 1), 0, 'beyond its storage'),
    ((2,), (10**30,), 0, 'beyond its storage'),
    ((10**6, 10**6), (0, 0), 0, r'repeats a storage.*contiguous\(\)'),
    ((2**60, 2**60), (0, 0), 0, 'absurd shape'),
    ((12,), (-1,), 11, 'odd strides'),
    ((12,), (1,), -4, 'odd strides or offset'),
    ((12,), (1, 1), 0, 'odd strides'),
  ],
)
def test_views_that_leave_their_storage(
  tmp_path, shape, stride, offset, reason
):
  view = Tensor(Storage(ROW), shape, stride, offset)
  refused(write(tmp_path, {'w': view}), reason)


@pytest.mark.parametrize('size', [0, 4, 4800])
def test_a_storage_of_another_size(tmp_path, size):
  entries = weight_files.torch_entries({'w': weight_files.tensor(ROW)})
  entries['archive/data/0'] = bytes(size)
  path = tmp_path / 'a.pt'
  path.write_bytes(weight_files.zip_bytes(entries))
  refused(path, f'has {size} bytes, 12 float32 are expected')


def test_a_storage_that_is_not_there(tmp_path):
  entries = weight_files.torch_entries({'w': weight_files.tensor(ROW)})
  del entries['archive/data/0']
  path = tmp_path / 'a.pt'
  path.write_bytes(weight_files.zip_bytes(entries))
  refused(path, 'archive/data/0')
