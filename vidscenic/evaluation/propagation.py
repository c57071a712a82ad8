"""Labels of the first frame, carried through a video by frozen features.

The training-free protocol of semi-supervised segmentation and pose tracking
(space-time correspondence, arXiv 2006.14613; DINO, 2104.14294; as run for RVM,
2512.13684): every cell of a frame takes the mean label of the cells most like
it in the first frame and in the last few frames. Any backbone takes part that
gives one feature map per frame.

With patches of 16 pixels features are taken at 480 x 880 pixels for DAVIS-2017,
448 x 880 for VIP and 320 x 320 for JHMDB.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidscenic.data import resize
from vidscenic.evaluation import soft_labels

# uint8[T, H, W, 3] -> T feature maps [h, w, D], one after the other or as one
# array.
FeatureFn = Callable[[np.ndarray], Iterable[np.ndarray]]


class Settings(NamedTuple):
  """Constants of the protocol.

  Attributes:
    context: number of recent frames looked at, besides the first frame.
    radius: cells of recent frames count if nearer than this, in cells; the
      first frame is searched as a whole. math.inf: no limit.
    top_k: most similar cells, over all these frames together, that vote.
    temperature: of the softmax over their cosine similarities.
  """

  context: int = 20
  radius: float = 20.0
  top_k: int = 7
  temperature: float = 0.7


# DAVIS-2017 and JHMDB; VIP takes top_k=10.
PUBLISHED = Settings()


def segment(
  video: np.ndarray,
  mask: np.ndarray,
  features: FeatureFn,
  *,
  size: Sequence[int],
  settings: Settings = PUBLISHED,
) -> Iterator[np.ndarray]:
  """Carries a mask of object or class numbers through a video.

  Args:
    video: uint8[T, H0, W0, 3].
    mask: uint8[H0, W0], numbers in the first frame, any.
    features: of the frames, resized (Lanczos) to `size`.
    size: (H, W) at which the features are taken, see the module.
    settings: constants.

  Yields:
    uint8[H0, W0] for every frame, the first included.

  Raises:
    ValueError: mask and video differ in size, the features are not one map per
      frame, or what `propagate` raises.
  """
  original = video.shape[1:3]
  if mask.shape != original:
    raise ValueError(f'mask {mask.shape} and video {video.shape} do not fit')
  maps = _maps(video, features, size)
  first = next(maps)
  soft, numbers = soft_labels.from_mask(mask, size=size, grid=first.shape[:2])
  maps = itertools.chain([first], maps)
  for labels in propagate(maps, soft, settings=settings):
    yield soft_labels.to_mask(labels, numbers, size=size, original=original)


def follow(
  video: np.ndarray,
  keypoints: np.ndarray,
  features: FeatureFn,
  *,
  size: Sequence[int],
  settings: Settings = PUBLISHED,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Carries keypoints through a video.

  Args:
    video: uint8[T, H0, W0, 3].
    keypoints: [J, 2], (x, y) in pixels of the first frame.
    features: of the frames, resized (Lanczos) to `size`.
    size: (H, W) at which the features are taken.
    settings: constants.

  Yields:
    (float32[J, 2] in pixels, bool[J] whether a joint is found) for every frame.

  Raises:
    ValueError: the features are not one map per frame, or what `propagate`
      raises.
  """
  original = video.shape[1:3]
  maps = _maps(video, features, size)
  first = next(maps)
  soft = soft_labels.from_keypoints(
    keypoints, original=original, grid=first.shape[:2]
  )
  maps = itertools.chain([first], maps)
  for labels in propagate(maps, soft, settings=settings):
    yield soft_labels.to_keypoints(labels, original=original)


def _maps(video, features, size):
  """Feature maps of the resized frames, one per frame."""
  count = 0
  video = resize.resize_frames(video, size, method='lanczos')
  for each in features(video):
    yield np.asarray(each)
    count += 1
  if count != len(video):
    raise ValueError(f'features gave {count} maps for {len(video)} frames')


