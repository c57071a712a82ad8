"""Files that would run a program if Python's own unpickler read them.

Every payload here creates a file when it runs; the tests look for that file.
"""

import pickle
import zipfile

import numpy as np
import pytest

from tests.importers import weight_files
from vidscenic.importers import formats


@pytest.fixture
def sentinel(tmp_path):
  path = tmp_path / 'executed'
  yield path
  assert not path.exists(), 'the payload ran'


# A small assembler for pickles.


def text(value):
  return b'X' + len(value).to_bytes(4, 'little') + value.encode()


def name(module, attribute):
  return f'c{module}\n{attribute}\n'.encode()


def call(function, *arguments):
  return function + b'(' + b''.join(arguments) + b'tR'


def program(body):
  return b'\x80\x02' + body + b'.'


IMPORT = name('importlib', 'import_module')
DTYPE = call(name('numpy', 'dtype'), text('f4'), b'\x89', b'\x88')
RECONSTRUCT = name('numpy.core.multiarray', '_reconstruct')


def payloads(shell, python):
  """(the name that must be refused, the pickle), by kind of attack."""
  run = call(name('os', 'system'), text(shell))
  return {
    'system': ('os.system', run),
    'subprocess': (
      'subprocess.getoutput',
      call(name('subprocess', 'getoutput'), text(shell)),
    ),
    'eval': ('builtins.eval', call(name('builtins', 'eval'), text(python))),
    'exec': ('builtins.exec', call(name('builtins', 'exec'), text(python))),
    'getattr chain': (
      'builtins.getattr',
      call(
        call(
          name('builtins', 'getattr'), call(IMPORT, text('os')), text('system')
        ),
        text(shell),
      ),
    ),
    'import inside': ('importlib.import_module', call(IMPORT, text('os'))),
    'nested in an allowed call': (
      'os.system',
      call(name('numpy', 'dtype'), run, b'\x89', b'\x88'),
    ),
    'function kept in the memo': (
      'os.system',
      name('os', 'system') + b'q\x070' + call(b'h\x07', text(shell)),
    ),
    'name put together from the memo': (
      'os.system',
      text('system') + b'q\x010' + call(text('os') + b'h\x01\x93', text(shell)),
    ),
    'instance opcode': ('os.system', b'(' + text(shell) + b'ios\nsystem\n'),
    'object opcode': (
      'os.system',
      b'(' + name('os', 'system') + text(shell) + b'o',
    ),
    'new instance': (
      'subprocess.Popen',
      name('subprocess', 'Popen') + text(shell) + b'\x85\x81',
    ),
    'extension code': ('extension code 1', b'\x82\x01'),
    'attribute of an allowed class': (
      'numpy.ndarray.__class__',
      text('numpy') + text('ndarray.__class__') + b'\x93',
    ),
    'function of an allowed module': (
      'numpy.load',
      call(name('numpy', 'load'), text('executed')),
    ),
    'dict that calls': (
      'collections.defaultdict',
      call(name('collections', 'defaultdict'), name('os', 'system')),
    ),
    'allowed class called': (
      'numpy.ndarray',
      call(name('numpy', 'ndarray'), b'K\x01\x85'),
    ),
    'array of another class': (
      'collections.OrderedDict',
      call(RECONSTRUCT, name('collections', 'OrderedDict'), b'K\0\x85', b'C\0'),
    ),
    'state of a class': (
      'state',
      name('numpy', 'ndarray') + b'}' + text('__reduce__') + b'Nsb',
    ),
    'codec': (
      'rot13',
      call(name('_codecs', 'encode'), text('shell'), text('rot13')),
    ),
    'unpacking codec': (
      'zlib',
      call(name('_codecs', 'encode'), text('shell'), text('zlib')),
    ),
    'look-alike of an optimizer': (
      'optax.subprocess.Popen',
      call(name('optax', 'subprocess.Popen'), text(shell)),
    ),
    'text that is called': ('call of a str', call(text('os.system'))),
  }


NAMES = sorted(payloads('', ''))


def made(sentinel, kind):
  """The payload and the name that errors must have."""
  return payloads(f'touch {sentinel}', f'open({str(sentinel)!r}, "w")')[kind]


