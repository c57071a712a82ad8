r"""Pixel MAE, MAE with freezing, LayerLock and the control, with several seeds.

  python -m projects.layerlock.data --folder=runs/clips
  python -m projects.layerlock.experiment --clips=runs/clips --runs=runs/arms

Trains every arm of configs/synthetic_tiny.py with every seed, one after the
other, and prints the last figures: mean and spread (standard deviation) over
seeds. Runs that are finished are only read; an interrupted one goes on. On an
accelerator, with a decode token for four patches:

  python -m projects.layerlock.data --folder=runs/clips128 --num_frames=16 \
    --size=128 --num_train=4096
  python -m projects.layerlock.experiment --clips=runs/clips128 --seeds=1 \
    --runs=runs/arms_b --size=B --frames=16 --pixels=128 --decode=quarter \
    --batch=64 --steps=3000 --overrides config.task.kwargs.model.dtype=bfloat16
"""

import argparse
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from projects.layerlock.configs import synthetic_tiny
from vidscenic.tools import compare

_CONFIG = 'projects/layerlock/configs/synthetic_tiny.py'
# Arguments of the config.
_PASSED = ('steps', 'batch', 'clips', 'decode', 'size', 'frames', 'pixels')
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
  given = {name: getattr(args, name) for name in _PASSED}
  given |= {'arm': arm, 'seed': seed}
  text = ','.join(f'{name}={value}' for name, value in given.items())
  config = f'{_CONFIG}:{text}'
  root = pathlib.Path(__file__).resolve().parents[2]
  command = [sys.executable, 'main.py', f'--config={config}']
  command.append(f'--workdir={workdir.resolve()}')
  command += [f'--{override}' for override in args.overrides]
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
  parser.add_argument(
    '--decode', default='full', help='or quarter: a token for 2x2 patches'
  )
  parser.add_argument('--size', default='tiny', help='or S, B, L')
  parser.add_argument('--frames', type=int, default=8, help='of the clips')
  parser.add_argument('--pixels', type=int, default=32, help='of the clips')
  parser.add_argument(
    '--overrides', nargs='*', default=(), help='config.FIELD=VALUE, of all arms'
  )
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
