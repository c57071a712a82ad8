"""ViViT (arXiv 2103.15691), the model without factorisation.

A class token, learned positions and tanh-GELU; inputs in [-1, 1]. As a
classifier it is `vidscenic.tasks.classification.Classification` with a
`vit.VisionTransformer` and pool='token', see `backbone_fields`; the model
without classifier pools through one more dense layer.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vidscenic.layers import vit


def backbone_fields(**fields: Any) -> dict[str, Any]:
  """Fields of the `vit.VisionTransformer`: those of ViViT-B and `fields`."""
  base = vit.vit_config('B') | {'patch': (2, 16, 16)}
  return base | {'class_token': True, 'positions': 'learned'} | fields


class ViViT(nn.Module):
  """Tokens and a pooled vector.

  Parameters: backbone/..., pooler.
  """

  backbone_fields: Mapping[str, Any]  # of `vit.VisionTransformer`

  @nn.compact
  def __call__(self, video):
    """float[B, T, H, W, 3] -> dict: tokens [B, N + 1, D], pooled [B, D]."""
    backbone = vit.VisionTransformer(**self.backbone_fields, name='backbone')
    tokens = backbone(video)['tokens']
    pooler = nn.Dense(backbone.width, name='pooler')
    return {'tokens': tokens, 'pooled': jnp.tanh(pooler(tokens[..., 0, :]))}
