"""TAP-Vid: tracked points in real videos (arXiv 2211.03726, 2308.15975).

Points become raster pixels of the record's pictures: (0, 0) is the upper left
corner of the first pixel, (W, H) the lower right corner of the last. Instances
pickle.
"""

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from vidscenic.data import containers, decode, resize, sources
from vidscenic.data.datasets import listed_videos, tables
from vidscenic.data.datasets import queries as queries_lib
from vidscenic.importers import formats

_TAPNET = 'https://storage.googleapis.com/dm-tapnet'
# Split: (file names, videos if known, where it comes from). The zip files
# unpack to folders of their own names.
_SPLITS = {
  'davis': (
    r'tapvid_davis\.pkl',
    30,
    f'unpack {_TAPNET}/tapvid_davis.zip',
  ),
  'rgb_stacking': (
    r'tapvid_rgb_stacking\.pkl',
    50,
    f'unpack {_TAPNET}/tapvid_rgb_stacking.zip',
  ),
  'robotap': (
    r'robotap_split\d+\.pkl',
    265,
    f'unpack {_TAPNET}/robotap/robotap.zip',
  ),
  'kinetics': (
    r'(\d{4})_of_(\d{4})\.pkl',
    0,
    f'make it with generate_tapvid.py of https://github.com/google-deepmind/'
    f'tapnet from {_TAPNET}/tapvid_kinetics.zip and the validation clips of '
    'Kinetics-700-2020',
  ),
}
_CSV = (
  'rows of a video id and x, y, occluded per frame, as in '
  'https://github.com/google-deepmind/tapnet'
)
# Frames that are decoded before they are shrunk: 90 MB at 720 rows.
_BLOCK = 32


