"""What TAPIR is trained on: position, occlusion and uncertainty.

arXiv 2306.08637, section 3.4. Distances are taken at 256 x 256 pixels whatever
the size of the video. Entries that do not count (positions of hidden points,
masked ones) are zeros in the mean: they stay in its denominator, as in the
released code.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vidscenic.ops import grids, losses

POSITION_WEIGHT = 0.05
HUBER_DELTA = 4.0  # pixels at 256 x 256
EXPECTED_DIST_THRESH = 6.0  # pixels at 256 x 256
_SIZE = (256, 256)

Pair = tuple[jax.Array, jax.Array]


def point_losses(
  points,
  occlusion,
  expected_dist,
  *,
  target_points,
  target_occluded,
  size: Sequence[int],
  rows: Any = 1.0,
  mask: Any = 1.0,
  occlusion_mask: Any = 1.0,
  rebalance: float = 0.0,
  expected_dist_thresh: float = EXPECTED_DIST_THRESH,
) -> dict[str, Pair]:
  """Losses of one set of predictions.

  Args:
    points: [B, N, T, 2], (x, y) in raster pixels of a video.
    occlusion: [B, N, T] logits.
    expected_dist: [B, N, T] logits; None: no such loss (TAP-Net).
    target_points: like points.
    target_occluded: bool[B, N, T].
    size: (H, W) of the video.
    rows: what counts at all, broadcast to [B, N, T] by its leading axes: False
      for padded examples.
    mask: factor on all losses, [B, N, T] or a scalar.
    occlusion_mask: factor on the occlusion loss alone.
    rebalance: r; visible entries of the occlusion loss count 1 + r times.
    expected_dist_thresh: pixels at 256 x 256 beyond which a position is off,
      which `expected_dist` is to predict.

  Returns:
    {'position', 'occlusion', 'uncertainty': (sum, number of entries)}, without
    their weights in the total.
  """
  shape = occlusion.shape
  rows = losses.align(rows, occlusion) if jnp.ndim(rows) else rows
  entries = losses.count(rows, shape)
  weight = jnp.broadcast_to(jnp.asarray(rows) * jnp.asarray(mask), shape)
  hidden = jnp.asarray(target_occluded, jnp.float32)
  visible = weight * (1 - hidden)
  scaled = (
    grids.scale_points(p, source=size, target=_SIZE, order='xy')
    for p in (points, target_points)
  )
  error = jnp.subtract(*scaled)
  position, _ = losses.huber_distance(error, delta=HUBER_DELTA, weight=visible)
  hiding, _ = losses.sigmoid_binary_cross_entropy(
    occlusion,
    hidden,
    weight=weight * occlusion_mask * (1 + rebalance * (1 - hidden)),
  )
  result = {'position': (position, entries), 'occlusion': (hiding, entries)}
  if expected_dist is not None:
    off = jnp.sum(jnp.square(jax.lax.stop_gradient(error)), axis=-1)
    uncertain, _ = losses.sigmoid_binary_cross_entropy(
      expected_dist, off > expected_dist_thresh**2, weight=visible
    )
    result['uncertainty'] = (uncertain, entries)
  return result


def trajectory_losses(
  tracks, num_pips_iter: int, *, refined: float = 1.0, **targets
) -> dict[str, tuple[jax.Array, jax.Array, float]]:
  """Losses of the answer and of everything on the way to it, all alike.

  Args:
    tracks: `tracks.Tracks`; with several levels the answer is their mean, and
      stands for the last iteration.
    num_pips_iter: iterations of a level.
    refined: factor on the losses of all but the first guess: the share of the
      queries that was refined at all.
    **targets: further arguments of `point_losses`.

  Returns:
    Terms (sum, entries, scale) as of `task.LossOut`: 'position', 'occlusion'
    and 'uncertainty' of the answer, 'position_{i}' and so on of guess i, the
    first being 0.
  """
  terms = {}
  for i in range(len(tracks.points)):
    last = i == len(tracks.points) - 1
    guess = jax.tree.map(lambda x, i=i: x[i], tracks)
    if last:
      guess = tracks.final(num_pips_iter)
    found = point_losses(*guess, **targets)
    for name, (total, entries) in found.items():
      scale = POSITION_WEIGHT if name == 'position' else 1.0
      scale *= refined if i else 1.0
      terms[name if last else f'{name}_{i}'] = (total, entries, scale)
  return terms
