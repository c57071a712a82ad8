"""Scores of point tracks as TAP-Vid defines them (arXiv 2211.03726).

Positions are compared in the pixels that the caller gives: the published
figures are taken at 256 x 256, so scale queries, targets and predictions there
first (`grids.scale_points`). Scores are those of one video (or of one track);
a data set has the plain mean over its videos, which `metrics.mean_of_known`
adds up.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from vidscenic.ops import losses

THRESHOLDS = (1, 2, 4, 8, 16)
MODES = ('first', 'strided')
PER = ('video', 'track')


def tap_vid(
  *,
  query_points,
  target_points,
  target_occluded,
  points,
  occluded,
  mode: str,
  mask=True,
  thresholds: Sequence[float] = THRESHOLDS,
  per: str = 'video',
) -> dict[str, jax.Array]:
  """Occlusion accuracy, position accuracy and Jaccard of point tracks.

  A position is right within t if it is *nearer* than t pixels to the target.

    occlusion_accuracy: share of frames whose visibility is predicted right.
    pts_within_t: share of the frames with a visible target whose position is
      right, whether or not the point is predicted to be visible.
    jaccard_t: true positives / (frames with a visible target + false
      positives). True positive: target visible, predicted visible, position
      right. False positive: predicted visible, but the target is occluded or
      the position wrong.
    average_pts_within_thresh, average_jaccard: means over the thresholds.

  Args:
    query_points: [B, N, 3], (t, y, x), t in frames; only t is read, rounded.
    target_points: [B, N, T, 2], (x, y) in pixels.
    target_occluded: bool[B, N, T].
    points: [B, N, T, 2], predicted, (x, y) in pixels.
    occluded: bool[B, N, T], predicted.
    mode: which frames count: with 'first' those behind the query frame, with
      'strided' all but the query frame.
    mask: bool[B], [B, N] or [B, N, T], False for what does not count: padded
      videos or points, frames behind the end of a video.
    thresholds: in pixels.
    per: 'video', or 'track' to tell where in the picture a model fails.

  Returns:
    {name: float32[B], or [B, N] per track}. NaN where a score has nothing to
    count: no frame, or no frame with a visible target.

  Raises:
    ValueError: unknown mode or per, no thresholds, or shapes that differ.
  """
  if mode not in MODES:
    raise ValueError(f'mode must be one of {MODES}, got {mode!r}')
  if per not in PER:
    raise ValueError(f'per must be one of {PER}, got {per!r}')
  if not thresholds:
    raise ValueError('thresholds is empty')
  shape = jnp.shape(target_points)[:-1]
  for name, value, want in (
    ('query_points', query_points, (*shape[:2], 3)),
    ('target_points', target_points, (*shape, 2)),
    ('points', points, (*shape, 2)),
    ('target_occluded', target_occluded, shape),
    ('occluded', occluded, shape),
  ):
    if len(shape) != 3 or jnp.shape(value) != want:
      raise ValueError(f'{name} has shape {jnp.shape(value)}, want {want}')

  queries = jnp.round(jnp.asarray(query_points, jnp.float32)[..., :1])
  frames = jnp.arange(shape[2])
  counted = frames > queries if mode == 'first' else frames != queries
  counted &= losses.align(jnp.asarray(mask, bool), counted)
  visible = counted & ~jnp.asarray(target_occluded, bool)
  claimed = counted & ~jnp.asarray(occluded, bool)
  error = jnp.asarray(points, jnp.float32) - jnp.asarray(
    target_points, jnp.float32
  )
  square = jnp.sum(jnp.square(error), axis=-1)

  axes = (1, 2) if per == 'video' else 2

  def share(part, whole):
    part, whole = jnp.sum(part, axis=axes), jnp.sum(whole, axis=axes)
    return jnp.where(whole > 0, part / jnp.maximum(whole, 1), jnp.nan)

  occlusion = share(counted & (visible == claimed), counted)
  # A last axis for the thresholds.
  visible, claimed = visible[..., None], claimed[..., None]
  limits = jnp.square(jnp.array(thresholds, jnp.float32))
  right = visible & (square[..., None] < limits)
  # A false positive on a visible target stands in both terms of the whole.
  whole = visible.astype(jnp.int32) + (claimed & ~right)
  within = share(right, jnp.broadcast_to(visible, right.shape))
  jaccard = share(right & claimed, whole)
  scores = {'occlusion_accuracy': occlusion}
  for i, threshold in enumerate(thresholds):
    scores[f'pts_within_{threshold:g}'] = within[..., i]
    scores[f'jaccard_{threshold:g}'] = jaccard[..., i]
  scores['average_pts_within_thresh'] = jnp.mean(within, axis=-1)
  scores['average_jaccard'] = jnp.mean(jaccard, axis=-1)
  return scores


def predicted_occluded(occlusion_logits, uncertainty_logits=None):
  """Whether a tracker says that a point is hidden, TAPIR's rule.

  A point counts as visible only if it is probably visible *and* the position
  probably good: 1 - (1 - sigmoid(o)) (1 - sigmoid(u)) > 0.5 is occluded (arXiv
  2306.08637; TAP-Net has no second term).

  Args:
    occlusion_logits: [...], large where hidden.
    uncertainty_logits: [...], large where the position is off; None: ignored.

  Returns:
    bool[...].
  """
  visible = 1 - jax.nn.sigmoid(jnp.asarray(occlusion_logits, jnp.float32))
  if uncertainty_logits is not None:
    certain = 1 - jax.nn.sigmoid(jnp.asarray(uncertainty_logits, jnp.float32))
    visible = visible * certain
  return 1 - visible > 0.5
