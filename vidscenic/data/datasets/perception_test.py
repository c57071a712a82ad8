"""Perception Test: point tracks and boxes of objects (arXiv 2305.13786).

Points become raster pixels of the video file: (0, 0) is the upper left corner
of the first pixel, (W, H) the lower right corner of the last.
"""

import os
from typing import Any

import numpy as np

from vidscenic.data import containers, sources
from vidscenic.data.datasets import listed_videos, queries, tables

_ORIGIN = (
  'Perception Test, free from '
  'https://github.com/google-deepmind/perception_test: unpack '
  '{split}_annotations.zip to the folder itself and {split}_videos.zip to '
  'videos/'
)


class PerceptionTest:
  """Videos with point tracks or with boxes of objects.

  Points: a query is the first annotated frame of a track, frames without
  annotation count as occluded, the metric is TAP-Vid's in mode 'first' with
  coordinates scaled to 256x256 pixels. 145 videos have point tracks.
  Boxes: the box of the start frame is given, the metric is the IoU in the
  annotated frames after it (about one per second), mean over a track, a video,
  then all videos.

  Args:
    root: folder with the annotations, and the folder `videos`.
    split: 'train', 'valid' or 'test'.
    task: 'point_tracking' or 'object_tracking'.
    annotations: JSON file, relative to root; '' looks for `all_<split>.json`,
      then for `<task>_<split>.json`.
    videos: folder with `<video id>.mp4`, relative to root.
    id_list: file with one video id per line, relative to root: only these.
    num_tracks: tracks of every example, for batches: the first ones, filled up
      with masked ones. 0: those that the video has.

  Raises:
    FileNotFoundError: annotations or a video are missing; says where the data
      come from.
    ValueError: an entry is not as documented; names file, video and track.
  """

  TASKS = ('point_tracking', 'object_tracking')

  def __init__(
    self,
    root: str,
    split: str = 'valid',
    task: str = 'point_tracking',
    annotations: str = '',
    videos: str = 'videos',
    id_list: str = '',
    num_tracks: int = 0,
  ):
    if task not in self.TASKS:
      raise ValueError(f'task must be one of {self.TASKS}, got {task!r}')
    hint = _ORIGIN.format(split=split)
    listed_videos.require_root(root, hint)
    path = _annotation_file(root, split, task, annotations, hint)
    entries = tables.read_json(path, hint)
    wanted = None
    if id_list:
      lines = tables.read_lines(os.path.join(root, id_list), hint)
      wanted = {name: where for where, name in lines}
      for name, where in wanted.items():
        if name not in entries:
          raise ValueError(f'{where}: {path} has no video {name!r}')
    if num_tracks < 0:
      raise ValueError(f'num_tracks must be >= 0, got {num_tracks}')
    self._num_tracks = num_tracks
    self._points = task == 'point_tracking'
    parse = _point_tracks if self._points else _box_tracks
    self._videos = []  # (id, video file, moving, tracks)
    for name, entry in entries.items():
      if wanted is not None and name not in wanted:
        continue
      where = f'{path}, video {name!r}'
      try:
        metadata, tracks = entry['metadata'], entry.get(task)
        if metadata['split'] != split or not tracks:
          continue
        moving = bool(metadata.get('is_camera_moving', False))
        tracks = parse(tracks)
      except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{where}: {_explain(error)}') from error
      file = os.path.join(root, videos, f'{name}.mp4')
      if not os.path.isfile(file):
        raise FileNotFoundError(f'{where}: no video {file}: {hint}')
      self._videos.append((name, file, moving, tracks))
    if not self._videos:
      raise ValueError(f'{path}: no video of split {split!r} has {task}')

  def __len__(self) -> int:
    return len(self._videos)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One video with its tracks.

    Returns:
      dict(video=VideoFile, path=video id, camera_moving=bool), and for points
      the fields of `TapVid` in pixels of the video file, with num_tracks also
      query_mask=bool[N]; for boxes boxes=float32[T, K, 4], (ymin, xmin, ymax,
      xmax) in [0, 1], boxes_mask=bool[T, K], True in annotated frames, and
      start_frames=int32[K].

    Raises:
      IndexError: index outside [-len, len).
      VideoError: the video cannot be read or is shorter than its annotations.
    """
    name, file, moving, tracks = self._videos[index]
    video = sources.VideoFile(file)
    frames = video.index()
    last = max(int(ids.max()) for ids, *_ in tracks)
    if last >= frames.num_frames:
      raise containers.VideoError(
        file, f'has {frames.num_frames} frames, frame {last} is annotated'
      )
    record = {'video': video, 'path': name, 'camera_moving': np.bool_(moving)}
    if not self._points:
      return record | _fill(
        _dense_boxes(tracks, frames.num_frames),
        self._num_tracks,
        axes={'boxes': 1, 'boxes_mask': 1},
      )
    size = (frames.height, frames.width)
    fields = _dense_points(tracks, frames.num_frames, size)
    if self._num_tracks:
      fields['query_mask'] = np.ones(len(fields['track']), bool)
    return record | _fill(fields, self._num_tracks)


# --- private ---


def _annotation_file(root, split, task, annotations, hint):
  if annotations:
    return tables.require_file(os.path.join(root, annotations), hint)
  names = [f'all_{split}.json', f'{task}_{split}.json']
  for name in names:
    if os.path.isfile(os.path.join(root, name)):
      return os.path.join(root, name)
  raise tables.missing(os.path.join(root, ' or '.join(names)), hint)


def _frame_ids(track, count):
  ids = np.asarray(track['frame_ids'])
  if ids.shape != (count,) or ids.dtype.kind != 'i' or (ids < 0).any():
    raise ValueError(
      f'track {track.get("id")}: frame_ids must be {count} frame numbers'
    )
  return ids


def _point_tracks(tracks):
  """[(frame ids int[n], points float32[n, 2] as (x, y) in [0, 1])]."""
  out = []
  for track in tracks:
    points = np.asarray(track['points'], np.float32)
    # Two rows, y then x, although the data set's page says [n, 2].
    if points.ndim != 2 or points.shape[0] != 2 or not points.size:
      raise ValueError(
        f'track {track.get("id")}: points must be [2][n], got '
        f'{list(points.shape)}'
      )
    out.append((_frame_ids(track, points.shape[1]), points[::-1].T))
  return out


def _box_tracks(tracks):
  """[(frame ids int[n], boxes float32[n, 4], number of the start frame)]."""
  out = []
  for track in tracks:
    boxes = np.asarray(track['bounding_boxes'], np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.size:
      raise ValueError(
        f'track {track.get("id")}: bounding_boxes must be [n][4], got '
        f'{list(boxes.shape)}'
      )
    ids = _frame_ids(track, len(boxes))
    start = np.asarray(track['initial_tracking_box'])
    if start.shape != ids.shape or np.count_nonzero(start) != 1:
      raise ValueError(
        f'track {track.get("id")}: initial_tracking_box must be 1 once'
      )
    # (x1, y1, x2, y2) -> (ymin, xmin, ymax, xmax)
    out.append((ids, boxes[:, [1, 0, 3, 2]], int(ids[start.argmax()])))
  return out


def _dense_points(tracks, length, size):
  points = np.zeros((len(tracks), length, 2), np.float32)
  occluded = np.ones((len(tracks), length), bool)
  for row, (ids, values) in enumerate(tracks):
    points[row, ids] = values * (size[1], size[0])
    occluded[row, ids] = False
  found = queries.sample_queries(points, occluded, 'first')
  return {
    'query_points': found.query_points,
    'target_points': found.target_points,
    'occluded': found.occluded,
    'track': found.track.astype(np.int32),
  }


def _dense_boxes(tracks, length):
  boxes = np.zeros((length, len(tracks), 4), np.float32)
  mask = np.zeros((length, len(tracks)), bool)
  for column, (ids, values, _) in enumerate(tracks):
    boxes[ids, column], mask[ids, column] = values, True
  starts = np.array([start for *_, start in tracks], np.int32)
  return {'boxes': boxes, 'boxes_mask': mask, 'start_frames': starts}


def _fill(fields, count, axes=None):
  """Cuts the tracks to a number, or adds some of zeros, occluded ones."""
  if not count:
    return fields
  out = {}
  for name, array in fields.items():
    axis = (axes or {}).get(name, 0)
    array = array.take(range(min(count, array.shape[axis])), axis)
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, count - array.shape[axis])
    out[name] = np.pad(array, widths, constant_values=name == 'occluded')
  return out


def _explain(error):
  if isinstance(error, KeyError):
    return f'the field {error} is missing'
  return str(error)
