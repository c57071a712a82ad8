"""The training loop: the only one in the code base.

    batch[step + skipped] -> compiled step of the phase -> every
    `log.every_steps`: one fetch of all metrics, guard -> evaluators that are
    due -> checkpoint that is due -> leave if preempted

Events happen after `step` updates; the last step always logs, evaluates and
saves.
"""

import contextlib
from typing import Any

import jax
from absl import logging
from etils import epath

from vidscenic.data import device, pipeline
from vidscenic.train import checkpoints as checkpoints_lib
from vidscenic.train import (
  distributed,
  evaluator_runs,
  guard,
  inspect,
  interval_clock,
  phases,
  profile_window,
  report,
)
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
  with contextlib.ExitStack() as stack:
    return _Loop(config, path, stack).run_until_done()


class _Loop:
  """State of the host; the state of training is in `self.state`."""

  def __init__(self, config, path, stack):
    self.config = config
    self.path = path
    self.compiles = inspect.CompileCounter()
    stack.callback(self.compiles.close)
    self.run = run_lib.Run(config)
    self.evaluators = self.run.evaluators()
    logging.info('mesh %s', dict(self.run.mesh.shape))
    logging.info(
      'parameters:\n%s', inspect.parameter_table(self.run.state_shapes.params)
    )
    ckpt = config.checkpoint
    self.checkpoints = checkpoints_lib.Checkpoints(
      path,
      keep_last=ckpt.keep_last,
      keep_best=ckpt.keep_best,
      best_metric=ckpt.best_metric,
      best_mode=ckpt.best_mode,
      asynchronous=ckpt.asynchronous,
    )
    stack.push(self.close_checkpoints)
    self.report = report.Report(
      path,
      is_writer=jax.process_index() == 0,
      tensorboard=config.log.tensorboard,
      console_skip=('train', 'speed', *config.evals),
    )
    stack.enter_context(self.report)
    self.steps = phases.PhaseSteps(self.run.compile_step)
    stack.callback(self.steps.close)
    self.preemption = distributed.Preemption()
    stack.callback(self.preemption.close)
    stack.callback(self.close_batches)
    self.profile = profile_window.ProfileWindow(
      config.profile.start, config.profile.steps, path / 'profile'
    )
    stack.callback(self.stop_profile)
    self.guard = guard.Guard(config.guard)
    self.meter = report.Meter()
    self.last_steps = None  # {phase: its last step}
    self.batches = None
    self.pending = []
    self.metrics, self.metrics_step = {}, -1
    self.bad_steps = 0.0
    self.compiled_before = 0
    self.state, self.step, self.skipped = None, 0, 0

  def close_checkpoints(self, kind, error, trace):
    try:
      self.checkpoints.close()
    except OSError as e:
      if error is None:
        raise
      logging.error('%s', e)  # what ended the run is worth more

  def stop_profile(self):
    self.profile.stop(self.state)

  def close_batches(self):
    if self.batches is not None:
      self.batches.close()

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
    restored = self.checkpoints.restore(self.run.state_shapes)
    if restored is None:
      self.prepare_phases(0)
      self.state = self.run.fresh_state()
    else:
      self.take_over(*restored)
      logging.info('continuing from step %d', self.step)
      self.prepare_phases(self.step)
    if self.step > self.config.steps:
      raise ValueError(
        f'steps={self.config.steps} but {self.path} holds a checkpoint of step '
        f'{self.step}: want more steps, or another --workdir'
      )
    self.report.text(0, 'config', {'resolved': f'```\n{self.config}\n```'})
    # Before other threads use the machine, or utilisation would look better.
    inspect.ideal_seconds(self.steps.get(self.run.task.phase(self.step)).flops)
    self.start_stream()

  def prepare_phases(self, step):
    """Compiles the steps of the phases that come soon, in their order."""
    end = min(step + self.config.compile_ahead_steps, self.config.steps)
    for s in range(step, max(end, step + 1)):
      self.steps.prepare(self.run.task.phase(s))

  def change_phase(self, old, new):
    compiled = self.compiles.count
    self.state = self.run.change_phase(self.state, old, new)
    self.compiled_before += self.compiles.count - compiled  # it is a program
    self.forget_past_phases()

  def forget_past_phases(self):
    """Frees the programs of phases that no step ahead is in.

    A phase may come back, so the rest of the run decides. After a rollback past
    the beginning of a phase the one before is compiled again.
    """
    if self.last_steps is None:
      phase = self.run.task.phase
      self.last_steps = {phase(s): s for s in range(self.config.steps)}
    self.steps.keep(p for p, s in self.last_steps.items() if s >= self.step)

  def take_over(self, state, meta):
    self.state = state
    self.step, self.skipped = int(state.step), int(state.skipped)
    self.meter.restore(meta['meter'])
    self.guard.restore(meta['guard'])

  def start_stream(self):
    """Opens the data at the present step; the report forgets what follows."""
    self.close_batches()
    config = self.config
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
    self.report.rewind(self.step)
    self.pending = []
    self.bad_steps = 0.0

  def place(self, batch):
    spec = self.run.task.batch_spec()
    batch = device.check(batch, spec, where='data.train')
    self.run.task.check_batch(batch)
    return device.to_global(batch, self.run.batch_sharding)

  def roll_back(self):
    """Goes back to the last checkpoint that was saved on a good path."""
    failed = self.step + self.skipped
    self.state = None  # or two states would lie on the devices
    restored = self.checkpoints.restore(
      self.run.state_shapes, accept=lambda meta: not meta['bad_steps']
    )
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
    clock = interval_clock.IntervalClock()
    phase, compiled = None, None
    ahead = config.compile_ahead_steps
    try:
      while self.step < config.steps:
        if compiled is None or task.phase(self.step) != phase:
          phase = task.phase(self.step)
          before = task.phase(self.step - 1) if self.step else phase
          with clock.paused():
            if phase != before:
              self.change_phase(before, phase)
            compiled = self.steps.get(phase)
        later = min(self.step + ahead, config.steps - 1)
        self.steps.prepare(task.phase(later))
        self.profile.at(self.step, self.state)
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
          clock = interval_clock.IntervalClock()
        if self.leave_or_go_on(clock):
          return 'preempted'
      return 'done'
    finally:
      progress.close()

  def leave_or_go_on(self, clock):
    """Evaluates and saves what is due; returns whether to leave."""
    config = self.config
    evaluations = [
      name
      for name, spec in config.evals.items()
      if due(self.step, spec.every_steps, config.steps)
    ]
    preempted = self.preemption.reached()
    saves = preempted or due(
      self.step, config.checkpoint.every_steps, config.steps
    )
    if evaluations or saves:
      jax.block_until_ready(self.state.step)  # or the clock misses its work
      with clock.paused():
        if preempted:  # there may be no time for evaluations
          self.save(must=True)
          self.checkpoints.wait()
        for name in evaluations:
          self.evaluate(name)
        if saves and not preempted:
          self.save(must=self.step == config.steps)
    return preempted and self.step < config.steps

  def fetch(self):
    """Moves the metrics of finished steps into the meter."""
    for metrics in jax.device_get(self.pending):
      self.bad_steps = float(metrics.pop('bad_steps')[0])
      self.guard.check_data(*metrics['replaced'])
      self.meter.add(metrics)
    self.pending = []

  def log(self, clock, flops, progress):
    """Writes the figures of an interval; returns whether to roll back."""
    self.fetch()
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
    return self.guard.must_roll_back(self.bad_steps)

  def warn_of_compilations(self):
    """A steady run compiles nothing; a changing shape costs time silently."""
    new = self.compiles.count - self.compiled_before
    self.compiled_before = self.compiles.count
    if new and not self.steps.active():
      logging.warning(
        'step %d: %d programs were compiled since the last log although no '
        'phase began; some shape changes during training',
        self.step,
        new,
      )

  def evaluate(self, name):
    spec = self.config.evals[name]
    before = self.compiles.count
    scalars, media = evaluator_runs.run(
      name,
      self.evaluators[name],
      self.run.state_to_evaluate(self.state, spec.params),
      self.step,
      first=not any(k.startswith(f'{name}/') for k in self.metrics),
    )
    # Its first run compiles, and so does the first of a phase.
    self.compiled_before += self.compiles.count - before
    evaluator_runs.write(self.report, self.step, name, scalars, media)
    self.metrics[f'{name}/'] = self.step
    self.metrics.update({f'{name}/{k}': v for k, v in scalars.items()})

  def best_metrics(self):
    """{metric: value} that a checkpoint of this step is judged by."""
    best = self.config.checkpoint.best_metric
    name = best.split('/')[0] + '/'
    if not best or self.metrics.get(name) != self.step:
      return {}
    if best not in self.metrics:
      figures = [k for k in self.metrics if k.startswith(name) and k != name]
      raise ValueError(
        f'checkpoint.best_metric={best!r} is none of the figures {figures}'
      )
    return {best: self.metrics[best]}

  def save(self, must):
    self.fetch()
    if self.bad_steps and not must:
      logging.warning('step %d: not saved amid discarded updates', self.step)
      return
    self.report.flush()
    meta = {
      'meter': self.meter.state(),
      'guard': self.guard.meta(),
      'bad_steps': self.bad_steps,
    }
    self.checkpoints.save(self.state, meta, self.best_metrics())
    self.report.mirror()
