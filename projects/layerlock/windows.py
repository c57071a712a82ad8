"""Dense features of a whole video, window by window (4DS, arXiv 2412.15212).

Windows do not overlap; the last one is filled up with black frames. Features
are those in front of the last block, not those of the readouts, resized in time
to one map per frame.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from projects.layerlock import model as model_lib
from vidscenic.layers import position
from vidscenic.ops import video as video_ops


@functools.partial(jax.jit, static_argnames='model')
def encode_window(
  model: model_lib.SimpleMAE, params: Any, frames: jax.Array
) -> jax.Array:
  """Features of one window.

  Args:
    model: hashable, so that programs are kept.
    params: its parameters.
    frames: uint8[B, T, H, W, 3], or float in [0, 1].

  Returns:
    float32[B, t, h, w, D], the stream in front of the last block.
  """
  return model.apply(
    {'params': params},
    video_ops.normalize(frames, 'unit'),
    blocks=model.depth - 1,
    method='features',
  )


def per_frame(features: jax.Array, num_frames: int) -> jax.Array:
  """[B, t, h, w, D] -> [B, T, h, w, D] by a cubic resize in time."""
  return position.resize_axis(features, axis=1, size=num_frames)


def dense_features(
  model: model_lib.SimpleMAE,
  params: Any,
  windows: Iterable[np.ndarray],
  *,
  window: int = 16,
) -> Iterator[np.ndarray]:
  """Features of one map per frame.

  Args:
    model: see `encode_window`.
    params: its parameters.
    windows: uint8[T, H, W, 3] each, all but the last of `window` frames.
    window: frames that the model takes.

  Yields:
    float32[T, h, w, D] for each window.

  Raises:
    ValueError: a window that is too long or empty.
  """
  for frames in windows:
    count = len(frames)
    if not 0 < count <= window:
      raise ValueError(f'a window of {count} frames: want 1 to {window}')
    black = ((0, window - count), *[(0, 0)] * (frames.ndim - 1))
    padded = jnp.asarray(np.pad(frames, black))[None]
    features = per_frame(encode_window(model, params, padded), window)
    yield np.asarray(features[0, :count])
