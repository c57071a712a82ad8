r"""Pixel MAE, MAE with freezing, LayerLock and the control, with several seeds.

  python -m projects.layerlock.data --folder=runs/clips
  python -m projects.layerlock.experiment --clips=runs/clips --runs=runs/arms

Trains every arm of configs/synthetic_tiny.py with every seed, one after the
other, and prints the last figures: mean and spread (standard deviation) over
seeds. Runs that are finished are only read; an interrupted one goes on.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from projects.layerlock.configs import synthetic_tiny

_CONFIG = 'projects/layerlock/configs/synthetic_tiny.py'
FIGURES = (
  'actions/knn10',
  'actions/linear',
  'actions/majority',
  'shapes/knn10',
  'shapes/linear',
  'shapes/majority',
  'health/end/input_variance_share',
  'health/end/effective_rank_share',
  'health/end/mean_cosine',
  'health/latent_nmse',
  'health/alarms',
)


def train(arm: str, seed: int, args: argparse.Namespace) -> pathlib.Path:
  """Runs one arm to its end in a process of its own; returns its workdir.

  Raises:
    SystemExit: the run failed.
  """
  workdir = pathlib.Path(args.runs) / f'{arm}_{seed}'
  config = (
    f'{_CONFIG}:arm={arm},seed={seed},steps={args.steps},batch={args.batch},'
    f'clips={args.clips}'
  )
  root = pathlib.Path(__file__).resolve().parents[2]
  command = [sys.executable, 'main.py', f'--config={config}']
  command.append(f'--workdir={workdir.resolve()}')
  print(f'{arm} {seed}: {workdir}', flush=True)
  done = subprocess.run(command, cwd=root, check=False)
  if done.returncode:
    raise SystemExit(f'{workdir}: the run failed, see above')
  return workdir


def last_figures(workdir: pathlib.Path) -> dict[str, float]:
  """The newest value of every figure of a run."""
  figures = {}
  for line in (workdir / 'metrics.jsonl').read_text().splitlines():
    row = json.loads(line)
    figures |= {k: v for k, v in row.items() if isinstance(v, (int, float))}
  return figures


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
  """Markdown: one row per figure, one column per arm."""
  lines = [
    f'| figure | {" | ".join(results)} |',
    '|---|' + '---|' * len(results),
  ]
  for name in FIGURES:
    cells = []
    for runs in results.values():
      values = [run[name] for run in runs if name in run]
      cells.append(
        f'{np.mean(values):.3g} ± {np.std(values):.2g}' if values else ''
      )
    lines.append(f'| {name} | {" | ".join(cells)} |')
  return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(
    description=__doc__.partition('\n')[0],
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument('--clips', required=True, help='folder of drawn clips')
  parser.add_argument('--runs', required=True, help='folder for the workdirs')
  parser.add_argument('--steps', type=int, default=1200)
  parser.add_argument('--batch', type=int, default=32)
  parser.add_argument('--seeds', type=int, default=3, help='runs per arm')
  parser.add_argument(
    '--arms', nargs='+', default=list(synthetic_tiny.ARMS), help='which'
  )
  args = parser.parse_args(argv)
  args.clips = str(pathlib.Path(args.clips).resolve())
  results = {arm: [] for arm in args.arms}
  for seed in range(args.seeds):  # a whole set first
    for arm in args.arms:
      results[arm].append(last_figures(train(arm, seed, args)))
  print(table(results))


if __name__ == '__main__':
  main()
