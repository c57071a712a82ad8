"""TAP-Net, the baseline of TAP-Vid (arXiv 2211.03726): matching without
refinement.

Frames see their neighbours by a temporal shift of some channels. Positions and
queries as in `model`.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from projects.tapir import chunks, cost_volume, features
from projects.tapir import tracks as tracks_lib
from vidscenic.layers import resnet
from vidscenic.ops import grids as grids_lib


class Output(NamedTuple):
  """What TAP-Net gives.

  Attributes:
    tracks: `tracks.Tracks` with K = 1 and expected_dist None.
    grid: [B, T, H/8, W/8, C], unit vectors.
    features: [B, N, C], of the queries.
  """

  tracks: tracks_lib.Tracks
  grid: Any
  features: Any


class TapNet(nn.Module):
  """The model.

  Parameters: backbone (`resnet.ResNet` with batch norm), cost_volume
  (`CostVolumeHeads`).
  """

  softmax_temperature: float = 10.0
  stem_channels: int = 64
  channels_per_group: Sequence[int] = (64, 128, 256)
  blocks_per_group: Sequence[int] = (2, 2, 2)
  # Share of channels that come from the next frame, and as many from the one
  # before, in each group.
  channel_shift_fraction: Sequence[float] = (0.125, 0.125, 0.0, 0.0)

  @nn.compact
  def __call__(
    self,
    video,
    queries,
    *,
    query_chunk_size: int = 0,
    train: bool = False,
    num_frames=None,
  ) -> Output:
    """Tracks queries through a video.

    Args:
      video: [B, T, H, W, 3] in [-1, 1], H and W multiples of 8.
      queries: [B, N, 3], (t, y, x).
      query_chunk_size: queries at a time; 0: all. It changes no result.
      train: normalise with the batch's statistics and update the running ones.
      num_frames: int32 scalar, frames in front that are real; the others are
        padding and change nothing there, but for `train`. None: all.
    """
    size = video.shape[2:4]
    groups = resnet.ResNet(
      features=self.channels_per_group,
      strides=(1, *[2 if g == 1 else 1 for g in range(1, self._num_groups)]),
      num_units=self.blocks_per_group,
      stem_features=self.stem_channels,
      stem_pool=True,
      norm='batch',
      norm_decay=0.9,
      mix=functools.partial(self._shift, num_frames),
      name='backbone',
    )(video, train=train)
    grid = features.unit_vectors(groups[-1])
    points = grids_lib.scale_points(
      queries, source=size, target=grid.shape[2:4], order='tyx'
    )
    found = grids_lib.trilinear(grid, points, mode='clamp')
    heads = cost_volume.CostVolumeHeads(
      self.softmax_temperature,
      num_logits=1,
      rectify_conv=False,
      name='cost_volume',
    )
    points, logits = chunks.in_chunks(
      lambda heads, x: heads(x[0], grid),
      heads,
      (found,),
      query_chunk_size,
      axes=(1,),
      out_axis=1,
    )
    points = grids_lib.scale_points(
      points, source=grid.shape[2:4], target=size, order='xy'
    )
    points = tracks_lib.pin_queries(points, queries, size=size, target=size)
    tracks = tracks_lib.Tracks(points[None], logits[None, ..., 0], None)
    return Output(tracks, grid, found)

  @property
  def _num_groups(self):
    return len(self.channels_per_group)

  @nn.nowrap
  def _shift(self, num_frames, x, group):
    """Channels of the next frame, own ones, channels of the frame before."""
    count = int(x.shape[-1] * self.channel_shift_fraction[group])
    if not count:
      return x
    nothing = jnp.zeros_like(x[:, :1])
    behind = jnp.concatenate([x[:, 1:], nothing], axis=1)
    if num_frames is not None:
      last = jnp.arange(x.shape[1]) >= num_frames - 1
      behind = jnp.where(last[:, None, None, None], 0, behind)
    before = jnp.concatenate([nothing, x[:, :-1]], axis=1)
    middle = x[..., count : x.shape[-1] - count]
    parts = [behind[..., x.shape[-1] - count :], middle, before[..., :count]]
    return jnp.concatenate(parts, axis=-1)
