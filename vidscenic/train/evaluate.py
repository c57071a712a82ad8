"""Evaluates the checkpoints of a finished or running run."""

import time
from typing import Any

import jax
from absl import logging
from etils import epath

from vidscenic.train import checkpoints as checkpoints_lib
from vidscenic.train import loop, report
from vidscenic.train import run as run_lib
from vidscenic.train import workdir as workdir_lib

# Seconds between looks at a running run's checkpoints.
POLL_SECONDS = 10.0


def evaluate(
  config: Any,
  workdir: epath.PathLike,
  *,
  step: int | None = None,
  follow: bool = False,
) -> dict[str, float]:
  """Runs `config.evals` on checkpoints; figures go to workdir/evaluation.

  Args:
    config: a finalized config; its evaluators need not be those of the run.
    workdir: of the run. It is only read, but for its folder 'evaluation'.
    step: this checkpoint; None: the newest.
    follow: go on with every new checkpoint until the run is finished.

  Returns:
    {'evaluator/name': figure} of the last checkpoint.

  Raises:
    FileNotFoundError: no such checkpoint.
    ValueError: no evaluators, or a config that does not fit the checkpoint.
  """
  if not len(config.evals):
    raise ValueError('config.evals is empty: nothing to evaluate')
  path = epath.Path(workdir)
  workdir_lib.load_config(path)  # says so if this is no run
  run = run_lib.Run(config)
  evaluators = run.evaluators()
  figures, last = {}, None
  with report.Report(
    path / 'evaluation',
    start_step=None,
    is_writer=jax.process_index() == 0,
    console_skip=tuple(config.evals),
  ) as report_:
    while True:
      # Asked before looking for checkpoints, lest the last one is missed.
      finished = workdir_lib.finished_steps(path) is not None
      state = _restore(path, run, step, last)
      if state is not None:
        first, last = last is None, int(state.step)
        for name, evaluator in evaluators.items():
          scalars, media = loop.run_evaluator(
            name,
            evaluator,
            run.state_to_evaluate(state, config.evals[name].params),
            last,
            first=first,
          )
          loop.write_evaluation(report_, last, name, scalars, media)
          figures.update({f'{name}/{k}': v for k, v in scalars.items()})
      elif last is None and not follow:
        raise FileNotFoundError(f'{path} holds no checkpoint yet')
      if not follow or finished:
        return figures
      if state is None:
        logging.log_every_n_seconds(
          logging.INFO, 'waiting for a checkpoint in %s', 60, path
        )
        time.sleep(POLL_SECONDS)


def _restore(path, run, step, last):
  """The state of a checkpoint, or None if there is nothing new."""
  if not (path / checkpoints_lib.FOLDER).exists():
    return None
  checkpoints = checkpoints_lib.Checkpoints(path, read_only=True)
  try:
    steps = checkpoints.steps()
    if step is None and (not steps or steps[-1] == last):
      return None
    return checkpoints.restore(run.state_shapes, step)[0]
  finally:
    checkpoints.close()
