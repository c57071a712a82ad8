"""Evaluates the checkpoints of a finished or running run."""

import contextlib
import time
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from vidscenic.train import checkpoints as checkpoints_lib
from vidscenic.train import distributed, evaluator_runs, report
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
    follow: go on with what is newest until the run is finished.

  Returns:
    {'evaluator/name': figure} of the last checkpoint.

  Raises:
    FileNotFoundError: no such checkpoint.
    ValueError: no evaluators, `step` together with `follow`, or a config that
      does not fit the checkpoint.
  """
  if not len(config.evals):
    raise ValueError('config.evals is empty: nothing to evaluate')
  if follow and step is not None:
    raise ValueError('--follow goes on with new checkpoints: leave out --step')
  path = checkpoints_lib.full_path(workdir)
  workdir_lib.warn_of_another_task(path, config)
  run = run_lib.Run(config)
  evaluators = run.evaluators()
  figures, last = {}, -1
  with report.Report(
    path / 'evaluation',
    is_writer=jax.process_index() == 0,
    console_skip=tuple(config.evals),
  ) as report_:
    while True:
      # Asked before looking for checkpoints, lest the last one is missed.
      finished = workdir_lib.finished_steps(path) is not None
      state = _restore(path, run, step, last, follow)
      if state is not None:
        first, last = last < 0, int(state.step)
        for name, evaluator in evaluators.items():
          scalars, media = evaluator_runs.run(
            name,
            evaluator,
            run.state_to_evaluate(state, config.evals[name].params),
            last,
            first=first,
          )
          evaluator_runs.write(report_, last, name, scalars, media)
          figures.update({f'{name}/{k}': v for k, v in scalars.items()})
      elif last < 0 and not follow:
        raise FileNotFoundError(f'{path} holds no checkpoint yet')
      if not follow or distributed.same_everywhere(np.array(finished)):
        return figures
      if state is None:
        logging.log_every_n_seconds(
          logging.INFO, 'waiting for a checkpoint in %s', 60, path
        )
        time.sleep(POLL_SECONDS)


def _restore(path, run, step, last, follow):
  """The state of a checkpoint, or None if there is nothing new."""
  found = (path / checkpoints_lib.FOLDER).exists()
  if not distributed.all_agree(found):
    return None
  with contextlib.closing(
    checkpoints_lib.Checkpoints(path, read_only=True)
  ) as checkpoints:
    if step is None:
      # Process 0 decides: the others may see another newest one by now.
      newest = max(checkpoints.steps(), default=-1)
      newest = int(distributed.same_everywhere(np.array(newest)))
      if newest <= last:
        return None
    else:
      newest = step
    try:
      return checkpoints.restore_weights(run.state_shapes, newest)
    except OSError as e:
      if not follow:
        raise
      # A running run deletes old checkpoints, perhaps this one just now.
      logging.warning('%s', e)
      return None
