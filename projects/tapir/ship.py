"""Writes a run's weights into one small file that says what model they are.

  python -m projects.tapir.ship runs/tapir_small weights.npz

The file holds float16 values under the names of `model.Tapir`, and what the
arrays do not show: whether the model is causal, the temperature of its soft
argmax, the resolution of training and the number of iterations. `Tracker.load`,
predictions and `importer.load` read it.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from vidscenic.tools import load
from vidscenic.train import paths

# Fields of a model that its arrays do not show.
_UNSEEN = (
  'use_causal_conv',
  'softmax_temperature',
  'initial_resolution',
  'num_pips_iter',
)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(
    prog='python -m projects.tapir.ship',
    description="Writes a run's weights into one file.",
  )
  parser.add_argument('workdir', help='of the run')
  parser.add_argument('output', help='.npz file')
  parser.add_argument(
    '--params',
    choices=('params', 'ema'),
    default='params',
    help='which weights of the run (default: params)',
  )
  args = parser.parse_args(argv)
  try:
    task, params = load.load(args.workdir, params=args.params)
    size = write(args.output, task.model, params)
  except (OSError, ValueError) as error:
    sys.exit(str(error))
  print(f'{args.output}: {size / 2**20:.2f} MiB')


def write(path: str | os.PathLike, model, params: Mapping) -> int:
  """Writes parameters in float16.

  Args:
    path: .npz file; its folder is made.
    model: a `model.Tapir`.
    params: its parameters.

  Returns:
    Bytes of the file.

  Raises:
    ValueError: values that float16 cannot hold.
  """
  arrays = {
    f'params/{name}': np.asarray(value)
    for name, value in paths.named_leaves(jax.device_get(params)).items()
  }
  large = [k for k, v in arrays.items() if not np.all(np.abs(v) < 65504)]
  if large:
    raise ValueError(f'{large[0]} holds values that float16 cannot')
  arrays = {name: value.astype(np.float16) for name, value in arrays.items()}
  for name in _UNSEEN:
    arrays[f'config/{name}'] = np.asarray(getattr(model, name))
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(path, **arrays)
  return path.stat().st_size


if __name__ == '__main__':
  main()
