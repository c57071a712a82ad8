"""Running one evaluator: its figures in the log, in order, and written down."""

import time
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging

from vidscenic.train import report as report_lib
from vidscenic.train import state as state_lib


def run(
  name: str,
  evaluator: Any,
  state: state_lib.TrainState,
  step: int,
  *,
  first: bool,
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
  """Runs one evaluator and logs its figures.

  Args:
    name: of the evaluator in the config.
    evaluator: `evaluation.evaluator.Evaluator`.
    state: with the parameters to evaluate, see `Run.state_to_evaluate`.
    step: completed updates.
    first: also log by which protocol.

  Returns:
    (scalars, media), see the evaluator.
  """
  if first:
    logging.info('%s: %s', name, evaluator.protocol())
  start = time.perf_counter()
  with jax.set_mesh(evaluator.mesh):
    scalars, media = evaluator.run(state, step)
  figures = '  '.join(f'{k} {v:.5g}' for k, v in scalars.items())
  if media:
    figures = f'{figures}  wrote {", ".join(media)}'.strip()
  logging.info(
    'step %d  %s: %s  (%.1f s)',
    step,
    name,
    figures,
    time.perf_counter() - start,
  )
  return scalars, media


def write(
  report: report_lib.Report,
  step: int,
  name: str,
  scalars: Mapping[str, Any],
  media: Mapping[str, Any],
) -> None:
  """Hands figures and pictures of an evaluator to the writers."""
  report.scalars(step, name, scalars)
  report.media(step, name, media)
