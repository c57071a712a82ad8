"""What a step costs: parameters, FLOPs, memory, compilations, machine speed."""

import collections
import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from jax.interpreters import partial_eval

# Products of the fused attention kernel: scores and mixing; in the backward
# pass the scores again and the gradients of values, weights, queries and keys.
_FUSED_ATTENTION = {
  'dot_product_attention_fwd_wrapper': 2,
  'dot_product_attention_bwd_wrapper': 5,
}
_COMPILE_EVENT = '/jax/core/compile/backend_compile_duration'


def matmul_flops(traced: jax.stages.Traced) -> dict[str, float]:
  """FLOPs of all matrix products and convolutions, by operand type.

  Counted on the traced program over global shapes: two per multiply-add, loop
  bodies times their length, dead code left out, recomputed (rematerialised)
  work counted again. XLA's own analysis (see `cost`) counts the body of a scan
  once, so it cannot serve models that scan over layers, time or microbatches.

  Args:
    traced: `jax.jit(fn).trace(*args)`.

  Returns:
    {'float32': FLOPs, 'bfloat16': FLOPs, ...} of the global batch.
  """
  closed = traced.jaxpr
  jaxpr, _ = partial_eval.dce_jaxpr(
    closed.jaxpr, [True] * len(closed.jaxpr.outvars)
  )
  return dict(_count(jaxpr))


def cost(compiled: jax.stages.Compiled) -> dict[str, float]:
  """XLA's figures for one device: flops (loop bodies once) and bytes."""
  analysis = compiled.cost_analysis() or {}
  memory = compiled.memory_analysis()
  result = {'flops': float(analysis.get('flops', math.nan))}
  for name in ('argument', 'output', 'alias', 'temp'):
    result[f'{name}_bytes'] = float(
      getattr(memory, f'{name}_size_in_bytes', math.nan)
    )
  return result


@functools.cache
def matmul_rate(dtype: str = 'float32', size: int = 0) -> float:
  """Measured FLOP/s of one device: median of ten large square products.

  Args:
    dtype: 'float32' or 'bfloat16'.
    size: side of the matrices; 0: 1024 on CPU, 8192 elsewhere.
  """
  device = jax.local_devices()[0]
  size = size or (1024 if device.platform == 'cpu' else 8192)
  a, b = (
    jax.device_put(
      np.random.default_rng(i).standard_normal((size, size), np.float32), device
    ).astype(dtype)
    for i in range(2)
  )
  product = jax.jit(jnp.matmul)
  product(a, b).block_until_ready()
  seconds = []
  for _ in range(10):
    start = time.perf_counter()
    product(a, b).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2 * size**3 / float(np.median(seconds))


def ideal_seconds(flops: dict[str, float]) -> float:
  """Time that all devices would need at their measured matmul rate.

  Utilisation is this over the measured time of a step. CPU devices of one
  process share its cores, so they count once.

  Args:
    flops: from `matmul_flops`.
  """
  machines = (
    jax.process_count()
    if jax.default_backend() == 'cpu'
    else jax.device_count()
  )
  return sum(n / (matmul_rate(d) * machines) for d, n in flops.items() if n)


def parameter_table(params: Any) -> str:
  """A table of names, shapes and sizes with the total below."""
  return parameter_overview.get_parameter_overview(params, include_stats=False)


def sharding_table(tree: Any) -> str:
  """One line for each leaf that is cut over devices."""
  lines = []
  for key_path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    spec = leaf.sharding.spec
    if any(axis is not None for axis in spec):
      name = jax.tree_util.keystr(key_path)
      lines.append(f'{name} {leaf.dtype}{list(leaf.shape)} {tuple(spec)}')
  return '\n'.join(lines) or 'every leaf is whole on every device'


def device_bytes(tree: Any) -> int:
  """Bytes that one device holds of a tree of arrays or shapes."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    shape = leaf.sharding.shard_shape(leaf.shape)
    total += math.prod(shape) * np.dtype(leaf.dtype).itemsize
  return total


class CompileCounter:
  """Counts compilations in this process, to notice unwanted ones.

  A steady run compiles nothing: each change of a shape costs seconds to
  minutes on an accelerator, silently.
  """

  def __init__(self):
    self.count = 0
    jax.monitoring.register_event_duration_secs_listener(self._listen)

  def _listen(self, event, duration, **kwargs):
    del duration, kwargs
    if event == _COMPILE_EVENT:
      self.count += 1

  def close(self):
    """Stops counting."""
    jax.monitoring.unregister_event_duration_listener(self._listen)


# --- private ---


def _count(jaxpr) -> collections.Counter:
  total = collections.Counter()
  for eqn in jaxpr.eqns:
    total.update(_count_equation(eqn))
  return total


def _count_equation(eqn) -> dict[str, float]:
  name = eqn.primitive.name
  if name in ('dot_general', 'conv_general_dilated'):
    lhs, rhs = (v.aval for v in eqn.invars[:2])
    out = math.prod(eqn.outvars[0].aval.shape)
    if name == 'dot_general':
      (contract, _), _ = eqn.params['dimension_numbers']
      depth = math.prod(lhs.shape[a] for a in contract)
    else:
      taps = eqn.params['dimension_numbers'].rhs_spec[1:]
      # A gradient convolution dilates its input with zeros; products with
      # them are not counted.
      depth = math.prod(rhs.shape[a] for a in taps) / math.prod(
        eqn.params['lhs_dilation']
      )
    return {str(lhs.dtype): 2.0 * out * depth}
  if name in _FUSED_ATTENTION:
    query, key = (v.aval for v in eqn.invars[:2])
    # [B, T, N, H], or [B, N, T, H] if the layout is 1.
    length = key.shape[1 + eqn.params['layout']]
    one = 2.0 * math.prod(query.shape) * length
    return {str(query.dtype): _FUSED_ATTENTION[name] * one}
  inner = []
  for value in eqn.params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      item = getattr(item, 'jaxpr', item)
      if hasattr(item, 'eqns'):
        inner.append(_count(item))
  if name == 'cond':
    return max(inner, key=lambda c: sum(c.values()), default={})
  times = eqn.params['length'] if name == 'scan' else 1
  total = collections.Counter()
  for part in inner:
    total.update({dtype: n * times for dtype, n in part.items()})
  return total