class TapVid:
  """The TAP-Vid benchmark as it is distributed: pickles with all pictures.

  The pickles are read by `importers.formats`, which runs nothing that they
  contain and maps them into memory: only what is looked at is loaded.

  Args:
    root: folder with the pickles, or with the folder that the zip unpacks to.
    split: 'davis' (30 videos), 'rgb_stacking' (50), 'robotap' (265) or
      'kinetics' (shards NNNN_of_0010.pkl made by the user). The Kinetics points
      lie half a source pixel to the upper left, as in the published numbers.
    queries: 'first' or 'strided', see `queries.sample_queries`.
    size: (height, width) that frames are resized to by PIL's Lanczos filter as
      in the published numbers; () keeps them.

  Raises:
    FileNotFoundError: a shard is missing; says where the data come from.
    ValueError: an unknown split or query mode, or a file that holds something
      else.
  """

  def __init__(
    self,
    root: str,
    split: str = 'davis',
    queries: str = 'first',
    size: Sequence[int] = (256, 256),
  ):
    if split not in _SPLITS:
      raise ValueError(f'split must be one of {(*_SPLITS,)}, got {split!r}')
    self._split, self._mode, self._size = split, _mode(queries), _size(size)
    self._files = _find_shards(root, split)
    self._lock = threading.Lock()
    self._shards = {}  # {number: its videos}, those that this process opened
    self._videos = []  # (number of the shard, key)
    for number, file in enumerate(self._files):
      logging.info('listing %s', file)
      self._videos += [(number, key) for key in self._shard(number)]
    expected = _SPLITS[split][1]
    if len(self._videos) < expected:
      logging.warning(
        'TAP-Vid %s has %d videos, found %d in %s',
        split,
        expected,
        len(self._videos),
        ', '.join(self._files),
      )

  def __len__(self) -> int:
    return len(self._videos)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One video with its queries.

    Returns:
      dict(video=uint8[T, H, W, 3], path=its name, query_points=float32[Q, 3],
      (t, y, x), target_points=float32[Q, T, 2], (x, y), occluded=bool[Q, T],
      track=int32[Q], see `queries.Queries`).

    Raises:
      IndexError: index outside [-len, len).
      ValueError: the video's entry is not as documented; names file and video.
      VideoError: a picture is damaged.
    """
    number, key = self._videos[index]
    name = f'{self._split}/{key}'
    example = self._shard(number)[key]
    where = f'{self._files[number]}, video {key!r}'
    images, points, occluded = _parse_example(example, where)
    if isinstance(images, np.ndarray):
      video = _read_resized(images.__getitem__, len(images), self._size)
    else:
      video = _read_resized(
        lambda frames: decode.read_images(images, frames, name=where),
        len(images),
        self._size,
      )
    return _record(name, video, points, occluded, self._mode)

  def __getstate__(self):
    return {**self.__dict__, '_lock': None, '_shards': {}}

  def __setstate__(self, state):
    self.__dict__.update(state, _lock=threading.Lock())

  def _shard(self, number):
    """{key: example} of a shard."""
    with self._lock:
      if number not in self._shards:
        self._shards[number] = _read_shard(self._files[number])
      return self._shards[number]


class TapVidCsv:
  """Tracks of a csv file over video files, TAP-Vid's other form.

  One row per track: video id, then x, y (fractions of width and height) and
  occluded (0 or 1) for every frame. Videos longer than `max_frames` are cut
  into equal parts; a video shorter than its tracks cuts them.

  Args:
    root: folder that the other paths are relative to.
    annotations: csv file.
    videos: folder with `<video id>.mp4` (or the id itself if it ends so).
    queries: 'first' or 'strided', see `queries.sample_queries`.
    size: as for `TapVid`.
    max_frames: longest part.

  Raises:
    FileNotFoundError: the csv file or a video that it names is missing.
    ValueError: a row cannot be used; names file and line.
  """

  def __init__(
    self,
    root: str,
    annotations: str,
    videos: str = '',
    queries: str = 'first',
    size: Sequence[int] = (256, 256),
    max_frames: int = 1000,
  ):
    self._mode, self._size = _mode(queries), _size(size)
    if max_frames < 1:
      raise ValueError(f'max_frames must be >= 1, got {max_frames}')
    path = os.path.join(root, annotations)
    self._tracks = {}  # id: float32[N, T, 3]
    first = {}  # id: where it stands
    for where, row in tables.read_rows(path, _CSV):
      track = _csv_track(where, row)
      same = self._tracks.setdefault(row[0], [])
      first.setdefault(row[0], where)
      if same and len(same[0]) != len(track):
        raise ValueError(
          f'{where}: {len(track)} frames, but {len(same[0])} of the same video '
          f'in {first[row[0]]}'
        )
      same.append(track)
    self._parts = []  # (id, video file, part, number of parts)
    for name, tracks in self._tracks.items():
      self._tracks[name] = np.stack(tracks)
      file = name if name.endswith('.mp4') else f'{name}.mp4'
      file = os.path.join(root, videos, file)
      if not os.path.isfile(file):
        raise FileNotFoundError(f'{first[name]}: no video {file}')
      count = -(-len(tracks[0]) // max_frames)
      self._parts += [(name, file, part, count) for part in range(count)]

  def __len__(self) -> int:
    return len(self._parts)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """One video, or part of one; fields as of `TapVid`.

    Raises:
      IndexError: index outside [-len, len).
      VideoError: the video cannot be read, or ends before this part.
    """
    name, file, part, count = self._parts[index]
    tracks = self._tracks[name]
    video = sources.VideoFile(file)
    frames = video.index()
    begin, end = (i * tracks.shape[1] // count for i in (part, part + 1))
    end = min(end, frames.num_frames)
    if end <= begin:
      raise containers.VideoError(
        file, f'has {frames.num_frames} frames, its tracks {tracks.shape[1]}'
      )
    pictures = _read_resized(
      lambda chosen: decode.read_frames(file, chosen + begin, frames),
      end - begin,
      self._size,
    )
    tracks = tracks[:, begin:end]
    path = f'{name}/{part}' if count > 1 else name
    return _record(
      path, pictures, tracks[..., :2], tracks[..., 2] > 0, self._mode
    )


# --- private ---


def _mode(queries):
  if queries not in queries_lib.MODES:
    raise ValueError(
      f'queries must be one of {queries_lib.MODES}, got {queries!r}'
    )
  return queries


def _size(size):
  size = tuple(size)
  if len(size) not in (0, 2) or any(side < 1 for side in size):
    raise ValueError(f'size must be (height, width) or (), got {size}')
  return size


def _read_resized(
  read: Callable[[np.ndarray], np.ndarray], length: int, size: tuple[int, ...]
) -> np.ndarray:
  """uint8[length, H, W, 3], decoded and resized block by block."""
  video = None
  for begin in range(0, length, _BLOCK):
    block = read(np.arange(begin, min(begin + _BLOCK, length)))
    if size:
      block = resize.resize_frames(block, size, method='lanczos')
    if video is None:
      video = np.empty((length, *block.shape[1:]), np.uint8)
    video[begin : begin + len(block)] = block
  return video


def _record(path, video, points, occluded, mode):
  """A record from points float[N, T, 2] in fractions of width and height."""
  height, width = video.shape[1:3]
  points = np.asarray(points, np.float64) * (width, height)
  found = queries_lib.sample_queries(points.astype(np.float32), occluded, mode)
  return {
    'video': video,
    'path': path,
    'query_points': found.query_points,
    'target_points': found.target_points,
    'occluded': found.occluded,
    'track': found.track.astype(np.int32),
  }


def _find_shards(root, split):
  """Paths of all shards, in order."""
  pattern, _, origin = _SPLITS[split]
  listed_videos.require_root(root, origin)
  inside = [
    os.path.join(root, name)
    for name in (f'tapvid_{split}', split)
    if os.path.isdir(os.path.join(root, name))
  ]
  for folder in (root, *inside):
    found = {
      name: match
      for name in os.listdir(folder)
      if (match := re.fullmatch(pattern, name))
    }
    if not found:
      continue
    names = sorted(found)
    if split == 'kinetics':
      total = found[names[0]][2]
      names = [f'{i:04d}_of_{total}.pkl' for i in range(int(total))]
    return [
      tables.require_file(os.path.join(folder, name), origin) for name in names
    ]
  readable = pattern.replace('\\', '')
  raise tables.missing(os.path.join(root, readable), origin)


def _read_shard(file):
  """{key: example} of a pickle; lists get keys of the file's name."""
  content = formats.unpickle(file, name=file)
  if isinstance(content, (list, tuple)):
    stem = os.path.splitext(os.path.basename(file))[0]
    content = {f'{stem}/{i}': example for i, example in enumerate(content)}
  if not isinstance(content, Mapping) or not content:
    raise ValueError(
      f'{file}: expected a dict or list of videos, got {type(content).__name__}'
    )
  return content


