"""Point tracks drawn onto a video: dots, rings where occluded, and trails.

Also as rows of a table.

Points are (x, y) in raster pixels of the frames, (0, 0) the upper-left corner
of the first pixel, as in `target_points` of the batches. A point that is NaN or
outside the image is not drawn.
"""

from collections.abc import Iterator

import numpy as np

from vidscenic.viz import colors as colors_lib
from vidscenic.viz import images, marks

# Of `rows`.
COLUMNS = ('frame', 'seconds', 'point', 'x', 'y', 'visible')

_RIM = np.array([0, 0, 0], np.uint8)  # sets marks off from any background
_RIM_ALPHA = 0.45


def draw_tracks(
  frames: np.ndarray,
  points: np.ndarray,
  occluded: np.ndarray,
  *,
  trail: int = 8,
  colors: np.ndarray | None = None,
  radius: float | None = None,
  first: int = 0,
) -> np.ndarray:
  """Draws tracks: visible points as dots, occluded ones as rings.

  The trail joins the positions of the last frames and fades with age. It is
  drawn only between two frames in which the point is visible, for positions
  under occlusion are guesses. Jumps of a tracker are shown, not hidden.

  Args:
    frames: uint8[F, H, W, 3], the frames `first` to `first + F` of T.
    points: float[N, T, 2], (x, y) in raster pixels.
    occluded: bool[N, T].
    trail: number of past frames that the trail reaches back; 0 for none.
    colors: uint8[N, 3]; None: `track_colors` of the positions in frame 0.
    radius: of a dot in pixels; None takes 1 % of the picture's shorter side.
    first: number of the first of `frames` within the T of points, so that a
      long video can be drawn part by part.

  Returns:
    uint8[F, H, W, 3], a copy.

  Raises:
    ValueError: shapes that do not fit each other.
  """
  frames = images.checked(frames, ndim=4).copy()
  points, occluded = _checked('points', points, occluded, len(frames), first)
  colors = _checked_colors(colors, points)
  radius = _radius(radius, frames)
  shown = np.isfinite(points).all(-1) & ~occluded
  layer = marks.Layer(*frames.shape[1:3])
  for number, frame in enumerate(frames, start=first):
    for age in range(min(trail, number), 0, -1):
      now = number - age + 1
      both = shown[:, now] & shown[:, now - 1]
      layer.lines(
        points[both, now - 1],
        points[both, now],
        max(1.0, 0.5 * radius),
        colors[both],
        1 - age / (trail + 1),
      )
    layer.paint(frame)
    _add_points(layer, points[:, number], occluded[:, number], colors, radius)
    layer.paint(frame)
  return frames


class TrackPainter:
  """`draw_tracks` for a stream: remembers the trails between calls.

  Whatever the lengths of the parts, the result is that of drawing all at once.
  """

  def __init__(
    self,
    *,
    trail: int = 8,
    colors: np.ndarray | None = None,
    radius: float | None = None,
  ):
    """Takes the arguments of `draw_tracks`."""
    self._trail = trail
    self._colors = colors
    self._radius = radius
    self._points = None
    self._occluded = None

  def draw(
    self, frames: np.ndarray, points: np.ndarray, occluded: np.ndarray
  ) -> np.ndarray:
    """Draws the next frames.

    Args:
      frames: uint8[T, H, W, 3].
      points: float[N, T, 2], (x, y) in raster pixels, of these frames.
      occluded: bool[N, T].

    Returns:
      uint8[T, H, W, 3], a copy.

    Raises:
      ValueError: shapes that do not fit each other or the earlier points.
    """
    points, occluded = _checked('points', points, occluded, len(frames), 0)
    if points.shape[1] != len(frames):
      raise ValueError(f'{points.shape[1]} positions for {len(frames)} frames')
    if self._points is None:
      self._colors = _checked_colors(self._colors, points)
      self._points, self._occluded = points[:, :0], occluded[:, :0]
    elif len(points) != len(self._points):
      raise ValueError(
        f'got {len(points)} points after {len(self._points)}: each call must'
        f' bring the same tracks'
      )
    first = self._points.shape[1]
    points = np.concatenate([self._points, points], axis=1)
    occluded = np.concatenate([self._occluded, occluded], axis=1)
    drawn = draw_tracks(
      frames,
      points,
      occluded,
      trail=self._trail,
      colors=self._colors,
      radius=self._radius,
      first=first,
    )
    kept = max(points.shape[1] - self._trail, 0)
    self._points, self._occluded = points[:, kept:], occluded[:, kept:]
    return drawn


