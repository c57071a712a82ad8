"""Videos with masks (DAVIS-2017, VIP) or depth (ScanNet), official layouts.

Records hold fields of `vidscenic.data.augment`, so that `clips.ClipTransform`
cuts and resizes them. Nothing but lists and folders is read before a record is
asked for; instances pickle.
"""

import os
from typing import Any

import numpy as np
from absl import logging

from vidscenic.data import containers, decode, png16, resize
from vidscenic.data.datasets import (
  listed_videos,
  pictures,
  stretches,
  tables,
)

_DAVIS = (
  'DAVIS-2017-trainval-480p.zip, free from https://davischallenge.org, unpacks '
  'to a folder DAVIS with ImageSets, JPEGImages and Annotations'
)
_VIP = (
  'the videos with sampled frames (VIP_Fine) of http://sysu-hcp.net/lip, free '
  'for research, unpack to lists, Images and Annotations'
)
_SCANNET = (
  'ScanNet v2, from http://www.scan-net.org after signing its terms; export '
  'every scan with its SensReader to color, depth, pose and intrinsic'
)
_SCANNET_LIST = (
  'the official list of scans, in Tasks/Benchmark of '
  'https://github.com/ScanNet/ScanNet'
)


class _LabelledVideos:
  """Videos of which every frame has a label map beside it."""

  def __init__(self, videos, frames, maps, extension, hint):
    self._videos = []
    for where, name in videos:
      images = _frames(os.path.join(frames, name), extension, where, hint)
      labels = _frames(os.path.join(maps, name), '.png', where, hint)
      _check_pairs(images, labels)
      self._videos.append((name, images, labels))

  def __len__(self) -> int:
    return len(self._videos)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One video.

    Returns:
      dict(video=list of T encoded frames, path=the video's name,
      segmentations=uint8[T, H, W, 1]).

    Raises:
      IndexError: index outside [-len, len).
      VideoError: a file cannot be read.
    """
    name, images, labels = self._videos[index]
    return {
      'video': pictures.read_files(images),
      'path': name,
      'segmentations': pictures.read_label_maps(
        pictures.read_files(labels), labels
      ),
    }


class Davis(_LabelledVideos):
  """DAVIS-2017, semi-supervised: videos with the masks of several objects.

  Segmentations are object numbers, 0 is background. The task gives the masks of
  the first frame; the first and the last frame are not scored (arXiv
  1704.00675).

  Args:
    root: folder with ImageSets, JPEGImages and Annotations.
    split: 'train' (60 videos), 'val' (30) or another list of ImageSets/2017.
    resolution: '480p' or 'Full-Resolution'.

  Raises:
    FileNotFoundError: a list, a folder or frames are missing; says where the
      data come from.
    ValueError: frames and masks of a video do not match.
  """

  def __init__(self, root: str, split: str = 'val', resolution: str = '480p'):
    listed_videos.require_root(root, _DAVIS)
    super().__init__(
      _videos(os.path.join(root, 'ImageSets', '2017', f'{split}.txt'), _DAVIS),
      os.path.join(root, 'JPEGImages', resolution),
      os.path.join(root, 'Annotations', resolution),
      '.jpg',
      _DAVIS,
    )


class Vip(_LabelledVideos):
  """VIP: videos of people with body parts as classes (arXiv 1808.00983).

  Segmentations are 20 classes with background 0. All frames of a video count in
  one confusion matrix over the data set.

  Args:
    root: folder with lists, Images and Annotations/Category_ids.
    split: 'train', 'val' (50 videos) or another of lists/<split>_videos.txt.

  Raises:
    FileNotFoundError: a list, a folder or frames are missing; says where the
      data come from.
    ValueError: frames and masks of a video do not match.
  """

  NUM_CLASSES = 20

  def __init__(self, root: str, split: str = 'val'):
    listed_videos.require_root(root, _VIP)
    super().__init__(
      _videos(os.path.join(root, 'lists', f'{split}_videos.txt'), _VIP),
      os.path.join(root, 'Images'),
      os.path.join(root, 'Annotations', 'Category_ids'),
      '.jpg',
      _VIP,
    )


class ScanNet:
  """ScanNet v2: stretches of indoor scans with depth (arXiv 1702.04405).

  Scans have thousands of frames, so an example is a stretch of one:
  `num_frames` frames, `stride` apart, a new stretch every `hop` frames.

  Args:
    root: folder with `scans/<scene>/{color,depth}/N.{jpg,png}`, as ScanNet's
      SensReader exports them, and the list `scannetv2_<split>.txt`.
    split: 'train' (1,201 scans), 'val' (312) or another list.
    num_frames: frames per example.
    stride: exported frames from one to the next.
    hop: exported frames from the start of one example to that of the next; 0:
      no frame is used twice; 1 allows every start, for training.

  Raises:
    FileNotFoundError: a list, a scan or its frames are missing; says where the
      data come from.
    ValueError: colour and depth frames of a scan do not match, or no scan is
      long enough.
  """

  def __init__(
    self,
    root: str,
    split: str = 'train',
    num_frames: int = 16,
    stride: int = 1,
    hop: int = 0,
  ):
    self._stretches = stretches.Stretches(
      num_frames=num_frames, stride=stride, hop=hop
    )
    listed_videos.require_root(root, _SCANNET)
    # The names of all frames of a scan are one array: the data set has 2
    # million frames.
    self._scans = []  # (folder, names of the frames)
    list_file = os.path.join(root, f'scannetv2_{split}.txt')
    for where, name in _videos(list_file, _SCANNET_LIST):
      folder = os.path.join(root, 'scans', name)
      colour = _frames(os.path.join(folder, 'color'), '.jpg', where, _SCANNET)
      depth = _frames(os.path.join(folder, 'depth'), '.png', where, _SCANNET)
      _check_pairs(colour, depth)
      self._scans.append(
        (folder, np.array([pictures.stem(path) for path in colour]))
      )
    lengths = [len(names) for _, names in self._scans]
    logging.info('%s', self._stretches.number(lengths, list_file))

  def __len__(self) -> int:
    return len(self._stretches)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One stretch of a scan.

    The colour camera has more pixels than the depth camera; its frames are
    scaled to the depth maps.

    Returns:
      dict(video=uint8[T, H, W, 3], path='<scene>/<first frame>',
      depth=float32[T, H, W, 1] along the optical axis in metres,
      depth_mask=bool[T, H, W, 1], False where the sensor saw nothing).

    Raises:
      IndexError: index outside [-len, len).
      VideoError: a file cannot be read.
    """
    scan, frames = self._stretches[index]
    folder, names = self._scans[scan]
    names = names[frames]
    colour = [os.path.join(folder, 'color', f'{name}.jpg') for name in names]
    depth = np.stack(
      [
        _read_grey16(os.path.join(folder, 'depth', f'{name}.png'))
        for name in names
      ]
    )
    video = decode.read_images(
      pictures.read_files(colour), np.arange(len(colour)), name=folder
    )
    return {
      'video': resize.resize_frames(video, depth.shape[1:3], method='bilinear'),
      'path': f'{os.path.basename(folder)}/{names[0]}',
      'depth': depth.astype(np.float32) / 1000,  # millimetres
      'depth_mask': depth > 0,
    }


