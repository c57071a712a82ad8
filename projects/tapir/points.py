"""Which points to track: a grid, random ones, a list, or those of a mask.

Everything is in raster pixels of the video: (0, 0) is the upper left corner of
the first pixel, (W, H) the lower right corner of the last; frames count from 0.
"""

import csv
import json
import math
import os

import numpy as np
from PIL import Image

from vidscenic.viz import tracks as tracks_viz

_LISTS = ('.csv', '.json')
_MASKS = ('.png', '.bmp', '.webp', '.tif', '.tiff', '.jpg', '.jpeg')


class PointsError(ValueError):
  """Points that cannot be used; the message is one line for a person."""


def choose(
  points: str,
  *,
  num_points: int,
  frame: int,
  seed: int,
  size: tuple[int, int],
  num_frames: int,
) -> np.ndarray:
  """The queries that a user asks for.

  Args:
    points: 'grid', 'random', or a file: a list (.csv with the columns frame,
      x, y; .json with [[frame, x, y], ...] or [{"frame": .., "x": .., "y": ..},
      ...]), or a picture of the video's size whose pixels that are not black
      say where points go.
    num_points: number of points for 'grid' (about), 'random' and masks (about).
    frame: number of the frame that points of a grid, random ones and those of
      a mask are in.
    seed: of random points.
    size: (height, width) of the video.
    num_frames: of the video.

  Returns:
    float32[N, 3], (t, y, x), N > 0.

  Raises:
    PointsError: names file and line, or the argument, and what is wanted.
    OSError: an unreadable file.
  """
  if not isinstance(points, (str, os.PathLike)):
    raise PointsError(
      f"points_from={points!r}: want 'grid', 'random', or a file"
    )
  for name, value in (
    ('num_points', num_points),
    ('frame', frame),
    ('seed', seed),
  ):
    if not isinstance(value, int):
      raise PointsError(f'{name}={value!r}: want a whole number')
  if seed < 0:
    raise PointsError(f'seed={seed}: want 0 or more')
  points = os.fspath(points)
  extension = os.path.splitext(points)[1].lower()
  if extension in _LISTS:
    queries = _read_list(points, extension)
    _check(queries, points, size, num_frames)
    return queries
  if num_points < 1:
    raise PointsError(f'num_points={num_points}: want at least one')
  if not 0 <= frame < num_frames:
    raise PointsError(
      f'frame={frame}: the video has the frames 0 to {num_frames - 1}'
    )
  if points == 'grid':
    places = _grid(size, num_points)
  elif points == 'random':
    places = np.random.default_rng(seed).random((num_points, 2))
    places = places * np.array(size)
  elif extension in _MASKS:
    places = _inside_mask(points, size, num_points)
  else:
    raise PointsError(
      f"points_from={points!r}: want 'grid', 'random', a list "
      f'({", ".join(_LISTS)}) or a mask ({", ".join(_MASKS)})'
    )
  when = np.full((len(places), 1), frame)
  return np.concatenate([when, places], axis=1).astype(np.float32)


def colors(queries: np.ndarray) -> np.ndarray:
  """uint8[N, 3]: a rainbow from the top of the picture to the bottom."""
  return tracks_viz.track_colors(queries[:, :0:-1])


def _grid(size, num_points):
  """About so many cell centres, the cells nearly square: [N, 2], (y, x)."""
  height, width = size
  rows = max(1, round(math.sqrt(num_points * height / width)))
  columns = max(1, round(num_points / rows))
  y = (np.arange(rows) + 0.5) * height / rows
  x = (np.arange(columns) + 0.5) * width / columns
  return np.stack(np.meshgrid(y, x, indexing='ij'), axis=-1).reshape(-1, 2)


def _inside_mask(path, size, num_points):
  """Points of a grid that lie in a mask, the grid so fine that there are about
  so many."""
  with Image.open(path) as image:
    mask = np.asarray(image.convert('RGB')).any(-1)
  if mask.shape != tuple(size):
    raise PointsError(
      f'{path} has {mask.shape[0]}x{mask.shape[1]} pixels, the video '
      f'{size[0]}x{size[1]}: make the mask of a frame of the video'
    )
  if not mask.any():
    raise PointsError(f'{path} is black: paint what is to be tracked')
  places = _grid(size, round(num_points / mask.mean()))
  row, column = np.floor(places).astype(int).T
  chosen = places[mask[row, column]]
  if not len(chosen):  # smaller than a cell of the grid
    row, column = np.argwhere(mask).T
    chosen = np.array([[row.mean(), column.mean()]]) + 0.5
  return chosen


def _read_list(path, extension):
  read = _read_csv if extension == '.csv' else _read_json
  places = []
  try:
    rows = read(path)
  except (UnicodeDecodeError, csv.Error) as error:
    raise PointsError(f'{path}: no text with points: {error}') from error
  for where, row in rows:
    try:
      places.append([float(value) for value in row])
    except (TypeError, ValueError) as error:
      raise PointsError(f'{where}: {error}; want frame, x, y') from error
    if len(row) != 3:
      raise PointsError(f'{where}: {len(row)} values, want frame, x, y')
  if not places:
    raise PointsError(f'{path} holds no points; want rows of frame, x, y')
  frame, x, y = np.array(places, np.float32).T
  return np.stack([frame, y, x], axis=1)


def _read_csv(path):
  with open(path, newline='', encoding='utf-8-sig') as file:
    rows = [(n, row) for n, row in enumerate(csv.reader(file), 1) if row]
  if rows and [cell.strip().lower() for cell in rows[0][1]] == [
    'frame',
    'x',
    'y',
  ]:
    rows = rows[1:]
  return [(f'{path}, line {number}', row) for number, row in rows]


def _read_json(path):
  with open(path, encoding='utf-8-sig') as file:
    try:
      entries = json.load(file)
    except json.JSONDecodeError as error:
      raise PointsError(f'{path}: no JSON: {error}') from error
  if not isinstance(entries, list):
    raise PointsError(f'{path}: want a list of [frame, x, y]')
  rows = []
  for number, entry in enumerate(entries):
    where = f'{path}, entry {number}'
    if isinstance(entry, dict):
      entry = [entry.get(name) for name in ('frame', 'x', 'y')]
    if not isinstance(entry, list):
      raise PointsError(f'{where}: want [frame, x, y], got {entry!r}')
    rows.append((where, entry))
  return rows


def _check(queries, path, size, num_frames):
  height, width = size
  for number, (t, y, x) in enumerate(queries):
    where = f'{path}: point {number} (frame {t:g}, x {x:g}, y {y:g})'
    if not np.isfinite([t, y, x]).all():
      raise PointsError(f'{where} is not finite')
    if t != round(t) or not 0 <= t < num_frames:
      raise PointsError(
        f'{where}: the video has the frames 0 to {num_frames - 1}'
      )
    if not (0 <= x <= width and 0 <= y <= height):
      raise PointsError(
        f'{where} is outside the frame: want x in [0, {width}] and y in [0, '
        f'{height}]'
      )
