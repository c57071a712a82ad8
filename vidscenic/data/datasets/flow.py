"""Pairs of frames with optical flow: MPI Sintel and KITTI 2015.

Records hold fields of `vidscenic.data.augment`, so that `clips.ClipTransform`
with two frames takes them. Nothing but folders is read before a record is asked
for; instances pickle.
"""

import os
from typing import Any

import numpy as np

from vidscenic.data import containers
from vidscenic.data.datasets import (
  flow_files,
  listed_videos,
  pictures,
  tables,
)

_SINTEL = (
  'MPI-Sintel-complete.zip, free from http://sintel.is.tue.mpg.de, unpacks to '
  'training and test'
)
_KITTI = (
  'data_scene_flow.zip, from https://www.cvlibs.net/datasets/kitti after '
  'registration, unpacks to training and testing'
)


class _FlowPairs:
  """Pairs of frames with forward flow; subclasses fill `self._pairs`.

  A pair is (name, first frame, second frame, further files).
  """

  def __len__(self) -> int:
    return len(self._pairs)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One pair of frames.

    Returns:
      dict(video=list of 2 encoded frames, path=the pair's name,
      forward_flow=float32[2, H, W, 2], zero for the second frame,
      flow_mask=bool[2, H, W], True where the flow is known and its target is
      seen in the second frame,
      flow_known=bool[2, H, W], True wherever the flow is known: the pixels
      that the published end-point errors count. Crops and resizes leave it as
      it is).

    Raises:
      IndexError: index outside [-len, len).
      VideoError: a file cannot be read.
    """
    name, first, second, files = self._pairs[index]
    flow, known, seen = self._read_flow(files)
    if known.shape != seen.shape:
      raise containers.VideoError(
        files[0], f'has size {known.shape}, {files[1]} {seen.shape}'
      )
    none = np.zeros_like(known)
    return {
      'video': pictures.read_files([first, second]),
      'path': name,
      'forward_flow': np.stack([flow, np.zeros_like(flow)]),
      'flow_mask': np.stack([known & seen, none]),
      'flow_known': np.stack([known, none]),
    }


class Sintel(_FlowPairs):
  """MPI Sintel, training part: 1,041 pairs of 23 scenes, 436x1024.

  The end-point error of the papers is the mean over all pixels (`flow_known`).
  `flow_mask` leaves out occluded and invalid ones.

  Args:
    root: folder with `training`.
    render: 'clean' or 'final' (with blur, fog and reflections).

  Raises:
    FileNotFoundError: a folder or file is missing; says where the data come
      from.
    ValueError: an unknown render pass.
  """

  def __init__(self, root: str, render: str = 'final'):
    if render not in ('clean', 'final'):
      raise ValueError(f"render must be 'clean' or 'final', got {render!r}")
    listed_videos.require_root(root, _SINTEL)
    training = os.path.join(root, 'training')
    frames = tables.require_folder(os.path.join(training, render), _SINTEL)
    self._pairs = []
    for scene in sorted(os.listdir(frames)):
      if not os.path.isdir(os.path.join(frames, scene)):
        continue
      images = pictures.list_frames(
        os.path.join(frames, scene), '.png', _SINTEL
      )
      for first, second in zip(images[:-1], images[1:], strict=True):
        name = f'{scene}/{pictures.stem(first)}'
        files = [
          tables.require_file(
            os.path.join(training, kind, name + extension), _SINTEL
          )
          for kind, extension in (
            ('flow', '.flo'),
            ('occlusions', '.png'),
            ('invalid', '.png'),
          )
        ]
        self._pairs.append((name, first, second, files))
    if not self._pairs:
      raise tables.missing(os.path.join(frames, '<scene>'), _SINTEL)

  def _read_flow(self, files):
    flow, known = flow_files.read_flo(files[0])
    masks = pictures.read_label_maps(pictures.read_files(files[1:]), files[1:])
    occluded, invalid = masks[..., 0] > 0
    return flow, known, ~occluded & ~invalid


class KittiFlow(_FlowPairs):
  """KITTI 2015 flow, training part: 200 pairs of about 375x1242 pixels.

  The truth is sparse. EPE and Fl-all are over all pixels with truth
  (`flow_known`); `flow_mask` leaves out those that leave the picture.

  Args:
    root: folder with `training/{image_2,flow_occ,flow_noc}`.

  Raises:
    FileNotFoundError: a folder or file is missing; says where the data come
      from.
  """

  def __init__(self, root: str):
    listed_videos.require_root(root, _KITTI)
    training = os.path.join(root, 'training')
    self._pairs = []
    for flow in pictures.list_frames(
      os.path.join(training, 'flow_occ'), '.png', _KITTI
    ):
      name = os.path.basename(flow)
      if not name.endswith('_10.png'):
        continue
      first, second, seen = (
        tables.require_file(os.path.join(training, *parts), _KITTI)
        for parts in (
          ('image_2', name),
          ('image_2', name.replace('_10.png', '_11.png')),
          ('flow_noc', name),
        )
      )
      self._pairs.append((pictures.stem(name), first, second, [flow, seen]))
    if not self._pairs:
      raise tables.missing(
        os.path.join(training, 'flow_occ', 'NNNNNN_10.png'), _KITTI
      )

  def _read_flow(self, files):
    flow, known = flow_files.read_kitti_flow(files[0])
    _, seen = flow_files.read_kitti_flow(files[1])
    return flow, known, seen
