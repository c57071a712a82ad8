"""Trackers without learning, to be printed beside those that learned."""

import jax
import jax.numpy as jnp

from vidscenic.ops import grids

_PATCH = 7  # pixels
# Correlation below which a point counts as hidden.
_SEEN = 0.6


def at_rest(video, queries):
  """Points that never move and never hide.

  Args:
    video: [B, T, H, W, 3].
    queries: [B, N, 3], (t, y, x).

  Returns:
    (points [B, N, T, 2], (x, y), occluded bool[B, N, T]).
  """
  shape = (*queries.shape[:2], video.shape[1])
  points = grids.swap_xy(queries[:, :, None, 1:])
  return jnp.broadcast_to(points, (*shape, 2)), jnp.zeros(shape, bool)


def patch_correlation(video, queries):
  """The place in every frame that looks most like the query's patch.

  The correlation coefficient of 7 x 7 pixels in colour, over the whole frame;
  whole pixels. Arguments and result as of `at_rest`.
  """
  half = _PATCH // 2
  padded = jnp.pad(
    video, [(0, 0), (0, 0), (half, half), (half, half), (0, 0)], mode='edge'
  )
  size = video.shape[2:4]
  # Every pixel's patch: [B, T, H, W, 7 * 7 * 3], without mean, of length one.
  patches = jnp.concatenate(
    [
      padded[:, :, y : y + size[0], x : x + size[1]]
      for y in range(_PATCH)
      for x in range(_PATCH)
    ],
    axis=-1,
  )
  patches = patches - jnp.mean(patches, axis=-1, keepdims=True)
  length = jnp.linalg.norm(patches, axis=-1, keepdims=True)
  patches = patches / jnp.maximum(length, 1e-6)
  frame = jnp.round(queries[..., 0]).astype(jnp.int32)
  row, column = (
    jnp.clip(jnp.floor(queries[..., i]).astype(jnp.int32), 0, n - 1)
    for i, n in zip((1, 2), size, strict=True)
  )
  own = jax.vmap(lambda p, t, y, x: p[t, y, x])(patches, frame, row, column)
  scores = jnp.einsum('bnc,btyxc->bntyx', own, patches)
  scores = scores.reshape(*scores.shape[:3], -1)
  best = jnp.argmax(scores, axis=-1)
  # The query's place within its pixel is kept.
  inside = queries[..., 1:] - jnp.stack([row, column], axis=-1)
  points = jnp.stack([best // size[1], best % size[1]], axis=-1)
  points = grids.swap_xy(points + inside[:, :, None])
  return points, jnp.max(scores, axis=-1) < _SEEN


TRACKERS = {'static': at_rest, 'patch': patch_correlation}
