"""RVM frame by frame: state in, state out.

  state = streaming.init_state(model, batch=1, size=(256, 256))
  for frame in frames:                                # uint8[1, 256, 256, 3]
    features, state = streaming.step(model, params, state, frame)

  features, state = streaming.encode_video(model, params, video, chunk=16)

The state is one array, features and state are the same one, and neither time
nor memory depends on how many frames came before. A new video, or another size
of frames, wants a new state; that is the caller's to know.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from projects.rvm import model as model_lib
from vidscenic.ops import video as video_ops


def init_state(
  model: model_lib.RVM, *, batch: int, size: Sequence[int]
) -> jax.Array:
  """State before the first frame: zeros.

  Args:
    model: its width and patch count.
    batch: B, number of videos side by side.
    size: (H, W) of the frames in pixels.

  Returns:
    float32[B, N + 1, D].

  Raises:
    ValueError: a size that the patch does not divide.
  """
  height, width = grid(model, size)
  return jnp.zeros((batch, height * width + 1, model.width), jnp.float32)


def grid(model: model_lib.RVM, size: Sequence[int]) -> tuple[int, int]:
  """(h, w) patches of frames of (H, W) pixels.

  Raises:
    ValueError: a size that the patch does not divide.
  """
  if any(n < p or n % p for n, p in zip(size, model.patch, strict=True)):
    near = [
      max(p, round(n / p) * p) for n, p in zip(size, model.patch, strict=True)
    ]
    raise ValueError(
      f'size={tuple(size)}: both must be multiples of the patch '
      f'{tuple(model.patch)}; resize the frames, to {tuple(near)} for example'
    )
  return tuple(n // p for n, p in zip(size, model.patch, strict=True))


@functools.partial(jax.jit, static_argnames='model')
def step(
  model: model_lib.RVM, params: Any, state: jax.Array, frame: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Takes one frame of each video.

  Args:
    model: hashable, so that programs are kept.
    params: its parameters.
    state: float32[B, N + 1, D].
    frame: uint8[B, H, W, 3], or float in [0, 1].

  Returns:
    (features, state), the same float32[B, N + 1, D]; token 0 is the class
    token. See `feature_map`.

  Raises:
    ValueError: sizes that do not fit each other or the patch.
  """
  _check(model, state, frame, '[B, H, W, 3]')
  frame = video_ops.normalize(frame, 'unit')
  return model.apply({'params': params}, state, frame, method='step')


@functools.partial(jax.jit, static_argnames=('model', 'chunk'))
def encode_video(
  model: model_lib.RVM,
  params: Any,
  video: jax.Array,
  state: jax.Array | None = None,
  *,
  chunk: int = 0,
) -> tuple[jax.Array, jax.Array]:
  """Takes all frames: the encoder sees many at once, the core one by one.

  Args:
    model: see `step`.
    params: its parameters.
    video: uint8[B, T, H, W, 3], or float in [0, 1].
    state: to go on from; None: zeros.
    chunk: frames that the encoder takes at once. With it, memory beside video
      and features does not depend on T, if there is one video and T is a
      multiple; otherwise both are copied. 0: all.

  Returns:
    (features float32[B, T, N + 1, D], last state).

  Raises:
    ValueError: sizes that do not fit each other or the patch, or chunk < 0.
  """
  if chunk < 0:
    raise ValueError(f'chunk={chunk}: want 0 (all frames at once) or more')
  _check(model, state, video, '[B, T, H, W, 3]')
  batch, length, *size = video.shape[:4]
  if state is None:
    state = init_state(model, batch=batch, size=size)

  def encode(state, part):
    features, state = model.apply(
      {'params': params},
      video_ops.normalize(part, 'unit'),
      state,
      method='encode',
    )
    return state, features

  chunk = min(chunk or length, length)
  whole = length // chunk * chunk
  parts = video[:, :whole].reshape(batch, -1, chunk, *video.shape[2:])
  state, features = jax.lax.scan(encode, state, jnp.moveaxis(parts, 1, 0))
  features = jnp.moveaxis(features, 0, 1)
  features = features.reshape(batch, whole, *features.shape[3:])
  if whole < length:
    state, rest = encode(state, video[:, whole:])
    features = jnp.concatenate([features, rest], axis=1)
  return features, state


def feature_map(
  model: model_lib.RVM, features: jax.Array, size: Sequence[int]
) -> jax.Array:
  """Features of the patches on their grid, without the class token.

  Args:
    model: its patch counts.
    features: [..., N + 1, D].
    size: (H, W) of the frames.

  Returns:
    [..., h, w, D].
  """
  height, width = grid(model, size)
  patches = features[..., 1:, :]
  return patches.reshape(*patches.shape[:-2], height, width, -1)


def _check(model, state, frames, axes):
  if frames.ndim != axes.count(',') + 1 or not all(frames.shape):
    raise ValueError(f'frames {frames.shape}: want {axes}, none of them 0')
  batch, *size = frames.shape[0], *frames.shape[-3:-1]
  height, width = grid(model, size)
  want = (batch, height * width + 1, model.width)
  if state is not None and (state.shape != want or state.dtype != jnp.float32):
    raise ValueError(
      f'state {state.dtype}{state.shape} does not fit {batch} frames of '
      f'{size[0]}x{size[1]} pixels, a grid of {height}x{width} patches: want '
      f'float32{want}. A new video or size needs a new state, from init_state'
    )
