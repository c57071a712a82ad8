"""How far a tool is: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable

import tqdm

from vidscenic.train import progress


class Progress:
  """Counts towards a total, on stderr.

  Without a terminal there is a line now and then, and one at the end:

    12/40 videos, 1.5/s, 2 min left, 1 failed
    12/40 videos, 50 s

  Args:
    total: how many there will be, None if nobody knows.
    unit: what they are, for people, such as 'videos'; 'B' for bytes, which are
      shown as MB.
    name: of the whole, put in front.
    done: how many were done before.
    every: seconds between lines.
    is_tty: whether to draw a bar; None asks stderr.
    clock: seconds, for tests.

  Attributes:
    done: how many are done.
  """

  def __init__(
    self,
    total: int | None,
    unit: str,
    *,
    name: str = '',
    done: int = 0,
    every: float = 10.0,
    is_tty: bool | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    self.done = done
    self._total, self._unit, self._name = total, unit, name
    self._every, self._clock = every, clock
    self._before = done
    self._begin = self._shown = clock()
    self._bar = None
    if progress.is_terminal() if is_tty is None else is_tty:
      is_bytes = unit == 'B'
      self._bar = tqdm.tqdm(
        desc=name or None,
        total=total,
        initial=done,
        unit=unit if is_bytes else f' {unit}',
        unit_scale=is_bytes,
        dynamic_ncols=True,
      )
    elif done:
      self._print('continues from there')

  def advance(self, count: int = 1, note: str = '') -> None:
    """Says that `count` more are done; `note` is shown behind the numbers."""
    self.done += count
    if self._bar is not None:
      self._bar.set_postfix_str(note, refresh=False)
      self._bar.update(count)
      return
    now = self._clock()
    if now - self._shown >= self._every:
      self._shown = now
      self._print(*self._speed(now - self._begin), note)

  def close(self) -> None:
    """Leaves the bar as it is, or says how many were done in which time."""
    if self._bar is not None:
      self._bar.close()
      self._bar = None
    else:
      self._print(f'{self._clock() - self._begin:.0f} s')

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *unused_exception) -> None:
    self.close()

  # --- private ---

  def _speed(self, seconds):
    rate = (self.done - self._before) / seconds
    text = [f'{rate / 1e6:.2g} MB/s' if self._unit == 'B' else f'{rate:.2g}/s']
    if self._total is not None and rate:
      text.append(f'{(self._total - self.done) / rate / 60:.0f} min left')
    return text

  def _print(self, *parts):
    unit, total = self._unit, '?' if self._total is None else self._total
    done = self.done
    if unit == 'B':
      unit, done = 'MB', f'{done / 1e6:.1f}'
      total = total if total == '?' else f'{total / 1e6:.1f}'
    count = f'{done}/{total} {unit}'
    text = ', '.join(part for part in (count, *parts) if part)
    name = f'{self._name}: ' if self._name else ''
    print(f'{name}{text}', file=sys.stderr, flush=True)
