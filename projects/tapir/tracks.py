"""What TAPIR and TAP-Net answer with: trajectories of queries."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vidscenic.ops import grids


class Tracks(NamedTuple):
  """Trajectories after the first guess and every iteration, K in all.

  Attributes:
    points: [K, B, N, T, 2], (x, y) in raster pixels of the video.
    occlusion: [K, B, N, T] logits, large where hidden.
    expected_dist: [K, B, N, T] logits, large where the position is off.
  """

  points: Any
  occlusion: Any
  expected_dist: Any

  def final(self, num_pips_iter: int) -> 'Tracks':
    """The answer, without the axis K: mean over the ends of all levels."""
    if len(self.points) == 1:
      return jax.tree.map(lambda x: x[0], self)
    return jax.tree.map(
      lambda x: jnp.mean(x[num_pips_iter::num_pips_iter], axis=0), self
    )


def pin_queries(points, queries, *, size, target):
  """Puts every point on its query in the frame of that.

  Args:
    points: [B, N, T, 2], (x, y) in raster pixels of `target`.
    queries: [B, N, 3], (t, y, x), pixels of `size`; t is rounded.
    size, target: (H, W).
  """
  here = grids.swap_xy(queries[..., 1:])
  here = grids.scale_points(here, source=size, target=target, order='xy')
  own = jnp.arange(points.shape[2]) == jnp.round(queries[..., :1])
  return jnp.where(own[..., None], here[:, :, None], points)
