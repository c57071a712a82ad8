"""Training through a change of phase: resuming, devices, what stays frozen."""

import shutil

import jax
import ml_collections as mlc
import numpy as np
import pytest

from tests.train import stored
from vidscenic import config as vc
from vidscenic.data import device, pipeline
from vidscenic.train import checkpoints, freezing, inspect, loop, paths
from vidscenic.train import run as run_lib

STEPS, SWITCH, KILLED = 5, 2, 3


class Clips:
  """Random clips; row i depends on i only."""

  def __len__(self):
    return 64

  def __getitem__(self, index):
    rng = np.random.default_rng(index)
    return {'video': rng.integers(0, 256, (2, 16, 16, 3), np.uint8)}


def get_config(**mesh):
  config = vc.base_config()
  config.steps = STEPS
  config.batch_size = 8
  config.task.factory = 'projects.layerlock.task:MaskedVideo'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': (2, 16, 16),
      'mask_ratio': 0.5,
      'model': {
        'width': 16,
        'depth': 2,
        'num_heads': 2,
        'mlp_features': 32,
        'patch': (2, 8, 8),
        'num_decoder_layers': 1,
      },
      'layerlock': {
        'freeze_start_step': SWITCH,
        'freeze_interval': 10,
        'max_frozen_layers': 1,
        'mini_warmup': {'steps': 2},
      },
    }
  )
  config.data.train = vc.data_spec(
    source=f'{__name__}:Clips', transform='benchmarks.tiny:Identity'
  )
  config.optim.name = 'sgd'  # amplifies no float noise
  config.optim.lr = 0.1
  config.optim.weight_decay = 0.05
  config.mesh.update(mesh)
  if mesh.get('fsdp', 1) > 1:
    config.sharding = ((r'.*', 'fsdp'),)
  config.checkpoint.every_steps = 1
  config.checkpoint.keep_last = STEPS
  config.log.every_steps = STEPS
  return vc.finalize(config)


def run_on_one_device():
  return run_lib.Run(get_config(data=1), jax.devices()[:1])


def state_at(path, step):
  """The TrainState of a checkpoint, on one device."""
  return stored.fetch(path, run_on_one_device().state_shapes, step)[0]


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A run whose state is cut over eight devices."""
  path = tmp_path_factory.mktemp('layerlock') / 'run'
  assert loop.train(get_config(data=1, fsdp=8), path)
  return path


def test_frozen_blocks_and_their_optimizer_state_stay_bit_identical(workdir):
  before, after = state_at(workdir, SWITCH), state_at(workdir, STEPS)
  task = run_on_one_device().task
  mask = freezing.frozen_mask(before.params, task.frozen(1))
  for name, frozen in paths.named_leaves(mask).items():
    same = np.array_equal(
      *(paths.named_leaves(s.params)[name] for s in (before, after))
    )
    # Keys' biases never change a softmax, and biases do not decay.
    assert same == frozen or name.endswith('key/bias'), name
  moments = freezing.state_mask(before.opt_state, before.params, mask)
  for frozen, a, b in zip(
    *map(jax.tree.leaves, (moments, before.opt_state, after.opt_state)),
    strict=True,
  ):
    if frozen:
      assert np.any(a)  # it trained until then
      np.testing.assert_array_equal(a, b)


def test_killed_run_goes_on_bit_identically(workdir, tmp_path):
  assert SWITCH < KILLED < STEPS
  path = tmp_path / 'run'
  shutil.copytree(workdir, path)
  (path / 'DONE').unlink()
  for step in range(KILLED + 1, STEPS + 1):
    shutil.rmtree(path / checkpoints.FOLDER / str(step))
  assert loop.train(get_config(data=1, fsdp=8), path)
  stored.assert_equal(state_at(path, STEPS), state_at(workdir, STEPS))


def test_one_device_agrees_with_eight_and_needs_less_memory_frozen(workdir):
  run = run_on_one_device()
  state, phase = run.fresh_state(), 0
  batches = pipeline.make_train_iter(
    run.config.data.train, batch_size=run.config.batch_size, seed=0
  )
  compiled = {}
  for step in range(STEPS):
    new = run.task.phase(step)
    if new != phase:
      state, phase = run.change_phase(state, phase, new), new
    if new not in compiled:
      compiled[new] = run.compile_step(new)
    batch = device.check(next(batches), run.task.batch_spec(), where='data')
    batch = device.to_global(batch, run.batch_sharding)
    state, _ = compiled[new].run(state, batch)
  batches.close()
  # Activations and gradients of frozen blocks are not kept.
  temp = [inspect.cost(compiled[k].run)['temp_bytes'] for k in (0, 1)]
  assert temp[1] < temp[0]
  want = state_at(workdir, STEPS)
  for name, value in paths.named_leaves(state.params).items():
    np.testing.assert_allclose(
      value, paths.named_leaves(want.params)[name], atol=2e-5, err_msg=name
    )
