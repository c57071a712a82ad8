r"""The newest figures of several runs side by side.

  python -m vidscenic.tools.compare runs/random runs/rvm runs/layerlock \
    --figures heldout
  python -m vidscenic.tools.compare mae=runs/mae_0,runs/mae_1 ours=runs/a,runs/b

Runs joined by commas are one column: mean and standard deviation. Prints a
Markdown table.
"""

import argparse
import json
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence

import numpy as np


def last_figures(workdir: str | pathlib.Path) -> dict[str, float]:
  """The newest value of every figure of a run.

  Raises:
    FileNotFoundError: no run there, or one that has logged nothing yet.
  """
  path = pathlib.Path(workdir) / 'metrics.jsonl'
  if not path.is_file():
    raise FileNotFoundError(f'{path} does not exist: want the workdir of a run')
  figures = {}
  for line in path.read_text().splitlines():
    row = json.loads(line)
    figures |= {
      k: float(v) for k, v in row.items() if isinstance(v, (int, float))
    }
  return figures


def table(
  columns: Mapping[str, Sequence[Mapping[str, float]]],
  figures: Sequence[str] = (),
) -> str:
  """A Markdown table: a row per figure, a column per group of runs.

  Args:
    columns: {name: figures of each run}.
    figures: expressions found in the names of the figures that are shown, in
      this order; (): all.
  """
  names = dict.fromkeys(n for runs in columns.values() for run in runs
                        for n in run if n != 'step')  # fmt: skip
  if figures:
    names = dict.fromkeys(
      name for regex in figures for name in names if re.search(regex, name)
    )
  lines = [
    f'| figure | {" | ".join(columns)} |',
    '|---' * (len(columns) + 1) + '|',
  ]
  for name in names:
    cells = [
      _cell([run[name] for run in runs if name in run])
      for runs in columns.values()
    ]
    lines.append(f'| {name} | {" | ".join(cells)} |')
  return '\n'.join(lines)


def _cell(values):
  if not values:
    return ''
  if len(values) == 1:
    return f'{values[0]:.4g}'
  return f'{np.mean(values):.3g} ± {np.std(values):.2g}'


def main(argv: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(
    description='Prints the newest figures of several runs side by side.'
  )
  parser.add_argument(
    'runs', nargs='+', help='WORKDIR, or NAME=WORKDIR,WORKDIR,...'
  )
  parser.add_argument(
    '--figures', nargs='+', default=(), help='expressions; default: all'
  )
  args = parser.parse_args(argv)
  columns = {}
  for item in args.runs:
    name, given, workdirs = item.partition('=')
    workdirs = workdirs if given else item
    try:
      columns[name if given else pathlib.Path(item).name] = [
        last_figures(path) for path in workdirs.split(',')
      ]
    except FileNotFoundError as error:
      sys.exit(f'compare: {error}')
  print(table(columns, args.figures))


if __name__ == '__main__':
  main()
