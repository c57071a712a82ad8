"""Training of synthetic_tiny.py: devices, remat, stacked blocks, resuming."""

import functools
import shutil

import jax
import ml_collections as mlc
import numpy as np
import pytest

from projects.rvm.configs import synthetic_tiny
from tests.train import stored
from vidscenic import config as vc
from vidscenic.data import device, pipeline
from vidscenic.layers import transformer
from vidscenic.train import checkpoints, loop, paths
from vidscenic.train import run as run_lib

STEPS, KILLED = 10, 6
# Less to compile.
SMALLER = dict(width=32, depth=2, decoder_width=32, decoder_depth=1)


@pytest.fixture(autouse=True, scope='module')
def quick_compiler():
  """Compiling takes longer than running here."""
  name = 'jax_disable_most_optimizations'
  before = jax.config.read(name)
  jax.config.update(name, True)
  yield
  jax.config.update(name, before)


def get_config(*, data, scan, remat):
  config = synthetic_tiny.get_config(f'steps={STEPS}')
  with config.unlocked():
    config.batch_size = 8
    config.mesh.data = data
    config.task.kwargs.model.update(SMALLER, scan=scan, remat=remat)
    config.optim.name = 'sgd'  # amplifies no float noise
    config.optim.lr = 0.1
    config.init_from.factory = f'{__name__}:start'
    config.init_from.path = 'nowhere'
    config.checkpoint.every_steps = KILLED
    config.evals = mlc.ConfigDict()
    config.log.tensorboard = False
  return vc.finalize(config)


def make_run(*, scan=False, remat='none'):
  """A run on one device."""
  config = get_config(data=1, scan=scan, remat=remat)
  return run_lib.Run(config, jax.devices()[:1])


@functools.cache
def first_params():
  """Values of about the size of fresh ones, which take long to compile."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    value = 0.1 * rng.standard_normal(leaf.shape, np.float32)
    return value + path.endswith('scale')

  return paths.map_named(draw, make_run().state_shapes.params)


def start(path, target):
  """What `init_from` gives a model with stacked blocks."""
  del path, target
  return transformer.stack_blocks(first_params())


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A run on eight devices, with recomputed activations in stacked blocks."""
  path = tmp_path_factory.mktemp('rvm') / 'run'
  assert loop.train(get_config(data=8, scan=True, remat='full'), path)
  return path


def last_state(path):
  """The TrainState that a run ends with, on one device."""
  shapes = make_run(scan=True).state_shapes
  return stored.fetch(path, shapes, STEPS)[0]


def test_a_stopped_run_goes_on_bit_for_bit(workdir, tmp_path):
  """Frames, gaps and masks are those that the run would have drawn."""
  path = tmp_path / 'run'
  shutil.copytree(workdir, path)
  (path / 'DONE').unlink()
  shutil.rmtree(path / checkpoints.FOLDER / str(STEPS))
  assert stored.stored_steps(path) == [KILLED]
  assert loop.train(get_config(data=8, scan=True, remat='full'), path)
  stored.assert_equal(last_state(path), last_state(workdir))


def test_devices_remat_and_stacked_blocks_change_nothing(workdir):
  run = make_run()
  state = jax.tree.map(
    lambda s: np.zeros(s.shape, s.dtype), run.state_shapes
  )._replace(params=first_params())
  state = jax.device_put(
    state, jax.tree.map(lambda s: s.sharding, run.state_shapes)
  )
  step = run.compile_step(0)
  batches = pipeline.make_train_iter(
    run.config.data.train, batch_size=run.config.batch_size, seed=0
  )
  for _ in range(STEPS):
    batch = device.check(next(batches), run.task.batch_spec(), where='data')
    state, _ = step.run(state, device.to_global(batch, run.batch_sharding))
  batches.close()
  want = transformer.unstack_blocks(last_state(workdir).params)
  for name, value in paths.named_leaves(state.params).items():
    np.testing.assert_allclose(
      value, paths.named_leaves(want)[name], atol=1e-5, err_msg=name
    )
  # They have something to agree on.
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), want, first_params())
  assert max(jax.tree.leaves(moved)) > 0.02
