"""Errors of depth maps, as (sum, count) pairs over pixels.

Depth is along the optical axis, in the unit of the data set. No scale or shift
is fitted to the prediction: the protocols that are reproduced here (ScanNet of
arXiv 2412.15212, MOVi and Waymo of 2411.05927) measure metric depth.
"""

import jax.numpy as jnp

from vidscenic.ops import losses

DELTA = 1.25


def errors(prediction, target, *, mask=1.0):
  """The usual figures of monocular depth (Eigen et al., arXiv 1406.2283).

    abs_rel: mean of |p - t| / t.
    mse: mean of (p - t)**2; its root is the RMSE.
    delta1, delta2, delta3: share of pixels with max(p / t, t / p) below 1.25,
      1.25**2, 1.25**3.

  Args:
    prediction: any shape. Not above 0 or NaN: no delta holds; a NaN makes
      abs_rel and mse NaN.
    target: the same shape; pixels that are not above 0 or not finite are
      unknown and count nothing.
    mask: for the leading axes, such as [B], or for all pixels (`depth_mask`);
      combine the two by multiplication (`losses.align`).

  Returns:
    {name: (sum, number of known pixels)}.

  Raises:
    ValueError: the shapes differ.
  """
  prediction = jnp.asarray(prediction, jnp.float32)
  target = jnp.asarray(target, jnp.float32)
  if prediction.shape != target.shape:
    raise ValueError(
      f'prediction {prediction.shape} and target {target.shape} differ in shape'
    )
  known = (target > 0) & jnp.isfinite(target)
  target = jnp.where(known, target, 1.0)
  weight = known * losses.align(mask, known)
  error = prediction - target
  positive = jnp.where(prediction > 0, prediction, jnp.nan)
  ratio = jnp.maximum(positive / target, target / positive)
  sums = {'abs_rel': jnp.abs(error) / target, 'mse': jnp.square(error)}
  for power in (1, 2, 3):
    sums[f'delta{power}'] = ratio < DELTA**power
  return {k: losses.weighted_sum(v, weight=weight) for k, v in sums.items()}
