"""RVM as a stream, its cost, its precision; stored results: tests/parity."""

import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.rvm import model as model_lib
from projects.rvm import streaming
from tests.parity import harness, quick
from tests.parity.adapters import rvm as adapter
from tests.projects import rvm_small as small
from vidscenic.train import inspect, paths

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'rvm_stream.npz'
MODEL = small.make_task().model
LENGTH = 5


@pytest.fixture(scope='module')
def video():
  shape = (2, LENGTH, *small.SIZE, 3)
  return np.random.default_rng(3).integers(0, 256, shape, np.uint8)


@pytest.fixture(scope='module')
def stepped(video):
  """Features after every step."""
  state = streaming.init_state(MODEL, batch=2, size=small.SIZE)
  features = []
  for t in range(LENGTH):
    each, state = streaming.step(MODEL, small.make_params(), state, video[:, t])
    features.append(each)
  np.testing.assert_array_equal(features[-1], state)
  return np.stack(features, axis=1)


@pytest.mark.parametrize('chunk', [0, 2])
def test_whole_videos_give_the_features_of_single_steps(video, stepped, chunk):
  features, state = streaming.encode_video(
    MODEL, small.make_params(), video, chunk=chunk
  )
  np.testing.assert_allclose(features, stepped, atol=2e-5)
  np.testing.assert_array_equal(state, features[:, -1])


def test_a_saved_state_goes_on_bit_for_bit(video, stepped):
  file = io.BytesIO()
  np.save(file, stepped[:, 2])
  file.seek(0)
  state = np.load(file)
  for t in range(3, LENGTH):
    _, state = streaming.step(MODEL, small.make_params(), state, video[:, t])
  np.testing.assert_array_equal(state, stepped[:, -1])


def test_features_depend_on_earlier_frames_and_not_on_later_ones(
  video, stepped
):
  other = video.copy()
  other[:, 2] = 255 - other[:, 2]
  features, _ = streaming.encode_video(MODEL, small.make_params(), other)
  change = np.abs(features - stepped).max(axis=(0, 2, 3))
  assert np.all(change[:2] < 2e-5) and np.all(change[2:] > 1e-2)


def test_memory_of_chunks_does_not_grow_with_the_video():
  def temporaries(length):
    video = jax.ShapeDtypeStruct((1, length, *small.SIZE, 3), jnp.uint8)
    program = streaming.encode_video.lower(
      MODEL, small.make_params(), video, chunk=2
    )
    return inspect.cost(program.compile())['temp_bytes']

  assert temporaries(64) == temporaries(4) > 0


def test_bfloat16_stays_near_float32():
  """State in float32, and not much worse than bfloat16 norms alone."""
  golden = harness.load(GOLDEN)
  model, params = adapter.make_model(golden)
  exact = golden.arrays['outputs/features']
  allowed = np.abs(golden.arrays['outputs/features_bf16norms'] - exact).max()
  half = model.clone(dtype=jnp.bfloat16)
  features, state = streaming.encode_video(
    half, params, golden.arrays['inputs/frames_uint8']
  )
  assert features.dtype == state.dtype == jnp.float32
  assert 0 < np.abs(features - exact).max() <= 1.5 * allowed


def published_step(size):
  """The traced step of a published size on a frame of 256x256 pixels."""
  # With stacked blocks, which are traced once and counted as often as they run.
  model = model_lib.RVM(**model_lib.rvm_config(size), scan=True)
  frame = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
  state = jax.ShapeDtypeStruct((1, 257, model.width), jnp.float32)
  params = jax.eval_shape(
    lambda *x: model.init(jax.random.key(0), *x, method='step'), state, frame
  )
  step = jax.jit(lambda p, s, f: model.apply(p, s, f, method='step'))
  return step.trace(params, state, frame)


@pytest.mark.parametrize(
  ('size', 'gflop'), [('S', 19.2), ('B', 68.9), ('L', 201.5), ('H', 395.6)]
)
def test_a_step_costs_what_the_published_model_does(size, gflop):
  flops = inspect.matmul_flops(published_step(size))
  assert sum(flops.values()) == pytest.approx(1e9 * gflop, rel=0.02)


