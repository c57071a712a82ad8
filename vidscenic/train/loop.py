"""The training loop: the only one in the code base.

    batch[step + skipped] -> compiled step of the phase -> every
    `log.every_steps`: one fetch of all metrics, guard -> evaluators that are
    due -> checkpoint that is due -> leave if preempted

Events happen after `step` updates; the last step always logs, evaluates and
saves.
"""

import contextlib
import time
from typing import Any

import jax
from absl import logging
from etils import epath

from vidscenic.data import device, pipeline
from vidscenic.train import checkpoints as checkpoints_lib
from vidscenic.train import distributed, guard, inspect, phases, report
from vidscenic.train import progress as progress_lib
from vidscenic.train import run as run_lib
from vidscenic.train import workdir as workdir_lib

# Steps that may be under way on the device while the host goes on. More would
# hold more batches in its memory and gain nothing.
IN_FLIGHT = 2


def due(step: int, every: int, total: int) -> bool:
  """Whether something happens after `step` of `total` updates."""
  return step % every == 0 or step == total


def train(
  config: Any, workdir: epath.PathLike, *, allow_config_change: bool = False
) -> bool:
  """Trains until `config.steps`, continuing what the workdir holds.

  Args:
    config: a finalized config.
    workdir: local folder or gs:// address.
    allow_config_change: continue although model, data or seed changed.

  Returns:
    True if the run is finished, False if it was preempted and has saved.

  Raises:
    guard.TrainingFailed: too many non-finite updates or unreadable examples.
    OSError: the workdir cannot be written.
    ValueError: a config that cannot run.
  """
  path = workdir_lib.prepare(
    workdir, config, allow_config_change=allow_config_change
  )
  done = workdir_lib.finished_steps(path)
  if done is not None and done >= config.steps:
    logging.info('%s: finished at step %d, nothing to do', path, done)
    return True
  if done is not None:
    workdir_lib.mark_unfinished(path)
  loop = _Loop(config, path)
  try:
    finished = loop.run_until_done()
  except BaseException:
    try:
      loop.close()
    except OSError as e:  # what ended the run is worth more
      logging.error('%s', e)
    raise
  loop.close()
  return finished


