"""Examples that are stretches of long recordings, frames at an even pace."""

from collections.abc import Sequence

import numpy as np


class Stretches:
  """Numbers the stretches of all recordings of a data set.

  Args:
    num_frames: frames per stretch.
    stride: recorded frames from one to the next.
    hop: recorded frames from the start of one stretch to that of the next; 0:
      no frame is used twice; 1 allows every start, for training.

  Raises:
    ValueError: an unusable argument, named.
  """

  def __init__(self, *, num_frames: int, stride: int, hop: int):
    if num_frames < 1 or stride < 1 or hop < 0:
      raise ValueError(
        'num_frames and stride must be >= 1 and hop >= 0, got '
        f'{num_frames}, {stride} and {hop}'
      )
    self._stride = stride
    self._offsets = np.arange(num_frames) * stride
    self._span = int(self._offsets[-1]) + 1
    self._hop = hop or self._span
    self._ends = np.zeros(1, np.int64)

  def number(self, lengths: Sequence[int], where: str) -> str:
    """Takes the recordings in; says in a line what became of them.

    Args:
      lengths: frames of each.
      where: the data set, for messages.

    Raises:
      ValueError: none is long enough.
    """
    counts = [len(range(0, n - self._span + 1, self._hop)) for n in lengths]
    if not any(counts):
      raise ValueError(
        f'{where}: none of its {len(counts)} recordings has {self._span} '
        f'frames (num_frames={len(self._offsets)}, stride={self._stride})'
      )
    self._ends = np.cumsum(counts)
    return (
      f'{where}: {len(self)} examples from {len(counts)} recordings; '
      f'{counts.count(0)} are too short'
    )

  def __len__(self) -> int:
    return int(self._ends[-1])

  def __getitem__(self, index: int) -> tuple[int, np.ndarray]:
    """(number of the recording, int[num_frames] of its frames).

    Raises:
      IndexError: index outside [-len, len).
    """
    index = range(len(self))[index]
    recording = int(np.searchsorted(self._ends, index, side='right'))
    before = self._ends[recording - 1] if recording else 0
    return recording, (index - before) * self._hop + self._offsets
