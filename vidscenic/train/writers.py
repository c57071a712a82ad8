"""Where numbers and pictures go: event files, JSON lines, media files, the log.

Event files are framed by tensorboard's own RecordWriter over a plain file. Its
EventFileWriter opens files through `tensorboard.compat.tf`, which imports
TensorFlow wherever that is installed (7 s, 700 MB), and writes from a thread,
so that a full disk shows up at some later call.

All writers take values as {name: value} under a prefix; a tag is prefix/name.
They write to local paths only; `report.Report` mirrors them to a bucket.
"""

import json
import math
import os
import pathlib
import re
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from tensorboard.compat.proto import (
  event_pb2,
  summary_pb2,
  tensor_pb2,
  tensor_shape_pb2,
  types_pb2,
)
from tensorboard.summary.writer import record_writer

from vidscenic.train import disk_errors, media


def number(tag: str, value: Any) -> int | float:
  """Converts a Python, NumPy or JAX number to a Python one.

  Raises:
    ValueError: more than one element, or no number at all.
  """
  array = np.asarray(value)
  if array.size != 1:
    raise ValueError(f'scalar {tag!r} has shape {array.shape}, expected one')
  if array.dtype.kind not in 'biu':  # bfloat16 has kind 'V'
    array = array.astype(np.float64)
  return array.item()


def tag_of(prefix: str, name: str) -> str:
  """Joins the two; an empty prefix is left out."""
  return f'{prefix}/{name}' if prefix else name


class TensorBoardWriter:
  """Event files of one logdir, read by `tensorboard --logdir`.

  Args:
    logdir: local folder, created if needed.

  Raises:
    OSError: with the path and a remedy, from any method.
  """

  def __init__(self, logdir: str | os.PathLike):
    self._logdir = pathlib.Path(logdir)
    self._path = None
    self._records = None

  def purge(self, step: int) -> None:
    """Hides what was written so far with a step >= `step`."""
    # Twice, as the first START that TensorBoard sees hides nothing.
    for _ in range(2):
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._write(event_pb2.Event(step=step, session_log=start))
    self.flush()

  def scalars(self, step: int, prefix: str, values: Mapping[str, Any]) -> None:
    """Writes numbers; TensorBoard keeps them as float32."""
    summary = summary_pb2.Summary()
    for name, value in values.items():
      tag = tag_of(prefix, name)
      value = number(tag, value)
      with np.errstate(over='ignore'):
        summary.value.add(tag=tag, simple_value=np.float32(value))
    self._write(event_pb2.Event(step=step, summary=summary))

  def text(self, step: int, prefix: str, values: Mapping[str, str]) -> None:
    """Writes strings, which TensorBoard shows as Markdown."""
    summary = summary_pb2.Summary()
    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name='text')
    for name, value in values.items():
      summary.value.add(
        tag=tag_of(prefix, name),
        metadata=summary_pb2.SummaryMetadata(plugin_data=plugin),
        tensor=tensor_pb2.TensorProto(
          dtype=types_pb2.DT_STRING,
          string_val=[value.encode('utf-8')],
          tensor_shape=tensor_shape_pb2.TensorShapeProto(),
        ),
      )
    self._write(event_pb2.Event(step=step, summary=summary))

  def pictures(
    self, step: int, prefix: str, values: Mapping[str, media.Picture]
  ) -> None:
    """Writes images; GIFs play in the images tab."""
    for name, picture in values.items():
      image = summary_pb2.Summary.Image(
        height=picture.height,
        width=picture.width,
        colorspace=3,
        encoded_image_string=picture.data,
      )
      # A summary each: a record is read whole.
      summary = summary_pb2.Summary()
      summary.value.add(tag=tag_of(prefix, name), image=image)
      self._write(event_pb2.Event(step=step, summary=summary))

  def flush(self) -> None:
    """Hands everything written so far to the operating system."""
    if self._records is not None:
      with disk_errors.explained(self._path):
        self._records.flush()

  def close(self) -> None:
    """Completes the current file; a later write starts another one."""
    if self._records is not None:
      records, self._records = self._records, None
      with disk_errors.explained(self._path):
        records.close()

  def _write(self, event: event_pb2.Event) -> None:
    event.wall_time = time.time()
    if self._records is None:
      self._open()
    with disk_errors.explained(self._path):
      self._records.write(event.SerializeToString())

  def _open(self) -> None:
    # TensorBoard reads the files of a folder in the order of their names: the
    # time comes first, fine enough to tell quick restarts apart.
    now = time.time()
    host = socket.gethostname()
    name = f'events.out.tfevents.{now:017.6f}.{host}.{os.getpid()}'
    self._path = self._logdir / name
    version = event_pb2.Event(wall_time=now, file_version='brain.Event:2')
    with disk_errors.explained(self._path):
      self._logdir.mkdir(parents=True, exist_ok=True)
      self._records = record_writer.RecordWriter(self._path.open('xb'))
      self._records.write(version.SerializeToString())


