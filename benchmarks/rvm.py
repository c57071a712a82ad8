"""RVM: streaming latency and throughput, memory by length, training step.

  python -m benchmarks.rvm
  python -m benchmarks.rvm --models S B L --dtype bfloat16 --batch_sizes 1 8 32

Defaults depend on the device: sizes S to L in bfloat16 on GPUs, S in float32
on CPUs. Weights are random; frames have 256x256 pixels.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import report, timing
from vidscenic import config as vc
from vidscenic.train import inspect

_TASK = 'projects.rvm.task:MaskedVideo'
# Temporaries of the longest video over those of the shortest, at most.
MAX_GROWTH = 1.1


def parser():
  """The command line."""
  command = report.parser(
    'RVM: per-frame latency, throughput, memory by number of frames, and the '
    'training step, with fractions of the measured matmul rate.'
  )
  add = command.add_argument
  add('--models', nargs='+', help='sizes, of S, B, L and H')
  add('--batch_sizes', type=int, nargs='+', help='videos side by side')
  add('--train_batch_sizes', type=int, nargs='*', help='clips of a step')
  add('--lengths', type=int, nargs='*', default=[16, 64, 256, 1024])
  add('--size', type=int, default=256, help='pixels of a side')
  add('--dtype', choices=('float32', 'bfloat16'))
  add('--implementation', choices=('xla', 'cudnn'), default='xla')
  add('--repeats', type=int, default=5, help='timed groups')
  return command


def measure(args) -> list[report.Table]:
  """Streaming, memory, training."""
  gpu = jax.default_backend() == 'gpu'
  models = args.models or (['S', 'B', 'L'] if gpu else ['S'])
  sizes = args.batch_sizes or [1, 8, 32]
  train_sizes = args.train_batch_sizes
  if train_sizes is None:
    train_sizes = [32] if gpu else [1]
  args.dtype = args.dtype or ('bfloat16' if gpu else 'float32')
  total = len(models) * (len(sizes) + len(train_sizes)) + len(args.lengths)
  stream, train, memory = [], [], []
  with report.Progress(total, 'rvm') as progress:
    for name in models:
      task = _make_task(name, args)
      params = _random_params(task)
      for batch in sizes:
        progress(f'RVM-{name}, {batch} streams')
        stream.append(_time_step(name, task, params, batch, args))
      for batch in train_sizes:
        progress(f'RVM-{name}, training step of {batch} clips')
        train.append(_time_training(name, task, params, batch, args))
    task = _make_task(models[0], args)
    shapes = jax.eval_shape(functools.partial(_init, task))
    for length in args.lengths:
      progress(f'RVM-{models[0]}, memory of {length} frames')
      memory.append(_memory(task, shapes, length, args))
  rate = inspect.matmul_rate(args.dtype) / 1e12
  where = f'{args.size}x{args.size} pixels, {args.dtype}'
  tables = [
    report.Table(
      'stream',
      f'one frame of every stream: {where}, {args.implementation}',
      stream,
      (f'large products reach {rate:.3g} TFLOP/s here',),
    )
  ]
  if train:
    tables.append(
      report.Table(
        'train',
        f'loss and gradients of clips of 4 sources and 4 targets: {where}',
        train,
        ('without the optimizer; benchmarks.train_step times whole steps',),
      )
    )
  if memory:
    tables.append(_memory_table(models[0], memory))
  return tables


def _make_task(name, args):
  model = {
    'size': name,
    'dtype': args.dtype,
    'implementation': args.implementation,
  }
  return vc.build(_TASK, size=(args.size, args.size), model=model)


def _init(task):
  batch = jax.tree.map(
    lambda s: jnp.zeros((1, *s.shape), s.dtype), task.batch_spec()
  )
  return task.init(jax.random.key(0), batch)[0]


def _random_params(task):
  """Values of about the right size; fresh ones take a while to compile."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: jnp.asarray(0.02 * rng.standard_normal(s.shape, np.float32)),
    jax.eval_shape(functools.partial(_init, task)),
  )


