"""Metrics as (sum, count) pairs that add up over batches and processes.

Every function returns two float32 scalars; the metric is sum / count over the
whole data set. `mask` works like `weight` in `ops.losses`: as many axes as the
entries or none, and nothing that stands where it is 0 can reach the sum.
"""

import jax.numpy as jnp

from vidscenic.ops import losses


def mean_of_known(values, *, mask=1.0):
  """Mean of scores that exist: NaN says that there was nothing to score.

  For scores of a video (`ops.tracking`, `ops.boxes`) that are averaged over
  the videos of a data set.

  Args:
    values: any shape; NaN entries are left out.
    mask: for the leading axes, such as [B], or for all.

  Returns:
    (sum, count) over the other entries.
  """
  known = ~jnp.isnan(jnp.asarray(values))
  return _pair(values, known * losses.align(mask, known))


def topk_accuracy(logits, labels, *, k: int = 1, mask=1.0):
  """Fraction of examples whose label is among the k largest logits.

  Args:
    logits: [..., C]. Ties go to the lower class number, as in
      `jax.lax.top_k`; an example with a NaN logit counts as wrong.
    labels: integers [...], or one-hot / mixed probabilities float[..., C], of
      which the largest entry is the label.
    k: at least 1.
    mask: broadcasts to [...].

  Returns:
    (weighted number of hits, sum of weights).

  Raises:
    ValueError: labels have neither of the two shapes, or k < 1.
  """
  labels = jnp.asarray(labels)
  if k < 1:
    raise ValueError(f'k must be at least 1, got {k}')
  if labels.shape == logits.shape and not jnp.issubdtype(
    labels.dtype, jnp.integer
  ):
    labels = jnp.argmax(labels, axis=-1)
  if labels.shape != logits.shape[:-1]:
    raise ValueError(
      f'labels {labels.dtype}{list(labels.shape)} do not fit logits '
      f'{list(logits.shape)}'
    )
  num_classes = logits.shape[-1]
  labels = labels.astype(jnp.int32)
  inside = (labels >= 0) & (labels < num_classes)
  ids = jnp.where(inside, labels, 0)[..., None]
  own = jnp.take_along_axis(logits, ids, axis=-1)
  # Counting the classes in front is cheaper than a sort and exact about ties.
  ahead = (logits > own) | ((logits == own) & (jnp.arange(num_classes) < ids))
  rank = jnp.sum(ahead, axis=-1)
  known = inside & ~jnp.any(jnp.isnan(logits), axis=-1)
  return _pair((rank < k) & known, mask)


def mean_squared_error(prediction, target, *, mask=1.0):
  """Mean of (prediction - target)**2 over all entries.

  Args:
    prediction: any shape.
    target: the same shape.
    mask: broadcasts to it.

  Returns:
    (sum, count) over entries.
  """
  return losses.squared(_difference(prediction, target), weight=mask)


def mean_absolute_error(prediction, target, *, mask=1.0):
  """Mean of |prediction - target| over all entries, as above."""
  return losses.l1(_difference(prediction, target), weight=mask)


def psnr(prediction, target, *, value_range: float = 1.0, mask=None):
  """Peak signal-to-noise ratio in dB: of every clip, then averaged over clips.

  10 log10(value_range**2 / mse), the mse over all frames, pixels and channels
  of one clip. This is neither the PSNR of the mean mse (which is lower, by
  Jensen) nor the mean over frames: reshape [B, T, ...] to [B*T, ...] for that.

  Args:
    prediction: [B, ...].
    target: the same shape.
    value_range: largest minus smallest possible value; 1 for [0, 1], 2 for
      [-1, 1], 255 for pixels.
    mask: bool or weight [B], None for all.

  Returns:
    (sum of dB, number of clips). A perfect clip counts as 100 dB.

  Raises:
    ValueError: the shapes differ.
  """
  error = _difference(prediction, target)
  mask = jnp.ones(error.shape[:1]) if mask is None else jnp.asarray(mask)
  error = jnp.where(losses.align(mask, error) != 0, error, 0.0)
  mse = jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))
  relative = jnp.maximum(mse / value_range**2, 1e-10)
  return _pair(-10 * jnp.log10(relative), mask)


def end_point_error(flow, target, *, mask=1.0):
  """Mean Euclidean distance of two flow fields, in the unit of the fields.

  Args:
    flow: [..., 2], (dx, dy) in pixels.
    target: the same shape.
    mask: `flow_mask` [...], True where the target is known; combine with the
      row mask by multiplication (`losses.align`).

  Returns:
    (sum of distances, number of vectors).

  Raises:
    ValueError: the shapes differ.
  """
  error = _difference(flow, target)
  return _pair(jnp.sqrt(jnp.sum(jnp.square(error), axis=-1)), mask)


def flow_outliers(
  flow, target, *, mask=1.0, pixels: float = 3.0, relative: float = 0.05
):
  """Share of flow vectors that are wrong, Fl-all of KITTI 2015.

  Wrong: the distance is above `pixels` and above `relative` times the length
  of the target.

  Args:
    flow: [..., 2], (dx, dy) in pixels.
    target: the same shape.
    mask: as in `end_point_error`.
    pixels: 3 in KITTI. With relative=0: the share above so many pixels.
    relative: 0.05 in KITTI.

  Returns:
    (number of wrong vectors, number of vectors).

  Raises:
    ValueError: the shapes differ.
  """
  error = jnp.linalg.norm(_difference(flow, target), axis=-1)
  length = jnp.linalg.norm(jnp.asarray(target, jnp.float32), axis=-1)
  # A NaN prediction is wrong; written so that NaN > pixels does not acquit it.
  right = (error <= pixels) | (error <= relative * length)
  return _pair(~right, mask)


def _difference(prediction, target):
  prediction, target = jnp.asarray(prediction), jnp.asarray(target)
  if prediction.shape != target.shape:
    raise ValueError(
      f'prediction {prediction.shape} and target {target.shape} differ in shape'
    )
  # First float32, then the difference: uint8 would wrap around, bfloat16 round.
  return prediction.astype(jnp.float32) - target.astype(jnp.float32)


def _pair(entries, mask):
  return losses.weighted_sum(entries, weight=mask)
