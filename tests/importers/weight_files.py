"""Writes files of weights the way their libraries do, without the libraries.

Pickles name classes of packages that are not installed here, so stand-ins are
put into sys.modules while a file is written.
"""

import collections
import contextlib
import io
import json
import pickle
import sys
import types
import zipfile

import numpy as np


@contextlib.contextmanager
def stand_ins(**classes):
  """Modules with these classes: stand_ins(FlatMapping='haiku.data', ...)."""
  before = dict(sys.modules)
  made = {}
  for name, module in classes.items():
    parts = module.split('.')
    for end in range(1, len(parts) + 1):
      parent = '.'.join(parts[:end])
      sys.modules.setdefault(parent, types.ModuleType(parent))
    made[name] = type(name, (), {'__module__': module})
    setattr(sys.modules[module], name, made[name])
  try:
    yield types.SimpleNamespace(**made)
  finally:
    for module in set(sys.modules) - set(before):
      del sys.modules[module]


class Call:
  """Pickles as a call of `function` with `arguments`."""

  def __init__(self, function, *arguments, state=None):
    self.reduced = (function, arguments, state)

  def __reduce__(self):
    return self.reduced


def haiku_pickle(tree, protocol=4):
  """A two-level tree in Haiku's read-only dicts."""
  with stand_ins(FlatMapping='haiku._src.data_structures') as made:
    return pickle.dumps(
      Call(
        made.FlatMapping,
        {name: Call(made.FlatMapping, dict(v)) for name, v in tree.items()},
      ),
      protocol=protocol,
    )


def tapvid_pickle(seed=0):
  """Two clips as in TAP-Vid DAVIS, and one of JPEG bytes as in Kinetics."""
  rng = np.random.default_rng(seed)
  clips = {
    name: {
      'video': rng.integers(0, 256, (2, 3, 4, 3), np.uint8),
      'points': rng.random((5, 2, 2), np.float32),
      'occluded': rng.random((5, 2)) < 0.5,
    }
    for name in ('bear', 'camel')
  }
  clips['frames'] = {'video': np.array([b'\xff\xd8one', b'\xff\xd8three'])}
  return pickle.dumps(clips)


def npy_bytes(array):
  """What numpy.save writes; objects are pickled."""
  buffer = io.BytesIO()
  np.save(buffer, array, allow_pickle=True)
  return buffer.getvalue()


def zip_bytes(entries, compression=zipfile.ZIP_STORED):
  """A zip archive of name -> bytes."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w', compression) as archive:
    for name, data in entries.items():
      archive.writestr(name, data)
  return buffer.getvalue()


def safetensors_bytes(arrays):
  """name -> (type name, array)."""
  table, data = {'__metadata__': {'format': 'pt'}}, b''
  for name, (dtype, array) in arrays.items():
    raw = np.ascontiguousarray(array).tobytes()
    offsets = [len(data), len(data) + len(raw)]
    table[name] = {
      'dtype': dtype,
      'shape': list(array.shape),
      'data_offsets': offsets,
    }
    data += raw
  return table_bytes(table) + data


def table_bytes(table):
  """The length and the table of a safetensors file."""
  text = json.dumps(table).encode()
  return len(text).to_bytes(8, 'little') + text


class Tensor:
  """A view of a storage, as torch.save describes it."""

  def __init__(self, storage, shape, stride, offset=0):
    self.storage = storage
    self.shape = shape
    self.stride = stride
    self.offset = offset


class Storage:
  """`kind` is PyTorch's class, `array` its elements in a row."""

  def __init__(self, array, kind='FloatStorage'):
    self.array = array
    self.kind = kind


def tensor(array, kind='FloatStorage'):
  """A tensor with a storage of its own."""
  stride = [step // array.itemsize for step in array.strides]
  return Tensor(Storage(array, kind), array.shape, tuple(stride))


def torch_entries(tree, prefix='archive'):
  """Entry name -> bytes, as torch.save writes them."""
  storages = {}

  class Pickler(pickle.Pickler):
    def persistent_id(self, item):
      if not isinstance(item, Storage):
        return None
      key = storages.setdefault(id(item), (str(len(storages)), item))[0]
      kind = getattr(made, item.kind)
      return ('storage', kind, key, 'cpu', item.array.size)

    def reducer_override(self, item):
      if not isinstance(item, Tensor):
        return NotImplemented
      view = (item.storage, item.offset, item.shape, item.stride)
      hooks = collections.OrderedDict()
      return made._rebuild_tensor_v2, (*view, False, hooks)

  buffer = io.BytesIO()
  with stand_ins(
    _rebuild_tensor_v2='torch._utils',
    FloatStorage='torch',
    HalfStorage='torch',
    BFloat16Storage='torch',
    LongStorage='torch',
  ) as made:
    Pickler(buffer, protocol=2).dump(tree)
  entries = {f'{prefix}/data.pkl': buffer.getvalue()}
  entries[f'{prefix}/byteorder'] = b'little'
  for key, item in storages.values():
    entries[f'{prefix}/data/{key}'] = item.array.tobytes()
  entries[f'{prefix}/version'] = b'3\n'
  return entries


def torch_bytes(tree):
  """A whole PyTorch file."""
  return zip_bytes(torch_entries(tree))
