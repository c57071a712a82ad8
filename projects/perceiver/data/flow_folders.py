"""Pairs of frames with flow, a folder for each, as AutoFlow is published.

AutoFlow (arXiv 2104.14544): folders that hold im0.png, im1.png and forward.flo
at any depth. Other sets are easily brought into this form.
"""

import os
from typing import Any

import numpy as np

from vidscenic.data.datasets import flow_files, pictures, tables

FILES = ('im0.png', 'im1.png', 'forward.flo')
_HINT = (
  'AutoFlow, from https://autoflow-google.github.io, unpacks to folders with '
  f'{", ".join(FILES)}'
)


class FlowFolders:
  """Records of two frames with the flow between them.

  Fields as in `vidscenic.data.datasets.flow`: video, path, forward_flow,
  flow_mask and flow_known, which are the same here.

  Args:
    root: folder that holds the pairs' folders.

  Raises:
    FileNotFoundError: no folder, or no pair in it.
  """

  def __init__(self, root: str):
    tables.require_folder(root, _HINT)
    self._root = root
    self._pairs = sorted(
      os.path.relpath(folder, root)
      for folder, _, files in os.walk(root)
      if set(FILES) <= set(files)
    )
    if not self._pairs:
      raise tables.missing(os.path.join(root, '<pair>', FILES[2]), _HINT)

  def __len__(self) -> int:
    return len(self._pairs)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Pair `index`.

    Raises:
      VideoError: a file cannot be read; names it.
    """
    pair = self._pairs[index]
    first, second, file = (os.path.join(self._root, pair, f) for f in FILES)
    flow, known = flow_files.read_flo(file)
    known = np.stack([known, np.zeros_like(known)])
    return {
      'video': pictures.read_files([first, second]),
      'path': pair,
      'forward_flow': np.stack([flow, np.zeros_like(flow)]),
      'flow_mask': known,
      'flow_known': known,
    }
