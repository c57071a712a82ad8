"""Loops over a few queries at a time, which bound memory."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp


def in_chunks(body, module, inputs, size: int, *, axes, out_axis: int):
  """Applies a module to a few queries at a time, in a loop.

  Args:
    body: fn(module, inputs) -> outputs, queries independent of each other.
    module: a bound module.
    inputs: tuple of trees of arrays.
    size: queries at a time; 0: all at once.
    axes: the axis of queries, for every entry of inputs.
    out_axis: the axis of queries in all outputs.
  """
  leaves = jax.tree.leaves(inputs[0])
  count = leaves[0].shape[axes[0]]
  size = min(size or count, count)
  if size == count:
    return body(module, inputs)
  chunks = math.ceil(count / size)
  padding = chunks * size - count
  split = tuple(
    jax.tree.map(lambda x, a=axis: _split(x, chunks, padding, a), part)
    for part, axis in zip(inputs, axes, strict=True)
  )
  loop = scan(lambda module, carry, x: (carry, body(module, x)))
  _, outputs = loop(module, (), split)
  return jax.tree.map(lambda x: _join(x, count, out_axis), outputs)


def scan(body, **options):
  """A loop over the model's own methods, with the same parameters."""
  return nn.scan(
    body,
    variable_broadcast='params',
    split_rngs={'params': False},
    **options,
  )


def _split(x, count, padding, axis):
  """[.., N, ..] -> [count, .., N/count, ..], filled up with zeros."""
  widths = [(0, padding if a == axis else 0) for a in range(x.ndim)]
  x = jnp.pad(x, widths)
  x = x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :])
  return jnp.moveaxis(x, axis, 0)


def _join(x, size, axis):
  """Undoes `_split`: [count, .., n, ..] -> [.., size, ..]."""
  x = jnp.moveaxis(x, 0, axis)
  x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
  return take(x, 0, size, axis)


def take(x, begin, end, axis):
  """x[begin:end] of an axis."""
  return jax.lax.slice_in_dim(x, begin, end, axis=axis)
