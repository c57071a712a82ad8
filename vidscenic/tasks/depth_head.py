"""Head for `readout.Readout`: dense depth, pixel by pixel.

The loss is this code base's own ("project recipe"): the squared error of the
logarithm of the depth, normalised to [0, 1] over a range.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vidscenic import config as vc
from vidscenic.layers import pixel_decoder
from vidscenic.ops import depth as depth_ops
from vidscenic.ops import losses, masking
from vidscenic.ops import video as video_ops
from vidscenic.tasks import readout


class Depth(readout.Head):
  """Depth along the optical axis.

  Batch: depth float32[B, T, H, W, 1], depth_mask bool of that shape. In
  training every factor-th pixel of every frame is decoded, at an offset of its
  own; else every eval_factor-th.

  Figures: abs_rel and delta1 over those pixels, and abs_rel_mean of a control
  that says the clip's mean (logarithmic) depth everywhere.

  Args:
    clip: (T, H, W) of a training clip.
    limits: nearest and farthest depth, in the unit of the data; values beyond
      are clipped.
    factor: of the lattice in training.
    eval_factor: in evaluation.
    masked: batches hold depth_mask; else all finite depths above 0 are known.
    layers: fields of `pixel_decoder.PixelDecoder`.

  Raises:
    ValueError: an unusable argument, named.
  """

  def __init__(
    self,
    *,
    clip: Sequence[int],
    limits: Sequence[float],
    factor: int = 8,
    eval_factor: int = 4,
    masked: bool = True,
    layers: Mapping[str, Any] | None = None,
  ):
    if len(limits) != 2 or not 0 < limits[0] < limits[1]:
      raise ValueError(f'limits={limits}: want 0 < nearest < farthest')
    self.clip, self.limits = tuple(clip), tuple(limits)
    self.factor, self.eval_factor = factor, eval_factor
    self.masked = masked
    for size in self.clip[1:]:
      for number in (factor, eval_factor):
        pixel_decoder.lattice(size, number)
    options = {
      'depth': 3,
      'num_heads': 8,
      'qkv_features': 512,
      'mlp_features': 2048,
      **(layers or {}),
    }
    self.layers = vc.build(
      f'{pixel_decoder.__name__}:PixelDecoder',
      field='task.kwargs.heads.layers',
      num_outputs=1,
      **options,
    )

  def fields(self):
    shape = (*self.clip, 1)
    fields = {'depth': jax.ShapeDtypeStruct(shape, jnp.float32)}
    if self.masked:
      fields['depth_mask'] = jax.ShapeDtypeStruct(shape, jnp.bool_)
    return fields

  def init(self, rng, features):
    one = jnp.zeros(1, jnp.int32)
    params = self.layers.init(
      rng, features.tokens, one, one, size=features.size
    )['params']
    return {'decoder': params}

  def loss(self, params, features, batch, ctx):
    shape = batch['depth'].shape
    factor = self.factor if ctx.train else self.eval_factor
    offsets = jnp.zeros((*shape[:2], 2), jnp.int32)
    if ctx.train:
      keys = masking.row_keys(ctx.rng, ctx.rows)
      offsets = jax.vmap(
        lambda key: jax.random.randint(key, (shape[1], 2), 0, max(factor, 1))
      )(keys)
    rows, columns = (
      pixel_decoder.lattice(shape[2 + i], factor, offsets[..., i])
      for i in (0, 1)
    )
    said = self._decode(params, features, rows, columns)
    truth = pixel_decoder.take_lattice(batch['depth'], rows, columns)
    known = (truth > 0) & jnp.isfinite(truth)
    known &= losses.align(batch['mask'], known)
    if self.masked:
      known &= pixel_decoder.take_lattice(batch['depth_mask'], rows, columns)
    wanted = self._normalized(jnp.where(known, truth, self.limits[0]))
    square = losses.squared(said - wanted, weight=known)
    axes = tuple(range(1, said.ndim))
    count = jnp.maximum(jnp.sum(known, axis=axes, keepdims=True), 1)
    mean = jnp.sum(wanted * known, axis=axes, keepdims=True) / count
    found = depth_ops.errors(self._depth(said), truth, mask=known)
    control = depth_ops.errors(
      jnp.broadcast_to(self._depth(mean), truth.shape), truth, mask=known
    )
    return {'squared': (*square, 1.0)}, {
      'abs_rel': found['abs_rel'],
      'delta1': found['delta1'],
      'abs_rel_mean': control['abs_rel'],
    }

  def predict(self, params, features, batch, state=None):
    """Returns depth [B, T, H, W, 1], resized from the lattice of evaluation."""
    del batch, state
    rows, columns = (
      pixel_decoder.lattice(n, self.eval_factor) for n in features.size
    )
    said = self._decode(params, features, rows, columns)
    said = video_ops.resize(
      said, size=features.size, method='bilinear', antialias=False
    )
    return {'depth': self._depth(said)}, None

  def _decode(self, params, features, rows, columns):
    return self.layers.apply(
      {'params': params['decoder']},
      features.tokens,
      rows,
      columns,
      size=features.size,
    )

  def _normalized(self, depth):
    low, high = map(math.log, self.limits)
    depth = jnp.clip(depth, *self.limits)
    return (jnp.log(depth) - low) / (high - low)

  def _depth(self, normalized):
    low, high = map(math.log, self.limits)
    return jnp.exp(jnp.clip(normalized, 0, 1) * (high - low) + low)
