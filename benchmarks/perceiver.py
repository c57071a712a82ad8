"""Speed, FLOPs and memory of the Perceivers of published size.

  python -m benchmarks.perceiver
  python -m benchmarks.perceiver flow --repeats 3
  python -m benchmarks.perceiver imagenet_fourier_train --batch_size 32 \
    --dtype bfloat16

Forward passes with fresh weights of one image, one optical flow patch and one
chunk of a video; and, with _train, loss and gradients of a batch. FLOPs are
those of matrix products and convolutions, and stand beside the reference's.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import report, timing
from vidscenic import config as vc
from vidscenic import task as task_lib
from vidscenic.train import inspect

# GFLOP of one example of the released Haiku code, as XLA counts them, and the
# GFLOP/s that it reached in float32 on 2 cores of another machine, whose matmul
# rate nobody wrote down.
REFERENCE = {
  'imagenet_fourier': (407.8, 302),
  'imagenet_conv': (370.7, 390),
  'flow': (1901.7, 163),
}
_CLASSIFICATION = 'classification_task:Classification'
# kind: (task, name of the configuration)
TASKS = {
  'imagenet_fourier': (_CLASSIFICATION, 'imagenet_fourier'),
  'imagenet_conv': (_CLASSIFICATION, 'imagenet_conv'),
  'flow': ('flow_task:OpticalFlow', 'optical_flow'),
  'video': ('autoencoding_task:AudioVideo', 'video_autoencoding'),
}
MODELS = (
  'imagenet_fourier',
  'imagenet_conv',
  'flow',
  'imagenet_fourier_train',
  'imagenet_conv_train',
  'video_train',
)


def parser():
  """The command line."""
  command = report.parser('Speed, FLOPs and memory of the Perceivers.')
  add = command.add_argument
  add('models', nargs='*', help=f'which of {", ".join(MODELS)}; none: all')
  add('--batch_size', type=int, default=1, help='of training steps')
  add('--repeats', type=int, default=5, help='timed calls')
  add('--dtype', default='float32', help='float32 or bfloat16')
  add('--remat', default='none', help='of training: none, full or dots')
  add('--scan', action='store_true', help='scan over layers and passes')
  return command


def measure(args) -> list[report.Table]:
  """One row per model."""
  names = args.models or MODELS
  unknown = [name for name in names if name not in MODELS]
  if unknown:
    parser().error(f'no model {unknown[0]!r}: choose from {MODELS}')
  rows = []
  with report.Progress(len(names), 'perceiver') as progress:
    for name in names:
      progress(name)
      rows.append(_row(name, args))
  rate = inspect.matmul_rate(args.dtype) / 1e9
  return [
    report.Table(
      'perceiver',
      f'perceiver: {args.dtype}, training batches of {args.batch_size}',
      rows,
      (
        f'large matrix products reach {rate:.0f} GFLOP/s here',
        'temp: temporaries of the compiled program',
        'reference: the released Haiku code, its FLOPs counted by XLA',
      ),
    )
  ]


def make_task(name: str, args) -> task_lib.Task:
  """The task of a row."""
  kind = name.removesuffix('_train')
  remat = args.remat if name.endswith('_train') else 'none'
  task, model = TASKS[kind]
  return vc.build(
    f'projects.perceiver.{task}',
    model={
      'name': model,
      'encoder': {'scan': args.scan, 'remat': remat},
    },
    dtype=args.dtype,
  )


def program(task: task_lib.Task, train: bool, batch_size: int):
  """(jitted function of (params, model state, batch), shapes of the three)."""
  rows = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct((batch_size, *s.shape), s.dtype),
    task.batch_spec(),
  )
  shapes = jax.eval_shape(task.init, jax.random.key(0), rows)
  context = task_lib.StepContext(
    step=jnp.int32(0),
    rng=jax.random.key(0),
    rows=jnp.arange(batch_size, dtype=jnp.int32),
    train=train,
  )

  def loss(params, state, batch):
    out = task.loss(params, state, batch, context)
    return sum(
      scale * total / jnp.maximum(weight, 1)
      for total, weight, scale in out.terms.values()
    )

  def run(params, state, batch):
    batch = {**batch, 'mask': jnp.ones(batch_size, bool)}
    if train:
      return jax.grad(loss)(params, state, batch)
    return task.predict(params, state, batch, context)[0]

  return jax.jit(run), (*shapes, rows)


def _row(name, args):
  train = name.endswith('_train')
  size = args.batch_size if train else 1
  run, shapes = program(make_task(name, args), train, size)
  traced = run.trace(*shapes)
  flops = inspect.matmul_flops(traced)
  compiled = traced.lower().compile()
  rng = np.random.default_rng(0)
  params, state, rows = shapes
  fill = functools.partial(_fill, rng)
  arrays = (
    jax.tree.map(fill, params),
    # Batch statistics: a variance is positive.
    jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), state),
    jax.tree.map(fill, rows),
  )
  seconds = timing.time_calls(lambda: compiled(*arrays), repeats=args.repeats)
  total = sum(flops.values())
  want, speed = REFERENCE.get(name, (None, None))
  return {
    'model': name,
    'ms': 1e3 * seconds.median,
    'spread_percent': 100 * seconds.spread,
    'gflop': total / 1e9,
    'reference_gflop': want,
    'gflop_per_s': total / seconds.median / 1e9,
    'reference_gflop_per_s': speed,
    'fraction_of_matmul': inspect.ideal_seconds(flops) / seconds.median,
    'temp_mib': inspect.cost(compiled)['temp_bytes'] / 2**20,
  }


def _fill(rng, shape):
  if shape.dtype == np.uint8:
    return jnp.asarray(rng.integers(256, size=shape.shape, dtype=np.uint8))
  if np.issubdtype(shape.dtype, np.floating):
    value = 0.02 * rng.standard_normal(shape.shape, np.float32)
    return jnp.asarray(value, shape.dtype)
  return jnp.ones(shape.shape, shape.dtype)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the benchmark."""
  report.main('perceiver', parser(), measure, parser().parse_args(argv))


if __name__ == '__main__':
  main()
