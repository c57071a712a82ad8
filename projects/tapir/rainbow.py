"""Tails of tracked points without the motion of the camera.

Where most of a picture is at rest, the tails of its points would all show how
the camera moved. Here the past positions are moved along with the picture, so
only what moves by itself leaves a tail.
"""

import numpy as np

from vidscenic.viz import tracks as tracks_viz

_TRIALS = 64  # of four points each, for one pair of frames


class Rainbow:
  """Draws a stream of frames.

  Args:
    colors: uint8[N, 3], of the points.
    tail: frames that a tail reaches back.
    tolerance: pixels within which a point follows the camera.
  """

  def __init__(
    self, colors: np.ndarray, *, tail: int = 20, tolerance: float = 2.0
  ):
    self._colors, self._tail, self._tolerance = colors, tail, tolerance
    self._points = np.zeros((len(colors), 0, 2))
    self._visible = np.zeros((len(colors), 0), bool)
    self._rng = np.random.default_rng(0)

  def draw(
    self, frame: np.ndarray, points: np.ndarray, visible: np.ndarray
  ) -> np.ndarray:
    """Draws the next frame.

    Args:
      frame: uint8[H, W, 3].
      points: [N, 2], (x, y) in raster pixels.
      visible: bool[N].

    Returns:
      uint8[H, W, 3], a copy.
    """
    if self._points.shape[1]:
      both = visible & self._visible[:, -1]
      camera = fit_homography(
        self._points[both, -1],
        points[both],
        tolerance=self._tolerance,
        rng=self._rng,
      )
      self._points = apply_homography(camera, self._points)
    kept = slice(-self._tail, None) if self._tail else slice(0, 0)
    self._points = np.concatenate(
      [self._points[:, kept], points[:, None]], axis=1
    )
    self._visible = np.concatenate(
      [self._visible[:, kept], visible[:, None]], axis=1
    )
    last = self._points.shape[1] - 1
    return tracks_viz.draw_tracks(
      frame[None],
      self._points,
      ~self._visible,
      trail=self._tail,
      colors=self._colors,
      first=last,
    )[0]


def apply_homography(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
  """[..., 2] -> [..., 2]; float[3, 3] acts on (x, y, 1)."""
  mapped = points @ matrix[:, :2].T + matrix[:, 2]
  # Behind the camera there is nothing to draw.
  depth = np.where(mapped[..., 2:] > 1e-6, mapped[..., 2:], np.nan)
  return mapped[..., :2] / depth


def fit_homography(
  source: np.ndarray,
  target: np.ndarray,
  *,
  tolerance: float,
  rng: np.random.Generator,
) -> np.ndarray:
  """The projective map that most points follow.

  Draws four points again and again, keeps the map that brings most others
  within `tolerance`, and fits all of those (Fischler and Bolles, 1981; the
  normalised linear fit of Hartley, 1997).

  Args:
    source: [N, 2], (x, y).
    target: [N, 2].
    tolerance: pixels.
    rng: numpy generator.

  Returns:
    float64[3, 3]; with fewer than eight points, or where no map fits a third
    of them, the identity.
  """
  finite = np.isfinite(source).all(1) & np.isfinite(target).all(1)
  source, target = source[finite], target[finite]
  if len(source) < 8:
    return np.eye(3)
  best = np.zeros(len(source), bool)
  for _ in range(_TRIALS):
    chosen = rng.choice(len(source), 4, replace=False)
    inside = _inside(
      _fit(source[chosen], target[chosen]), source, target, tolerance
    )
    if inside.sum() > best.sum():
      best = inside
  if best.sum() < max(8, len(source) / 3):
    return np.eye(3)
  for _ in range(2):  # with all that follow, then with those that follow that
    matrix = _fit(source[best], target[best])
    best = _inside(matrix, source, target, tolerance)
    if best.sum() < 8:
      return np.eye(3)
  return matrix


def _inside(matrix, source, target, tolerance):
  if matrix is None:
    return np.zeros(len(source), bool)
  error = np.linalg.norm(apply_homography(matrix, source) - target, axis=1)
  return error < tolerance  # False for NaN


def _fit(source, target):
  """Least squares in normalised coordinates; None for points on a line."""
  (a, source), (b, target) = _normalised(source), _normalised(target)
  x, y = source.T
  u, v = target.T
  one, zero = np.ones_like(x), np.zeros_like(x)
  rows = np.concatenate(
    [
      np.stack([x, y, one, zero, zero, zero, -u * x, -u * y, -u], axis=1),
      np.stack([zero, zero, zero, x, y, one, -v * x, -v * y, -v], axis=1),
    ]
  )
  _, values, vectors = np.linalg.svd(rows)
  if values[7] < 1e-9 * values[0]:
    return None
  matrix = np.linalg.inv(b) @ vectors[-1].reshape(3, 3) @ a
  return matrix / matrix[2, 2] if abs(matrix[2, 2]) > 1e-12 else None


def _normalised(points):
  """(matrix, points around 0 at a mean distance of one)."""
  middle = points.mean(0)
  size = max(np.linalg.norm(points - middle, axis=1).mean(), 1e-9)
  matrix = np.diag([1 / size, 1 / size, 1.0])
  matrix[:2, 2] = -middle / size
  return matrix, (points - middle) / size
