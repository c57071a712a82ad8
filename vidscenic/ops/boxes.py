"""Overlap of boxes, and its mean over tracks of boxes.

Boxes are (ymin, xmin, ymax, xmax), usually in [0, 1]. The overlap is the same
for (xmin, ymin, xmax, ymax), as long as both boxes have the same order and the
unit of both axes is theirs alone: IoU does not change when an axis is scaled.
"""

import jax
import jax.numpy as jnp

from vidscenic.ops import losses


def iou(boxes, targets):
  """Intersection over union of pairs of boxes.

  Args:
    boxes: [..., 4]; a box with max <= min is empty.
    targets: [..., 4], broadcasts with boxes.

  Returns:
    float32[...] in [0, 1]; 0 where both are empty, NaN for a NaN box.
  """
  boxes = jnp.asarray(boxes, jnp.float32)
  targets = jnp.asarray(targets, jnp.float32)
  low = jnp.maximum(boxes[..., :2], targets[..., :2])
  high = jnp.minimum(boxes[..., 2:], targets[..., 2:])
  inside = _area(low, high)
  union = (
    _area(boxes[..., :2], boxes[..., 2:])
    + _area(targets[..., :2], targets[..., 2:])
    - inside
  )
  return inside / jnp.where(union == 0, 1.0, union)


def _area(low, high):
  return jnp.prod(jnp.maximum(high - low, 0.0), axis=-1)


def track_iou(boxes, targets, *, mask, start=0) -> jax.Array:
  """Mean overlap of each box track: the score of Perception Test and Waymo.

  A model is told the box of one frame and follows it (Perception Test, arXiv
  2305.13786: frames behind the given one, mean over a track's annotated
  frames, then over the tracks of a video, then over videos). The first of
  these means is taken here, the second by `video_iou`, the third by
  `metrics.mean_of_known`.

  Args:
    boxes: [B, T, K, 4], predicted.
    targets: [B, T, K, 4].
    mask: bool[B, T, K], True on annotated frames.
    start: frame of the given box, int[B, K], or one number for all.

  Returns:
    float32[B, K]; NaN for a track without annotation behind its start. A box
    that is predicted as NaN overlaps nothing.

  Raises:
    ValueError: the shapes differ.
  """
  overlap = jnp.nan_to_num(iou(boxes, targets))
  if jnp.shape(boxes) != jnp.shape(targets) or overlap.ndim != 3:
    raise ValueError(
      f'boxes {jnp.shape(boxes)} and targets {jnp.shape(targets)}: want the '
      'same shape [B, T, K, 4]'
    )
  num_rows, num_frames, num_tracks = overlap.shape
  start = jnp.broadcast_to(jnp.asarray(start), (num_rows, num_tracks))
  behind = jnp.arange(num_frames)[:, None] > start[:, None]
  counted = losses.align(jnp.asarray(mask, bool), overlap) & behind
  number = jnp.sum(counted, axis=1)
  total = jnp.sum(jnp.where(counted, overlap, 0.0), axis=1)
  return jnp.where(number > 0, total / jnp.maximum(number, 1), jnp.nan)


def video_iou(tracks) -> jax.Array:
  """Mean over the tracks of a video: [B, K] -> [B]; NaN without any track."""
  return jnp.nanmean(tracks, axis=-1)
