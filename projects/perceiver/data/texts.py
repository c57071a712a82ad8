"""Text as bytes: files, and made-up sentences that need no files.

Token ids are those of Perceiver IO's language model (arXiv 2107.14795): 0
padding, 1 begin, 2 end, 3 mask, 4 class, 5 separator, and byte b is b + 6.
"""

import glob
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

PAD, MASK = 0, 3
NUM_SPECIAL = 6

_SPLITS = ('train', 'validation')
_SIZES = {'train': 1_000_000, 'validation': 256}
_NOUNS = 'cat dog bird child robot river stone lamp window garden'.split()
_VERBS = 'sees finds follows carries hears paints moves likes'.split()
_ADJECTIVES = 'small old red quiet bright heavy green round'.split()
_PLACES = ('in the house', 'near the sea', 'on the hill', 'under the bridge')


def to_ids(text: bytes | str) -> np.ndarray:
  """int32[N] ids of text, one per byte of its UTF-8 code."""
  data = text.encode() if isinstance(text, str) else text
  return np.frombuffer(data, np.uint8).astype(np.int32) + NUM_SPECIAL


def to_bytes(ids) -> bytes:
  """Bytes of ids; special tokens are left out."""
  ids = np.asarray(ids)
  values = ids[ids >= NUM_SPECIAL] - NUM_SPECIAL
  return values.astype(np.uint8).tobytes()


class TextFiles:
  """Pieces of text files, one after the other; records {'text': bytes}.

  Args:
    path: a file, or a pattern with * or ?.
    length: bytes of a piece; the last one of a file may be shorter.

  Raises:
    FileNotFoundError: no file.
    ValueError: an empty path or length, or only empty files.
  """

  def __init__(self, path: str, length: int = 2048):
    if not path:
      raise ValueError("path='' is empty: want a text file or a pattern")
    if length < 1:
      raise ValueError(f'length={length}: want 1 or more')
    files = sorted(glob.glob(path, recursive=True))
    if not files:
      raise FileNotFoundError(f'path={path!r}: no such text file')
    self._length = length
    self._pieces = [
      (file, start)
      for file in files
      for start in range(0, os.path.getsize(file), length)
    ]
    if not self._pieces:
      raise ValueError(f'path={path!r}: all files are empty')

  def __len__(self) -> int:
    return len(self._pieces)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Piece `index`."""
    file, start = self._pieces[index]
    with open(file, 'rb') as f:
      f.seek(start)
      return {'text': f.read(self._length)}


class SyntheticText:
  """Sentences of a small grammar, drawn anew for every index.

  Its bytes follow from their neighbours much better than from how often each
  occurs. Records {'text': bytes}.

  Args:
    split: 'train' or 'validation'; other sentences of the same grammar.
    length: bytes of a piece.
    seed: not negative.
  """

  def __init__(self, split: str = 'train', length: int = 128, seed: int = 0):
    if split not in _SPLITS:
      raise ValueError(f'split={split!r}: want one of {_SPLITS}')
    self._seed, self._length = [seed, _SPLITS.index(split)], length
    self._size = _SIZES[split]

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Piece `index`; IndexError outside [0, len)."""
    if not 0 <= index < self._size:
      raise IndexError(f'index {index} outside [0, {self._size})')
    rng = np.random.default_rng([*self._seed, index])
    text = ''
    while len(text) < self._length:
      text += _sentence(rng)
    return {'text': text[: self._length].encode()}


def _sentence(rng):
  pick = lambda words: words[rng.integers(len(words))]
  who, whom = (f'the {pick(_ADJECTIVES)} {pick(_NOUNS)}' for _ in range(2))
  return f'{who} {pick(_VERBS)} {whom} {pick(_PLACES)}. '


class TextTransform:
  """Records with text to ids int32[length], padded; for `data.transform`."""

  def __init__(self, length: int = 2048):
    self._length = length

  def sample(
    self, record: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """{'ids': int32[length]}."""
    del rng
    ids = to_ids(record['text'])[: self._length]
    padded = np.full(self._length, PAD, np.int32)
    padded[: len(ids)] = ids
    return {'ids': padded}

  def augment(
    self, clip: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """Nothing: what is hidden is drawn in the training step."""
    del rng
    return dict(clip)
