"""RealEstate10K: camera paths of walks through houses (arXiv 1805.09817).

Published are the poses, a text file per clip; the pictures are frames of videos
that users fetch themselves. Cameras look along +z, x to the right, y down.
Every clip has a scale of its own: translations are known up to a factor.
"""

import os
from typing import Any

import numpy as np
from absl import logging

from vidscenic.data import containers
from vidscenic.data.datasets import (
  listed_videos,
  pictures,
  stretches,
  tables,
)

_POSES = (
  'RealEstate10K.tar.gz, free from https://google.github.io/realestate10k, '
  'unpacks to folders train and test with a text file per clip'
)
_FRAMES = (
  "take them from the video that the first line of the clip's text file names, "
  'each named by its time there in microseconds, the first number of a line'
)
_NUMBERS = 19  # time, 4 of the camera, 2 of no meaning, 12 of the pose


class RealEstate10K:
  """Stretches of clips with camera poses.

  A clip is read if it has a folder of frames; many videos are no longer
  online. Frames that are not there are left out of a clip.

  Args:
    root: folder with `<split>/<clip>.txt` and
      `<frames>/<split>/<clip>/<time>.{jpg,png}`, times in microseconds.
    split: 'train' or 'test'.
    frames: folder of the frames, relative to root.
    num_frames: frames per example.
    stride: frames of a clip from one to the next.
    hop: frames from the start of one example to that of the next; 0: no frame
      is used twice; 1 allows every start, for training.

  Attributes:
    num_missing: clips without frames.

  Raises:
    FileNotFoundError: poses or all frames are missing; says where the data come
      from.
    ValueError: no clip is long enough.
  """

  def __init__(
    self,
    root: str,
    split: str = 'test',
    frames: str = 'frames',
    num_frames: int = 16,
    stride: int = 1,
    hop: int = 0,
  ):
    self._stretches = stretches.Stretches(
      num_frames=num_frames, stride=stride, hop=hop
    )
    listed_videos.require_root(root, _POSES)
    folder = tables.require_folder(os.path.join(root, split), _POSES)
    with os.scandir(folder) as entries:
      clips = sorted(e.name[:-4] for e in entries if e.name.endswith('.txt'))
    if not clips:
      raise tables.missing(os.path.join(folder, '*.txt'), _POSES)
    self._clips = []  # (file of the poses, folder, names of the frames)
    for clip in clips:
      found = os.path.join(root, frames, split, clip)
      if os.path.isdir(found):
        names = [os.path.basename(path) for path in _frames(found)]
        self._clips.append(
          (os.path.join(folder, f'{clip}.txt'), found, np.array(names))
        )
    self.num_missing = len(clips) - len(self._clips)
    if not self._clips:
      raise tables.missing(
        os.path.join(root, frames, split, clips[0]),
        f'no clip of {len(clips)} has its frames; {_FRAMES}',
      )
    lengths = [len(names) for *_, names in self._clips]
    logging.info('%s', self._stretches.number(lengths, folder))
    if self.num_missing:
      logging.warning(
        '%s: %d of %d clips have no frames',
        folder, self.num_missing, len(clips),
      )  # fmt: skip

  def __len__(self) -> int:
    return len(self._stretches)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One stretch of a clip.

    Returns:
      dict(video=list of T encoded frames, path='<clip>/<first time>',
      cam_from_world=float32[T, 4, 4], intrinsics=float32[T, 4] (fx, fy, cx, cy)
      divided by (W, H, W, H)).

    Raises:
      IndexError: index outside [-len, len).
      VideoError: a frame cannot be read, or has no pose.
      ValueError: a line of the poses is not as documented.
    """
    clip, chosen = self._stretches[index]
    file, folder, names = self._clips[clip]
    names = [str(name) for name in names[chosen]]
    poses = _read_poses(file)
    rows = []
    for name in names:
      time = int(pictures.stem(name))
      if time not in poses:
        raise containers.VideoError(
          os.path.join(folder, name), f'{file} has no line of this time'
        )
      rows.append(poses[time])
    rows = np.array(rows)
    cameras = np.tile(np.eye(4, dtype=np.float32), (len(rows), 1, 1))
    cameras[:, :3] = rows[:, 6:].reshape(-1, 3, 4)
    return {
      'video': pictures.read_files([os.path.join(folder, n) for n in names]),
      'path': f'{os.path.basename(folder)}/{pictures.stem(names[0])}',
      'cam_from_world': cameras,
      'intrinsics': rows[:, :4].astype(np.float32),
    }


# --- private ---


def _frames(folder):
  """Paths of a clip's frames in the order of their times."""
  png = any(name.endswith('.png') for name in os.listdir(folder))
  paths = pictures.list_frames(folder, '.png' if png else '.jpg', _FRAMES)
  for path in paths:
    if not pictures.stem(path).isdecimal():
      raise ValueError(f'{path}: the name is not a time in microseconds')
  return paths


def _read_poses(path):
  """{time: the 18 numbers after it}; the first line is the video's address."""
  poses = {}
  for where, line in tables.read_lines(path, _POSES):
    fields = line.split()
    if len(fields) == 1 and not poses:
      continue
    if len(fields) != _NUMBERS:
      raise ValueError(
        f'{where}: expected {_NUMBERS} numbers (time, fx, fy, cx, cy, 0, 0 and '
        f'a 3x4 pose), got {len(fields)}: {line[:80]!r}'
      )
    time = tables.integer(fields[0], where, 'time')
    poses[time] = [tables.number(x, where, 'a number') for x in fields[1:]]
  return poses
