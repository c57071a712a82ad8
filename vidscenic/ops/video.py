"""Video tensors: value ranges, patches, resizing and picking frames.

Axes are [..., T, H, W, C] everywhere, with RGB channels and any number of
leading batch axes; one batch axis is the usual case. The order inside a patch
(time, row, column, channel; channel fastest) is that of VideoMAE, MAE-ST, 4DS,
RVM and the Perceiver's `patches` preprocessor.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# torchvision's and the Perceiver's constants, for values in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

RANGES = ('signed', 'unit', 'imagenet')


def normalize(video, mode='signed', dtype=jnp.float32):
  """Turns stored pixels into network inputs.

  Args:
    video: [..., C]; uint8 in [0, 255], or floating point that is in [0, 1]
      already, which is what `ops.augment` returns.
    mode: 'signed' gives [-1, 1]; 'unit' gives [0, 1]; 'imagenet' subtracts
      IMAGENET_MEAN and divides by IMAGENET_STD (C must be 3).
    dtype: of the result; the arithmetic is float32.

  Returns:
    dtype [..., C].

  Raises:
    TypeError: video is neither uint8 nor floating point.
    ValueError: unknown mode, or 'imagenet' with C != 3.
  """
  _check_mode(mode, video.shape)
  if video.dtype == jnp.uint8:
    unit = video.astype(jnp.float32) / 255
  elif jnp.issubdtype(video.dtype, jnp.floating):
    unit = video.astype(jnp.float32)
  else:
    raise TypeError(f'video must be uint8 or floating point, got {video.dtype}')
  if mode == 'signed':
    unit = unit * 2 - 1
  elif mode == 'imagenet':
    unit = (unit - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD)
  return unit.astype(dtype)


def denormalize(video, mode='signed'):
  """Turns network values back into pixels; the inverse of `normalize`.

  Args:
    video: floating point [..., C] in the range of `mode`; values outside are
      clipped.
    mode: as in `normalize`.

  Returns:
    uint8 [..., C], rounded to nearest.

  Raises:
    ValueError: unknown mode, or 'imagenet' with C != 3.
  """
  _check_mode(mode, video.shape)
  unit = video.astype(jnp.float32)
  if mode == 'signed':
    unit = (unit + 1) / 2
  elif mode == 'imagenet':
    unit = unit * jnp.array(IMAGENET_STD) + jnp.array(IMAGENET_MEAN)
  return jnp.round(jnp.clip(unit, 0, 1) * 255).astype(jnp.uint8)


def _check_mode(mode, shape):
  if mode not in RANGES:
    raise ValueError(f'mode must be one of {RANGES}, got {mode!r}')
  if mode == 'imagenet' and shape[-1:] != (3,):
    raise ValueError(
      f"mode 'imagenet' needs 3 channels last, got shape {shape}"
    )


def patchify(video, patch: Sequence[int]):
  """Cuts a video into patches that do not overlap.

  Args:
    video: [..., T, H, W, C].
    patch: (pt, ph, pw), size of a patch in frames, rows and columns.

  Returns:
    [..., T/pt, H/ph, W/pw, pt*ph*pw*C]; a patch vector is ordered (time, row,
    column, channel), channel fastest.

  Raises:
    ValueError: fewer than four axes, or a size that its patch size does not
      divide.
  """
  pt, ph, pw = _check_patch(patch)
  if video.ndim < 4:
    raise ValueError(f'video must be [..., T, H, W, C], got {video.shape}')
  *lead, t, h, w, c = video.shape
  if t % pt or h % ph or w % pw:
    raise ValueError(
      f'video of (T, H, W) = {(t, h, w)} cannot be cut into patches of '
      f'{(pt, ph, pw)}: every size must be a multiple'
    )
  grid = (t // pt, h // ph, w // pw)
  x = video.reshape(*lead, grid[0], pt, grid[1], ph, grid[2], pw, c)
  n = len(lead)
  order = [n + axis for axis in (0, 2, 4, 1, 3, 5, 6)]
  x = x.transpose(*range(n), *order)
  return x.reshape(*lead, *grid, pt * ph * pw * c)


def unpatchify(patches, patch: Sequence[int]):
  """Puts patches together again; the exact inverse of `patchify`.

  Args:
    patches: [..., t, h, w, pt*ph*pw*C]; C follows from the last axis.
    patch: (pt, ph, pw), size of a patch in frames, rows and columns.

  Returns:
    [..., t*pt, h*ph, w*pw, C].

  Raises:
    ValueError: fewer than four axes, or a last axis that pt*ph*pw does not
      divide.
  """
  pt, ph, pw = _check_patch(patch)
  if patches.ndim < 4:
    raise ValueError(f'patches must be [..., t, h, w, D], got {patches.shape}')
  *lead, t, h, w, size = patches.shape
  if size % (pt * ph * pw):
    raise ValueError(
      f'patch vectors of {size} values do not hold whole pixels of a '
      f'{(pt, ph, pw)} patch ({pt * ph * pw} pixels)'
    )
  c = size // (pt * ph * pw)
  x = patches.reshape(*lead, t, h, w, pt, ph, pw, c)
  n = len(lead)
  order = [n + axis for axis in (0, 3, 1, 4, 2, 5, 6)]
  x = x.transpose(*range(n), *order)
  return x.reshape(*lead, t * pt, h * ph, w * pw, c)


def _check_patch(patch):
  sizes = tuple(patch)
  if len(sizes) != 3 or any(s < 1 for s in sizes):
    raise ValueError(f'patch must be three sizes (pt, ph, pw), got {patch}')
  return sizes


def normalize_patches(patches, mode: str, *, num_channels: int = 3):
  """Normalises every patch by its own statistics, for use as a target.

  The variance is the unbiased one. The two modes differ in what they average
  over and in where the epsilon stands, as the released code does.

  Args:
    patches: [..., P*C], channel fastest, as from `patchify`; P > 1.
    mode: 'patch_channel' (VideoMAE, arXiv 2203.12602), per channel over the P
      pixels: (x - mean) / (sqrt(var) + 1e-6); 'patch' (MAE-ST, arXiv
      2205.09113), over all P*C values: (x - mean) / sqrt(var + 1e-6); 'none'.
    num_channels: C.

  Returns:
    float32 [..., P*C], without gradient.

  Raises:
    ValueError: unknown mode, or a last axis that C does not divide.
  """
  x = jax.lax.stop_gradient(patches).astype(jnp.float32)
  if mode == 'none':
    return x
  if mode == 'patch':
    mean = x.mean(axis=-1, keepdims=True)
    var = x.var(axis=-1, ddof=1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-6)
  if mode == 'patch_channel':
    if x.shape[-1] % num_channels:
      raise ValueError(
        f'patch vectors of {x.shape[-1]} values do not hold whole pixels of '
        f'{num_channels} channels'
      )
    pixels = x.reshape(*x.shape[:-1], -1, num_channels)
    mean = pixels.mean(axis=-2, keepdims=True)
    std = pixels.std(axis=-2, ddof=1, keepdims=True)
    return ((pixels - mean) / (std + 1e-6)).reshape(x.shape)
  raise ValueError(
    f"mode must be 'none', 'patch' or 'patch_channel', got {mode!r}"
  )


def resize(video, *, size: Sequence[int], method: str, antialias: bool):
  """Resizes every frame with half-pixel centres, as `jax.image.resize` does.

  Measured equivalences on noise: bilinear with antialias
  is TensorFlow's antialias and PIL's BILINEAR; bilinear without is
  TensorFlow's default and OpenCV's INTER_LINEAR; bicubic without is
  TensorFlow's bicubic, not OpenCV's.

  Args:
    video: [..., H, W, C].
    size: (H', W') in pixels.
    method: 'nearest', 'bilinear' ('linear'), 'bicubic' ('cubic'), 'lanczos3'
      or 'lanczos5'. Bicubic and Lanczos may leave the input's range; nothing
      is clipped.
    antialias: widens the kernel when shrinking. No effect on 'nearest'.

  Returns:
    [..., H', W', C]. 'nearest' keeps the dtype, and so do floating point
    inputs; other integers become float32. The arithmetic is float32.

  Raises:
    ValueError: fewer than three axes, a size that is not two positive numbers,
      or an unknown method.
  """
  if video.ndim < 3:
    raise ValueError(f'video must be [..., H, W, C], got {video.shape}')
  if len(size) != 2 or any(s < 1 for s in size):
    raise ValueError(f'size must be (height, width), got {size}')
  shape = (*video.shape[:-3], *size, video.shape[-1])
  if method == 'nearest':
    return jax.image.resize(video, shape, method)
  is_float = jnp.issubdtype(video.dtype, jnp.floating)
  out = jax.image.resize(
    video.astype(jnp.float32), shape, method, antialias=antialias
  )
  return out.astype(video.dtype) if is_float else out


def merge_time(video):
  """Moves time into the batch: [B, T, ...] -> [B*T, ...], frames of a clip
  staying together; undone by `split_time`."""
  return video.reshape(-1, *video.shape[2:])


def split_time(frames, num_frames: int):
  """Moves time out of the batch: [B*T, ...] -> [B, T, ...].

  Args:
    frames: [B*T, ...].
    num_frames: T.

  Raises:
    ValueError: T does not divide the first axis.
  """
  if frames.shape[0] % num_frames:
    raise ValueError(
      f'{frames.shape[0]} frames are not whole clips of {num_frames}'
    )
  return frames.reshape(-1, num_frames, *frames.shape[1:])


def take_frames(video, frame_ids):
  """Picks frames, different ones in every clip.

  Args:
    video: [B, T, ...].
    frame_ids: int32[B, K] in [0, T), or int32[K] for the same frames in all
      clips; repeats and any order are allowed.

  Returns:
    [B, K, ...].

  Raises:
    ValueError: frame_ids is neither [K] nor [B, K].
  """
  frame_ids = jnp.asarray(frame_ids)
  if frame_ids.ndim == 1:
    return jnp.take(video, frame_ids, axis=1)
  if frame_ids.ndim != 2 or frame_ids.shape[0] != video.shape[0]:
    raise ValueError(
      f'frame_ids must be [K] or [{video.shape[0]}, K] for a video of shape '
      f'{video.shape}, got {frame_ids.shape}'
    )
  return jax.vmap(lambda clip, ids: jnp.take(clip, ids, axis=0))(
    video, frame_ids
  )


def strided_frame_ids(num_frames: int, stride: int, offset: int = 0):
  """Every stride-th frame: numpy int32, offset, offset + stride, ... < T."""
  return np.arange(offset, num_frames, stride, dtype=np.int32)


def spread_frame_ids(num_frames: int, count: int):
  """Frames spread from the first to the last, rounded down.

  The target frames of the mae_st repository: for 16 frames and a count of 8
  they are 0, 2, 4, 6, 8, 10, 12, 15, the last one not in step with the others.

  Args:
    num_frames: T.
    count: number of frames to pick, at least 1.

  Returns:
    numpy int32[count], ascending in [0, T).
  """
  return np.linspace(0, num_frames - 1, count).astype(np.int32)
