"""A run's report: metrics of an interval, and one object for all writers."""

import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from vidscenic.train import disk_errors, writers
from vidscenic.train import media as media_lib

_METRICS = 'metrics.jsonl'


class Meter:
  """Adds up (sum, count) pairs on the host, in float64, for a log interval.

  Means do not depend on where a run was interrupted: `state` goes into the
  checkpoint and keeps every bit.
  """

  def __init__(self):
    self._totals: dict[str, tuple[float, float]] = {}

  def add(self, pairs: Mapping[str, tuple[Any, Any]]) -> None:
    """Adds one step's pairs.

    Args:
      pairs: name: (sum, count), fetched scalars of any numeric type.

    Raises:
      ValueError: not a single number.
    """
    for name, pair in pairs.items():
      total, count = (float(writers.number(name, x)) for x in pair)
      old_total, old_count = self._totals.get(name, (0.0, 0.0))
      self._totals[name] = old_total + total, old_count + count

  def means(self) -> dict[str, float]:
    """Returns sum / count by name, in the order of the first `add`.

    A name that had nothing to count is left out: NaN should mean that
    something diverged, not that no example had a target.
    """
    with np.errstate(divide='ignore', invalid='ignore'):
      return {
        name: float(np.float64(total) / np.float64(count))
        for name, (total, count) in self._totals.items()
        if count or total  # NaN is true
      }

  def reset(self) -> None:
    """Starts the next interval."""
    self._totals = {}

  def state(self) -> dict[str, list[str]]:
    """Returns name: [sum, count] as strings, which JSON keeps exactly."""
    return {
      name: [repr(total), repr(count)]
      for name, (total, count) in self._totals.items()
    }

  def restore(self, state: Mapping[str, list[str]]) -> None:
    """Replaces the content by what `state` returned."""
    self._totals = {
      name: (float(total), float(count))
      for name, (total, count) in state.items()
    }


class Report:
  """Everything that a run writes for people: numbers, pictures and texts.

  In the workdir: event files for TensorBoard, `metrics.jsonl`, and `media/`
  with PNG and GIF files. A workdir in a bucket cannot be appended to, so there
  they grow in a local folder, and `mirror` copies what is new.

  Every method takes (step, prefix, {name: value}); step is the number of
  completed updates, and tags are prefix/name.

  Args:
    workdir: local path or one that `etils.epath` knows, such as gs://.
    is_writer: False for all processes but the first: nothing is written.
    tensorboard: whether to write event files.
    console_skip: prefixes whose scalars are not logged as a line, as
      `progress.Progress` shows them.
    remote: whether the workdir needs mirroring; None asks its path.

  Raises:
    OSError: the workdir cannot be written or is full; from any method, with
      the path and a remedy.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    is_writer: bool,
    tensorboard: bool = True,
    console_skip: tuple[str, ...] = ('train',),
    remote: bool | None = None,
  ):
    self._workdir = epath.Path(workdir)
    self._writer = is_writer
    self._events = None
    self._closed = False
    if not is_writer:
      return
    if remote is None:
      remote = '://' in os.fspath(self._workdir)
    self._remote = remote
    self._local = self._staging_folder() if remote else pathlib.Path(workdir)
    self._console = writers.ConsoleWriter(skip=console_skip)
    self._rows = writers.JsonlWriter(self._local / _METRICS)
    self._media = writers.MediaWriter(self._local / 'media')
    if tensorboard:
      self._events = writers.TensorBoardWriter(self._local)

  def scalars(self, step: int, prefix: str, values: Mapping[str, Any]) -> None:
    """Writes numbers to event file, metrics.jsonl and log.

    Raises:
      ValueError: a value is not a single number.
    """
    if not self._writes() or not values:
      return
    self._rows.scalars(step, prefix, values)
    self._console.scalars(step, prefix, values)
    if self._events:
      self._events.scalars(step, prefix, values)

  def text(self, step: int, prefix: str, values: Mapping[str, str]) -> None:
    """Writes strings to the event file; TensorBoard reads Markdown."""
    if self._writes() and self._events:
      self._events.text(step, prefix, values)

  def media(
    self,
    step: int,
    prefix: str,
    values: Mapping[str, np.ndarray],
    *,
    fps: float = 10.0,
  ) -> None:
    """Writes pictures to event file and media/.

    Args:
      step, prefix: see the class.
      values: uint8[H, W, 3] becomes a PNG, uint8[T, H, W, 3] a GIF.
      fps: frames per second of GIFs.

    Raises:
      ValueError: another shape or dtype, or fps <= 0.
    """
    if not self._writes():
      return
    pictures = {}
    for name, pixels in values.items():
      try:
        pictures[name] = _encode(np.asarray(pixels), fps=fps)
      except ValueError as error:
        tag = writers.tag_of(prefix, name)
        raise ValueError(f'picture {tag!r}: {error}') from error
    self._media.pictures(step, prefix, pictures)
    if self._events:
      self._events.pictures(step, prefix, pictures)

  def rewind(self, step: int) -> None:
    """Drops rows beyond `step`, for a run that goes on from there."""
    if self._writes():
      self._rows.rewind(step)
      if self._events:
        self._events.purge(step + 1)

  def flush(self) -> None:
    """Hands everything to the operating system, where others can read it."""
    if self._writes() and self._events:
      self._events.flush()

  def mirror(self) -> None:
    """Copies what is new to a remote workdir; to be called at checkpoints.

    A bucket takes whole files only, so the event file is completed and the
    next one started, lest every checkpoint uploads all events again.
    """
    if not self._writes():
      return
    self.flush()
    if self._remote:
      self._upload()

  def close(self) -> None:
    """Closes the files and mirrors the rest; a second call does nothing."""
    if not self._writer or self._closed:
      return
    self._closed = True
    if self._events:
      self._events.close()
    self._rows.close()
    if self._remote:
      self._upload()
      shutil.rmtree(self._local)

  def __enter__(self) -> 'Report':
    return self

  def __exit__(self, exception_type, exception, traceback) -> None:
    try:
      self.close()
    except OSError as error:
      if exception is None:
        raise
      # What ended the run is worth more than a second error of the same disk.
      logging.error('%s', error)

  def _writes(self) -> bool:
    if self._closed:
      raise ValueError(f'the report of {self._workdir} is closed')
    return self._writer

  def _staging_folder(self) -> pathlib.Path:
    """A local folder with the rows that the workdir already has."""
    local = pathlib.Path(tempfile.mkdtemp(prefix='vidscenic-report-'))
    with disk_errors.explained(self._workdir):
      self._workdir.mkdir(parents=True, exist_ok=True)
      if (self._workdir / _METRICS).exists():
        rows = (self._workdir / _METRICS).read_bytes()
        (local / _METRICS).write_bytes(rows)
    logging.info('%s is mirrored from %s', self._workdir, local)
    return local

  def _upload(self) -> None:
    if self._events:
      self._events.close()
    for path in sorted(self._local.rglob('*')):
      if path.is_file():
        target = self._workdir / path.relative_to(self._local).as_posix()
        with disk_errors.explained(target):
          target.parent.mkdir(parents=True, exist_ok=True)
          target.write_bytes(path.read_bytes())
        if path.name != _METRICS:
          path.unlink()  # never written again


def _encode(pixels: np.ndarray, *, fps: float) -> media_lib.Picture:
  if pixels.ndim not in (3, 4):
    raise ValueError(f'expected 3 or 4 axes, got shape {pixels.shape}')
  if pixels.ndim == 3:
    return media_lib.png(pixels)
  return media_lib.gif(pixels, fps=fps)
