"""What every benchmark shares: command line, tables, JSON, environment.

A benchmark is a module with `parser()` and `measure(args) -> [Table]`; `main`
does the rest.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tqdm

from vidscenic.train import progress

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_MAX_WIDTH = 100  # characters of a table


class Table(NamedTuple):
  """Rows of one measurement.

  Attributes:
    name: key of the table within its benchmark.
    title: what was measured, one line.
    rows: {column: number or text}; units stand in the column's name. A column
      that a row lacks is left empty.
    notes: lines below the table: references, floors.
  """

  name: str
  title: str
  rows: list[dict[str, Any]]
  notes: Sequence[str] = ()


def parser(description: str) -> argparse.ArgumentParser:
  """A command line with the flags of every benchmark."""
  result = argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    allow_abbrev=False,
  )
  result.add_argument('--json', default='', help='file for the results')
  return result


def main(
  name: str,
  command: argparse.ArgumentParser,
  measure: Callable[[argparse.Namespace], list[Table]],
  args: argparse.Namespace | None = None,
) -> None:
  """Runs one benchmark: prints its tables and writes its JSON.

  Args:
    name: of the benchmark.
    command: its command line.
    measure: does the work.
    args: parsed already; None: parse the command line.
  """
  args = command.parse_args() if args is None else args
  where = environment()  # before the benchmark itself loads the machine
  tables = measure(args)
  print(f'\n{name}: {describe(where)}')
  for table in tables:
    print(f'\n{format_table(table)}')
  if args.json:
    write_json(
      args.json,
      {
        'benchmark': name,
        'arguments': {k: v for k, v in vars(args).items() if k != 'json'},
        'environment': where,
        'tables': {table.name: table._asdict() for table in tables},
      },
    )


def environment() -> dict[str, Any]:
  """Machine, versions, date, commit, and how busy the machine is."""
  import jax  # here, so that --help is fast

  devices = jax.devices()
  cores = getattr(os, 'sched_getaffinity', lambda _: range(os.cpu_count()))
  load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else None
  return {
    'python': platform.python_version(),
    'jax': jax.__version__,
    'device': devices[0].device_kind,
    'devices': len(devices),
    'cpu': _cpu_name(),
    'cores': len(cores(0)),
    'load': load,  # average number of running processes in the last minute
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'commit': _commit(),
  }


def describe(where: dict[str, Any]) -> str:
  """The environment in one line."""
  load = where['load']
  return (
    f'{where["devices"]} x {where["device"]}, {where["cores"]} cores '
    f'({where["cpu"]}), load {"?" if load is None else f"{load:.1f}"}, '
    f'python {where["python"]}, jax {where["jax"]}, '
    f'commit {where["commit"]}, {where["date"]}'
  )


def format_table(table: Table) -> str:
  """Title, aligned columns, notes; a few wide rows stand side by side."""
  names = list(dict.fromkeys(c for row in table.rows for c in row))
  lines = [names] + [
    [format_cell(row.get(name)) for name in names] for row in table.rows
  ]
  text = [any(isinstance(r.get(n), str) for r in table.rows) for n in names]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  if sum(widths) > _MAX_WIDTH and len(table.rows) <= 4:
    lines = [list(column) for column in zip(*lines, strict=True)]
    text = [True] + [False] * len(table.rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  else:
    lines.insert(1, ['-' * width for width in widths])
  body = [
    '  '.join(
      cell.ljust(width) if left else cell.rjust(width)
      for cell, width, left in zip(line, widths, text, strict=True)
    ).rstrip()
    for line in lines
  ]
  return '\n'.join([table.title, *body, *table.notes])


def format_cell(value: Any) -> str:
  """Three significant digits for numbers that are not counts."""
  if value is None:
    return ''
  if isinstance(value, float):
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f'{value:.{digits}f}' if abs(value) >= 1 else f'{value:.3g}'
  return str(value)


def write_json(path: str | os.PathLike, document: Any) -> None:
  """Writes a document; infinite and missing numbers are an error."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(document, indent=2, allow_nan=False) + '\n')


class Progress:
  """Shows which of `total` measurements runs: a bar, or lines if no terminal.

  Args:
    total: number of measurements.
    name: of the benchmark.
  """

  def __init__(self, total: int, name: str):
    self._total, self._name, self._done = total, name, 0
    self._bar = None
    if progress.is_terminal():
      self._bar = tqdm.tqdm(total=total, desc=name, leave=False)

  def __call__(self, text: str) -> None:
    """Says that the measurement `text` begins."""
    self._done += 1
    if self._bar is None:
      line = f'{self._name} {self._done}/{self._total}: {text}'
      print(line, file=sys.stderr, flush=True)
    else:
      self._bar.update(self._done - 1 - self._bar.n)
      self._bar.set_postfix_str(text)

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *unused_exception) -> None:
    if self._bar is not None:
      self._bar.close()


def _cpu_name():
  info = pathlib.Path('/proc/cpuinfo')
  if info.exists():
    for line in info.read_text().splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  return platform.processor() or platform.machine()


def _commit():
  """Short hash, with a + if files differ from it; '' outside a checkout."""

  def git(*command):
    return subprocess.run(
      ['git', '-C', str(_ROOT), *command],
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()

  try:
    changed = git('status', '--porcelain', '--untracked-files=no')
    return git('rev-parse', '--short', 'HEAD') + ('+' if changed else '')
  except (OSError, subprocess.CalledProcessError):
    return ''
