"""Augmentation inside the training step: colours, noise, mixing of rows.

Pure functions with explicit parameters, and wrappers that draw the parameters.
Video is float32 [B, T, H, W, 3], RGB in [0, 1] (`video.normalize` in mode
'unit'); images [B, H, W, 3] work the same. A parameter is a scalar or one
number per row [B], so it never changes within a clip. Wrappers take one key
per row, from `masking.row_keys`, and a row's result depends on nothing else.

The colour functions have TensorFlow's meaning, since the DMVR recipe that
TAPIR and its relatives use is written in them.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from vidscenic.ops import masking

# Rec. 601 luma in the four digits of tf.image.rgb_to_grayscale.
LUMA = (0.2989, 0.5870, 0.1140)


def rgb_to_hsv(rgb):
  """RGB -> hue, saturation, value, as in `colorsys`.

  Args:
    rgb: [..., 3]. Meant for [0, 1]; values outside are not clipped.

  Returns:
    [..., 3]: hue in [0, 1], 0 for greys; saturation (max - min) / max, 0 where
    max <= 0; value max.
  """
  r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
  value = jnp.maximum(jnp.maximum(r, g), b)
  chroma = value - jnp.minimum(jnp.minimum(r, g), b)
  saturation = jnp.where(value > 0, chroma / jnp.where(value > 0, value, 1), 0)
  safe = jnp.where(chroma > 0, chroma, 1)
  sector = jnp.where(
    value == r,
    (g - b) / safe,
    jnp.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe),
  )
  hue = jnp.where(chroma > 0, jnp.mod(sector / 6, 1.0), 0)
  return jnp.stack([hue, saturation, value], axis=-1)


def hsv_to_rgb(hsv):
  """Hue, saturation, value -> RGB; the inverse of `rgb_to_hsv`.

  Args:
    hsv: [..., 3]; any hue, taken modulo 1.

  Returns:
    [..., 3].
  """
  hue, saturation, value = hsv[..., 0:1], hsv[..., 1:2], hsv[..., 2:3]
  # Each channel is a trapezoid over the circle of hues, one third apart.
  offset = jnp.array([0.0, 2 / 3, 1 / 3], hsv.dtype)
  ramp = jnp.abs(jnp.mod(hue + offset, 1.0) * 6 - 3) - 1
  return value * (1 - saturation * (1 - jnp.clip(ramp, 0, 1)))


def adjust_brightness(video, delta):
  """Adds delta to all values. Does not clip."""
  return video + _per_row(delta, video)


def adjust_saturation(video, factor):
  """Multiplies the saturation by factor >= 0 and clips it to [0, 1]."""
  hue, saturation, value = jnp.split(rgb_to_hsv(video), 3, axis=-1)
  saturation = jnp.clip(saturation * _per_row(factor, video), 0, 1)
  return hsv_to_rgb(jnp.concatenate([hue, saturation, value], axis=-1))


def adjust_contrast(video, factor):
  """Scales the distance to the mean by factor. Does not clip.

  The mean is that of each channel of each *frame*, as in TensorFlow.
  """
  mean = jnp.mean(video, axis=(-3, -2), keepdims=True)
  return (video - mean) * _per_row(factor, video) + mean


def adjust_hue(video, delta):
  """Turns the hue by delta; 1 is a full circle."""
  hue, saturation, value = jnp.split(rgb_to_hsv(video), 3, axis=-1)
  hue = hue + _per_row(delta, video)
  return hsv_to_rgb(jnp.concatenate([hue, saturation, value], axis=-1))


def to_gray(video):
  """The luma in all three channels: [..., 3] -> [..., 3]."""
  gray = jnp.sum(video * jnp.array(LUMA, video.dtype), axis=-1, keepdims=True)
  return jnp.broadcast_to(gray, video.shape)


def _per_row(value, video):
  """Scalar or [B] -> what broadcasts against [B, ...]."""
  value = jnp.asarray(value)
  if value.dtype != bool:
    value = value.astype(video.dtype)
  if value.ndim == 0:
    return value
  if value.shape != video.shape[:1]:
    raise ValueError(
      f'a parameter must be a scalar or [{video.shape[0]}] for a batch of '
      f'shape {video.shape}, got shape {value.shape}'
    )
  return value.reshape(value.shape + (1,) * (video.ndim - 1))


def color_augment(
  keys,
  video,
  *,
  probability: float = 0.8,
  brightness: float = 32 / 255,
  saturation: Sequence[float] = (0.6, 1.4),
  contrast: Sequence[float] = (0.6, 1.4),
  hue: float = 0.2,
  gray_probability: float = 0.0,
):
  """DMVR's colour augmentation, the same for all frames of a clip.

  In this order: brightness, saturation, contrast, hue, clip to [0, 1]; then
  grey, drawn on its own. Nothing is clipped in between.

  Args:
    keys: keys[B].
    video: float [B, T, H, W, 3] or [B, H, W, 3] in [0, 1].
    probability: of the four together.
    brightness: largest shift; drawn uniformly in [-brightness, brightness].
    saturation: (lowest, highest) factor.
    contrast: (lowest, highest) factor.
    hue: largest turn of the circle; drawn uniformly in [-hue, hue].
    gray_probability: of grey; TAPIR's Kubric recipe has 0.2.

  Returns:
    float, the shape of video, in [0, 1]. Rows that draw neither keep their
    bits.

  Raises:
    TypeError: video is not floating point.
    ValueError: not one key per row.
  """
  _check_rows(keys, video)

  def draw(key):
    ks = jax.random.split(key, 6)
    return (
      jax.random.uniform(ks[0], minval=-brightness, maxval=brightness),
      jax.random.uniform(ks[1], minval=saturation[0], maxval=saturation[1]),
      jax.random.uniform(ks[2], minval=contrast[0], maxval=contrast[1]),
      jax.random.uniform(ks[3], minval=-hue, maxval=hue),
      jax.random.bernoulli(ks[4], probability),
      jax.random.bernoulli(ks[5], gray_probability),
    )

  shift, colorful, steep, turn, changed, gray = jax.vmap(draw)(keys)
  out = adjust_brightness(video, shift)
  out = adjust_saturation(out, colorful)
  out = adjust_contrast(out, steep)
  out = jnp.clip(adjust_hue(out, turn), 0, 1)
  out = jnp.where(_per_row(changed, video), out, video)
  return jnp.where(_per_row(gray, video), to_gray(out), out)


def gaussian_noise(keys, video, *, std):
  """Adds normal noise, new in every frame, pixel and channel; clips to [0, 1].

  Args:
    keys: keys[B].
    video: float [B, ...] in [0, 1].
    std: scalar or [B].

  Returns:
    float, the shape of video, in [0, 1].

  Raises:
    TypeError: video is not floating point.
    ValueError: not one key per row.
  """
  _check_rows(keys, video)
  noise = jax.vmap(lambda key: jax.random.normal(key, video.shape[1:]))(keys)
  noise = noise.astype(video.dtype) * _per_row(std, video)
  return jnp.clip(video + noise, 0, 1)


def mix(first, second, ratio):
  """ratio * first + (1 - ratio) * second, for inputs and for labels.

  Args:
    first: float [B, ...].
    second: the same shape.
    ratio: scalar or [B], in [0, 1].
  """
  ratio = _per_row(ratio, first)
  return ratio * first + (1 - ratio) * second


def cutmix_boxes(keys, *, size: Sequence[int], alpha: float = 1.0):
  """Draws the boxes of CutMix (arXiv 1905.04899).

  u ~ Beta(alpha, alpha); the box has sides of int(sqrt(1 - u) * (H, W)) pixels,
  rounded down to even, around a pixel drawn uniformly, and is cut off at the
  border. With alpha = 1 these are also the Perceiver's boxes.

  Args:
    keys: keys[...], one per box.
    size: (H, W) in pixels.
    alpha: > 0.

  Returns:
    (bool[..., H, W], True inside; float32[...], the part of the frame that is
    inside after the cut, which is the weight of the labels pasted there).

  Raises:
    ValueError: alpha <= 0.
  """
  _check_alpha(alpha)
  keys = masking.typed_key(keys)

  def draw(key):
    key_u, key_y, key_x = jax.random.split(key, 3)
    side = jnp.sqrt(1 - _beta(key_u, alpha))
    spans = []
    for axis_key, length in ((key_y, size[0]), (key_x, size[1])):
      half = jnp.floor(side * length).astype(jnp.int32) // 2
      center = jax.random.randint(axis_key, (), 0, length)
      place = jnp.arange(length)
      spans.append((place >= center - half) & (place < center + half))
    return spans[0][:, None] & spans[1][None, :]

  boxes = jax.vmap(draw)(keys.reshape(-1)).reshape(*keys.shape, *size)
  return boxes, jnp.mean(boxes.astype(jnp.float32), axis=(-2, -1))


def beta_ratios(keys, *, alpha: float):
  """Draws float32[...] from Beta(alpha, alpha), one number per key[...].

  Raises:
    ValueError: alpha <= 0.
  """
  _check_alpha(alpha)
  keys = masking.typed_key(keys)
  ratios = jax.vmap(lambda key: _beta(key, alpha))(keys.reshape(-1))
  return ratios.reshape(keys.shape)


def _beta(key, alpha):
  # Beta(1, 1) is flat; the general sampler, a loop, takes 2 s to compile.
  if alpha == 1:
    return jax.random.uniform(key)
  return jax.random.beta(key, alpha, alpha)


def _check_alpha(alpha):
  if alpha <= 0:
    raise ValueError(f'alpha must be positive, got {alpha}')


def _check_rows(keys, video):
  if not jnp.issubdtype(video.dtype, jnp.floating):
    raise TypeError(
      f'augmentation needs floating point in [0, 1], got {video.dtype}'
    )
  if keys.shape[0] != video.shape[0]:
    raise ValueError(f'{keys.shape[0]} keys for {video.shape[0]} rows')
