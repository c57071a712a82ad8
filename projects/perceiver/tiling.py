"""Flow of images of any size from patches of the one size that a model knows.

As in the demonstration of Perceiver IO (arXiv 2107.14795): patches overlap and
are blended with weights that fall to 1 at their border. There the last but one
patch leaves the image where a remainder below the overlap is left over, and the
last one counts twice where it is exactly the overlap; here every start lies
inside the image and occurs once. On all other sizes the patches are the same.
"""

from collections.abc import Iterable, Sequence

import numpy as np

MIN_OVERLAP = 20


def starts(size: int, patch: int, min_overlap: int = MIN_OVERLAP) -> list[int]:
  """First pixels of the patches along one axis.

  Args:
    size: of the image.
    patch: of a patch.
    min_overlap: least overlap of neighbours.

  Raises:
    ValueError: an image smaller than a patch, or an overlap that is not
      smaller than a patch.
  """
  if size < patch:
    raise ValueError(
      f'an image side of {size} pixels is smaller than a patch of {patch}: '
      'enlarge the images first (ffmpeg -i IN -vf scale=WIDTH:HEIGHT OUT)'
    )
  if not 0 <= min_overlap < patch:
    raise ValueError(
      f'min_overlap={min_overlap}: want 0 or more, below the patch of {patch}'
    )
  last = size - patch
  grid = range(0, size, patch - min_overlap)
  return sorted({min(start, last) for start in grid} | {last})


def corners(
  size: Sequence[int], patch: Sequence[int], min_overlap: int = MIN_OVERLAP
) -> list[tuple[int, int]]:
  """(y, x) of the upper left pixels of all patches, row by row.

  Args:
    size: (H, W) of the image.
    patch: (H, W) of a patch.
    min_overlap: see `starts`.

  Raises:
    ValueError: as `starts`.
  """
  rows, columns = (
    starts(n, p, min_overlap) for n, p in zip(size, patch, strict=True)
  )
  return [(y, x) for y in rows for x in columns]


def weights(patch: Sequence[int]) -> np.ndarray:
  """float32[H, W]: distance of each pixel to the border, 1 at the border."""
  sides = [np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1)) for n in patch]
  return np.minimum(sides[0][:, None], sides[1]).astype(np.float32)


def stitch(
  tiles: Iterable[np.ndarray],
  places: Sequence[Sequence[int]],
  size: Sequence[int],
) -> np.ndarray:
  """Weighted mean of patches.

  Args:
    tiles: float[..., h, w, C] each.
    places: (y, x) of each.
    size: (H, W) of the image, which the patches cover.

  Returns:
    float32[..., H, W, C].
  """
  total = covered = None
  for tile, (y, x) in zip(tiles, places, strict=True):
    tile = np.asarray(tile, np.float32)
    height, width = tile.shape[-3:-1]
    if total is None:
      total = np.zeros((*tile.shape[:-3], *size, tile.shape[-1]), np.float32)
      covered = np.zeros((*size, 1), np.float32)
      weight = weights((height, width))[..., None]
    here = (..., slice(y, y + height), slice(x, x + width), slice(None))
    total[here] += weight * tile
    covered[here] += weight
  return total / covered
