"""What a person sees of a run: a bar on a terminal, log lines elsewhere."""

import logging as std_logging
import os
import sys
import time
from collections.abc import Callable

import tqdm
from absl import logging


class Progress:
  """Shows step, loss, clips/s, data wait and time left, on stderr.

  On a terminal this is a bar; log lines of any logger that was set up before
  are printed above it, whole. Elsewhere every `log` is one line:

    step 120/600  loss 0.0312  clips/s 41.2  data wait 1.3 %  left 0:02:10

  which absl shows at verbosity INFO. The time left extrapolates the average
  since the first step of this process was done (compiling it does not count),
  with everything in between: evaluation, checkpoints, waiting for data.

  Args:
    total_steps: the step at which the run ends.
    start_step: completed steps of the restored run, 0 for a new one.
    is_tty: whether to draw a bar; None asks stderr.
    enabled: False shows nothing, for all processes but the first.
    clock: seconds, for tests.
  """

  def __init__(
    self,
    total_steps: int,
    start_step: int = 0,
    is_tty: bool | None = None,
    *,
    enabled: bool = True,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._total = total_steps
    self._clock = clock
    self._enabled = enabled
    self._origin = None  # (step, time) that the average starts from
    self._bar = None
    self._handlers = []
    if is_tty is None:
      is_tty = is_terminal()
    if enabled and is_tty:
      self._bar = tqdm.tqdm(
        total=total_steps,
        initial=start_step,
        file=sys.stderr,
        dynamic_ncols=True,
        bar_format='{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}',
      )
      self._print_logs_above()

  def advance(self, step: int) -> None:
    """Says that `step` is done; cheap enough for every step."""
    if self._origin is None:
      self._origin = step, self._clock()
    if self._bar is not None:
      self._bar.update(step - self._bar.n)

  def log(
    self,
    step: int,
    *,
    loss: float | None = None,
    clips_per_second: float | None = None,
    data_wait: float | None = None,
  ) -> None:
    """Shows the numbers of a log interval.

    Args:
      step: completed steps.
      loss: its mean over the interval.
      clips_per_second: of all devices together.
      data_wait: part of the time spent waiting for data, in [0, 1].
    """
    self.advance(step)
    if not self._enabled:
      return
    fields = [] if loss is None else [f'loss {loss:.4g}']
    if clips_per_second is not None:
      fields.append(f'clips/s {clips_per_second:.1f}')
    if data_wait is not None:
      fields.append(f'data wait {100 * data_wait:.1f} %')
    fields.append(f'left {_clock_time(self._seconds_left(step))}')
    if self._bar is None:
      logging.info('%s', '  '.join([f'step {step}/{self._total}', *fields]))
    else:
      self._bar.set_postfix_str('  '.join(fields))

  def close(self) -> None:
    """Leaves the bar as it is and stops handling log lines."""
    for handler in self._handlers:
      del handler.handle
    self._handlers = []
    if self._bar is not None:
      self._bar.close()
      self._bar = None

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *unused_exception) -> None:
    self.close()

  def _seconds_left(self, step: int) -> float | None:
    first, start = self._origin
    if step <= first:
      return None
    return (self._total - step) * (self._clock() - start) / (step - first)

  def _print_logs_above(self) -> None:
    """Takes the bar away around every log line.

    tqdm's own redirection knows plain StreamHandlers only; absl's handler is
    none, and picks its stream anew for every record.
    """
    loggers = std_logging.getLogger(), logging.get_absl_logger()
    for handler in {id(h): h for x in loggers for h in x.handlers}.values():

      def handle(record, handle=handler.handle):
        with tqdm.tqdm.external_write_mode(file=sys.stderr):
          return handle(record)

      handler.handle = handle
      self._handlers.append(handler)


def is_terminal() -> bool:
  """Whether stderr is a terminal that a bar fits on.

  Some containers have terminals without a size: these are none.
  """
  if not sys.stderr.isatty():
    return False
  return os.get_terminal_size(sys.stderr.fileno()).columns > 0


def _clock_time(seconds: float | None) -> str:
  if seconds is None:
    return '-:--:--'
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}'
