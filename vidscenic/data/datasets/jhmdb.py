"""JHMDB: videos of people with 15 joints each (ICCV 2013)."""

import io
import os
from typing import Any

import numpy as np
from PIL import Image

from vidscenic.data import containers
from vidscenic.data.datasets import listed_videos, mat_files, pictures, tables

_ORIGIN = (
  'unpack splits.zip, Rename_Images.tar.gz and joint_positions.zip of '
  'http://jhmdb.is.tue.mpg.de'
)
_NUM_JOINTS = 15
_SUBSETS = {'train': 1, 'test': 2}
PROTOCOLS = ('tracking', 'propagation')


class Jhmdb:
  """JHMDB with the joints of every frame.

  The metric is PCK: the fraction of joints closer than a times a box, 0.6 of
  the diagonal of the joints. Two published protocols differ in coordinates:
    'tracking' (TAP-Net): as stored in the .mat file, though that counts from 1;
      joints outside the first frame are (-1, -1) throughout.
    'propagation' (label propagation): stored minus 1.
  Neither adds the half pixel of our raster coordinates.

  Args:
    root: folder with splits, Rename_Images and joint_positions.
    split: 1, 2 or 3; the papers evaluate on 1.
    subset: 'test' or 'train'.
    protocol: see above.

  Attributes:
    class_names: the 21 actions, sorted.

  Raises:
    FileNotFoundError: a list, a video or its joints are missing; says where the
      data come from.
    ValueError: an unknown option, or a line of a list cannot be used.
  """

  def __init__(
    self,
    root: str,
    split: int = 1,
    subset: str = 'test',
    protocol: str = 'propagation',
  ):
    if subset not in _SUBSETS:
      raise ValueError(f'subset must be one of {(*_SUBSETS,)}, got {subset!r}')
    if protocol not in PROTOCOLS:
      raise ValueError(f'protocol must be one of {PROTOCOLS}, got {protocol!r}')
    self._protocol = protocol
    ending = f'_test_split{split}.txt'
    listed_videos.require_root(root, _ORIGIN)
    lists = tables.require_folder(os.path.join(root, 'splits'), _ORIGIN)
    names = sorted(n for n in os.listdir(lists) if n.endswith(ending))
    if not names:
      raise tables.missing(os.path.join(lists, f'<class>{ending}'), _ORIGIN)
    self.class_names = tuple(name.removesuffix(ending) for name in names)
    self._videos = []  # (class id, path below the folders, frames, joints)
    unique = tables.Unique('video')
    for label, name in enumerate(names):
      rows = tables.read_columns(
        os.path.join(lists, name), ['video', 'subset'], _ORIGIN
      )
      for where, (video, number) in rows:
        if number not in ('1', '2'):
          raise ValueError(
            f'{where}: expected 1 (train) or 2 (test), got {number!r}'
          )
        path = f'{self.class_names[label]}/{os.path.splitext(video)[0]}'
        unique.add(path, where)
        if int(number) == _SUBSETS[subset]:
          self._videos.append((label, path, *_find_files(root, path, where)))

  def __len__(self) -> int:
    return len(self._videos)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One video, as long as its joints (some poses end early).

    Returns:
      dict(video=list of T encoded frames, path='<class>/<video>',
      label=np.int32, query_points=float32[15, 3], (t, y, x) of frame 0,
      target_points=float32[15, T, 2], (x, y), occluded=bool[15, T], True for
      joints that the protocol leaves out).

    Raises:
      IndexError: index outside [-len, len).
      VideoError: a frame or the .mat file cannot be read.
    """
    label, path, frames, joints = self._videos[index]
    points = _read_joints(joints)
    length = min(points.shape[1], len(frames))
    images = pictures.read_files(frames[:length])
    points = points[:, :length]
    occluded = np.zeros(points.shape[:2], bool)
    if self._protocol == 'propagation':
      points = points - 1
    else:
      outside = ((points < 0) | (points >= _size(images[0], frames[0]))).any(-1)
      occluded[outside[:, 0]] = True
      points[outside[:, 0]] = -1
    x, y = points[:, 0].T
    return {
      'video': images,
      'path': path,
      'label': np.int32(label),
      'query_points': np.stack([np.zeros_like(x), y, x], axis=-1),
      'target_points': points,
      'occluded': occluded,
    }


def _find_files(root, path, where):
  """(frames, file with joints) of a listed video."""
  folder = os.path.join(root, 'Rename_Images', path)
  joints = os.path.join(root, 'joint_positions', path, 'joint_positions.mat')
  if not os.path.isdir(folder):
    raise FileNotFoundError(f'{where}: no folder {folder}: {_ORIGIN}')
  if not os.path.isfile(joints):
    raise FileNotFoundError(f'{where}: no file {joints}: {_ORIGIN}')
  return pictures.list_frames(folder, '.png', _ORIGIN), joints


def _read_joints(file):
  """float32[15, T, 2], (x, y) counted from 1."""
  positions = mat_files.read_array(file, 'pos_img').astype(np.float32)
  if positions.ndim == 2:  # MATLAB drops a last axis of one frame
    positions = positions[..., None]
  if positions.shape[:2] != (2, _NUM_JOINTS) or not positions.size:
    raise containers.VideoError(
      file, f'pos_img must be [2, {_NUM_JOINTS}, T], got {positions.shape}'
    )
  if not np.isfinite(positions).all():
    raise containers.VideoError(file, 'pos_img has values that are not finite')
  return positions.transpose(1, 2, 0).copy()


def _size(image, name):
  """(width, height) of an encoded picture, from its header."""
  try:
    return Image.open(io.BytesIO(image)).size
  except containers.ERRORS as error:
    raise containers.VideoError(name, containers.describe(error)) from error
