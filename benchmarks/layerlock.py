"""What freezing saves in a LayerLock step: FLOPs, memory, time.

  python -m benchmarks.layerlock
  python -m benchmarks.layerlock --size=B L --compile
  python -m benchmarks.layerlock --size=G e --decode_grid 8 7 7

For every stage the matrix products of the training step, read off the program
that the compiler is given or, with --compile, off what it made of it, beside
the formula of `projects.layerlock.flops`: they agree to the last FLOP. With
--compile also the memory of the program and, with --time, the time of a step.
Without arguments a small model is compiled and timed.
"""

import argparse
from collections.abc import Sequence

import jax
import ml_collections as mlc

from benchmarks import report, timing, train_step
from vidscenic import config as vc
from vidscenic.train import hlo, inspect, step
from vidscenic.train import run as run_lib

# width, depth, num_heads, mlp_features
_SMALL = dict(width=192, depth=12, num_heads=3, mlp_features=768)


def parser():
  """The command line."""
  command = report.parser(__doc__.partition('\n')[0])
  command.add_argument(
    '--size', nargs='+', default=['small'], help='small, S, B, L, H, G, e'
  )
  command.add_argument(
    '--clip', type=int, nargs=3, default=[16, 224, 224], help='T H W'
  )
  command.add_argument(
    '--decode_grid', type=int, nargs=3, help='decode tokens; default: all'
  )
  command.add_argument('--batch_size', type=int, default=1)
  command.add_argument('--dtype', default='float32')
  command.add_argument(
    '--targets', nargs='+', default=['pixels', 'features'], help='which'
  )
  command.add_argument('--fraction', type=float, default=1.0, help='of targets')
  command.add_argument(
    '--stages', type=float, nargs='+', default=[0, 1 / 4, 1 / 2, 2 / 3, 3 / 4],
    help='frozen blocks, as parts of all; at most those of the encoder',
  )  # fmt: skip
  command.add_argument(
    '--compile', action='store_true', help='count what the compiler makes'
  )
  command.add_argument('--time', action='store_true', help='time the steps')
  command.add_argument('--repeats', type=int, default=7, help='timed groups')
  return command


def make_config(size: str, args: argparse.Namespace, *, latent: bool):
  """A LayerLock run of which stage k is reached after k updates."""
  fields = dict(_SMALL) if size == 'small' else {'size': size}
  if args.decode_grid:
    fields['decode_grid'] = tuple(args.decode_grid)
  fields['dtype'] = args.dtype
  depth = _SMALL['depth']
  if size != 'small':
    depth = vc.build('vidscenic.layers.vit:vit_config', name=size)['depth']
  config = vc.base_config()
  config.batch_size = args.batch_size
  config.task.factory = 'projects.layerlock.task:MaskedVideo'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': tuple(args.clip),
      'model': fields,
      'layerlock': {
        'latent_targets': latent,
        'freeze_start_step': 1,
        'freeze_interval': 1,
        'max_frozen_layers': depth - 4,
        'latent_target': {'fraction': args.fraction},
      },
    }
  )
  config.optim.weight_decay = 0.05
  config.steps = depth
  return vc.finalize(config)


def formula(task, k: int, *, latent: bool) -> int:
  """FLOPs of one clip with k frozen blocks."""
  model = task.model
  sizes = vc.build(
    'projects.layerlock.flops:Sizes',
    width=model.width,
    depth=model.depth,
    mlp_features=model.mlp_features,
    num_decoder_layers=model.num_decoder_layers,
    num_visible=task.num_keep,
    num_decode=task.targets.num_decode,
    patch_values=model.num_outputs('pixel_head'),
  )
  latent = latent and k > 0
  tokens = task.targets.num_chosen * task.num_tokens // task.targets.num_decode
  return sizes.cost(
    k, latent=latent, target_tokens=tokens if latent else 0
  ).total


def measure(args: argparse.Namespace) -> list[report.Table]:
  """Counts, and perhaps times, every stage of every model."""
  wanted = [(s, t) for s in args.size for t in args.targets]
  if args.size == ['small']:
    args.compile = args.time = True
  tables = []
  with report.Progress(len(wanted) * len(args.stages), 'layerlock') as progress:
    for size, targets in wanted:
      latent = targets == 'features'
      run = run_lib.Run(make_config(size, args, latent=latent))
      rows = []
      model = run.task.model
      stages = [round(part * model.depth) for part in args.stages]
      for k in sorted({min(k, model.encoder_depth) for k in stages}):
        progress(f'{size}, {targets}, {k} frozen')
        rows.append(_stage(run, k, args, latent=latent))
      for row in rows:
        row['saved_percent'] = 100 * (1 - row['gflop'] / rows[0]['gflop'])
      tables.append(
        report.Table(
          f'{size}_{targets}',
          f'{size} ({model.depth} blocks of {model.width}), {targets} as '
          'targets; '
          f'{run.task.num_keep} visible, {run.task.targets.num_decode} decode '
          f'tokens; batch {args.batch_size}, {args.dtype}',
          rows,
          ('gflop: matrix products of a step; off_flop: less the formula',),
        )
      )
  return tables


def _stage(run, k, args, *, latent):
  fn = step.make_step_fn(run.task, run.optimizer, run.config, run.mesh, k)
  row = {'frozen': k}
  expected = args.batch_size * formula(run.task, k, latent=latent)
  if not args.compile:
    with jax.set_mesh(run.mesh):
      lowered = jax.jit(fn).lower(run.state_shapes, run.batch_shapes)
    counted = hlo.dot_flops(lowered.as_text('hlo'))
    return row | {'gflop': counted / 1e9, 'off_flop': counted - expected}
  compiled = step.compile_step(fn, run.state_shapes, run.batch_shapes, run.mesh)
  counted = sum(compiled.flops.values())
  if jax.default_backend() == 'cpu':  # elsewhere libraries do the products
    counted = hlo.dot_flops(compiled.run.as_text())
  cost = inspect.cost(compiled.run)
  row |= {
    'gflop': counted / 1e9,
    'off_flop': counted - expected,
    'xla_gflop': cost['flops'] / 1e9,
    'temp_mib': cost['temp_bytes'] / 2**20,
  }
  if args.time:
    row |= _time(run, compiled, args)
  return row


def _time(run, compiled, args):
  state, batch = run.fresh_state(), train_step.random_batch(run)

  def call():
    nonlocal state
    state, metrics = compiled.run(state, batch)
    return metrics['loss']

  seconds = timing.time_calls(call, repeats=args.repeats)
  ideal = inspect.ideal_seconds(compiled.flops)
  return {
    'step_ms': 1e3 * seconds.median,
    'spread_percent': 100 * seconds.spread,
    'fraction_of_matmul': ideal / seconds.median,
  }


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the benchmark."""
  report.main('layerlock', parser(), measure, parser().parse_args(argv))


if __name__ == '__main__':
  main()