class JsonlWriter:
  """One JSON object a line: {"step": 20, "train/loss": 0.5, ...}.

  Numbers have all their digits. What JSON has no number for is a string that
  float() reads: "NaN", "Infinity", "-Infinity". Every row goes to the system
  at once, so a killed process leaves at most one torn line, the last.

  Args:
    path: local file; rows are added to an existing one, after a torn last line
      has been removed from it.

  Raises:
    OSError: with the path and a remedy, from any method.
  """

  def __init__(self, path: str | os.PathLike):
    self._path = pathlib.Path(path)
    self._file = None
    self.rewind(math.inf)

  def rewind(self, step: float) -> None:
    """Removes rows beyond `step`, and lines that are not rows, atomically."""
    self.close()
    with disk_errors.explained(self._path):
      self._path.parent.mkdir(parents=True, exist_ok=True)
      if self._path.exists():
        _keep_rows(self._path, step)
      self._file = self._path.open('ab')

  def scalars(self, step: int, prefix: str, values: Mapping[str, Any]) -> None:
    """Adds one row.

    Raises:
      ValueError: a value is not a single number.
    """
    row = {'step': int(step)}
    for name, value in values.items():
      tag = tag_of(prefix, name)
      row[tag] = _json_number(number(tag, value))
    line = json.dumps(row, allow_nan=False) + '\n'
    with disk_errors.explained(self._path):
      self._file.write(line.encode('utf-8'))
      self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    if self._file is not None:
      file, self._file = self._file, None
      with disk_errors.explained(self._path):
        file.close()


def _json_number(value: int | float) -> int | float | str:
  if math.isfinite(value):
    return value
  return 'NaN' if math.isnan(value) else f'{"-" * (value < 0)}Infinity'


def _keep_rows(path: pathlib.Path, last_step: float) -> None:
  """Rewrites a JSON-lines file without torn lines and later rows."""
  temporary = path.with_name(f'.{path.name}.tmp')
  changed, torn = False, []
  try:
    with path.open('rb') as old, temporary.open('wb') as new:
      for index, line in enumerate(old, start=1):
        step = _step_of(line)
        if step is None:
          torn.append(index)
        elif step <= last_step:
          changed |= not line.endswith(b'\n')
          new.write(line.rstrip(b'\n') + b'\n')
          continue
        changed = True
      new.flush()
      os.fsync(new.fileno())
    if changed:
      os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
  if torn:
    logging.warning(
      '%s: removed %d torn lines, first line %d', path, len(torn), torn[0]
    )


def _step_of(line: bytes) -> int | None:
  try:
    row = json.loads(line)
  except ValueError:
    return None
  step = row.get('step') if isinstance(row, dict) else None
  return step if isinstance(step, int) else None


class MediaWriter:
  """Files that any viewer opens: <folder>/<prefix>_<name>_<step>.png or .gif.

  Raises:
    OSError: with the path and a remedy.
  """

  def __init__(self, folder: str | os.PathLike):
    self._folder = pathlib.Path(folder)

  def pictures(
    self, step: int, prefix: str, values: Mapping[str, media.Picture]
  ) -> list[pathlib.Path]:
    """Writes each picture to its file, replacing an older one of the step."""
    paths = []
    for name, picture in values.items():
      stem = re.sub(r'[^\w.=+-]+', '_', tag_of(prefix, name))
      # Padded, so that listings and globs come in the order of the steps.
      path = self._folder / f'{stem}_{step:08d}{picture.suffix}'
      with disk_errors.explained(path):
        self._folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.data)
      paths.append(path)
    return paths


class ConsoleWriter:
  """One log line for each call: `step 120  davis  jaccard 0.512  oa 0.894`.

  Args:
    skip: prefixes that are not logged, because the progress display has them.
  """

  def __init__(self, skip: Sequence[str] = ()):
    self._skip = frozenset(skip)

  def scalars(self, step: int, prefix: str, values: Mapping[str, Any]) -> None:
    """Logs the numbers with four digits."""
    if prefix not in self._skip:
      logging.info('%s', scalar_line(f'step {step}', prefix, values))


def scalar_line(head: str, prefix: str, values: Mapping[str, Any]) -> str:
  """Formats `head  prefix  name value  name value`."""
  fields = [f'{name} {number(name, v):.4g}' for name, v in values.items()]
  return '  '.join(field for field in (head, prefix, *fields) if field)