def _parse_example(example, where):
  """(images, points float[N, T, 2], occluded bool[N, T]) of one entry."""
  try:
    images = example['video']
    points = np.asarray(example['points'], np.float64)
    occluded = np.asarray(example['occluded'])
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{where}: expected video, points and occluded '
      f'({type(error).__name__}: {error})'
    ) from error
  if not isinstance(images, np.ndarray) or images.ndim != 4:
    known = isinstance(images, (list, tuple, np.ndarray))
    images = list(images) if known else [images]
    if not known or not all(isinstance(image, bytes) for image in images):
      raise ValueError(
        f'{where}: video must be uint8[T, H, W, 3] or encoded pictures'
      )
  elif images.dtype != np.uint8 or images.shape[3] != 3:
    raise ValueError(
      f'{where}: video must be uint8[T, H, W, 3], got '
      f'{images.dtype}{list(images.shape)}'
    )
  if (
    occluded.ndim != 2
    or points.shape != (*occluded.shape, 2)
    or occluded.shape[1] != len(images)
    or not len(images)
  ):
    raise ValueError(
      f'{where}: {len(images)} frames, points {list(points.shape)} and '
      f'occluded {list(occluded.shape)} do not fit'
    )
  return images, points, occluded.astype(bool)


def _csv_track(where, row):
  """float32[T, 3] of one row: x, y, occluded."""
  if len(row) > 3 and (len(row) - 3) % 3 == 0:
    raise ValueError(
      f'{where}: {len(row)} fields are those of tapvid_kinetics.csv: for '
      f"TapVid, split='kinetics', {_SPLITS['kinetics'][2]}"
    )
  if len(row) < 4 or (len(row) - 1) % 3:
    raise ValueError(
      f'{where}: expected a video id and three fields per frame, got '
      f'{len(row)} fields'
    )
  try:
    track = np.array(row[1:], np.float32).reshape(-1, 3)
  except ValueError as error:
    raise ValueError(f'{where}: not a number ({error})') from error
  if not np.isin(track[:, 2], (0, 1)).all() or not np.isfinite(track).all():
    raise ValueError(f'{where}: occluded must be 0 or 1 and x, y finite')
  return track
