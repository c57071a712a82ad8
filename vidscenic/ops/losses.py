"""Losses as (sum, weight) pairs.

Divide once, at the end, over everything: `total(sum) / max(total(weight), 1)`.
All arithmetic and both numbers are float32.

Weights:
  - `weight` broadcasts to the loss entries. It must have as many axes as they
    have (or none): a bare [B] mask would line up with the *last* axis, so it
    is refused; `align` appends the axes.
  - It carries no gradient.
  - Where it is 0 the entry contributes exactly 0 to the sum and to every
    gradient, even if the prediction, the target or the label there is NaN,
    infinite or out of range. Padded rows may hold anything.
  - The second number is the sum of the broadcast weight. A paper that masks
    entries but divides by all of them (TAPIR) takes the sum from here and the
    denominator from `count` with another weight.
"""

import jax
import jax.numpy as jnp


def align(mask, like):
  """Appends axes of size 1: [B] or [B, T] to as many axes as `like` has.

  Args:
    mask: an array whose axes are the leading axes of `like`.
    like: an array.

  Raises:
    ValueError: mask is not a leading part of `like`.
  """
  mask = jnp.asarray(mask)
  shape = jnp.shape(like)
  if mask.shape != shape[: mask.ndim]:
    raise ValueError(
      f'mask of shape {mask.shape} is no leading part of shape {shape}'
    )
  return mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim))


def count(weight, shape):
  """Sum of a weight after broadcasting it to `shape`.

  Args:
    weight: scalar, or an array of len(shape) axes.
    shape: of the loss entries.

  Returns:
    float32 scalar without gradient.

  Raises:
    ValueError: the weight has another number of axes or does not broadcast.
  """
  return jnp.sum(_weights(weight, shape))


def weighted_sum(values, *, weight=1.0):
  """Sum of loss or metric values that were computed elsewhere.

  Args:
    values: any shape. Where the weight is 0 they may be NaN, but the gradient
      through whatever made them NaN is the caller's.
    weight: see the module.

  Returns:
    (sum, weight), float32 scalars.
  """
  return _reduce(lambda v: v, (values,), weight)


def squared(error, *, weight=1.0):
  """Sum of error**2.

  Args:
    error: prediction - target, any shape. Cast bfloat16 to float32 *before*
      the subtraction.
    weight: see the module.

  Returns:
    (sum, weight), float32 scalars.
  """
  return _reduce(jnp.square, (error,), weight)


def l1(error, *, weight=1.0):
  """Sum of |error|; arguments and result as in `squared`."""
  return _reduce(jnp.abs, (error,), weight)


def smooth_l1(error, *, beta=1.0, weight=1.0):
  """Sum of the smooth L1 loss: 0.5 e^2 / beta below beta, |e| - beta / 2 above.

  Args:
    error: prediction - target, any shape.
    beta: where the parabola ends, > 0. Slope 1 beyond.
    weight: see the module.

  Returns:
    (sum, weight), float32 scalars.
  """

  def entries(e):
    size = jnp.abs(e)
    return jnp.where(size < beta, 0.5 * e * e / beta, size - 0.5 * beta)

  return _reduce(entries, (error,), weight)


def huber(error, *, delta=1.0, weight=1.0):
  """Sum of the Huber loss: 0.5 e^2 below delta, delta (|e| - delta / 2) above.

  Args:
    error: prediction - target, any shape; every entry on its own.
    delta: where the parabola ends, > 0. Slope delta beyond.
    weight: see the module.

  Returns:
    (sum, weight), float32 scalars.
  """

  def entries(e):
    size = jnp.abs(e)
    return jnp.where(size < delta, 0.5 * e * e, delta * (size - 0.5 * delta))

  return _reduce(entries, (error,), weight)


def huber_distance(error, *, delta, weight=1.0):
  """Sum of the Huber loss of a Euclidean distance.

  The position loss of TAPIR and TRAJAN with delta = 4 pixels of a 256 x 256
  frame: d = sqrt(|e|^2 + 1e-12); |e|^2 / 2 if d < delta, else
  delta (d - delta / 2).

  Args:
    error: [..., D], prediction - target in pixels; the norm is over D.
    delta: pixels.
    weight: broadcasts to [...].

  Returns:
    (sum, weight), float32 scalars.
  """

  def entries(e):
    square = jnp.sum(e * e, axis=-1)
    # The constant keeps the gradient of the root finite at distance 0.
    distance = jnp.sqrt(square + 1e-12)
    far = delta * (distance - 0.5 * delta)
    return jnp.where(distance < delta, 0.5 * square, far)

  return _reduce(entries, (error,), weight, vector=True)


