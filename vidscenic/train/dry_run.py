"""What a config would do, from shapes alone: no data, no parameters."""

import math
from typing import Any

import jax
import numpy as np

from vidscenic.train import inspect
from vidscenic.train import run as run_lib


def describe(config: Any) -> str:
  """Compiles the first training step and describes it.

  Args:
    config: a finalized config.

  Returns:
    Text: batch, parameters, shardings, memory per device and FLOPs.

  Raises:
    ValueError: a config that cannot run.
  """
  run = run_lib.Run(config)
  compiled = run.compile_step(run.task.phase(0))
  cost = inspect.cost(compiled.run)
  flops = sum(compiled.flops.values())
  state = run.state_shapes
  parts = [
    ('parameters', state.params),
    ('optimizer state', state.opt_state),
    ('averaged parameters', state.ema_params),
    ('model state', state.model_state),
    ('batch', run.batch_shapes),
  ]
  memory = [
    f'  {name:<22}{_mib(inspect.device_bytes(tree))}' for name, tree in parts
  ]
  by_type = ', '.join(f'{d} {n:.4g}' for d, n in sorted(compiled.flops.items()))
  lines = [
    f'devices: {jax.device_count()} x {jax.devices()[0].device_kind}, mesh '
    f'{dict(run.mesh.shape)}, {jax.process_count()} processes',
    '',
    'batch (global shape, rows cut over data and fsdp):',
    *_batch_lines(run.batch_shapes),
    '',
    'parameters:',
    inspect.parameter_table(state.params),
    '',
    'optimizer (lr factor, decayed, rule):',
    *_optimizer_lines(run.optimizer.table),
    '',
    'sharded leaves of the state:',
    inspect.sharding_table(state._asdict()),
    '',
    'memory per device:',
    *memory,
    f'  {"temporaries":<22}{_mib(cost["temp_bytes"])}',
    '',
    f'one step of {config.batch_size} examples in {config.accum_steps} '
    'microbatches:',
    f'  matmul FLOPs          {flops:.4g} over all devices ({by_type})',
    f'  matmul FLOPs/example  {flops / config.batch_size:.4g}',
    f"  XLA's estimate        {cost['flops']:.4g} per device, all operations, "
    'bodies of loops once',
    f'  examples in the run   {config.batch_size * config.steps:.4g}, '
    f'{flops * config.steps:.4g} matmul FLOPs',
  ]
  return '\n'.join(lines)


def _batch_lines(shapes, indent='  '):
  for name, leaf in shapes.items():
    if isinstance(leaf, dict):
      yield f'{indent}{name}:'
      yield from _batch_lines(leaf, indent + '  ')
    else:
      size = math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
      yield f'{indent}{name:<22}{leaf.dtype}{list(leaf.shape)}  {_mib(size)}'


def _optimizer_lines(table):
  for row in table:
    rule = 'never trained' if row.frozen else row.rule
    decay = 'decay' if row.decay else ''
    yield f'  {row.path:<48} {row.lr_multiplier!s:<8} {decay:<6} {rule}'


def _mib(size):
  return f'{size / 2**20:.2f} MiB'
