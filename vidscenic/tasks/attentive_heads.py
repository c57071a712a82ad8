"""Heads for `readout.Readout` that attend once: labels, dense depth, camera.

The readouts of 4DS (arXiv 2412.15212), `heads.AttentiveReadout`: one query for
a label or a pose, one per block of pixels for depth. Its layers are published,
its losses are not: those here are this code base's own ("project recipe").
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from vidscenic.layers import heads
from vidscenic.ops import depth as depth_ops
from vidscenic.ops import losses, metrics, poses
from vidscenic.ops import video as video_ops
from vidscenic.tasks import readout

SCALES = ('log', 'raw')


class _Attentive(readout.Head):
  """An `AttentiveReadout` over all tokens of all frames.

  Parameters: readout/...
  """

  def __init__(
    self, clip, num_outputs, num_queries, width, num_heads, **layers
  ):
    self.clip = tuple(clip)
    if width % num_heads:
      raise ValueError(
        f'width={width} is not divisible by num_heads={num_heads}'
      )
    self.layers = heads.AttentiveReadout(
      num_outputs=num_outputs,
      num_queries=num_queries,
      width=width,
      num_heads=num_heads,
      **layers,
    )

  def init(self, rng, features):
    return {'readout': self.layers.init(rng, features.tokens)['params']}

  def read(self, params, features):
    """What the queries say: [B, Q, num_outputs], [B, num_outputs] for one."""
    said = self.layers.apply({'params': params['readout']}, features.tokens)
    return said.astype(jnp.float32)


class Classes(_Attentive):
  """One label per clip, by cross-entropy.

  Batch: label int32[B]. Figures: top1, and top5 with more than five classes.

  Args:
    clip: (T, H, W) of a training clip.
    num_classes: C.
    width: of the readout.
    num_heads: of its attention.
    label: field of the batch.
  """

  def __init__(
    self,
    *,
    clip: Sequence[int],
    num_classes: int,
    width: int = 768,
    num_heads: int = 12,
    label: str = 'label',
  ):
    super().__init__(clip, num_classes, 1, width, num_heads)
    self.num_classes, self.label = num_classes, label

  def fields(self):
    return {self.label: jax.ShapeDtypeStruct((), jnp.int32)}

  def check(self, batch):
    labels = batch[self.label]
    wrong = labels[(labels < 0) | (labels >= self.num_classes)]
    if wrong.size:
      raise ValueError(
        f'{self.label} {wrong[0]} of the data is outside [0, '
        f"{self.num_classes}): set the head's num_classes, or mend the labels"
      )

  def loss(self, params, features, batch, ctx):
    logits = self.read(params, features)
    labels, mask = batch[self.label], batch['mask']
    pair = losses.softmax_cross_entropy(logits, labels, weight=mask)
    figures = {
      f'top{k}': metrics.topk_accuracy(logits, labels, k=k, mask=mask)
      for k in (1, 5)
      if k < self.num_classes
    }
    return {'cross_entropy': (*pair, 1.0)}, figures

  def predict(self, params, features, batch, state=None):
    """Returns logits and probabilities [B, C]."""
    del batch, state
    logits = self.read(params, features)
    return {'logits': logits, 'probabilities': jax.nn.softmax(logits)}, None


class DenseDepth(_Attentive):
  """Depth along the optical axis, by one query per block of pixels.

  Batch: depth float32[B, T, H, W, 1], depth_mask bool of that shape. Figures:
  abs_rel, delta1, and abs_rel_mean of a control that says the clip's mean
  logarithmic depth everywhere.

  Args:
    clip: (T, H, W) of a clip, whose pixels the queries stand for.
    limits: nearest and farthest depth, in the unit of the data.
    scale: 'log': outputs are the logarithm of depth, 0 at the nearest and 1 at
      the farthest, and the loss is their squared error; 'raw': outputs are
      depth as they are, with the squared error. The published readout ends
      without anything behind its linear layer; in which unit is not known.
    decode_patch: (frames, rows, columns) of a query.
    width: of the readout.
    num_heads: of its attention.
    query_chunk: queries at a time. All 6272 of the published readout at once
      need 1.3 GB of weights per clip.
  """

  def __init__(
    self,
    *,
    clip: Sequence[int],
    limits: Sequence[float] = (0.1, 10.0),
    scale: str = 'log',
    decode_patch: Sequence[int] = (2, 8, 8),
    width: int = 1024,
    num_heads: int = 16,
    query_chunk: int = 784,
  ):
    if len(limits) != 2 or not 0 < limits[0] < limits[1]:
      raise ValueError(f'limits={limits}: want 0 < nearest < farthest')
    if scale not in SCALES:
      raise ValueError(f'scale={scale!r}: want one of {SCALES}')
    if any(n % p for n, p in zip(clip, decode_patch, strict=True)):
      raise ValueError(
        f'decode_patch={tuple(decode_patch)} does not divide clip={tuple(clip)}'
      )
    self.decode_patch = tuple(decode_patch)
    self.sizes = [n // p for n, p in zip(clip, decode_patch, strict=True)]
    self.scale = scale
    self.low, self.high = (math.log(x) for x in limits)
    super().__init__(
      clip,
      math.prod(decode_patch),
      math.prod(self.sizes),
      width,
      num_heads,
      query_chunk=query_chunk,
    )

  def fields(self):
    shape = (*self.clip, 1)
    return {
      'depth': jax.ShapeDtypeStruct(shape, jnp.float32),
      'depth_mask': jax.ShapeDtypeStruct(shape, jnp.bool_),
    }

  def loss(self, params, features, batch, ctx):
    said = self._maps(params, features)
    truth = batch['depth']
    known = (truth > 0) & jnp.isfinite(truth) & batch['depth_mask']
    known &= losses.align(batch['mask'], known)
    log = jnp.log(jnp.where(known, truth, 1.0))
    log = jnp.clip(log, self.low, self.high)
    wanted = (log - self.low) / (self.high - self.low)
    if self.scale == 'raw':
      wanted = jnp.where(known, truth, 0.0)
    pair = losses.squared(said - wanted, weight=known)
    axes = tuple(range(1, log.ndim))
    count = jnp.maximum(jnp.sum(known, axis=axes, keepdims=True), 1)
    mean = jnp.exp(jnp.sum(log * known, axis=axes, keepdims=True) / count)
    found = depth_ops.errors(self._depth(said), truth, mask=known)
    control = depth_ops.errors(
      jnp.broadcast_to(mean, truth.shape), truth, mask=known
    )
    return {'squared': (*pair, 1.0)}, {
      'abs_rel': found['abs_rel'],
      'delta1': found['delta1'],
      'abs_rel_mean': control['abs_rel'],
    }

  def predict(self, params, features, batch, state=None):
    """Returns depth [B, T, H, W, 1]."""
    del batch, state
    return {'depth': self._depth(self._maps(params, features))}, None

  def _maps(self, params, features):
    values = self.read(params, features)
    values = values.reshape(len(values), *self.sizes, -1)
    return video_ops.unpatchify(values, self.decode_patch)

  def _depth(self, said):
    if self.scale == 'raw':
      return said
    said = jnp.clip(said, 0, 1)
    return jnp.exp(said * (self.high - self.low) + self.low)


class CameraPose(_Attentive):
  """Pose of the last frame as seen from the first: nine and three numbers.

  Batch: cam_from_world float32[B, T, 4, 4]. Loss: squared error of the twelve
  numbers. Figures: those of `poses.errors`, and end_point_error_still of a
  control that says that the camera does not move.

  Args:
    clip: (T, H, W) of a training clip.
    width: of the readout.
    num_heads: of its attention.
    translation_scale: what translations are divided by.
  """

  def __init__(
    self,
    *,
    clip: Sequence[int],
    width: int = 768,
    num_heads: int = 12,
    translation_scale: float = 1.0,
  ):
    if translation_scale <= 0:
      raise ValueError(f'translation_scale={translation_scale}: want above 0')
    super().__init__(clip, 12, 1, width, num_heads)
    self.translation_scale = translation_scale

  def fields(self):
    shape = (self.clip[0], 4, 4)
    return {'cam_from_world': jax.ShapeDtypeStruct(shape, jnp.float32)}

  def loss(self, params, features, batch, ctx):
    cameras = batch['cam_from_world']
    truth = poses.relative(cameras[:, -1], cameras[:, 0])
    wanted = jnp.concatenate(
      [
        truth[:, :3, :3].reshape(-1, 9),
        truth[:, :3, 3] / self.translation_scale,
      ],
      axis=-1,
    )
    said = self.read(params, features)
    weight = losses.align(batch['mask'], said).astype(jnp.float32)
    pair = losses.squared(said - wanted, weight=weight)
    figures = poses.errors(self._pose(said), truth, mask=batch['mask'])
    still = poses.errors(
      jnp.broadcast_to(jnp.eye(4), truth.shape), truth, mask=batch['mask']
    )
    figures['end_point_error_still'] = still['end_point_error']
    return {'squared': (*pair, 1.0)}, figures

  def predict(self, params, features, batch, state=None):
    """Returns pose [B, 4, 4], last camera from first camera."""
    del batch, state
    return {'pose': self._pose(self.read(params, features))}, None

  def _pose(self, numbers):
    # The nearest rotation is for the figures; its gradient may be infinite.
    numbers = jax.lax.stop_gradient(numbers)
    scale = jnp.array([1.0] * 9 + [self.translation_scale] * 3)
    return poses.from_numbers(numbers * scale)
