"""The depth readout of 4DS (arXiv 2412.15212) on its frozen backbone.

Features after 95 % of the blocks are brought to the frame rate of the video by
a cubic resize in time; learned queries, one per small block of pixels, attend
to all of them. 16 frames of 224 x 224 pixels, as trained on ScanNet.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from projects.layerlock import model as model_lib
from vidscenic.layers import heads, position
from vidscenic.ops import video as video_ops


def to_frames(features, num_frames: int):
  """Features per token slot -> per frame, by a cubic resize in time.

  Args:
    features: [B, t, h, w, D].
    num_frames: T.

  Returns:
    [B, T, h*w, D].
  """
  features = features.reshape(*features.shape[:-3], -1, features.shape[-1])
  return position.resize_axis(features, axis=1, size=num_frames)


class DepthModel(nn.Module):
  """Backbone and dense readout: [B, T, H, W, 3] -> [B, T, H, W, 1].

  Depth as the readout gives it: the released code applies nothing to it, and
  the unit that it was trained in is not published.

  Parameters: backbone/..., as in `model.SimpleMAE`, and readout/...
  (`heads.AttentiveReadout`).
  """

  backbone_fields: Mapping[str, Any]  # of `model.SimpleMAE`
  frames: Sequence[int] = (16, 224, 224)  # (T, H, W)
  width: int = 1024  # of the readout
  num_heads: int = 16
  decode_patch: Sequence[int] = (2, 8, 8)  # pixels of one query
  relative_depth: float = 0.95
  # Queries at a time: all 6272 would need 1.3 GB of weights per clip.
  query_chunk: int = 784

  def setup(self):
    fields = dict(self.backbone_fields) | {'heads': ()}
    # The parameters of the backbone are not below another level.
    self.trunk = model_lib.SimpleMAE(**fields)
    nn.share_scope(self, self.trunk)
    sizes = [
      n // p for n, p in zip(self.frames, self.decode_patch, strict=True)
    ]
    self.readout = heads.AttentiveReadout(
      num_outputs=math.prod(self.decode_patch),
      width=self.width,
      num_heads=self.num_heads,
      num_queries=math.prod(sizes),
      query_chunk=self.query_chunk,
    )

  def __call__(self, video):
    """float[B, T, H, W, 3] in [0, 1] -> float32[B, T, H, W, 1]."""
    blocks = model_lib.readout_blocks(self.trunk.depth, self.relative_depth)
    features = self.trunk.features(video, blocks=blocks)
    return self.read(to_frames(features, self.frames[0]))

  def read(self, features):
    """float32[B, T, h*w, D], see `to_frames` -> float32[B, T, H, W, 1]."""
    values = self.readout(features)
    sizes = [
      n // p for n, p in zip(self.frames, self.decode_patch, strict=True)
    ]
    values = values.reshape(values.shape[0], *sizes, -1)
    return video_ops.unpatchify(values.astype(jnp.float32), self.decode_patch)
