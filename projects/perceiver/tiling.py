"""Flow of images of any size from patches of the one size that a model knows.

As in the demonstration of Perceiver IO (arXiv 2107.14795): patches overlap and
are blended with weights that fall to 1 at their border. There the last but one
patch leaves the image where a remainder below the overlap is left over, and the
last one counts twice where it is exactly the overlap; here every start lies
inside the image and occurs once. On all other sizes the patches are the same.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
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


def blend(
  flow_of: Callable[[jax.Array], jax.Array],
  video: jax.Array,
  patch: Sequence[int],
  min_overlap: int = MIN_OVERLAP,
) -> jax.Array:
  """Weighted mean of the flow of all patches, which are taken one by one.

  Args:
    flow_of: [B, T, h, w, C] -> float32[B, h, w, 2], flow of a patch.
    video: [B, T, H, W, C].
    patch: (h, w).
    min_overlap: see `starts`.

  Returns:
    float32[B, H, W, 2].

  Raises:
    ValueError: as `starts`.
  """
  size = video.shape[2:4]
  if size == tuple(patch):
    return flow_of(video)
  weight = jnp.asarray(weights(patch))[..., None]
  tile_shape = (*video.shape[:2], *patch, video.shape[-1])

  def add(carry, place):
    total, covered = carry
    start = (0, 0, place[0], place[1], 0)
    tile = jax.lax.dynamic_slice(video, start, tile_shape)
    return (
      _add_at(total, weight * flow_of(tile), place),
      _add_at(covered, weight[None], place),
    ), None

  start = jnp.zeros((len(video), *size, 2)), jnp.zeros((1, *size, 1))
  places = jnp.asarray(corners(size, patch, min_overlap))
  (total, covered), _ = jax.lax.scan(add, start, places)
  return total / covered


def _add_at(total, part, place):
  start = (0, place[0], place[1], 0)
  here = jax.lax.dynamic_slice(total, start, part.shape)
  return jax.lax.dynamic_update_slice(total, here + part, start)