@pytest.mark.parametrize('kind', ['system', 'subprocess', 'eval'])
def test_the_payloads_are_real(tmp_path, kind):
  path = tmp_path / 'ran'
  pickle.loads(program(made(path, kind)[1]))
  assert path.exists()


@pytest.mark.parametrize('kind', NAMES)
def test_a_pickle_of_weights(tmp_path, sentinel, kind):
  refused, body = made(sentinel, kind)
  path = tmp_path / 'evil.pystate'
  path.write_bytes(program(b'}' + text('params') + body + b's'))
  with pytest.raises(formats.UnsafeFile, match=refused) as error:
    formats.read(path)
  assert error.value.file == str(path)


@pytest.mark.parametrize('kind', NAMES)
def test_a_pickle_of_a_data_set(sentinel, kind):
  refused, body = made(sentinel, kind)
  with pytest.raises(formats.UnsafeFile, match=f'tapvid.pkl: .*{refused}'):
    formats.unpickle(program(body), name='tapvid.pkl')


@pytest.mark.parametrize('kind', NAMES)
def test_an_array_of_objects_in_npy_and_npz(tmp_path, sentinel, kind):
  refused, body = made(sentinel, kind)
  header = weight_files.npy_bytes(np.array(None, object)).partition(b'\n')[0]
  npy = header + b'\n' + program(body)
  (tmp_path / 'evil.npy').write_bytes(npy)
  with zipfile.ZipFile(tmp_path / 'evil.npz', 'w') as archive:
    archive.writestr('w.npy', npy)
  with pytest.raises(formats.UnsafeFile, match=f'evil.npy: .*{refused}'):
    formats.read(tmp_path / 'evil.npy')
  for look in (formats.read, formats.describe):
    with pytest.raises(
      formats.UnsafeFile, match=f'evil.npz: w.npy: .*{refused}'
    ):
      look(tmp_path / 'evil.npz')


@pytest.mark.parametrize('kind', NAMES)
def test_a_pytorch_file(tmp_path, sentinel, kind):
  refused, body = made(sentinel, kind)
  entries = {'archive/data.pkl': program(body), 'archive/version': b'3'}
  (tmp_path / 'evil.pt').write_bytes(weight_files.zip_bytes(entries))
  for look in (formats.read, formats.describe):
    with pytest.raises(formats.UnsafeFile, match=f'evil.pt: .*{refused}'):
      look(tmp_path / 'evil.pt')


def test_a_payload_inside_an_array_of_objects_inside_a_dict(sentinel):
  _, body = made(sentinel, 'system')
  dtype = call(name('numpy', 'dtype'), text('O8'), b'\x89', b'\x88')
  array = call(RECONSTRUCT, name('numpy', 'ndarray'), b'K\0\x85', b'C\x01b')
  state = b'(K\x01K\x01\x85' + dtype + b'\x89](' + body + b'etb'
  data = program(b'}' + text('video') + array + state + b's')
  with pytest.raises(formats.UnsafeFile, match='os.system'):
    formats.unpickle(data, name='clips')


def test_a_payload_as_the_key_of_a_dict(sentinel):
  _, body = made(sentinel, 'system')
  with pytest.raises(formats.UnsafeFile, match='os.system'):
    formats.unpickle(program(b'}' + body + b'Ns'), name='clips')


def test_old_text_opcodes_run_nothing(tmp_path, sentinel):
  shell = f'touch {sentinel}'.encode()
  path = tmp_path / 'evil.pkl'
  path.write_bytes(b"cos\nsystem\n(S'" + shell + b"'\ntR.")
  with pytest.raises(formats.UnsafeFile, match='os.system'):
    formats.read(path)
  path.write_bytes(b"(S'" + shell + b"'\nios\nsystem\n.")
  with pytest.raises(formats.BadFile, match='opcode'):
    formats.read(path)


def test_allowed_functions_check_their_arguments():
  data = program(b'}' + text('dtype') + call(name('numpy', 'dtype')) + b's')
  with pytest.raises(formats.BadFile, match='odd arguments'):
    formats.unpickle(data, name='clips')
