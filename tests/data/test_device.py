"""From rows of a process to a sharded batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.data import device
from vidscenic.train import sharding


def rows_of(data, fsdp, devices=None):
  mesh = sharding.make_mesh(
    {'data': data, 'fsdp': fsdp, 'model': 1},
    jax.devices()[: devices or data * fsdp],
  )
  return sharding.batch_sharding(mesh)


class PartOf:
  """A sharding as one of several processes sees it."""

  def __init__(self, real, devices):
    self._real, self._devices = real, set(devices)
    self.mesh, self.spec = real.mesh, real.spec

  def addressable_devices_indices_map(self, shape):
    every = self._real.devices_indices_map(shape)
    return {d: index for d, index in every.items() if d in self._devices}


def arrange(order):
  """A batch sharding over eight devices in some order."""
  devices = [jax.devices()[i] for i in order]
  mesh = jax.sharding.Mesh(
    np.array(devices).reshape(4, 2, 1), ('data', 'fsdp', 'model')
  )
  return sharding.batch_sharding(mesh)


@pytest.mark.parametrize(
  ('data', 'fsdp'), [(8, 1), (1, 8), (4, 2), (2, 1), (1, 1), (1, 3)]
)
def test_one_process_holds_every_row(data, fsdp):
  got = device.local_rows(24, rows_of(data, fsdp))
  np.testing.assert_array_equal(got, np.arange(24))


@pytest.mark.parametrize('order', [range(8), [3, 1, 7, 5, 0, 2, 6, 4]])
@pytest.mark.parametrize('processes', [2, 4])
def test_processes_divide_the_rows(order, processes):
  real, each = arrange(order), 8 // processes
  parts = [
    device.local_rows(
      16, PartOf(real, jax.devices()[i * each : (i + 1) * each])
    )
    for i in range(processes)
  ]
  for rows in parts:
    assert len(rows) == 16 // processes
    assert np.all(np.diff(rows) > 0)
  np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(16))


def test_rows_are_those_of_the_own_devices():
  # Processes 0 and 1 own every other device of the mesh.
  real = arrange(range(8))
  rows = device.local_rows(16, PartOf(real, jax.devices()[::2]))
  np.testing.assert_array_equal(rows, [0, 1, 4, 5, 8, 9, 12, 13])


def test_rows_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match='batch_size=12.*over 8 devices.*fsdp'):
    device.local_rows(12, rows_of(4, 2))


SPEC = {
  'video': jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.uint8),
  'label': jax.ShapeDtypeStruct((), jnp.int32),
  'weight': jax.ShapeDtypeStruct((), jnp.bfloat16),
}


def make_batch(**changes):
  batch = {
    'video': np.zeros((5, 2, 4, 4, 3), np.uint8),
    'label': np.arange(5, dtype=np.int64),
    'weight': np.ones(5, np.float64),
    'path': np.zeros(5, np.int32),
    'mask': np.ones(5, bool),
    'replaced': np.zeros(5, np.int32),
  }
  batch.update(changes)
  return {k: v for k, v in batch.items() if v is not None}


def test_checked_batch_has_the_fields_and_widths_that_were_asked_for():
  got = device.check(make_batch(), SPEC, where='data.train')
  assert set(got) == {'video', 'label', 'weight', 'mask', 'replaced'}
  assert got['label'].dtype == np.int32
  assert got['weight'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(got['label'], np.arange(5))


def test_fields_that_fit_are_not_copied():
  batch = make_batch()
  got = device.check(batch, SPEC, where='data.train')
  assert got['video'] is batch['video']


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'video': None}, r"data.train: the task needs 'video', .*\['label', 'mas"),
    (
      {'video': np.zeros((5, 2, 4, 8, 3), np.uint8)},
      r"'video' has shape \[2, 4, 8, 3\] per example, .* \[2, 4, 4, 3\]",
    ),
    (
      {'video': np.zeros((5, 2, 4, 4, 3), np.float32)},
      "'video' is float32, the task wants uint8",
    ),
    (
      {'video': np.zeros((5, 2, 4, 4, 3), np.int32)},
      "'video' is int32, the task wants uint8",
    ),
    ({'label': np.zeros(5)}, "'label' is float64, the task wants int32"),
    ({'label': np.zeros((5, 1), int)}, r"'label' has shape \[1\] per example"),
    ({'weight': np.ones(5, int)}, "'weight' is int64, the task wants bfloat16"),
    ({'weight': np.ones(5, bool)}, "'weight' is bool"),
  ],
)
def test_field_that_does_not_fit_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    device.check(make_batch(**changes), SPEC, where='data.train')


def test_streams_are_checked_by_name():
  spec = {'a': SPEC, 'b': {'label': SPEC['label']}}
  batch = {'a': make_batch(), 'b': make_batch(video=None), 'c': make_batch()}
  got = device.check(batch, spec, where='data.train')
  assert set(got) == {'a', 'b'}
  assert set(got['b']) == {'label', 'mask', 'replaced'}
  batch['b'] = make_batch(label=None)
  with pytest.raises(ValueError, match="data.train.streams.b: .* 'label'"):
    device.check(batch, spec, where='data.train')


def test_shapes_of_a_global_batch():
  where = rows_of(4, 2)
  got = device.batch_shapes(SPEC, 16, where)
  assert got['video'].shape == (16, 2, 4, 4, 3)
  assert got['mask'].dtype == bool and got['mask'].shape == (16,)
  assert got['replaced'].dtype == np.int32
  assert all(leaf.sharding == where for leaf in got.values())
  streams = device.batch_shapes(
    {'a': SPEC, 'b': {'label': SPEC['label']}}, {'a': 8, 'b': 24}, where
  )
  assert streams['a']['video'].shape[0] == 8
  assert streams['b']['label'].shape == (24,)
  assert set(streams['b']) == {'label', 'mask', 'replaced'}


@pytest.mark.parametrize(('data', 'fsdp'), [(8, 1), (2, 4), (1, 1)])
def test_rows_keep_their_order_on_the_devices(data, fsdp):
  where = rows_of(data, fsdp)
  batch = {'x': np.arange(48).reshape(16, 3), 'a': {'y': np.arange(16)}}
  placed = device.to_global(batch, where)
  np.testing.assert_array_equal(placed['x'], batch['x'])
  np.testing.assert_array_equal(placed['a']['y'], batch['a']['y'])
  assert placed['x'].sharding == where
  # Each device holds the rows that `local_rows` counts on.
  indices = where.devices_indices_map((16,))
  for shard in placed['x'].addressable_shards:
    np.testing.assert_array_equal(
      shard.data, batch['x'][indices[shard.device][0]]
    )


def test_prefetching_stays_two_batches_ahead_and_loses_none():
  placed = []

  def place(batch):
    placed.append(batch)
    return batch * 10

  got = device.prefetch(iter(range(6)), place)
  assert placed == []  # nothing before the first batch is asked for
  assert next(got) == 0
  assert placed == [0, 1, 2]
  assert next(got) == 10
  assert placed == [0, 1, 2, 3]
  assert list(got) == [20, 30, 40, 50]
  assert list(device.prefetch([7], place)) == [70]
