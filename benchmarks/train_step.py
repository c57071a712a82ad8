"""The compiled training step of a config, and what the loop adds to it.

  python -m benchmarks.train_step
  python -m benchmarks.train_step --config=projects/rvm/configs/pretrain.py \
    --config.batch_size=64 --config.accum_steps=4
  python -m benchmarks.train_step --loop

Time and throughput on data that lie on the device, FLOPs of matrix products
and convolutions, the part of the machine's measured matmul rate that they
reach, memory, and compile time. With --loop also the overhead of the training
loop and the time that a run of the config waits for data.
"""

import argparse
import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from benchmarks import loop_overhead, report, timing
from vidscenic import config as vc
from vidscenic.train import inspect
from vidscenic.train import run as run_lib

_CONFIG = 'configs/smoke.py'
# Compiled: arguments, results and temporaries of one device.
_MEMORY = ('argument', 'output', 'temp')


def parser():
  """The command line; fields of the config are set as in main.py."""
  command = report.parser(
    'Times the compiled training step of a config on device-resident data. '
    '--config=FILE.py[:arg] chooses another config than configs/smoke.py, '
    '--config.FIELD=VALUE sets a field of it.'
  )
  command.add_argument(
    '--batch_size', type=int, nargs='+', help='instead of that of the config'
  )
  command.add_argument(
    '--at_step', type=int, default=0, help='time the phase of this step'
  )
  command.add_argument('--repeats', type=int, default=15, help='timed groups')
  command.add_argument(
    '--loop', action='store_true', help='also measure the loop around the step'
  )
  command.add_argument(
    '--loop_steps', type=int, default=1000, help='updates of the trivial task'
  )
  command.add_argument(
    '--run_steps',
    type=int,
    default=100,
    help="updates of the config's own run with --loop; 0: leave it out",
  )
  return command


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """Parses; the config's own flags are kept in `args.config`."""
  args, args.config = parser().parse_known_args(argv)
  return args


def load_config(argv: Sequence[str]):
  """Reads --config=... and --config.x=... as main.py does.

  Raises:
    absl.flags.Error: anything else among the arguments.
  """
  argv = list(argv)
  if not any(a == '--config' or a.startswith('--config=') for a in argv):
    argv.insert(0, f'--config={_CONFIG}')
  argv.insert(0, 'benchmarks')
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file(
    'config', flag_values=values, sys_argv=argv
  )
  rest = values(argv)[1:]
  if rest:
    raise flags.Error(f'unexpected arguments: {rest}')
  return vc.finalize(holder.value)


def measure(args) -> list[report.Table]:
  """Times the step for each batch size, then the loop if asked for."""
  config = load_config(args.config)
  sizes = args.batch_size or [config.batch_size]
  loops = (1 + bool(args.run_steps)) * args.loop
  rows = []
  with report.Progress(len(sizes) + loops, 'train_step') as progress:
    for size in sizes:
      progress(f'{config.task.factory}, batches of {size}')
      with config.unlocked():
        config.batch_size = size
      rows.append(_time_step(vc.finalize(config), args))
    tables = [_step_table(config, rows)]
    if args.loop:
      progress(f'loop around a trivial step, {args.loop_steps} updates')
      tables.append(loop_overhead.measure_overhead(args.loop_steps))
    if args.loop and args.run_steps:
      progress(f'run of the config, {args.run_steps} updates')
      tables.append(
        loop_overhead.measure_run(
          config, steps=args.run_steps, bare_ms=rows[-1]['step_ms']
        )
      )
  return tables


def random_batch(run: run_lib.Run):
  """A batch of a run's shapes on its devices.

  Floating-point fields are uniform in [0, 1), bytes too over their range,
  integers 0 (valid as a label of any task) and booleans True.
  """
  rng = np.random.default_rng(0)

  def fill(shape):
    if shape.dtype == np.uint8:
      value = rng.integers(256, size=shape.shape, dtype=np.uint8)
    elif shape.dtype == bool:
      value = np.ones(shape.shape, bool)
    elif np.issubdtype(shape.dtype, np.integer):
      value = np.zeros(shape.shape, shape.dtype)
    else:
      value = rng.random(shape.shape, np.float32).astype(shape.dtype)
    return jax.device_put(value, shape.sharding)

  return jax.tree.map(fill, run.batch_shapes)


def _time_step(config, args):
  run = run_lib.Run(config)
  start = time.perf_counter()
  compiled = run.compile_step(run.task.phase(args.at_step))
  compile_seconds = time.perf_counter() - start
  state, batch = run.fresh_state(), random_batch(run)

  def step():
    nonlocal state
    state, metrics = compiled.run(state, batch)
    return metrics['loss']

  step_time = timing.time_calls(step, repeats=args.repeats)
  seconds = step_time.median
  flops = sum(compiled.flops.values())
  ideal = inspect.ideal_seconds(compiled.flops)
  cost = inspect.cost(compiled.run)
  program = sum(cost[f'{k}_bytes'] for k in _MEMORY) - cost['alias_bytes']
  peak, whose = timing.peak_bytes()
  return {
    'batch_size': config.batch_size,
    'step_ms': 1e3 * seconds,
    'spread_percent': 100 * step_time.spread,
    'clips_per_s': config.batch_size / seconds,
    'gflop_per_step': flops / 1e9,
    'gflop_per_s': flops / seconds / 1e9,
    'matmul_gflop_per_s': flops / ideal / 1e9 if ideal else 0.0,
    'fraction_of_matmul': ideal / seconds,
    'program_mib': program / 2**20,
    f'peak_{whose}_mib': peak / 2**20,
    'compile_s': compile_seconds,
  }


def _step_table(config, rows):
  return report.Table(
    'step',
    f'compiled step: {config.task.factory}, accum_steps={config.accum_steps}, '
    f'mesh {config.mesh.to_dict()}',
    rows,
    (
      'gflop: matrix products and convolutions of the step over all devices; '
      'matmul_gflop_per_s: what large products reach here',
      'program: arguments, results and temporaries of one device; peak: '
      'greatest use so far',
    ),
  )


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the benchmark."""
  report.main('train_step', parser(), measure, parse(argv))


if __name__ == '__main__':
  main()