def draw_errors(
  frames: np.ndarray,
  points: np.ndarray,
  occluded: np.ndarray,
  truth: np.ndarray,
  truth_occluded: np.ndarray,
  *,
  colors: np.ndarray | None = None,
  radius: float | None = None,
  first: int = 0,
) -> np.ndarray:
  """Compares predicted tracks with the truth.

  A prediction is a dot, or a ring where it is said to be occluded; the truth is
  a diamond, and a line shows the error. Occluded truth is not drawn, since data
  sets often do not know where it is: a dot without a diamond was wrongly said
  to be visible, a ring with a diamond wrongly to be occluded.

  Args:
    frames: uint8[F, H, W, 3], the frames `first` to `first + F` of T.
    points: float[N, T, 2], predictions, (x, y) in raster pixels.
    occluded: bool[N, T], predicted.
    truth: float[N, T, 2], the same order and unit.
    truth_occluded: bool[N, T].
    colors: uint8[N, 3]; None: `track_colors` of the predictions in frame 0.
    radius: of a dot in pixels; None takes 1 % of the picture's shorter side.
    first: number of the first of `frames` within the T of points.

  Returns:
    uint8[F, H, W, 3], a copy.

  Raises:
    ValueError: shapes that do not fit each other.
  """
  frames = images.checked(frames, ndim=4).copy()
  points, occluded = _checked('points', points, occluded, len(frames), first)
  truth, hidden = _checked('truth', truth, truth_occluded, len(frames), first)
  if truth.shape != points.shape:
    raise ValueError(
      f'points {points.shape} and truth {truth.shape} differ in shape'
    )
  colors = _checked_colors(colors, points)
  radius = _radius(radius, frames)
  layer = marks.Layer(*frames.shape[1:3])
  for number, frame in enumerate(frames, start=first):
    known = ~hidden[:, number]
    true, color = truth[known, number], colors[known]
    layer.lines(true, points[known, number], 0.5 * radius, color)
    layer.diamonds(true, 1.3 * radius + 1, _RIM, _RIM_ALPHA)
    layer.diamonds(true, 1.3 * radius, color)
    layer.paint(frame)
    _add_points(layer, points[:, number], occluded[:, number], colors, radius)
    layer.paint(frame)
  return frames


def track_colors(positions: np.ndarray) -> np.ndarray:
  """A rainbow over the tracks from the top of the picture to the bottom.

  Ordered by y, then by x, evenly spread: neighbours look alike, so the motion
  of a thing stands out. The order of the tracks does not matter, and the same
  positions give the same colours.

  Args:
    positions: float[N, 2], (x, y), where each track starts or is queried. What
      is not finite comes last.

  Returns:
    uint8[N, 3].
  """
  positions = np.asarray(positions, np.float64).reshape(-1, 2)
  x, y = np.where(np.isfinite(positions), positions, np.inf).T
  result = np.empty((len(positions), 3), np.uint8)
  result[np.lexsort([x, y])] = colors_lib.rainbow(len(positions))
  return result


def _add_points(layer, points, occluded, colors, radius):
  layer.dots(points[~occluded], radius + 1, _RIM, _RIM_ALPHA)
  layer.dots(points[~occluded], radius, colors[~occluded])
  # The hole stays clear, for small rings would look like dots.
  layer.rings(points[occluded], radius + 1, _RIM, _RIM_ALPHA, width=1.5)
  layer.rings(
    points[occluded], radius, colors[occluded], width=max(1.0, 0.35 * radius)
  )


def _radius(radius, frames):
  return max(2.0, 0.01 * min(frames.shape[1:3])) if radius is None else radius


def _checked(name, points, occluded, num_frames, first):
  points, occluded = np.asarray(points), np.asarray(occluded)
  if points.ndim != 3 or points.shape[2] != 2:
    raise ValueError(f'{name} must be float[N, T, 2], got {points.shape}')
  if occluded.shape != points.shape[:2] or occluded.dtype != bool:
    raise ValueError(
      f'occlusion of {name} {points.shape} must be bool{[*points.shape[:2]]},'
      f' got {occluded.dtype}{[*occluded.shape]}'
    )
  if not 0 <= first <= points.shape[1] - num_frames:
    raise ValueError(
      f'{name} has {points.shape[1]} frames, too few for {num_frames} from'
      f' first={first}'
    )
  return points.astype(np.float64), occluded


def _checked_colors(colors, points):
  if colors is None:
    first = points[:, 0] if points.shape[1] else np.zeros((len(points), 2))
    return track_colors(first)
  return colors_lib.checked(colors, len(points))


def rows(
  first: int, times: np.ndarray, points: np.ndarray, visible: np.ndarray
) -> Iterator[tuple]:
  """A row of `COLUMNS` for each point and frame, but for points that are NaN.

  Args:
    first: number of the first frame.
    times: float[T], in seconds.
    points: float[T, N, 2], (x, y) in raster pixels.
    visible: bool[T, N]; written as 1 or 0.
  """
  for i, (seconds, places, seen) in enumerate(
    zip(times, points, visible, strict=True)
  ):
    for point in np.flatnonzero(np.isfinite(places).all(1)):
      x, y = places[point]
      yield (
        first + i,
        f'{seconds:.4f}',
        point,
        f'{x:.3f}',
        f'{y:.3f}',
        int(seen[point]),
      )
