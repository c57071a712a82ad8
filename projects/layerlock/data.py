r"""Synthetic clips that are drawn once and kept, for runs that need them fast.

  python -m projects.layerlock.data --folder=runs/clips --num_train=2048 \
    --num_frames=8 --size=32

writes one folder per split with an .npy file per field. Drawing a clip takes
far longer than a training step of a small model.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import tqdm

from vidscenic.data import synthetic

FIELDS = ('video', 'label', 'shape_label')


class StoredClips:
  """Clips of `write`: `source[i]` is a dict of FIELDS. For `data.source`.

  Args:
    path: folder that `write` made.
    split: 'train', 'validation' or 'test'.

  Raises:
    FileNotFoundError: no such folder; says how to make it.
  """

  def __init__(self, path: str, split: str = 'train'):
    self._files = {f: pathlib.Path(path) / split / f'{f}.npy' for f in FIELDS}
    for file in self._files.values():
      if not file.is_file():
        raise FileNotFoundError(
          f'source_kwargs.path={path!r}: no {file}; make it with python -m '
          f'projects.layerlock.data --folder={path or "FOLDER"}'
        )
    self._arrays = None

  def __len__(self) -> int:
    return len(self._open()['label'])

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Example `index`; IndexError outside [0, len)."""
    return {name: array[index] for name, array in self._open().items()}

  def __getstate__(self):
    return self.__dict__ | {'_arrays': None}

  def _open(self):
    if self._arrays is None:
      self._arrays = {
        name: np.load(file, mmap_mode='r' if name == 'video' else None)
        for name, file in self._files.items()
      }
    return self._arrays


def write(
  folder: str | pathlib.Path,
  *,
  num_train: int,
  num_frames: int,
  size: int,
  difficulty: str = 'easy',
) -> None:
  """Draws all splits; a split that exists is left alone.

  Args:
    folder: for the splits.
    num_train: clips for training; the other splits have 256 each.
    num_frames: T.
    size: height and width in pixels.
    difficulty: of `SyntheticVideos`.
  """
  for split in ('train', 'validation', 'test'):
    out = pathlib.Path(folder) / split
    if out.exists():
      continue
    source = synthetic.SyntheticVideos(
      split,
      num_frames=num_frames,
      height=size,
      width=size,
      difficulty=difficulty,
      size=num_train if split == 'train' else None,
    )
    kept = {name: [] for name in FIELDS}
    for i in tqdm.tqdm(
      range(len(source)),
      desc=split,
      disable=not sys.stderr.isatty(),
    ):
      example = source[i]
      for name in FIELDS:
        kept[name].append(example[name])
    # Under another name until it is whole.
    part = out.with_name(f'{split}.part')
    part.mkdir(parents=True, exist_ok=True)
    for name, values in kept.items():
      np.save(part / f'{name}.npy', np.stack(values))
    part.rename(out)
    print(f'{out}: {len(source)} clips', flush=True)


def main(argv: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(
    description='Draws synthetic clips once and keeps them.',
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument('--folder', required=True, help='for the clips')
  parser.add_argument('--num_train', type=int, default=2048)
  parser.add_argument('--num_frames', type=int, default=8)
  parser.add_argument('--size', type=int, default=32, help='pixels')
  parser.add_argument('--difficulty', default='easy')
  args = parser.parse_args(argv)
  write(
    args.folder,
    num_train=args.num_train,
    num_frames=args.num_frames,
    size=args.size,
    difficulty=args.difficulty,
  )


if __name__ == '__main__':
  main()
