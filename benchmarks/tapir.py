"""TAPIR: whole clips, frame by frame, training step; published widths.

  python -m benchmarks.tapir
  python -m benchmarks.tapir --points 64 --online_points 64 --repeats 3

Weights are random, frames have 256x256 pixels. Each row says how much of the
machine's own matmul rate is reached; `bar` is what the released code took on 2
cores of 305 GFLOP/s, scaled to this machine's rate (0.7 of it is the goal).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import report, timing
from vidscenic import config as vc
from vidscenic.train import inspect, step
from vidscenic.train import run as run_lib

_SIZE = (256, 256)
# Seconds of the released code on the machine described above.
_REFERENCE_RATE = 305e9
_REFERENCE = {
  ('tapir', 64): 6.15,
  ('bootstapir', 64): 10.2,
  ('online', 64): 0.49,
}
_REFERENCE_TEMPORARIES = 8.6e9  # bytes, of a training step
_MODELS = {
  'tapir': {'pyramid_level': 0},
  'bootstapir': {
    'pyramid_level': 1,
    'extra_convs': True,
    'softmax_temperature': 10.0,
  },
  'online': {'pyramid_level': 1, 'use_causal_conv': True},
}


def parser():
  """The command line."""
  command = report.parser('TAPIR: offline and online tracking, training step.')
  add = command.add_argument
  add('--frames', type=int, default=24, help='of a clip')
  add('--points', type=int, nargs='*', default=[64, 256, 1024])
  add('--boots_points', type=int, nargs='*', default=[64])
  add('--online_points', type=int, nargs='*', default=[64, 256])
  add('--train', action='store_true', help='also compile a training step')
  add('--repeats', type=int, default=3, help='timed calls')
  return command


def measure(args) -> list[report.Table]:
  """One row per model and number of points."""
  rows = [('tapir', n, args.frames) for n in args.points]
  rows += [('bootstapir', n, args.frames) for n in args.boots_points]
  rows += [('online', n, 1) for n in args.online_points]
  rate = inspect.matmul_rate()
  table, memory = [], []
  with report.Progress(len(rows) + args.train, 'tapir') as progress:
    for name, count, frames in rows:
      progress(f'{name}, {count} points, {frames} frames')
      table.append(_time(name, count, frames, rate, args.repeats))
    if args.train:
      progress('training step')
      memory.append(_training_step())
  tables = [
    report.Table(
      'track',
      f'tracking at {_SIZE[0]}x{_SIZE[1]}, features included',
      table,
      (f'large products reach {rate / 1e9:.0f} GFLOP/s here',),
    )
  ]
  if memory:
    tables.append(
      report.Table(
        'train',
        'training step of one clip: 24 frames, 256 queries, chunks of 32',
        memory,
        (f'released code: {_REFERENCE_TEMPORARIES / 1e9} GB of temporaries',),
      )
    )
  return tables


def _time(name, count, frames, rate, repeats):
  task = vc.build('projects.tapir.task:PointTracking', model=_MODELS[name])
  model = task.model
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda s: jnp.asarray(0.02 * rng.standard_normal(s.shape, np.float32)),
    jax.eval_shape(task.init, jax.random.key(0), {})[0],
  )
  video = jnp.asarray(rng.standard_normal((1, frames, *_SIZE, 3), np.float32))
  queries = np.zeros((1, count, 3), np.float32)
  queries[0, :, 1:] = rng.uniform(0, 256, (count, 2))
  online = name == 'online'
  state = model.initial_state(count) if online else None

  def stages(model, video, state):
    grids = model.feature_grids(video)
    features = model.query_features(grids, queries)
    return model.trajectories(
      grids,
      features,
      queries=None if online else queries,
      query_chunk_size=64,
      state=state,
    )

  traced = jax.jit(
    lambda p, v, s: model.apply({'params': p}, v, s, method=stages)
  ).trace(params, video, state)
  flops = sum(inspect.matmul_flops(traced).values())
  compiled = traced.lower().compile()
  seconds = timing.time_calls(
    lambda: compiled(params, video, state), repeats=repeats
  )
  row = {
    'model': name,
    'points': count,
    'frames': frames,
    'seconds': seconds.median,
    'spread': seconds.spread,
    'frames/s': frames / seconds.median,
    'GFLOP': flops / 1e9,
    'of matmul rate': flops / rate / seconds.median,
    'temporaries GB': inspect.cost(compiled)['temp_bytes'] / 1e9,
  }
  reference = _REFERENCE.get((name, count))
  if reference and frames in (1, 24) and jax.default_backend() == 'cpu':
    row['released code s'] = reference * _REFERENCE_RATE / rate
  return row


def _training_step():
  """Compiled, not run: its memory is what matters here."""
  config = vc.base_config()
  config.batch_size = 1
  config.task.factory = 'projects.tapir.task:PointTracking'
  config.task.kwargs.model = {'feature_extractor_chunk_size': 8}
  config.data.train.source = 'vidscenic.data.synthetic:SyntheticVideos'
  run = run_lib.Run(vc.finalize(config), jax.local_devices()[:1])
  compiled: step.CompiledStep = run.compile_step(0)
  temporaries = inspect.cost(compiled.run)['temp_bytes']
  return {
    'GFLOP': sum(compiled.flops.values()) / 1e9,
    'temporaries GB': temporaries / 1e9,
    'of released': temporaries / _REFERENCE_TEMPORARIES,
  }


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the benchmark."""
  report.main('tapir', parser(), measure, parser().parse_args(argv))


if __name__ == '__main__':
  main()
