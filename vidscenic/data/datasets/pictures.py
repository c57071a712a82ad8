"""Frames and label maps that a data set stores as one file per frame."""

import io
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vidscenic.data import containers
from vidscenic.data.datasets import tables

# One channel: palette, grey or black and white.
_LABEL_MODES = ('P', 'L', '1')


def list_frames(folder: str, extension: str, hint: str) -> list[str]:
  """Paths of the frames in a folder, by number, else by name.

  Names that are whole numbers are ordered as such ('9.jpg' before '10.jpg');
  hidden files and subfolders are passed over.

  Args:
    folder: path.
    extension: with dot.
    hint: what is missing and where it comes from, for errors.

  Raises:
    FileNotFoundError: no such folder, or no frame in it.
  """
  tables.require_folder(folder, hint)
  with os.scandir(folder) as entries:
    names = [
      entry.name
      for entry in entries
      if not entry.name.startswith('.') and entry.name.endswith(extension)
    ]
  if not names:
    raise tables.missing(os.path.join(folder, f'*{extension}'), hint)
  stems = [name[: -len(extension)] for name in names]
  numbered = all(stem.isascii() and stem.isdigit() for stem in stems)
  names.sort(
    key=lambda name: (int(name[: -len(extension)]) if numbered else 0, name)
  )
  return [os.path.join(folder, name) for name in names]


def stem(path: str) -> str:
  """The name of a file without folder and extension."""
  return os.path.splitext(os.path.basename(path))[0]


def read_files(paths: Sequence[str]) -> list[bytes]:
  """The bytes of some files.

  Raises:
    VideoError: one of them cannot be read; names it.
  """
  contents = []
  for path in paths:
    try:
      with open(path, 'rb') as f:
        contents.append(f.read())
    except OSError as error:
      raise containers.VideoError(path, containers.describe(error)) from error
  return contents


def read_label_maps(
  images: Sequence[bytes], names: Sequence[str]
) -> np.ndarray:
  """Decodes 8-bit label maps without touching their values.

  A palette picture's values are its palette's indices; a conversion to RGB or
  to grey would make colours of them.

  Args:
    images: the bytes of one PNG per frame.
    names: what errors call each of them.

  Returns:
    uint8[T, H, W, 1].

  Raises:
    VideoError: damaged, of another size than the first, or of another kind.
  """
  maps = []
  for encoded, name in zip(images, names, strict=True):
    try:
      image = Image.open(io.BytesIO(encoded))
      mode, values = image.mode, np.asarray(image).astype(np.uint8)
    except (*containers.ERRORS, SyntaxError, Image.DecompressionBombError) as e:
      raise containers.VideoError(name, containers.describe(e)) from e
    if mode not in _LABEL_MODES:
      raise containers.VideoError(
        name,
        f'a label map has one 8-bit channel or a palette, got mode {mode!r}',
      )
    if maps and values.shape != maps[0].shape:
      raise containers.VideoError(
        name, f'has size {values.shape}, {names[0]} {maps[0].shape}'
      )
    maps.append(values)
  return np.stack(maps)[..., None]
