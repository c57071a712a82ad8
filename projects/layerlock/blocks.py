"""The first blocks of a vision transformer: frozen, listed, without moments.

For stacks of `vidscenic.layers.transformer`, stacked or one by one.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from vidscenic.layers import transformer
from vidscenic.train import freezing


def block_rules(path: str, count: int, *, scan: bool):
  """Rules of `Task.frozen` for the first blocks of a `Transformer`.

  Args:
    path: of the `vit.VisionTransformer`.
    count: number of blocks, at least 1.
    scan: whether blocks are stacked.
  """
  if scan:
    return [(f'^{path}/transformer/blocks/', count)]
  numbers = '|'.join(str(i) for i in range(count))
  return [f'^{path}/transformer/block_(?:{numbers})/']


def blocks_of(params):
  """Parameters of each block of a `vit.VisionTransformer`, in order."""
  stack = transformer.unstack_blocks(params['transformer'])
  count = sum(name.startswith('block_') for name in stack)
  return [stack[f'block_{i}'] for i in range(count)]


def clear_moments(state, prefixes: Sequence[str]):
  """Zeros in the optimizer state of parameters below some paths.

  Args:
    state: a `TrainState`.
    prefixes: starts of parameter paths, '' for all.
  """
  if not prefixes:
    return state
  leaves, structure = jax.tree.flatten(state.opt_state)
  owners = freezing.param_leaf_paths(state.opt_state, state.params)
  leaves = [
    jnp.zeros_like(leaf)
    if owner is not None and owner.startswith(tuple(prefixes))
    else leaf
    for leaf, owner in zip(leaves, owners, strict=True)
  ]
  return state._replace(opt_state=jax.tree.unflatten(structure, leaves))
