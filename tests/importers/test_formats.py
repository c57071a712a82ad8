import hashlib
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from tests.importers import weight_files
from vidscenic.importers import formats

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / 'golden'
ARRAYS = {
  'encoder/layers_0/kernel': np.arange(6, dtype=np.float32).reshape(2, 3),
  'encoder/layers_0/bias': np.array([1, -2, 3], np.int32),
  'step': np.array(7),
}
HAIKU = {
  'net/~/linear': {
    'w': np.arange(6, dtype=np.float32).reshape(2, 3),
    'b': np.ones(3, np.float32),
  },
  'net/~/norm': {'scale': np.full(3, 0.5, np.float64)},
}


def write(path, data):
  path.write_bytes(data)
  return path


def assert_same(got, want):
  assert list(got) == list(want)
  for key in want:
    assert got[key].dtype == want[key].dtype, key
    np.testing.assert_array_equal(got[key], want[key], strict=True)


def digest(arrays):
  """One number for names, types, shapes and every bit of the values."""
  total = hashlib.sha256()
  for key in sorted(arrays):
    array = arrays[key]
    total.update(f'{key} {array.dtype} {array.shape}'.encode())
    total.update(array.tobytes())
  return total.hexdigest()[:16]


@pytest.mark.parametrize(
  ('name', 'prefix', 'expected'),
  [
    ('tapir_ckpt_fixture_plain.npy', 'params/', '7f12566d8cc21013'),
    ('tapir_ckpt_fixture_flatmap_optstate.npy', 'params/', '0eb846062036de39'),
    ('perceiver_pystate_conv_dev.pystate', '', '851cf81f968338cc'),
    ('perceiver_pystate_flow_dev.pystate', '', '7fd002d61d992a6e'),
    ('perceiver_pystate_masked_dev.pystate', '', '931c139582db826f'),
  ],
)
def test_files_in_the_published_layouts_are_read_bit_for_bit(
  name, prefix, expected
):
  # The numbers were computed with numpy.load from .npz copies of the arrays.
  arrays = formats.read(GOLDEN / name)
  part = {key: a for key, a in arrays.items() if key.startswith(prefix)}
  assert digest(part) == expected


def test_tapir_comes_out_alike_from_numpy_and_pytorch():
  haiku = formats.read(GOLDEN / 'tapir_ckpt_fixture_plain.npy')
  torch = formats.read(GOLDEN / 'tapir_ckpt_fixture.pt')
  np.testing.assert_array_equal(
    torch['resnet_torch.initial_conv.weight'].transpose(2, 3, 1, 0),
    haiku['params/tapir/~/resnet/~/initial_conv/w'],
  )
  np.testing.assert_array_equal(
    torch['torch_pips_mixer.linear_1.weight'].T,
    haiku['params/tapir/~/pips_mlp_mixer/linear_1/w'],
  )
  assert sum(a.size for a in torch.values()) == sum(
    a.size for a in haiku.values()
  )


def test_optimizer_state_is_read_as_plain_numbers_under_its_own_name():
  path = GOLDEN / 'tapir_ckpt_fixture_flatmap_optstate.npy'
  arrays = formats.read(path)
  assert arrays['global_step'] == 100_000
  assert {key.split('/')[0] for key in arrays} == {
    'params',
    'opt_state',
    'global_step',
  }
  assert ('state', 'empty', ()) in formats.describe(path)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
  save(tmp_path / 'a.npz', **ARRAYS)
  assert_same(formats.read(tmp_path / 'a.npz'), ARRAYS)


def test_npy(tmp_path):
  np.save(tmp_path / 'a.npy', ARRAYS['encoder/layers_0/kernel'])
  got = formats.read(tmp_path / 'a.npy')
  assert_same(got, {'array': ARRAYS['encoder/layers_0/kernel']})


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_haiku_pickle(tmp_path, protocol):
  path = write(
    tmp_path / 'a.pystate', weight_files.haiku_pickle(HAIKU, protocol)
  )
  assert_same(
    formats.read(path),
    {
      'net/~/linear/w': HAIKU['net/~/linear']['w'],
      'net/~/linear/b': HAIKU['net/~/linear']['b'],
      'net/~/norm/scale': HAIKU['net/~/norm']['scale'],
    },
  )


def test_module_names_of_numpy_1(tmp_path):
  data = weight_files.haiku_pickle(HAIKU, protocol=2)
  old = data.replace(b'cnumpy._core.', b'cnumpy.core.')
  assert old != data
  got = formats.read(write(tmp_path / 'old.pkl', old))
  np.testing.assert_array_equal(
    got['net/~/linear/w'], HAIKU['net/~/linear']['w']
  )


def test_safetensors(tmp_path):
  arrays = {
    'encoder.weight': ('F32', ARRAYS['encoder/layers_0/kernel']),
    'encoder.half': ('BF16', np.array([1.5, -2], ml_dtypes.bfloat16)),
    'mask': ('BOOL', np.array([True, False])),
  }
  path = write(
    tmp_path / 'a.safetensors', weight_files.safetensors_bytes(arrays)
  )
  assert_same(formats.read(path), {k: a for k, (_, a) in arrays.items()})


