"""MooG's training step: FLOPs, memory, compile time, speed.

  python -m benchmarks.moog
  python -m benchmarks.moog --dtype=bfloat16 --batch_size 1 4 16 32 --run

FLOPs per frame are those of matrix products and convolutions, counted on the
unrolled model (no scan), without and with recomputed steps; memory and compile
time are those of the scanned program with recomputation. The reference, without
scan, needs 209 GFLOP per frame by XLA's estimate, 8.2 GB of temporaries
and 26.5 s to compile (8 frames of 128x128, batch 1, float32, CPU).
"""

import argparse
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from benchmarks import report, timing
from vidscenic import config as vc
from vidscenic import task as task_api
from vidscenic.train import inspect

_LIMIT_TEMP = 8.2e9 / 4  # a quarter of the reference's
_REFERENCE_FLOPS = 209e9


def parser():
  """The command line."""
  command = report.parser(
    "FLOPs, memory and compile time of MooG's training step; with --run also "
    'its speed.'
  )
  command.add_argument('--frames', type=int, default=8)
  command.add_argument('--size', type=int, default=128, help='of frames')
  command.add_argument('--num_tokens', type=int, default=1024)
  command.add_argument('--batch_size', type=int, nargs='+', default=[1])
  command.add_argument(
    '--dtype', choices=('float32', 'bfloat16'), default='float32'
  )
  command.add_argument(
    '--attention', choices=('xla', 'cudnn'), default='xla', help='its program'
  )
  command.add_argument('--run', action='store_true', help='time it as well')
  command.add_argument('--repeats', type=int, default=5)
  return command


def measure(args) -> list[report.Table]:
  """Counts, compiles and, if asked for, runs."""
  rows = []
  total = 1 + len(args.batch_size)
  with report.Progress(total, 'moog') as progress:
    progress('FLOPs of the unrolled model')
    counted = {
      remat: inspect.matmul_flops(_trace(args, 1, remat=remat, scan=False)[0])
      for remat in (False, True)
    }
    for size in args.batch_size:
      progress(f'batch of {size}')
      rows.append(_row(args, size))
  flops = []
  for remat, found in counted.items():
    count = sum(found.values()) / args.frames
    row = {
      'recomputation': 'yes' if remat else 'no',
      'gflop_per_frame': count / 1e9,
    }
    if _is_reference(args):
      limit = (1.25 if remat else 1) * _REFERENCE_FLOPS
      row |= {'limit_gflop': limit / 1e9, 'fraction_of_limit': count / limit}
    flops.append(row)
  return [
    report.Table('flops', 'one update, unrolled, per frame', flops),
    report.Table(
      'step',
      f'one update with recomputed steps, {args.frames} frames of '
      f'{args.size}x{args.size}, {args.dtype}, {args.attention}',
      rows,
      (
        'limit_gb: a quarter of the 8.2 GB of the reference, batch 1; '
        'fraction_of_matmul: without what is computed twice',
      ),
    ),
  ]


def _is_reference(args):
  """Whether these are the sizes whose cost is published."""
  sizes = args.frames, args.size, args.num_tokens
  return sizes == (8, 128, 1024)


def _trace(args, rows, *, remat, scan):
  """(traced update, its arguments) of the next-frame loss with plain SGD."""
  clip = (args.frames, args.size, args.size)
  task = vc.build(
    'projects.moog.task:NextFrame',
    clip=clip,
    model={
      'num_tokens': args.num_tokens,
      'remat': remat,
      'scan': scan,
      'implementation': args.attention,
    },
    dtype=args.dtype,
  )
  batch = {
    'video': jnp.zeros((rows, *clip, 3), jnp.uint8),
    'mask': jnp.ones(rows, bool),
  }
  context = task_api.StepContext(
    jnp.int32(0), jax.random.key(0), jnp.arange(rows)
  )

  def loss(params, batch):
    out = task.loss(params, {}, batch, context)
    total, weight, _ = out.terms['next_frame']
    return total / weight

  shapes, _ = jax.eval_shape(task.init, jax.random.key(0), batch)
  run = jax.jit(jax.value_and_grad(loss))
  return run.trace(shapes, batch), (task, batch)


def _row(args, size):
  start = time.perf_counter()
  traced, (task, batch) = _trace(args, size, remat=True, scan=True)
  trace_seconds = time.perf_counter() - start
  start = time.perf_counter()
  compiled = traced.lower().compile()
  row = {
    'batch_size': size,
    'trace_s': trace_seconds,
    'compile_s': time.perf_counter() - start,
    'temporaries_gb': inspect.cost(compiled)['temp_bytes'] / 1e9,
  }
  if size == 1 and _is_reference(args):
    row['limit_gb'] = _LIMIT_TEMP / 1e9
    row['fraction_of_limit'] = row['temporaries_gb'] * 1e9 / _LIMIT_TEMP
  if not args.run:
    return row
  params, _ = jax.jit(task.init)(jax.random.key(0), batch)
  step = timing.time_calls(
    lambda: compiled(params, batch), repeats=args.repeats
  )
  flops = inspect.matmul_flops(_trace(args, size, remat=False, scan=True)[0])
  return row | {
    'step_ms': 1e3 * step.median,
    'spread_percent': 100 * step.spread,
    'clips_per_s': size / step.median,
    # Work that is done twice does not count.
    'fraction_of_matmul': inspect.ideal_seconds(flops) / step.median,
  }


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the benchmark."""
  args: argparse.Namespace = parser().parse_args(argv)
  report.main('moog', parser(), measure, args)


if __name__ == '__main__':
  main()