class _Loop:
  """State of the host; the state of training is in `self.state`."""

  def __init__(self, config, path):
    self.config = config
    self.path = path
    self.compiles = inspect.CompileCounter()
    self.run = run_lib.Run(config)
    self.steps = phases.PhaseSteps(self.run.compile_step)
    # Tracing and compiling overlap with building the rest.
    ckpt = config.checkpoint
    self.checkpoints = checkpoints_lib.Checkpoints(
      path,
      keep_last=ckpt.keep_last,
      keep_best=ckpt.keep_best,
      best_metric=ckpt.best_metric,
      best_mode=ckpt.best_mode,
      asynchronous=ckpt.asynchronous,
    )
    self.guard = guard.Guard(config.guard)
    self.meter = report.Meter()
    self.evaluators = self.run.evaluators()
    self.evaluated = set()
    self.preemption = distributed.Preemption()
    self.report = None
    self.batches = None
    self.pending = []
    self.metrics = {}
    self.metrics_step = -1
    self.compiled_before = 0
    self.may_compile = True  # in this log interval
    self.state, self.step, self.skipped = None, 0, 0
    logging.info('mesh %s', dict(self.run.mesh.shape))
    logging.info(
      'parameters:\n%s', inspect.parameter_table(self.run.state_shapes.params)
    )

  def close(self):
    self.preemption.close()
    if self.batches is not None:
      self.batches.close()
    if self.report is not None:
      self.report.close()
    self.steps.close()
    self.compiles.close()
    self.checkpoints.close()

  def run_until_done(self):
    self.restore_or_start()
    while (outcome := self.train_on()) == 'rollback':
      self.roll_back()
    if outcome == 'preempted':
      self.checkpoints.wait()
      logging.info('saved step %d; the same command continues', self.step)
      return False
    self.checkpoints.wait()
    workdir_lib.mark_finished(self.path, self.step)
    logging.info('finished %d steps in %s', self.step, self.path)
    return True

  def restore_or_start(self):
    phase = self.run.task.phase
    restored = self.checkpoints.restore(self.run.state_shapes)
    if restored is None:
      self.steps.prepare(phase(0))
      self.state = self.run.fresh_state()
      self.step = self.skipped = 0
    else:
      self.take_over(*restored)
      logging.info('continuing from step %d', self.step)
    self.start_stream()

  def take_over(self, state, meta):
    self.state = state
    self.step, self.skipped = int(state.step), int(state.skipped)
    self.meter.restore(meta['meter'])
    self.guard.restore(meta['guard'])

  def start_stream(self):
    """Opens data and reports at the present step."""
    if self.batches is not None:
      self.batches.close()
    config = self.config
    self.steps.prepare(self.run.task.phase(self.step))
    sizes = jax.tree.map(
      lambda s: s.shape[0],
      {k: v['mask'] for k, v in self.run.batch_shapes.items()}
      if len(config.data.train.streams)
      else self.run.batch_shapes['mask'],
    )
    self.batches = pipeline.make_train_iter(
      config.data.train,
      batch_size=config.batch_size,
      seed=config.seed,
      start=self.step + self.skipped,
      rows=jax.tree.map(
        lambda n: device.local_rows(n, self.run.batch_sharding), sizes
      ),
    )
    if self.report is None:
      self.report = report.Report(
        self.path,
        start_step=self.step,
        is_writer=jax.process_index() == 0,
        tensorboard=config.log.tensorboard,
        console_skip=('train', 'speed', *config.evals),
      )
    else:
      self.report.rewind(self.step)
    self.pending = []

  def place(self, batch):
    spec = self.run.task.batch_spec()
    batch = device.check(batch, spec, where='data.train')
    return device.to_global(batch, self.run.batch_sharding)

  def roll_back(self):
    failed = self.step + self.skipped
    restored = self.checkpoints.restore(self.run.state_shapes)
    if restored is None:
      raise guard.TrainingFailed(
        f'updates up to step {self.step} were not finite and there is no '
        'checkpoint to go back to; lower optim.lr, lengthen its warm-up or '
        'set optim.clip_norm'
      )
    self.take_over(*restored)
    self.skipped = failed - self.step
    self.state = self.state._replace(
      skipped=jax.device_put(
        self.state.skipped * 0 + self.skipped, self.state.skipped.sharding
      )
    )
    logging.warning(
      'went back to step %d; it goes on with batch %d', self.step, failed
    )
    self.start_stream()

  def train_on(self):
    """Trains until the end ('done'), 'preempted' or 'rollback'."""
    config, task = self.config, self.run.task
    progress = progress_lib.Progress(
      config.steps, self.step, enabled=jax.process_index() == 0
    )
    batches = device.prefetch(self.batches, self.place)
    clock = _Clock()
    phase = task.phase(self.step)
    compiled = None
    ahead = config.compile_ahead_steps
    try:
      while self.step < config.steps:
        if compiled is None or task.phase(self.step) != phase:
          self.may_compile = True
          phase = task.phase(self.step)
          before = task.phase(self.step - 1) if self.step else phase
          if phase != before:
            self.state = self.run.change_phase(self.state, before, phase)
          with clock.paused():
            compiled = self.steps.get(phase)
        if self.step + ahead < config.steps:
          self.steps.prepare(task.phase(self.step + ahead))
        self.profile()
        with clock.waiting():
          batch = next(batches)
        self.state, metrics = compiled.run(self.state, batch)
        self.pending.append(metrics)
        if len(self.pending) > IN_FLIGHT:
          jax.block_until_ready(self.pending[-1 - IN_FLIGHT]['loss'])
        self.step += 1
        clock.steps += 1
        progress.advance(self.step)
        if due(self.step, config.log.every_steps, config.steps):
          if self.log(clock, compiled.flops, progress):
            return 'rollback'
          clock = _Clock()
        with clock.paused():
          self.evaluate()
          preempted = self.preemption.reached(self.step)
          every = config.checkpoint.every_steps
          if preempted or due(self.step, every, config.steps):
            self.save()
        if preempted and self.step < config.steps:
          return 'preempted'
      return 'done'
    finally:
      progress.close()

  def fetch(self):
    """Moves the metrics of finished steps into the meter."""
    bad_steps = 0.0
    for metrics in jax.device_get(self.pending):
      bad_steps = float(metrics.pop('bad_steps')[0])
      self.guard.check_data(*metrics['replaced'])
      self.meter.add(metrics)
    self.pending = []
    return bad_steps

  def log(self, clock, flops, progress):
    """Writes the figures of an interval; returns whether to roll back."""
    bad_steps = self.fetch()
    seconds = clock.seconds()
    scalars = self.meter.means()
    self.meter.reset()
    ideal = clock.steps * inspect.ideal_seconds(flops)
    speed = {
      'clips_per_second': self.config.batch_size * clock.steps / seconds,
      'data_wait': clock.waited / seconds,
      'utilisation': ideal / seconds,
      'compilations': self.compiles.count,
    }
    self.report.scalars(self.step, 'train', scalars)
    self.report.scalars(self.step, 'speed', speed)
    progress.log(
      self.step,
      loss=scalars.get('loss'),
      clips_per_second=speed['clips_per_second'],
      data_wait=speed['data_wait'],
    )
    self.warn_of_compilations()
    return self.guard.must_roll_back(bad_steps)

  def warn_of_compilations(self):
    """A steady run compiles nothing; a changing shape costs time silently."""
    new = self.compiles.count - self.compiled_before
    self.compiled_before = self.compiles.count
    if new and not self.may_compile and not self.steps.pending():
      logging.warning(
        'step %d: %d programs were compiled since the last log although no '
        'phase or evaluator began; some shape changes during training',
        self.step,
        new,
      )
    self.may_compile = False

  def evaluate(self):
    config = self.config
    for name, evaluator in self.evaluators.items():
      spec = config.evals[name]
      if not due(self.step, spec.every_steps, config.steps):
        continue
      scalars, media = run_evaluator(
        name,
        evaluator,
        self.run.state_to_evaluate(self.state, spec.params),
        self.step,
        first=name not in self.evaluated,
      )
      self.may_compile |= name not in self.evaluated
      self.evaluated.add(name)
      write_evaluation(self.report, self.step, name, scalars, media)
      self.metrics.update({f'{name}/{k}': v for k, v in scalars.items()})
      self.metrics_step = self.step

  def save(self):
    self.fetch()
    self.report.flush()
    best = self.config.checkpoint.best_metric
    metrics = {}
    if best in self.metrics and self.metrics_step == self.step:
      metrics = {best: self.metrics[best]}
    meta = {'meter': self.meter.state(), 'guard': self.guard.meta()}
    self.checkpoints.save(self.state, meta, metrics)
    self.report.mirror()

  def profile(self):
    start, steps = self.config.profile.start, self.config.profile.steps
    if steps and self.step == start:
      jax.profiler.start_trace(str(self.path / 'profile'))
    if steps and self.step == start + steps:
      jax.block_until_ready(self.state.step)
      jax.profiler.stop_trace()
      logging.info('profile of %d steps in %s', steps, self.path / 'profile')


