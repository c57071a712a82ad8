"""What `train.loop` costs beside the compiled step, seen from outside."""

import contextlib
import json
import pathlib
import tempfile
import time
from collections.abc import Iterator

import jax
import ml_collections as mlc
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import report, timing, tiny
from vidscenic import config as vc
from vidscenic.data import device, pipeline
from vidscenic.train import loop
from vidscenic.train import run as run_lib

LOG_EVERY = 20  # steps, as in configs/smoke.py
MAX_OVERHEAD_MS = 2.0
MAX_DATA_WAIT = 0.05


def measure_overhead(steps: int) -> report.Table:
  """Trains a trivial task with the real loop and without it.

  Without it the same compiled step runs on a batch that lies on the device,
  with as many steps under way as the loop allows itself.

  Args:
    steps: updates of each run, at least three log intervals.
  """
  if steps < 3 * LOG_EVERY:
    raise ValueError(f'--loop_steps={steps}: want at least {3 * LOG_EVERY}')
  config = tiny.get_config(f'steps={steps},log={LOG_EVERY}')
  bare = _time_bare(config)
  feed = _time_feed(config)
  with _workdir() as folder:
    loop.train(config, folder)
    rows = _speed(folder)
  # Whole log intervals, so that the fetch and the writing of each are in it.
  # The first one contains compiling and the first batches.
  starts = np.array(tiny.Tiny.times)[::LOG_EVERY]
  wall, cpu = (np.diff(starts, axis=0)[1:] / LOG_EVERY).T
  whole = timing.summarize(wall)
  waits = [
    r['data_wait'] * config.batch_size / r['clips_per_second'] for r in rows[1:]
  ]
  overhead = 1e3 * (whole.median - bare.median)
  return report.Table(
    'loop',
    f'loop around a trivial step: {steps} updates, log every {LOG_EVERY}',
    [
      {
        'bare_step_ms': 1e3 * bare.median,
        'loop_step_ms': 1e3 * whole.median,
        'spread_percent': 100 * whole.spread,
        'overhead_ms': overhead,
        'data_wait_ms': 1e3 * float(np.median(waits)),
        'thread_cpu_ms': 1e3 * float(np.median(cpu)),
        'data_alone_ms': 1e3 * feed.median,
      }
    ],
    (
      f'overhead_ms = loop - bare, data, metrics and logging included; floor: '
      f'below {MAX_OVERHEAD_MS} '
      f'({"met" if overhead < MAX_OVERHEAD_MS else "MISSED"})',
      'data_wait_ms: part of it; thread_cpu_ms: CPU time of the thread of the '
      'loop, which others on the machine change least',
      'data_alone_ms: the pipeline handing out and placing such batches as '
      'fast as it can',
    ),
  )


def measure_run(config, *, steps: int, bare_ms: float) -> report.Table:
  """Runs a config without evaluations and reports what the loop logged.

  Args:
    config: a finalized config; its data must be there.
    steps: updates.
    bare_ms: time of its compiled step alone.
  """
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.steps = steps
    config.evals = mlc.ConfigDict()
    config.log.every_steps = max(1, min(LOG_EVERY, steps // 3))
    config.checkpoint.every_steps = steps
    config.checkpoint.keep_best = 0
    config.checkpoint.best_metric = ''
  config = vc.finalize(config)
  with _workdir() as folder:
    loop.train(config, folder)
    rows = _speed(folder)[1:]
  step_ms = [1e3 * config.batch_size / r['clips_per_second'] for r in rows]
  wait = float(np.median([r['data_wait'] for r in rows]))
  row = {
    'bare_step_ms': bare_ms,
    'run_step_ms': float(np.median(step_ms)),
    'clips_per_s': float(np.median([r['clips_per_second'] for r in rows])),
    'data_wait_percent': 100 * wait,
    'utilisation': float(np.median([r['utilisation'] for r in rows])),
  }
  return report.Table(
    'run',
    f'run of the config with its data: {steps} updates, the first '
    f'{config.log.every_steps} not counted',
    [row],
    (
      f'data wait, floor: below {100 * MAX_DATA_WAIT:.0f} % of the step '
      f'({"met" if wait < MAX_DATA_WAIT else "MISSED"}); on CPU devices the '
      'data share the cores with the step',
    ),
  )


def _time_bare(config):
  run = run_lib.Run(config)
  compiled = run.compile_step(run.task.phase(0))
  state = run.fresh_state()
  shapes = run.batch_shapes
  batch = jax.tree.map(
    lambda s: jax.device_put(np.ones(s.shape, s.dtype), s.sharding), shapes
  )
  samples = []
  for _ in range(max(3, config.steps // LOG_EVERY)):
    pending = []
    start = time.perf_counter()
    for _ in range(LOG_EVERY):
      state, metrics = compiled.run(state, batch)
      pending.append(metrics)
      if len(pending) > loop.IN_FLIGHT:
        jax.block_until_ready(pending[-1 - loop.IN_FLIGHT]['loss'])
    jax.block_until_ready(state.step)
    samples.append((time.perf_counter() - start) / LOG_EVERY)
  return timing.summarize(samples[1:])


def _time_feed(config):
  run = run_lib.Run(config)
  batches = pipeline.make_train_iter(
    config.data.train, batch_size=config.batch_size, seed=config.seed
  )
  spec = run.task.batch_spec()
  placed = device.prefetch(
    batches,
    lambda batch: device.to_global(
      device.check(batch, spec, where='data.train'), run.batch_sharding
    ),
  )
  samples = []
  try:
    for _ in range(max(3, config.steps // LOG_EVERY)):
      start = time.perf_counter()
      for _ in range(LOG_EVERY):
        next(placed)
      samples.append((time.perf_counter() - start) / LOG_EVERY)
  finally:
    batches.close()
  return timing.summarize(samples[1:])


@contextlib.contextmanager
def _workdir() -> Iterator[pathlib.Path]:
  """A folder for a run; afterwards jax forgets the cache that was in it."""
  before = jax.config.jax_compilation_cache_dir
  with tempfile.TemporaryDirectory(prefix='vidscenic-benchmark-') as folder:
    try:
      yield pathlib.Path(folder)
    finally:
      jax.config.update('jax_compilation_cache_dir', before)
      compilation_cache.reset_cache()


def _speed(folder):
  """The speed rows of a run, names without their prefix."""
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [
    {k.removeprefix('speed/'): v for k, v in row.items()}
    for row in rows
    if 'speed/data_wait' in row
  ]