def test_torch(tmp_path):
  weight = ARRAYS['encoder/layers_0/kernel']
  tree = {
    'model': {'encoder.weight': weight_files.tensor(weight)},
    'epoch': 3,
    'name': 'vit',
  }
  path = write(tmp_path / 'a.pt', weight_files.torch_bytes(tree))
  assert_same(
    formats.read(path),
    {'model/encoder.weight': weight, 'epoch': np.array(3)},
  )


def test_the_kind_shows_in_the_bytes_and_not_in_the_name(tmp_path):
  np.savez(tmp_path / 'a.npz', **ARRAYS)
  os.rename(tmp_path / 'a.npz', tmp_path / 'weights.pt')
  assert_same(formats.read(tmp_path / 'weights.pt'), ARRAYS)


@pytest.mark.parametrize('kind', ['torch', 'npy', 'pickle', 'safetensors'])
def test_a_forced_kind_that_is_wrong_is_an_error(tmp_path, kind):
  np.savez(tmp_path / 'a.npz', **ARRAYS)
  with pytest.raises(formats.BadFile, match='a.npz'):
    formats.read(tmp_path / 'a.npz', kind=kind)


def test_an_unknown_kind_is_an_error(tmp_path):
  with pytest.raises(ValueError, match='safetensors'):
    formats.read(tmp_path / 'a.npz', kind='h5')


def test_describe_lists_types_and_shapes_without_reading_arrays(tmp_path):
  weight = weight_files.tensor(ARRAYS['encoder/layers_0/kernel'])
  path = write(
    tmp_path / 'a.pt',
    weight_files.torch_bytes(
      {'model': {'w': weight}, 'lr': 0.1, 'name': 'vit', 'ema': None, 'o': {}}
    ),
  )
  # The array's bytes are damaged, which only reading finds out.
  data = path.read_bytes()
  raw = weight.storage.array.tobytes()
  path.write_bytes(data.replace(raw, b'\x01' * len(raw)))
  assert formats.describe(path) == [
    ('model/w', 'float32', (2, 3)),
    ('lr', 'float64', ()),
    ('name', 'str', ()),
    ('ema', 'None', ()),
    ('o', 'empty', ()),
  ]
  with pytest.raises(formats.BadFile, match='CRC'):
    formats.read(path)


def test_describe_agrees_with_read(tmp_path):
  np.savez(tmp_path / 'a.npz', **ARRAYS, tree={'a': np.ones(2), 'b': 1})
  described = formats.describe(tmp_path / 'a.npz')
  assert described == [
    (key, str(a.dtype), a.shape)
    for key, a in formats.read(tmp_path / 'a.npz').items()
  ]
  assert described[-2:] == [
    ('tree/a', 'float64', (2,)),
    ('tree/b', 'int64', ()),
  ]


def test_arrays_are_writable_aligned_and_in_native_byte_order(tmp_path):
  tree = {'x': {'a': np.arange(3, dtype='>f4'), 'b': np.arange(3.0)}}
  data = weight_files.haiku_pickle(tree)
  for offset in range(8):  # moves the arrays over all alignments
    padded = {'p' * offset: {'p': np.zeros(1, np.int8)}, **tree}
    data = weight_files.haiku_pickle(padded)
    for key in ('x/a', 'x/b'):
      got = formats.read(write(tmp_path / 'a.pkl', data))[key]
      assert got.flags.behaved and got.dtype.isnative
      np.testing.assert_array_equal(got, [0, 1, 2])


def test_values_that_would_share_a_key_are_refused(tmp_path):
  data = pickle.dumps({'a/b': 1, 'a': {'b': 2}})
  with pytest.raises(formats.BadFile, match="a.pkl: two values.*'a/b'"):
    formats.read(write(tmp_path / 'a.pkl', data))


@pytest.mark.parametrize('key', ['\x1b[2J', 'a\nb', '\ud800', 'x' * 1001])
def test_keys_that_would_spoil_a_terminal_are_refused(tmp_path, key):
  path = write(tmp_path / 'a.pkl', pickle.dumps({'net': {key: 1}}))
  with pytest.raises(formats.BadFile, match='a.pkl: odd key') as error:
    formats.read(path)
  assert str(error.value).isprintable()


def test_long_keys_that_share_their_values_are_refused(tmp_path):
  """160 kB that stand for 25,600 keys of 970 letters each."""
  inner = {f'{i:0484}': 0 for i in range(160)}
  outer = {f'{i:0484}': inner for i in range(160)}
  data = pickle.dumps(outer)
  assert len(data) < 170_000
  with pytest.raises(formats.BadFile, match='a.pkl: .*20,000,000 letters'):
    formats.read(write(tmp_path / 'a.pkl', data))


def test_the_keys_of_all_arrays_of_a_zip_count(tmp_path, monkeypatch):
  monkeypatch.setattr(formats, '_MAX_LETTERS', 100)
  one = {f'{i:010}': i for i in range(6)}
  np.savez(tmp_path / 'a.npz', a=one)
  assert len(formats.read(tmp_path / 'a.npz')) == 6
  np.savez(tmp_path / 'b.npz', a=one, b=one)
  with pytest.raises(formats.BadFile, match='b.npz: .*letters'):
    formats.read(tmp_path / 'b.npz')


