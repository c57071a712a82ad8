"""Waymo Open Dataset v2: boxes of a camera's objects (arXiv 1912.04838).

Its files are Parquet tables with one row per picture or per box.
"""

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from vidscenic.data import containers
from vidscenic.data.datasets import listed_videos, stretches, tables

_ORIGIN = (
  'Waymo Open Dataset v2 (Parquet), from https://waymo.com/open after signing '
  'its licence: the folders camera_image and camera_box of a split'
)
_TIME, _CAMERA = 'key.frame_timestamp_micros', 'key.camera_name'
_OBJECT = 'key.camera_object_id'
_IMAGE = '[CameraImageComponent].image'
_TYPE = '[CameraBoxComponent].type'
# Pixels of the picture.
_BOX = tuple(
  f'[CameraBoxComponent].box.{name}'
  for name in ('center.x', 'center.y', 'size.x', 'size.y')
)
_RATE = 10.0  # pictures per second


class WaymoBoxes:
  """Stretches of one camera's video with tracks of boxes.

  The task gives the boxes of the first frame, and scores the overlap in the
  others (`ops.boxes.track_iou`). An example has the objects of its first frame,
  the largest ones first. Which stretches and objects the published figures of
  arXiv 2412.15212 are of is not known.

  When it is built, the reader goes through the times of all pictures, which
  takes a few milliseconds per segment.

  Args:
    root: folder with `<split>/{camera_image,camera_box}/<segment>.parquet`.
    split: 'training' (798 segments of 20 s) or 'validation' (202).
    num_frames: frames per example.
    stride: recorded frames from one to the next; there are 10 per second.
    hop: recorded frames from the start of one example to that of the next; 0:
      no frame is used twice; 1 allows every start, for training.
    max_boxes: K, the number of tracks, filled up with masked ones.
    camera: 1 front, 2 front left, 3 front right, 4 and 5 the sides.
    types: 1 vehicle, 2 pedestrian, 3 sign, 4 cyclist.

  Raises:
    FileNotFoundError: a folder or a segment's file is missing; says where the
      data come from.
    ImportError: pyarrow is not installed.
    ValueError: a table is damaged or lacks a column, or no segment is long
      enough.
  """

  def __init__(
    self,
    root: str,
    split: str = 'validation',
    num_frames: int = 16,
    stride: int = 1,
    hop: int = 0,
    max_boxes: int = 16,
    camera: int = 1,
    types: Sequence[int] = (1, 2, 4),
  ):
    if max_boxes < 1:
      raise ValueError(f'max_boxes must be >= 1, got {max_boxes}')
    self._stretches = stretches.Stretches(
      num_frames=num_frames, stride=stride, hop=hop
    )
    listed_videos.require_root(root, _ORIGIN)
    self._max_boxes, self._camera = max_boxes, camera
    self._types = tuple(types)
    images, boxes = (
      os.path.join(root, split, name) for name in ('camera_image', 'camera_box')
    )
    names = _segments(images)
    tables.require_folder(boxes, _ORIGIN)
    # (file of pictures, file of boxes, times of the frames, their rows)
    self._segments = []
    for name in names:
      paths = [os.path.join(folder, name) for folder in (images, boxes)]
      tables.require_file(paths[1], _ORIGIN)
      try:
        self._segments.append((*paths, *_times(paths[0], camera)))
      except containers.VideoError as error:
        raise ValueError(str(error)) from error
    lengths = [len(rows) for *_, rows in self._segments]
    logging.info('%s', self._stretches.number(lengths, images))

  def __len__(self) -> int:
    return len(self._stretches)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One stretch of a segment.

    Returns:
      dict(video=list of T encoded frames, fps=10, path='<segment>/<time of the
      first frame>', boxes=float32[T, K, 4], (ymin, xmin, ymax, xmax) in [0, 1],
      boxes_mask=bool[T, K], box_types=int32[K], 0 for a masked track).

    Raises:
      IndexError: index outside [-len, len).
      VideoError: a file is damaged.
    """
    segment, chosen = self._stretches[index]
    image_file, box_file, times, rows = self._segments[segment]
    times, rows = times[chosen], rows[chosen]
    order = np.argsort(rows)
    found = _read(image_file, [_IMAGE], rows[order])[_IMAGE]
    video = [found[i] for i in np.argsort(order)]
    width, height = _size(video[0], image_file)
    boxes, mask, types = self._tracks(box_file, times)
    name = os.path.splitext(os.path.basename(image_file))[0]
    return {
      'video': video,
      'fps': np.float32(_RATE),
      'path': f'{name}/{times[0]}',
      'boxes': boxes / np.float32([height, width, height, width]),
      'boxes_mask': mask,
      'box_types': types,
    }

  def _tracks(self, path, times):
    """Boxes in pixels, mask and types of the objects of the first frame."""
    columns = (_TIME, _CAMERA, _OBJECT, _TYPE, *_BOX)
    table = _read(path, columns)
    rows = np.flatnonzero(
      (table[_CAMERA] == self._camera)
      & np.isin(table[_TYPE], self._types)
      & np.isin(table[_TIME], times)
    )
    frames = np.searchsorted(times, table[_TIME][rows])
    x, y, w, h = (table[name][rows] for name in _BOX)
    corners = np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], axis=-1)
    first = np.flatnonzero(frames == 0)
    first = first[np.argsort(-(w * h)[first], kind='stable')][: self._max_boxes]
    objects = table[_OBJECT][rows]
    boxes = np.zeros((len(times), self._max_boxes, 4), np.float32)
    mask = np.zeros(boxes.shape[:2], bool)
    types = np.zeros(self._max_boxes, np.int32)
    for track, row in enumerate(first):
      own = objects == objects[row]
      boxes[frames[own], track], mask[frames[own], track] = corners[own], True
      types[track] = table[_TYPE][rows][row]
    return boxes, mask, types


# --- private ---


def _parquet():
  """pyarrow.parquet, needed for this data set alone."""
  try:
    from pyarrow import parquet
  except ImportError as error:
    raise ImportError(
      'the Waymo Open Dataset is read with pyarrow: install it with pip '
      "install 'vidscenic[waymo]'"
    ) from error
  return parquet


def _segments(folder):
  tables.require_folder(folder, _ORIGIN)
  names = sorted(n for n in os.listdir(folder) if n.endswith('.parquet'))
  if not names:
    raise tables.missing(os.path.join(folder, '*.parquet'), _ORIGIN)
  return names


def _read(path, columns, rows=None):
  """{column: array} of a table.

  Args:
    path: Parquet file.
    columns: names.
    rows: ascending int[n]; None: all. Only row groups that hold one are read: a
      segment has five cameras and some 300 MB of pictures.

  Raises:
    VideoError: damaged, or without such a column.
  """
  parquet = _parquet()
  try:
    with parquet.ParquetFile(path) as file:
      for name in columns:
        if name not in file.schema_arrow.names:
          raise ValueError(f'no column {name!r}: {_ORIGIN}')
      count = file.num_row_groups
      sizes = [file.metadata.row_group(i).num_rows for i in range(count)]
      groups = np.repeat(np.arange(count), sizes)  # of every row
      if rows is None:
        rows = np.arange(len(groups))
      read = np.unique(groups[rows])
      table = file.read_row_groups(read.tolist(), columns=list(columns))
  except (OSError, ValueError) as error:  # pyarrow's own are these too
    raise containers.VideoError(path, containers.describe(error)) from error
  places = np.searchsorted(np.flatnonzero(np.isin(groups, read)), rows)
  return {name: table[name].to_numpy()[places] for name in columns}


def _times(path, camera):
  """(times of a camera's pictures, their rows), by time."""
  keys = _read(path, (_TIME, _CAMERA))
  rows = np.flatnonzero(keys[_CAMERA] == camera)
  rows = rows[np.argsort(keys[_TIME][rows], kind='stable')]
  return keys[_TIME][rows], rows


def _size(picture, path):
  """(width, height) from the head of an encoded picture."""
  try:
    with Image.open(io.BytesIO(picture)) as image:
      return image.size
  except (*containers.ERRORS, SyntaxError, Image.DecompressionBombError) as e:
    raise containers.VideoError(path, containers.describe(e)) from e
