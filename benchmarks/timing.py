"""Repeated timing of calls, and the memory of this process."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Seconds(NamedTuple):
  """Time of one call.

  Attributes:
    median: over the repeats.
    spread: distance of the quartiles divided by the median. Above 0.1 the
      machine was busy with something else: repeat.
  """

  median: float
  spread: float


def summarize(samples: Sequence[float]) -> Seconds:
  """Median and spread of repeated measurements."""
  low, median, high = np.percentile(samples, [25, 50, 75])
  return Seconds(float(median), float((high - low) / median))


def time_calls(
  call: Callable[[], Any], *, repeats: int, least: float = 0.1
) -> Seconds:
  """Times a call that starts work on the devices.

  Short calls are timed in groups. An accelerator works off a group in order,
  so waiting for the last result is enough and hides the time to start a call,
  as in training. The CPU would run the calls of a group side by side, so there
  each is waited for.

  Args:
    call: returns arrays of the work that it started.
    repeats: number of groups.
    least: seconds that a group should last.
  """
  wait_for_each = jax.default_backend() == 'cpu'

  def group(size):
    start = time.perf_counter()
    for _ in range(size):
      result = call()
      if wait_for_each:
        jax.block_until_ready(result)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / size

  group(1)
  size = max(1, round(least / group(1)))
  return summarize([group(size) for _ in range(repeats)])


def peak_bytes() -> tuple[int, str]:
  """Greatest memory use so far, and whose it is: 'device' or 'process'."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and 'peak_bytes_in_use' in stats:
    return stats['peak_bytes_in_use'], 'device'
  return peak_process_bytes(), 'process'


def peak_process_bytes() -> int:
  """Greatest memory of this process so far, without that of accelerators."""
  import resource  # not on Windows

  unit = 1 if sys.platform == 'darwin' else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
