"""Optical flow between two frames with Perceiver IO (arXiv 2107.14795)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from projects.perceiver import configurations, encoder, patches, tiling
from vidscenic import task
from vidscenic.ops import losses
from vidscenic.ops import video as video_ops


class OpticalFlow(task.Task):
  """End-point error of the flow from the first frame to the second.

  Batches: video uint8[B, 2, H, W, 3], forward_flow float32[B, 2, H, W, 2],
  (dx, dy) in pixels, and flow_mask bool[B, 2, H, W], as `clips.ClipTransform`
  gives them for two frames; the flow of the second frame is not looked at.

  The model knows one size. Other images are cut into patches, see `tiling`.

  Figures: `epe`, and the control `epe_zero`, that of no motion at all.
  """

  def __init__(
    self,
    *,
    model: Mapping[str, Any],
    size: Sequence[int] = (),
    flow_scale_factor: float = 20.0,
    min_overlap: int = tiling.MIN_OVERLAP,
    dtype: str = 'float32',
  ):
    """See the arguments.

    Args:
      model: see `configurations.build`.
      size: (H, W) of the images; (): the one that the model knows.
      flow_scale_factor: of what the model puts out.
      min_overlap: of patches.
      dtype: of the model's arithmetic, 'float32' or 'bfloat16'.

    Raises:
      ValueError: an unusable argument, named.
    """
    self.model, fields = configurations.build(
      model, 'optical_flow', dtype=dtype
    )
    self.patch = tuple(fields['image_size'])
    self.size = tuple(size) or self.patch
    self.min_overlap = min_overlap
    self._factor = flow_scale_factor
    self.corners(self.size)

  def corners(self, size: Sequence[int]) -> list[tuple[int, int]]:
    """(y, x) of the patches of an image.

    Raises:
      ValueError: an image smaller than a patch.
    """
    return tiling.corners(size, self.patch, self.min_overlap)

  def batch_spec(self):
    return {
      'video': jax.ShapeDtypeStruct((2, *self.size, 3), jnp.uint8),
      'forward_flow': jax.ShapeDtypeStruct((2, *self.size, 2), jnp.float32),
      'flow_mask': jax.ShapeDtypeStruct((2, *self.size), jnp.bool_),
    }

  def init(self, rng, batch):
    height, width = self.patch
    pair = _frames(batch)[:1, :, :height, :width]
    return self.model.init(rng, patches.flow_patches(pair))['params'], {}

  def loss(self, params, model_state, batch, ctx):
    options = encoder.training_options(ctx)
    flow = self.flow(params, _frames(batch), **options)
    target = batch['forward_flow'][:, 0]
    known = batch['flow_mask'][:, 0]
    weight = known * losses.align(batch['mask'], known)
    error = end_point_error(flow, target, weight=weight)
    zero = end_point_error(jnp.zeros_like(target), target, weight=weight)
    return task.LossOut(
      {'epe': (*error, 1.0)}, {'epe': error, 'epe_zero': zero}, model_state
    )

  def predict(self, params, model_state, batch, ctx, carry=None):
    """Flow of pairs of any size from that of a patch on.

    Args:
      params: of the model.
      model_state: not used.
      batch: video uint8[B, 2, H, W, 3].
      ctx: not used.
      carry: returned as it is.

    Returns:
      {'flow': float32[B, 1, H, W, 2], (dx, dy) in pixels}, carry.
    """
    del model_state, ctx
    return {'flow': self.flow(params, _frames(batch))[:, None]}, carry

  def flow(self, params, frames, **options) -> jax.Array:
    """Flow of pairs of any size from that of a patch on.

    Args:
      params: of the model.
      frames: float32[B, 2, H, W, 3] in [-1, 1].
      **options: with which the model is applied.

    Returns:
      float32[B, H, W, 2], (dx, dy) in pixels.

    Raises:
      ValueError: images smaller than a patch.
    """

    def flow_of(pair):
      flow = self.model.apply(
        {'params': params}, patches.flow_patches(pair), **options
      )
      return flow.astype(jnp.float32) * self._factor

    return tiling.blend(flow_of, frames, self.patch, self.min_overlap)


def _frames(batch):
  return video_ops.normalize(batch['video'], 'signed')


def end_point_error(flow, target, *, weight=1.0):
  """Sum of Euclidean distances and of weights; gradient 0 at distance 0.

  A model whose last layer starts at zero meets flow that is exactly zero.

  Args:
    flow: float[..., 2].
    target: the same shape.
    weight: see `ops.losses`, for [...].

  Returns:
    (sum, weight), float32 scalars.
  """
  # Where nothing counts there may be NaN, which a gradient of 0 would keep.
  counts = jnp.broadcast_to(weight, flow.shape[:-1]) != 0
  error = jnp.where(counts[..., None], flow - target, 0.0)
  square = jnp.sum(jnp.square(error), axis=-1)
  distance = jnp.where(
    square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0
  )
  return losses.weighted_sum(distance, weight=weight)
