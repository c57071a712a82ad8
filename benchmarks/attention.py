"""Attention: the plain formula, in blocks of queries, and the fused kernel.

  python -m benchmarks.attention
  python -m benchmarks.attention --lengths 1568 8192 --dtype bfloat16

Time and temporary memory of the forward pass and of forward and backward pass
together, for self-attention of several lengths.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import report, timing
from vidscenic.layers import attention
from vidscenic.train import inspect


def parser():
  """The command line."""
  command = report.parser(
    'Implementations of attention: time, memory, fraction of the matmul rate. '
    'Defaults depend on the device: longer, in bfloat16 and with the fused '
    'kernel on GPUs.'
  )
  add = command.add_argument
  add('--lengths', type=int, nargs='+', help='numbers of tokens')
  add('--query_chunks', type=int, nargs='*', default=[256], help='queries')
  add('--batch_size', type=int, help='sequences')
  add('--heads', type=int, default=8)
  add('--head_dim', type=int, default=64)
  add('--dtype', choices=('float32', 'bfloat16', 'float16'))
  add('--repeats', type=int, default=7, help='timed groups')
  return command


def measure(args) -> list[report.Table]:
  """Times every implementation at every length."""
  gpu = jax.default_backend() == 'gpu'
  lengths = args.lengths or ([1568, 4096, 8192] if gpu else [256, 1024, 2048])
  batch_size = args.batch_size or (8 if gpu else 1)
  dtype = args.dtype or ('bfloat16' if gpu else 'float32')
  variants = {'xla': {}}
  for chunk in args.query_chunks:
    variants[f'xla, {chunk} queries'] = {'query_chunk': chunk}
  if gpu and dtype != 'float32':
    variants['cudnn'] = {'implementation': 'cudnn'}
  rows = []
  with report.Progress(len(lengths) * len(variants), 'attention') as progress:
    for length in lengths:
      shape = (batch_size, length, args.heads, args.head_dim)
      q, k, v = (
        jnp.asarray(np.random.default_rng(i).standard_normal(shape), dtype)
        for i in range(3)
      )
      for name, options in variants.items():
        if 0 < length <= options.get('query_chunk', 0):
          progress(f'{name}, {length} tokens: one block, left out')
          continue
        progress(f'{name}, {length} tokens')
        for part, grad in (('forward', False), ('both', True)):
          rows.append(
            {
              'tokens': length,
              'implementation': name,
              'pass': part,
              **_time(grad, options, (q, k, v), args.repeats),
            }
          )
  return [
    report.Table(
      'attention',
      f'self-attention: {batch_size} sequences, {args.heads} heads of '
      f'{args.head_dim}, {dtype}',
      rows,
      (
        'both: forward and backward pass. Fractions of the matmul rate '
        f'measured here ({inspect.matmul_rate(dtype) / 1e9:.0f} GFLOP/s) '
        'count the products of the plain formula; what is computed again in '
        'the backward pass earns nothing',
      ),
    )
  ]


def _time(grad, options, inputs, repeats):
  """Columns of one implementation, forward or with the backward pass."""
  ideal = inspect.ideal_seconds(
    inspect.matmul_flops(jax.jit(_function(grad)).trace(*inputs))
  )
  try:
    compiled = jax.jit(_function(grad, **options)).lower(*inputs).compile()
    seconds = timing.time_calls(lambda: compiled(*inputs), repeats=repeats)
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return {'ms': 'out of memory'}
  return {
    'ms': 1e3 * seconds.median,
    'spread_percent': 100 * seconds.spread,
    'temp_mib': inspect.cost(compiled)['temp_bytes'] / 2**20,
    'fraction_of_matmul': ideal / seconds.median,
  }


def _function(grad, **options):
  attend = functools.partial(attention.dot_product_attention, **options)
  if not grad:
    return attend

  def loss(q, k, v):
    # A weight per output: the gradient of a plain sum is one in all places.
    out = attend(q, k, v).astype(jnp.float32)
    return jnp.sum(out * jnp.arange(out.shape[-1]))

  return jax.grad(loss, argnums=(0, 1, 2))


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the benchmark."""
  report.main('attention', parser(), measure, parser().parse_args(argv))


if __name__ == '__main__':
  main()
