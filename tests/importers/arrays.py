"""Arrays of a source, and what a model says of its own."""

import types

import numpy as np


def leaf(*shape, dtype=np.float32):
  return types.SimpleNamespace(shape=shape, dtype=np.dtype(dtype))


def numbers(*shape, dtype=np.float32):
  return np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)