def softmax_cross_entropy(logits, labels, *, label_smoothing=0.0, weight=1.0):
  """Sum of cross entropies with a softmax over the last axis.

  Args:
    logits: [..., C].
    labels: integers [...] in [0, C), or probabilities float[..., C]. An
      integer outside [0, C) gives NaN unless its weight is 0.
    label_smoothing: s in [0, 1]; the target becomes (1 - s) * target + s / C,
      with s / C on the true class too.
    weight: broadcasts to [...].

  Returns:
    (sum, weight), float32 scalars.

  Raises:
    ValueError: labels have neither of the two shapes, or s is outside [0, 1].
  """
  labels = jnp.asarray(labels)
  if not 0 <= label_smoothing <= 1:
    raise ValueError(
      f'label_smoothing must be in [0, 1], got {label_smoothing}'
    )
  is_index = jnp.issubdtype(labels.dtype, jnp.integer)
  if labels.shape != (logits.shape[:-1] if is_index else logits.shape):
    raise ValueError(
      f'labels {labels.dtype}{list(labels.shape)} do not fit logits '
      f'{list(logits.shape)}: expected integers {list(logits.shape[:-1])} or '
      'floats of the shape of the logits'
    )

  def entries(x, *soft):
    log_p = jax.nn.log_softmax(x, axis=-1)
    if is_index:
      loss = -_pick(log_p, safe_labels)
    else:
      # A class of probability 0 costs nothing even if its logit is -inf.
      needed = jnp.where(soft[0] == 0, 0.0, log_p)
      loss = -jnp.sum(soft[0] * needed, axis=-1)
    if label_smoothing == 0:
      return loss
    uniform = -jnp.mean(log_p, axis=-1)
    return (1 - label_smoothing) * loss + label_smoothing * uniform

  if is_index:
    valid = _weights(weight, labels.shape) != 0
    safe_labels = jnp.where(valid, labels, 0).astype(jnp.int32)
    return _reduce(entries, (logits,), weight, vector=True)
  return _reduce(entries, (logits, labels), weight, vector=True)


def _pick(log_p, labels):
  num_classes = log_p.shape[-1]
  inside = (labels >= 0) & (labels < num_classes)
  ids = jnp.where(inside, labels, 0)[..., None]
  picked = jnp.take_along_axis(log_p, ids, axis=-1)[..., 0]
  return jnp.where(inside, picked, jnp.nan)


def sigmoid_binary_cross_entropy(logits, labels, *, weight=1.0):
  """Sum of binary cross entropies, every entry on its own.

  Args:
    logits: any shape.
    labels: bool, or probabilities in [0, 1]; broadcast to the logits.
    weight: see the module; entries are those of the logits.

  Returns:
    (sum, weight), float32 scalars.
  """

  def entries(x, z):
    # Both terms through softplus: exact for large |x|, where
    # softplus(x) - x * z cancels.
    return z * jax.nn.softplus(-x) + (1 - z) * jax.nn.softplus(x)

  labels = jnp.broadcast_to(jnp.asarray(labels), logits.shape)
  return _reduce(entries, (logits, labels), weight)


def _reduce(entries, arrays, weight, *, vector=False):
  """Sums `entries(*arrays) * weight`; with `vector` entries drop an axis."""
  arrays = [jnp.asarray(a).astype(jnp.float32) for a in arrays]
  shape = arrays[0].shape[:-1] if vector else arrays[0].shape
  weight = _weights(weight, shape)
  valid = weight != 0
  inside = valid[..., None] if vector else valid
  # Both `where`s are needed. The first keeps NaN out of the derivative of
  # `entries`, since 0 * NaN is NaN; the second out of the sum, for a loss that
  # is not finite at 0.
  loss = entries(*(jnp.where(inside, a, 0.0) for a in arrays))
  return jnp.sum(jnp.where(valid, loss * weight, 0.0)), jnp.sum(weight)


def _weights(weight, shape):
  weight = jnp.asarray(weight)
  if weight.ndim not in (0, len(shape)):
    raise ValueError(
      f'weight of shape {weight.shape} for losses of shape {tuple(shape)}: '
      'give it as many axes (losses.align), or none'
    )
  weight = jax.lax.stop_gradient(weight.astype(jnp.float32))
  try:
    return jnp.broadcast_to(weight, shape)
  except ValueError as error:
    raise ValueError(
      f'weight of shape {weight.shape} does not broadcast to losses of shape '
      f'{tuple(shape)}'
    ) from error