def _videos(list_file, hint):
  """(where, name) of a list with one video per line, each once."""
  unique = tables.Unique('video')
  videos = []
  for where, (name,) in tables.read_columns(list_file, ['video'], hint):
    unique.add(name, where)
    videos.append((where, name))
  return videos


def _frames(folder, extension, where, hint):
  """Frames of a video that a list names."""
  if not os.path.isdir(folder):
    raise FileNotFoundError(f'{where}: no folder {folder}: {hint}')
  return pictures.list_frames(folder, extension, hint)


def _check_pairs(images, labels):
  """Frames and label maps must have the same names."""
  names, others = (
    [pictures.stem(p) for p in images],
    [pictures.stem(p) for p in labels],
  )
  if names == others:
    return
  odd = sorted(set(names) ^ set(others))[0]
  present, other = (images, labels) if odd in names else (labels, images)
  raise ValueError(
    f'{os.path.dirname(present[0])} has a frame {odd}, '
    f'{os.path.dirname(other[0])} has none ({len(images)} frames, '
    f'{len(labels)} label maps)'
  )


def _read_grey16(path):
  image = png16.read_png16(path)
  if image.shape[2] != 1:
    raise containers.VideoError(
      path, f'a depth map has one channel, got {image.shape[2]}'
    )
  return image