def propagate(
  features: Iterable[np.ndarray],
  labels: np.ndarray,
  *,
  settings: Settings = PUBLISHED,
) -> Iterator[np.ndarray]:
  """Carries soft labels from one feature map to the next.

  Args:
    features: [h, w, D] of every frame; normalised here.
    labels: float[h, w, n] of the first frame.
    settings: constants.

  Yields:
    float32[h, w, n] for every frame, the first included, which gets its labels
    back.

  Raises:
    ValueError: settings out of range, or feature maps that do not fit.
  """
  carry = Propagator(labels, settings=settings)
  for each in features:
    yield carry(each)


class Propagator:
  """`propagate` for feature maps that arrive one by one.

  Memory holds `settings.context` + 1 feature maps, however long the video.

  Args:
    labels: float[h, w, n] of the first frame.
    settings: constants.

  Raises:
    ValueError: settings out of range.
  """

  def __init__(self, labels: np.ndarray, *, settings: Settings = PUBLISHED):
    _check(settings)
    self._labels = jnp.asarray(labels, jnp.float32)
    self._settings = settings
    self._queue = None

  def __call__(self, features: np.ndarray) -> np.ndarray:
    """Feature map of the next frame [h, w, D] -> its labels float32[h, w, n].

    Raises:
      ValueError: it does not fit the labels.
    """
    features = jnp.asarray(features, jnp.float32)
    if features.ndim != 3 or features.shape[:2] != self._labels.shape[:2]:
      raise ValueError(
        f'features {features.shape} do not fit labels {self._labels.shape}: '
        'want [h, w, D] and [h, w, n]'
      )
    context, radius, top_k, temperature = self._settings
    if self._queue is None:
      self._queue = _first_queue(features, self._labels, context=context)
    self._queue, prediction = _step(
      self._queue, features, radius, temperature, top_k=top_k
    )
    return np.asarray(prediction)


def _check(settings):
  for name in ('context', 'top_k'):
    if getattr(settings, name) < 1:
      raise ValueError(f'{name}={getattr(settings, name)}: want 1 or more')
  for name in ('radius', 'temperature'):
    if not getattr(settings, name) > 0:
      raise ValueError(f'{name}={getattr(settings, name)}: want more than 0')
  if settings.top_k > settings.context + 1:
    raise ValueError(
      f'top_k={settings.top_k} above context + 1 = {settings.context + 1}: '
      'the first frame, of which there are so many copies at the start, would '
      'not keep its labels'
    )


@functools.partial(jax.jit, static_argnames='context')
def _first_queue(features, labels, *, context):
  """The first frame, then `context` copies of it: ([1+C, h w, D], [.., n])."""
  repeat = lambda x: jnp.tile(
    x.reshape(1, -1, x.shape[-1]), (context + 1, 1, 1)
  )
  return repeat(_unit(features)), repeat(labels)


@functools.partial(jax.jit, static_argnames='top_k', donate_argnums=0)
def _step(queue, features, radius, temperature, *, top_k):
  """One frame: (queue, features) -> (new queue, labels [h, w, n])."""
  height, width, _ = features.shape
  features = _unit(features)
  keys, values = queue
  num_cells = height * width
  cells = jnp.arange(num_cells)
  key_y, key_x = cells // width, cells % width

  def row(y):
    """Labels of one row of cells: the similarities of all would fill memory."""
    similar = jnp.einsum('qd,fkd->qfk', features[y], keys, precision='highest')
    x = jnp.arange(width)[:, None]
    far = (y - key_y) ** 2 + (x - key_x) ** 2 >= radius**2
    recent = jnp.arange(len(keys))[:, None] > 0
    similar = similar / temperature - 1e10 * (far[:, None] & recent)
    best, ids = jax.lax.top_k(similar.reshape(width, -1), top_k)
    votes = values.reshape(-1, values.shape[-1])[ids]
    return jnp.einsum(
      'qk,qkn->qn', jax.nn.softmax(best), votes, precision='highest'
    )

  labels = jax.lax.map(row, jnp.arange(height))
  push = lambda old, new: jnp.concatenate(
    [old[:1], old[2:], new.reshape(1, num_cells, -1)]
  )
  return (push(keys, features), push(values, labels)), labels


def _unit(features):
  norm = jnp.linalg.norm(features, axis=-1, keepdims=True)
  return features / jnp.maximum(norm, 1e-12)
