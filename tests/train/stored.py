"""States, and checkpoints of them, for tests."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidscenic.train import checkpoints, sharding
from vidscenic.train import state as state_lib

FSDP = ((r'.*', 'fsdp'),)
# Reads that fail inside Orbax outlive its event loop.
damages = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


def make_mesh(data=1, fsdp=1):
  return sharding.make_mesh(
    dict(data=data, fsdp=fsdp, model=1), jax.devices()[: data * fsdp]
  )


def make_params(seed=0):
  rng = np.random.default_rng(seed)
  return {
    'stem': {'kernel': rng.normal(size=(3, 16)).astype(np.float32)},
    'head': {
      'kernel': rng.normal(size=(16, 8)).astype(np.float32),
      'bias': rng.normal(size=8).astype(jnp.bfloat16),
    },
  }


def make_state(mesh=None, *, step=3, params=None, ema=None, rules=FSDP):
  """A state on a mesh, as a run would hold it."""
  mesh = mesh or make_mesh()
  params = make_params() if params is None else params
  opt_state = optax.sgd(0.1, momentum=0.9).init(params)
  opt_state = jax.tree.map(lambda x: x + 1, opt_state)
  count = np.int32(step)
  state = state_lib.TrainState(
    count, np.int32(5), params, opt_state, {}, ema, np.int32(0)
  )
  placed = sharding.shardings_from_rules(params, rules, mesh)
  shardings = sharding.shard_like(state, params, placed, mesh)
  return jax.device_put(state, shardings)


def shapes_of(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


def store(workdir, *states, meta=None, metrics=None, **options):
  with_defaults = {'asynchronous': False, 'keep_last': 10, **options}
  writer = checkpoints.Checkpoints(workdir, **with_defaults)
  for number, state in enumerate(states):
    found = None if metrics is None else metrics[number]
    writer.save(state, meta or {}, found)
  writer.close()


def fetch(workdir, target, step=None, read_only=True):
  reader = checkpoints.Checkpoints(workdir, read_only=read_only)
  try:
    return reader.restore(target, step)
  finally:
    reader.close()


def stored_steps(workdir):
  reader = checkpoints.Checkpoints(workdir, read_only=True)
  try:
    return reader.steps()
  finally:
    reader.close()


def assert_equal(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def truncate(workdir, step):
  for file in (workdir / checkpoints.FOLDER / str(step)).rglob('*'):
    if file.is_file() and file.parent.name == 'd':
      file.write_bytes(file.read_bytes()[:10])


def without(tree, *path):
  tree = dict(tree)
  *parents, name = path
  if parents:
    tree[parents[0]] = without(tree[parents[0]], *parents[1:], name)
  else:
    del tree[name]
  return tree