def test_reconstruction_projects_keys_and_values_once():
  """The published code does so for every target: 198 GFLOP."""
  model = model_lib.RVM(**model_lib.rvm_config('S'), scan=True)
  video = jax.ShapeDtypeStruct((1, 4, 256, 256, 3), jnp.float32)
  ids = jax.ShapeDtypeStruct((1, 4, 12), jnp.int32)
  deltas = jax.ShapeDtypeStruct((1, 4), jnp.int32)
  inputs = video, video, ids, deltas
  params = jax.eval_shape(lambda *x: model.init(jax.random.key(0), *x), *inputs)
  flops = inspect.matmul_flops(jax.jit(model.apply).trace(params, *inputs))
  assert sum(flops.values()) < 0.9 * 198e9


def test_target_frames_do_not_see_each_other():
  batch = small.make_batch()
  video = batch['video'] / np.float32(255)
  sources, targets = np.split(video, [small.NUM_SOURCES], axis=1)
  ids = np.tile([1, 5, 7], (3, 2, 1))
  run = quick.jit(MODEL.apply)
  params = {'params': small.make_params()}
  want = run(params, sources, targets, ids, batch['frame_ids'][:, 3:])
  targets = targets.copy()
  targets[:, 0] = 1 - targets[:, 0]
  got = run(params, sources, targets, ids, batch['frame_ids'][:, 3:])
  change = np.abs(got['reconstructed'] - want['reconstructed'])
  change = change.max(axis=(0, 2, 3, 4))
  assert change[0] > 1e-2 and change[1] == 0


def test_fresh_parameters_have_the_published_spread():
  """Variance 1 / inputs, in MLPs 2 / (inputs + outputs), of tokens 0.02^2."""
  task = small.make_task(
    model=dict(width=48, mlp_features=80, core_mlp_features=64)
    | dict(decoder_width=32, decoder_mlp_features=96)
  )
  params, _ = quick.jit(task.init)(jax.random.key(0), small.make_batch())
  spread = {}
  for path, leaf in paths.named_leaves(params).items():
    module, name = ['', *path.split('/')][-2:]
    if name in ('bias', 'scale'):
      np.testing.assert_array_equal(leaf, name == 'scale', err_msg=path)
      continue
    kind, inputs = 'dense', np.prod(leaf.shape[:-1])
    variance = 1 / inputs
    if name.endswith('token'):
      kind, variance = 'token', 0.02**2
    elif module in ('up', 'down'):
      kind, variance = 'mlp', 2 / sum(leaf.shape)
    elif module in ('query', 'key', 'value', 'out'):
      kind = 'attention'
      variance = 1 / (inputs if module == 'out' else leaf.shape[0])
    spread.setdefault(kind, []).append(np.ravel(leaf) / np.sqrt(variance))
  assert set(spread) == {'dense', 'token', 'mlp', 'attention'}
  for kind, values in spread.items():
    # Two tokens are 80 numbers.
    np.testing.assert_allclose(
      np.std(np.concatenate(values)),
      1,
      atol=0.25 if kind == 'token' else 0.04,
      err_msg=kind,
    )
  # Uniform.
  assert np.abs(np.concatenate(spread['mlp'])).max() <= np.sqrt(3) + 1e-5


@pytest.mark.parametrize(
  ('size', 'near'), [((12, 30), '(12, 32)'), ((2, 32), '(4, 32)')]
)
def test_size_that_the_patch_does_not_divide_is_refused(size, near):
  with pytest.raises(ValueError, match=r'multiples of the patch') as error:
    streaming.init_state(MODEL, batch=1, size=size)
  assert near in str(error.value)


def test_state_of_another_grid_is_refused():
  state = streaming.init_state(MODEL, batch=1, size=(12, 32))
  frame = np.zeros((1, 16, 32, 3), np.uint8)
  with pytest.raises(
    ValueError, match=r'\(1, 13, 12\) does not fit.*a grid of '
  ):
    streaming.step(MODEL, small.make_params(), state, frame)


def test_frames_without_an_axis_or_of_length_0_are_refused():
  params = small.make_params()
  state = streaming.init_state(MODEL, batch=1, size=small.SIZE)
  with pytest.raises(ValueError, match=r'\(12, 32, 3\): want \[B, H, W, 3\]'):
    streaming.step(MODEL, params, state, np.zeros((12, 32, 3), np.uint8))
  with pytest.raises(ValueError, match=r'want \[B, T, H, W, 3\], none of them'):
    streaming.encode_video(
      MODEL, params, np.zeros((1, 0, 12, 32, 3), np.uint8), state
    )


def test_unknown_size_is_refused():
  with pytest.raises(ValueError, match="model.size='XL': known sizes are"):
    small.make_task(model={'size': 'XL'})