def run_evaluator(name, evaluator, state, step, *, first):
  """Runs one evaluator and logs its figures, with the protocol at first."""
  if first:
    logging.info('%s: %s', name, evaluator.protocol())
  start = time.perf_counter()
  with jax.set_mesh(evaluator.mesh):
    scalars, media = evaluator.run(state, step)
  figures = '  '.join(f'{k} {v:.5g}' for k, v in scalars.items())
  logging.info(
    'step %d  %s: %s  (%.1f s)',
    step,
    name,
    figures,
    time.perf_counter() - start,
  )
  return scalars, media


def write_evaluation(report_, step, name, scalars, media):
  """Hands figures and pictures of an evaluator to the writers."""
  report_.scalars(step, name, scalars)
  report_.media(step, name, media)


class _Clock:
  """Times a log interval, without evaluations, checkpoints and compiling."""

  def __init__(self):
    self._start = time.perf_counter()
    self._away = 0.0
    self.waited = 0.0
    self.steps = 0

  def seconds(self):
    return max(time.perf_counter() - self._start - self._away, 1e-9)

  @contextlib.contextmanager
  def paused(self):
    start = time.perf_counter()
    yield
    self._away += time.perf_counter() - start

  @contextlib.contextmanager
  def waiting(self):
    start = time.perf_counter()
    yield
    self.waited += time.perf_counter() - start
