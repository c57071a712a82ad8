"""Meshes, and which axis of which leaf is cut over which devices."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from vidscenic.train import sharding


def make_mesh(data=-1, fsdp=1, model=1, devices=8):
  sizes = {'data': data, 'fsdp': fsdp, 'model': model}
  return sharding.make_mesh(sizes, jax.devices()[:devices])


def shapes(**leaves):
  return {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in leaves.items()}


def specs(leaves, rules, mesh):
  placed = sharding.shardings_from_rules(leaves, rules, mesh)
  return {k: tuple(s.spec) for k, s in placed.items()}


@pytest.mark.parametrize(
  ('sizes', 'devices', 'shape'),
  [
    ((-1, 1, 1), 8, (8, 1, 1)),
    ((-1, 4, 1), 8, (2, 4, 1)),
    ((2, -1, 1), 8, (2, 4, 1)),
    ((1, 1, -1), 8, (1, 1, 8)),
    ((3, 2, 1), 6, (3, 2, 1)),
    ((-1, 1, 1), 1, (1, 1, 1)),
  ],
)
def test_mesh_takes_all_devices(sizes, devices, shape):
  mesh = make_mesh(*sizes, devices=devices)
  assert mesh.devices.shape == shape
  assert mesh.axis_names == ('data', 'fsdp', 'model')
  assert len(set(mesh.devices.flat)) == devices
  assert sharding.num_batch_shards(mesh) == shape[0] * shape[1]
  # Explicit axes, jax's default, break plain Linen layers.
  assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(
  'sizes', [(3, 1, 1), (-1, 3, 1), (4, 1, 1), (16, 1, 1)]
)
def test_sizes_that_do_not_fit_are_refused(sizes):
  with pytest.raises(ValueError, match=f"'data': {sizes[0]}.* fit 8 devices"):
    make_mesh(*sizes)


def test_batch_is_cut_over_data_and_fsdp():
  mesh = make_mesh(2, 4)
  placed = jax.device_put(np.arange(16), sharding.batch_sharding(mesh))
  rows = [s.data.tolist() for s in placed.addressable_shards]
  assert sorted(rows) == [[i, i + 1] for i in range(0, 16, 2)]
  whole = jax.device_put(np.arange(16), sharding.replicated(mesh))
  assert all(s.data.shape == (16,) for s in whole.addressable_shards)


def test_first_matching_rule_counts():
  leaves = {'a': shapes(kernel=(8, 4), bias=(8,)), 'b': shapes(kernel=(8, 4))}
  rules = (('^a/kernel', 'replicate'), ('kernel', 'fsdp'), ('.*', 'replicate'))
  placed = sharding.shardings_from_rules(leaves, rules, make_mesh(1, 8))
  assert placed['a']['kernel'].spec == PartitionSpec()
  assert placed['a']['bias'].spec == PartitionSpec()
  assert placed['b']['kernel'].spec == PartitionSpec('fsdp', None)


@pytest.mark.parametrize(
  ('shape', 'spec'),
  [
    ((8, 16), (None, 'fsdp')),  # the largest axis
    ((16, 8), ('fsdp', None)),
    ((8, 8), ('fsdp', None)),  # the first of equal ones
    ((12, 36, 4), (None, 'fsdp', None)),
    ((15, 8, 3), (None, 'fsdp', None)),  # the largest that can be divided
    ((6, 10), ()),
    ((0, 3), ()),
    ((), ()),
  ],
)
def test_fsdp_cuts_the_largest_axis_that_divides(shape, spec):
  got = specs(shapes(leaf=shape), (('.*', 'fsdp'),), make_mesh(2, 4))
  assert got == {'leaf': spec}


def test_leaf_that_cannot_be_cut_is_logged(caplog):
  caplog.set_level(logging.INFO)
  specs(shapes(odd=(3, 5), even=(8,)), (('.*', 'fsdp'),), make_mesh(1, 8))
  assert 'odd (3, 5) stays whole' in caplog.text
  assert 'even' not in caplog.text


def test_nothing_is_cut_over_one_device():
  got = specs(shapes(leaf=(8, 8)), (('.*', 'fsdp'),), make_mesh(8, 1))
  assert got == {'leaf': ()}


def test_parameter_without_a_rule_is_refused():
  with pytest.raises(ValueError, match="no sharding rule matches.*'bias'"):
    specs(shapes(kernel=(8,), bias=(8,)), (('kernel', 'fsdp'),), make_mesh())


def test_unknown_placement_is_refused():
  with pytest.raises(ValueError, match="'.*': 'fdsp' is not 'replicate' or"):
    specs(shapes(kernel=(8,)), (('.*', 'fdsp'),), make_mesh(1, 8))


def test_optimizer_state_is_placed_like_its_parameters():
  mesh = make_mesh(1, 8)
  params = {'a': shapes(kernel=(16, 4), bias=(3,)), 'b': shapes(kernel=(4, 8))}
  placed = sharding.shardings_from_rules(params, (('.*', 'fsdp'),), mesh)
  state = jax.eval_shape(optax.adamw(1e-3).init, params)
  got = sharding.shard_like(state, params, placed, mesh)
  for moments in (got[0].mu, got[0].nu):
    assert moments == placed
  assert got[0].count == sharding.replicated(mesh)
  assert jax.tree.structure(got) == jax.tree.structure(state)


def test_factored_moments_stay_whole():
  # Adafactor keeps a row and a column per matrix: of no parameter's shape.
  mesh = make_mesh(1, 8)
  params = {'a': shapes(kernel=(256, 128))}
  placed = sharding.shardings_from_rules(params, (('.*', 'fsdp'),), mesh)
  state = jax.eval_shape(optax.adafactor(1e-3).init, params)
  got = sharding.shard_like(state, params, placed, mesh)
  whole = sharding.replicated(mesh)
  leaves = jax.tree.leaves(state)
  assert {(128,), (256,)} <= {leaf.shape for leaf in leaves}
  for leaf, where in zip(leaves, jax.tree.leaves(got), strict=True):
    assert (where == whole) == (leaf.shape != (256, 128))
