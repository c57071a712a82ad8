"""Damages files at random and reads them, in a process with little memory.

  python -m tests.importers.fuzz_formats KIND SEED COUNT

Each file must be read as arrays or refused with BadFile (or UnsafeFile). The
process ends with an error at anything else: another exception, memory beyond
the bound, processor time beyond the bound, a crash. Prints how many files were
read and how many were refused.
"""

import pathlib
import pickle
import random
import resource
import sys
import tempfile

import numpy as np

from tests.importers import weight_files
from vidscenic.importers import formats

# Of address space beyond what the imports take; the files have a few kB.
_MEMORY = 150_000_000
_SECONDS = 60
_NUMBERS = [
  value.to_bytes(width, 'little')
  for width in (1, 2, 4, 8)
  for value in (0, 1, 2**7, 2 ** (8 * width - 1) - 1, 2 ** (8 * width) - 1)
  if value < 2 ** (8 * width)
]


def _tree():
  return {
    'net/~/linear': {
      'w': np.arange(6, dtype=np.float32).reshape(2, 3),
      'b': np.ones(3, np.float16),
    },
    'net/~/norm': {'scale': np.array([True, False])},
  }


def _npz(rng):
  entries = {
    f'{name}/{leaf}.npy': _maybe(rng, weight_files.npy_bytes(array))
    for name, leaves in _tree().items()
    for leaf, array in leaves.items()
  }
  return weight_files.zip_bytes(entries, compression=rng.choice([0, 8]))


def _torch(rng):
  weight = weight_files.Storage(np.arange(12, dtype=np.float32))
  tree = {
    'model': {
      'w': weight_files.Tensor(weight, (3, 4), (4, 1)),
      'tied': weight_files.Tensor(weight, (2, 2), (1, 4), offset=1),
    },
    'epoch': 3,
  }
  entries = weight_files.torch_entries(tree)
  return weight_files.zip_bytes(
    {name: _maybe(rng, data) for name, data in entries.items()}
  )


def _safetensors(rng):
  del rng
  arrays = {'w': ('F32', np.ones((2, 3), np.float32))}
  arrays['mask'] = ('BOOL', np.array([True, False]))
  return weight_files.safetensors_bytes(arrays)


KINDS = {
  'npz': _npz,
  'npy': lambda rng: weight_files.npy_bytes(np.ones((2, 3), np.float32)),
  'npy_pickle': lambda rng: weight_files.npy_bytes(
    np.array({'params': _tree(), 'state': {}}, object)
  ),
  'pickle': lambda rng: weight_files.haiku_pickle(
    _tree(), protocol=rng.choice([2, 3, 4, 5])
  ),
  'tapvid': lambda rng: weight_files.tapvid_pickle(),
  'safetensors': _safetensors,
  'torch': _torch,
}


def fuzz(kind, seed, count):
  """Returns (files read, files refused)."""
  rng = random.Random(f'{kind} {seed}')
  read = 0
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'fuzzed.pkl'
    for _ in range(count):
      # Check sums hide what lies behind them, so half of the archives are
      # sound outside and damaged inside only (_maybe).
      data = KINDS[kind](rng)
      if kind not in ('npz', 'torch') or rng.random() < 0.5:
        data = damage(rng, data)
      path.write_bytes(data)
      try:
        _use(kind, path)
        read += 1
      except formats.BadFile as error:
        assert str(error).startswith(str(path)), error
  return read, count - read


def damage(rng, data):
  """One to four random changes."""
  data = bytearray(data)
  for _ in range(rng.randint(1, 4)):
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice([1, 2, 4, 8, 64]))
    match rng.randrange(7):
      case 0 if start < len(data):
        data[start] ^= 1 << rng.randrange(8)
      case 1:
        data[start:end] = rng.randbytes(end - start)
      case 2:
        number = rng.choice(_NUMBERS)
        data[start : start + len(number)] = number
      case 3:
        del data[start:end]
      case 4:
        data[start:start] = rng.randbytes(rng.randint(1, 8))
      case 5:
        other = rng.randrange(len(data) + 1)
        data[other:other] = data[start:end]
      case 6 if rng.random() < 0.3:
        del data[start:]
  return bytes(data)


def _maybe(rng, data):
  return damage(rng, data) if rng.random() < 0.3 else data


def _use(kind, path):
  """Reads a file and touches every value in it."""
  if kind == 'tapvid':
    pickle.dumps(formats.unpickle(path))
    return
  formats.describe(path)
  for key, array in formats.read(path).items():
    assert type(key) is str and isinstance(array, np.ndarray)
    assert not array.dtype.hasobject
    array.tolist()


if __name__ == '__main__':
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
  limit = pages * resource.getpagesize() + _MEMORY
  resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
  resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
  print(*fuzz(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