def test_pickled_arrays_without_elements_have_bounded_sides(tmp_path):
  # The type of the array is made larger behind pickle's back.
  data = pickle.dumps(np.zeros((0, 2**40), 'S1234567'), protocol=2)
  data = data.replace(b'S1234567', b'S2147483647').replace(
    b'X\x08\x00\x00\x00S', b'X\x0b\x00\x00\x00S'
  )
  with pytest.raises(formats.BadFile, match='clips: absurd shape'):
    formats.unpickle(data, name='clips')


@pytest.mark.parametrize(
  ('leaf', 'reason'),
  [
    (np.array([None, {}], object), 'array of objects'),
    (2**70, '64 bits'),
  ],
)
def test_what_is_no_array_is_named(tmp_path, leaf, reason):
  path = write(tmp_path / 'a.pkl', pickle.dumps({'net': {'w': leaf}}))
  with pytest.raises(formats.BadFile, match=f'a.pkl: net/w: .*{reason}'):
    formats.read(path)


def test_tapvid_pickles():
  data = weight_files.tapvid_pickle()
  want = pickle.loads(data)  # our own bytes
  got = formats.unpickle(data, name='tapvid_davis.pkl')
  assert list(got) == ['bear', 'camel', 'frames']
  for clip in ('bear', 'camel'):
    for field in ('video', 'points', 'occluded'):
      np.testing.assert_array_equal(got[clip][field], want[clip][field])
  assert list(got['frames']['video']) == [b'\xff\xd8one', b'\xff\xd8three']


def test_jpeg_bytes_in_an_array_of_objects_and_in_a_list():
  frames = [b'\xff\xd8' + bytes(500), b'\xff\xd8x']
  data = pickle.dumps({'objects': np.array(frames, object), 'list': frames})
  got = formats.unpickle(data, name='kinetics.pkl')
  assert list(got['objects']) == frames and got['list'] == frames


def test_videos_of_a_data_set_are_views_of_the_file(tmp_path):
  video = np.zeros((100, 100, 100, 3), np.uint8)
  path = write(tmp_path / 'a.pkl', pickle.dumps({'video': video}))
  got = formats.unpickle(path)['video']
  assert not got.flags.owndata and not got.flags.writeable
  np.testing.assert_array_equal(got, video)


def test_a_data_set_may_not_name_what_only_weights_need():
  with pytest.raises(formats.UnsafeFile, match='clips: .*haiku'):
    formats.unpickle(weight_files.haiku_pickle(HAIKU), name='clips')


@pytest.mark.parametrize(
  ('data', 'reason'),
  [
    (b'', 'begins with'),
    (b'hello world', 'begins with'),
    (b'<!DOCTYPE html><html>', 'web page'),
    (b'version https://git-lfs.github.com/spec/v1\noid', 'git lfs pull'),
    (b'\x1f\x8b\x08\x00' + bytes(20), 'gunzip'),
    (b'{"weight_map": {}}', 'JSON'),
    (b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.', '1.6'),
    (b'PK\x03\x04' + bytes(40), 'zip'),
  ],
)
def test_other_files_are_told_apart(tmp_path, data, reason):
  with pytest.raises(formats.BadFile, match=f'weights: .*{reason}'):
    formats.read(write(tmp_path / 'weights', data))


def test_missing_files_and_folders(tmp_path):
  with pytest.raises(FileNotFoundError, match='absent.npz'):
    formats.read(tmp_path / 'absent.npz')
  with pytest.raises(FileNotFoundError, match='absent.pkl'):
    formats.unpickle(tmp_path / 'absent.pkl')
  with pytest.raises(formats.BadFile, match='folder'):
    formats.read(tmp_path)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
  os.mkfifo(tmp_path / 'pipe')
  for kind in ('', 'npz', 'pickle'):
    with pytest.raises(formats.BadFile, match='no regular file'):
      formats.read(tmp_path / 'pipe', kind=kind)


def test_errors_survive_being_sent_between_processes():
  error = pickle.loads(pickle.dumps(formats.UnsafeFile('a.pkl', 'os.system')))
  assert str(error) == 'a.pkl: os.system'
  assert isinstance(error, ValueError)


def test_reading_needs_no_jax(tmp_path):
  code = (
    'import sys; from vidscenic.importers import formats\n'
    f'formats.read({str(GOLDEN / "tapir_ckpt_fixture_plain.npy")!r})\n'
    "assert 'jax' not in sys.modules and 'haiku' not in sys.modules"
  )
  subprocess.run(
    [sys.executable, '-c', code], check=True, cwd=GOLDEN.parents[1]
  )


def test_zip_of_other_things(tmp_path):
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
    archive.writestr('readme.txt', 'hi')
  with pytest.raises(formats.BadFile, match="a.zip: holds 'readme.txt'"):
    formats.read(tmp_path / 'a.zip')
