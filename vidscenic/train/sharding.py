"""The device mesh, and where every array of a run lives on it.

Three axes: `data` (copies of the state, different rows), `fsdp` (one copy of
the state cut into pieces, different rows) and `model` (reserved). The compiler
inserts the collectives; nothing else in the code base knows about devices.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vidscenic.train import freezing, paths

AXES = ('data', 'fsdp', 'model')
BATCH_AXES = ('data', 'fsdp')


def make_mesh(
  sizes: Mapping[str, int], devices: Sequence | None = None
) -> Mesh:
  """Arranges the devices.

  Args:
    sizes: {'data': n, 'fsdp': n, 'model': n}; one may be -1: what is left.
    devices: defaults to all devices of all processes.

  Raises:
    ValueError: the sizes do not multiply to the number of devices.
  """
  count = len(devices) if devices is not None else jax.device_count()
  shape = [sizes[axis] for axis in AXES]
  known = int(np.prod([s for s in shape if s != -1]))
  if -1 in shape and count % known == 0:
    shape[shape.index(-1)] = count // known
  if int(np.prod(shape)) != count:
    raise ValueError(
      f'mesh={dict(sizes)} does not fit {count} devices: the sizes must '
      'multiply to the number of devices (-1 stands for the rest)'
    )
  # Auto: explicit axes, the default of make_mesh, break plain Linen layers.
  return jax.make_mesh(
    tuple(shape), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows over data and fsdp, the other axes whole."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def num_batch_shards(mesh: Mesh) -> int:
  """Number of devices that hold different rows of a batch."""
  return mesh.shape['data'] * mesh.shape['fsdp']


def shardings_from_rules(
  shapes: Any, rules: Sequence[tuple[str, str]], mesh: Mesh
) -> Any:
  """Gives every leaf the sharding of the first rule that matches its path.

  Args:
    shapes: tree of arrays or ShapeDtypeStructs, nested dicts.
    rules: (regex searched in 'a/b/kernel', 'replicate' | 'fsdp'). 'fsdp' cuts
      the largest axis that the fsdp size divides; a leaf without such an axis
      is replicated, which is logged.
    mesh: from `make_mesh`.

  Returns:
    Tree of NamedShardings.

  Raises:
    ValueError: a leaf that no rule matches, or an unknown placement.
  """
  size = mesh.shape['fsdp']

  def one(path, leaf):
    for pattern, placement in rules:
      if not re.search(pattern, path):
        continue
      if placement == 'replicate' or (placement == 'fsdp' and size == 1):
        return replicated(mesh)
      if placement != 'fsdp':
        raise ValueError(
          f"sharding rule {pattern!r}: {placement!r} is not 'replicate' or "
          "'fsdp'"
        )
      axes = [a for a, n in enumerate(leaf.shape) if n and n % size == 0]
      if not axes:
        logging.info('sharding: %s %s stays whole', path, leaf.shape)
        return replicated(mesh)
      axis = max(axes, key=lambda a: leaf.shape[a])
      spec = [None] * len(leaf.shape)
      spec[axis] = 'fsdp'
      return NamedSharding(mesh, PartitionSpec(*spec))
    raise ValueError(f'no sharding rule matches parameter {path!r}: {rules}')

  return paths.map_named(one, shapes)


def shard_like(tree: Any, params: Any, param_shardings: Any, mesh: Mesh) -> Any:
  """Shards the leaves of `tree` that belong to a parameter like it.

  Args:
    tree: any state, such as an optax state.
    params: nested dicts of shapes.
    param_shardings: as returned by `shardings_from_rules(params, ...)`.
    mesh: the mesh.

  Returns:
    Tree of NamedShardings; leaves that belong to no parameter are replicated.
  """
  by_path = paths.named_leaves(param_shardings)
  owners = freezing.param_leaf_paths(tree, params)
  whole = replicated(mesh)
  return jax.tree.unflatten(
    jax.tree.structure(tree), [by_path.get(owner, whole) for owner in owners]
  )
