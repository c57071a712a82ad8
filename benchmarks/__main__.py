"""Runs every benchmark with short settings: a few minutes on 2 cores.

  python -m benchmarks
  python -m benchmarks data attention --json benchmarks.json

Each runs in a process of its own, so that memory and caches do not mix.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from benchmarks import report

# Flags that keep each below about two minutes.
SHORT = {
  'train_step': '--repeats 7 --loop --loop_steps 600 --run_steps 60',
  'data': '--repeats 3 --examples 2 --files 4 --batches 8',
  'attention': '--repeats 3 --lengths 256 1024',
  'predict': '--seconds 10 120',
  'moog': '',
  'perceiver': 'imagenet_conv flow --repeats 2',
  'layerlock': '--clip 8 64 64 --repeats 3',
  'rvm': '--models S --size 128 --batch_sizes 1 --train_batch_sizes '
  '--lengths 16 64 --repeats 3',
  'tapir': '--points 64 --boots_points --online_points 64 --repeats 2',
}


def parser():
  """The command line."""
  command = report.parser(
    'Runs benchmarks with short settings. Each also runs by itself with '
    'settings of its own: python -m benchmarks.NAME --help.'
  )
  command.add_argument(
    'names', nargs='*', help=f'which of {", ".join(SHORT)}; none: all'
  )
  return command


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the chosen benchmarks one after the other."""
  command = parser()
  args = command.parse_args(argv)
  unknown = [name for name in args.names if name not in SHORT]
  if unknown:
    command.error(f'no benchmark {unknown[0]!r}: choose from {list(SHORT)}')
  results = []
  with tempfile.TemporaryDirectory() as folder:
    for name in args.names or SHORT:
      path = pathlib.Path(folder) / f'{name}.json'
      subprocess.run(
        [
          sys.executable,
          '-m',
          f'benchmarks.{name}',
          *SHORT[name].split(),
          f'--json={path}',
        ],
        check=True,
      )
      results.append(json.loads(path.read_text()))
  if args.json:
    report.write_json(args.json, {'benchmarks': results})


if __name__ == '__main__':
  main()
