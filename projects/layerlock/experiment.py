r"""Pixel MAE, MAE with freezing, LayerLock and the control, with several seeds.

  python -m projects.layerlock.data --folder=runs/clips
  python -m projects.layerlock.experiment --clips=runs/clips --runs=runs/arms

Trains every arm of configs/synthetic_tiny.py with every seed, one after the
other, and prints the last figures: mean and spread (standard deviation) over
seeds. Runs that are finished are only read; an interrupted one goes on.
"""

import argparse
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from projects.layerlock.configs import synthetic_tiny
from vidscenic.tools import compare

_CONFIG = 'projects/layerlock/configs/synthetic_tiny.py'
FIGURES = tuple(f'^{name}$' for name in (
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
))  # fmt: skip


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
      results[arm].append(compare.last_figures(train(arm, seed, args)))
  print(compare.table(results, FIGURES))


if __name__ == '__main__':
  main()