def _noise(*shape):
  return jnp.asarray(
    np.random.default_rng(1).integers(256, size=shape, dtype=np.uint8)
  )


def _time_step(name, task, params, batch, args):
  streaming = vc.resolve('projects.rvm.streaming:step')
  init_state = vc.resolve('projects.rvm.streaming:init_state')
  frame = _noise(batch, args.size, args.size, 3)
  state = init_state(task.model, batch=batch, size=(args.size, args.size))
  step = jax.jit(lambda p, s, f: streaming(task.model, p, s, f)[1])
  traced = step.trace(params, state, frame)
  flops = inspect.matmul_flops(traced)
  compiled = traced.lower().compile()

  def call():
    nonlocal state
    state = compiled(params, state, frame)  # one after the other, as in a video
    return state

  seconds = timing.time_calls(call, repeats=args.repeats)
  return {
    'model': f'RVM-{name}',
    'streams': batch,
    'step_ms': 1e3 * seconds.median,
    'spread_percent': 100 * seconds.spread,
    'frames_per_s': batch / seconds.median,
    'gflop': sum(flops.values()) / 1e9,
    'fraction_of_matmul': inspect.ideal_seconds(flops) / seconds.median,
    'temp_mib': inspect.cost(compiled)['temp_bytes'] / 2**20,
  }


def _time_training(name, task, params, batch, args):
  context = vc.resolve('vidscenic.task:StepContext')
  video = _noise(batch, *task.batch_spec()['video'].shape)
  ids = jnp.tile(jnp.array([0, 1, 2, 3, 7, 15, 23, 51], jnp.int32), (batch, 1))
  data = {'video': video, 'frame_ids': ids, 'mask': jnp.ones(batch, bool)}

  def loss(params, data):
    ctx = context(jnp.int32(0), jax.random.key(0), jnp.arange(batch))
    total, weight, _ = task.loss(params, {}, data, ctx).terms['mse']
    return total / weight

  traced = jax.jit(jax.value_and_grad(loss)).trace(params, data)
  flops = inspect.matmul_flops(traced)
  compiled = traced.lower().compile()
  seconds = timing.time_calls(
    lambda: compiled(params, data), repeats=args.repeats
  )
  return {
    'model': f'RVM-{name}',
    'clips': batch,
    'ms': 1e3 * seconds.median,
    'spread_percent': 100 * seconds.spread,
    'clips_per_s': batch / seconds.median,
    'gflop': sum(flops.values()) / 1e9,
    'fraction_of_matmul': inspect.ideal_seconds(flops) / seconds.median,
    'temp_mib': inspect.cost(compiled)['temp_bytes'] / 2**20,
  }


def _memory(task, shapes, length, args):
  """Temporaries of a whole video in chunks, without running it."""
  encode = vc.resolve('projects.rvm.streaming:encode_video')
  video = jax.ShapeDtypeStruct((1, length, args.size, args.size, 3), np.uint8)
  compiled = encode.lower(task.model, shapes, video, chunk=8).compile()
  cost = inspect.cost(compiled)
  grows = cost['output_bytes'] + length * args.size**2 * 3
  return {
    'frames': length,
    'temp_mib': cost['temp_bytes'] / 2**20,
    'video_and_features_mib': grows / 2**20,
  }


def _memory_table(name, rows):
  growth = rows[-1]['temp_mib'] / rows[0]['temp_mib']
  verdict = 'met' if growth <= MAX_GROWTH else 'MISSED'
  return report.Table(
    'memory',
    f'RVM-{name}, encode_video in chunks of 8 frames: memory of the program',
    rows,
    (
      f'temporaries of the last row over the first: {growth:.3f}, at most '
      f'{MAX_GROWTH} ({verdict}); a stream of single steps has those of a step',
    ),
  )


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the benchmark."""
  report.main('rvm', parser(), measure, parser().parse_args(argv))


if __name__ == '__main__':
  main()
