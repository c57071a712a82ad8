"""First guess of a trajectory: where a query's features fit, frame by frame.

The heads of TAP-Net (arXiv 2211.03726, section 4), which TAPIR starts from.
Frames and queries are independent of each other here.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidscenic.ops import grids as grids_lib

# Cells further than this from the best one do not count for its position.
_RADIUS = 5.0


class CostVolumeHeads(nn.Module):
  """Position, occlusion and, for TAPIR, uncertainty from similarities.

  Parameters: position_hidden, position_output, occlusion_conv,
  occlusion_hidden, occlusion_output, each kernel and bias.
  """

  temperature: float = 20.0
  num_logits: int = 2  # occlusion and uncertainty; TAP-Net: occlusion only
  rectify_conv: bool = True  # a ReLU behind occlusion_conv; TAP-Net has none

  @nn.compact
  def __call__(self, queries, grid):
    """Compares queries with every cell of every frame.

    Args:
      queries: [B, N, C].
      grid: [B, T, h, w, C].

    Returns:
      (points [B, N, T, 2], (x, y) in raster cells of the grid, logits
      [B, N, T, num_logits]).
    """
    volume = jnp.einsum('bnc,bthwc->bnthw', queries, grid)
    lead, size = volume.shape[:3], volume.shape[3:]
    x = volume.reshape(-1, *size, 1)
    x = nn.relu(nn.Conv(16, (3, 3), name='position_hidden')(x))
    heat = nn.Conv(1, (3, 3), name='position_output')(x)
    self.sow('intermediates', 'heatmap_logits', heat.reshape(*lead, *size))
    points = soft_argmax(self.temperature * heat[..., 0])
    x = nn.Conv(32, (3, 3), (2, 2), name='occlusion_conv')(x)
    x = nn.relu(x) if self.rectify_conv else x
    x = jnp.mean(x, axis=(1, 2))
    x = nn.relu(nn.Dense(16, name='occlusion_hidden')(x))
    logits = nn.Dense(self.num_logits, name='occlusion_output')(x)
    return points.reshape(*lead, 2), logits.reshape(*lead, -1)


def soft_argmax(logits):
  """Mean position around the best cell, weighted by probability.

  Args:
    logits: [..., h, w].

  Returns:
    [..., 2], (x, y) in raster cells: the centre of cell (row i, column j) is
    (j + 0.5, i + 0.5). The best cell itself is a constant for gradients.
  """
  size = logits.shape[-2:]
  centres = grids_lib.pixel_centers(size, order='xy').reshape(-1, 2)
  logits = logits.reshape(*logits.shape[:-2], -1).astype(jnp.float32)
  weights = jax.nn.softmax(logits, axis=-1)
  # Of equals the first, row by row.
  best = jnp.argmax(weights, axis=-1)
  centre = jnp.stack([best % size[1], best // size[1]], axis=-1) + 0.5
  distance = jnp.sum(jnp.square(centres - centre[..., None, :]), axis=-1)
  weights = jnp.where(distance < _RADIUS**2, weights, 0)
  total = jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1e-12)
  # In full precision: accelerators would round positions to 10 bits.
  mean = jnp.matmul(weights, centres, precision='highest')
  return mean / total
