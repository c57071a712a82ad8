r"""When have the first blocks of a pixel MAE converged? (LayerLock, section 3)

  python main.py --workdir=runs/mae \
    --config=projects/layerlock/configs/synthetic_tiny.py:arm=mae,steps=600 \
    --config.checkpoint.every_steps=100 --config.checkpoint.keep_last=6
  python -m projects.layerlock.convergence_probe --workdir=runs/mae \
    --config=projects/layerlock/configs/synthetic_tiny.py:arm=mae,steps=600 \
    --steps 100 300 500 --depths 1 2 4 --out=runs/probe

The first command makes a run that keeps its checkpoints. For every step T and
number of blocks L a branch starts from its checkpoint of step T, freezes the
first L blocks and trains to the same end; its last held-out losses are compared
with those of the run. Blocks count as converged if the loss is at most 1 %
(`--eps`) higher; the bound of the paper is not known. The run needs an
evaluator `heldout` (`MeanLoss`), whose masks are always the same.

Finished branches are only read, so an interrupted probe goes on.
"""

import argparse
import itertools
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from vidscenic.tools import compare

_LOSS = 'heldout/loss'


def final_loss(workdir: pathlib.Path, share: float = 0.01) -> float:
  """Mean held-out loss over the last part of a run.

  Args:
    workdir: of the run.
    share: of its steps; at least the last evaluation counts.

  Raises:
    ValueError: no held-out loss was logged.
  """
  rows = [
    json.loads(line)
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]
  found = [(row['step'], row[_LOSS]) for row in rows if _LOSS in row]
  if not found:
    raise ValueError(
      f'{workdir} has no figure {_LOSS!r}: give its config an evaluator '
      "'heldout' (vidscenic.evaluation.evaluator:MeanLoss)"
    )
  end = found[-1][0]
  return float(np.mean([x for step, x in found if step >= (1 - share) * end]))


def start_branch(run: pathlib.Path, step: int, branch: pathlib.Path) -> None:
  """Copies a run as it was at a step.

  Raises:
    FileNotFoundError: the run did not keep that checkpoint.
  """
  checkpoint = run / 'checkpoints' / str(step)
  if not checkpoint.is_dir():
    kept = sorted(int(p.name) for p in (run / 'checkpoints').glob('[0-9]*'))
    raise FileNotFoundError(
      f'{run} kept the checkpoints of steps {kept}, not of {step}: choose '
      'among them, or train with checkpoint.every_steps and '
      'checkpoint.keep_last set'
    )
  part = branch.with_name(f'{branch.name}.part')
  shutil.rmtree(part, ignore_errors=True)
  (part / 'checkpoints').mkdir(parents=True)
  shutil.copytree(checkpoint, part / 'checkpoints' / str(step))
  shutil.copy(run / 'config.json', part / 'config.json')
  part.rename(branch)


def train_branch(args: argparse.Namespace, step: int, depth: int) -> float:
  """Loss of the branch of one step and depth.

  Raises:
    SystemExit: its training failed.
  """
  branch = pathlib.Path(args.out) / f'step{step}_depth{depth}'
  if not branch.exists():
    start_branch(pathlib.Path(args.workdir), step, branch)
  if not (branch / 'DONE').exists():
    freezing = {
      'freeze': True,
      'latent_targets': False,
      'freeze_start_step': step,
      'freeze_interval': 1,
      'freeze_jump': depth,
      'max_frozen_layers': depth,
    }
    prefix = '--config.task.kwargs.layerlock.'
    command = [
      sys.executable,
      'main.py',
      f'--config={args.config}',
      f'--workdir={branch.resolve()}',
      '--allow_config_change',
      *(f'{prefix}{name}={value}' for name, value in freezing.items()),
      # The learning rate goes on as if nothing had happened.
      f'{prefix}mini_warmup.steps=0',
    ]
    root = pathlib.Path(__file__).resolve().parents[2]
    if subprocess.run(command, cwd=root, check=False).returncode:
      raise SystemExit(f'{branch}: training failed, see above')
  return final_loss(branch)


def main(argv: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(
    description='Trains branches of a run with the first blocks frozen.',
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument('--workdir', required=True, help='finished pixel MAE')
  parser.add_argument('--config', required=True, help='its config')
  parser.add_argument('--out', required=True, help='folder for the branches')
  parser.add_argument('--steps', type=int, nargs='+', required=True)
  parser.add_argument('--depths', type=int, nargs='+', required=True)
  parser.add_argument('--eps', type=float, default=0.01)
  args = parser.parse_args(argv)
  base = final_loss(pathlib.Path(args.workdir))
  pairs = list(itertools.product(args.steps, args.depths))
  columns = {'run': [{'loss': base, 'excess': 0.0}]}
  for i, (step, depth) in enumerate(pairs):
    print(f'{i + 1}/{len(pairs)}: step {step}, {depth} blocks', flush=True)
    loss = train_branch(args, step, depth)
    excess = (loss - base) / base
    columns[f'{step}: {depth}'] = [
      {'loss': loss, 'excess': excess, 'converged': float(excess <= args.eps)}
    ]
  print(compare.table(columns))


if __name__ == '__main__':
  main()
