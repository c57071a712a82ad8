"""V-JEPA 2 (arXiv 2506.09985) as a classifier: encoder and attentive pooler.

Encoder and predictor for features and pretraining are in
`vidscenic.layers.jepa`; pretraining itself is projects/layerlock/vjepa.py.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vidscenic.layers import heads, jepa, transformer, vit

# Width, heads and MLP of the predictor are alike for all sizes.
PREDICTOR = {
  'predictor_width': 384,
  'predictor_depth': 12,
  'predictor_heads': 12,
  'predictor_mlp_features': 1536,
}


def model_config(size: str) -> dict[str, int]:
  """Fields of `jepa.JointEmbedding`: 'L', 'H' or 'g' (any of `vit.SIZES`).

  Raises:
    ValueError: unknown size.
  """
  return vit.vit_config(size) | PREDICTOR


class PooledEncoder(nn.Module):
  """Encoder, self-attention blocks, one query: [B, T, H, W, 3] -> [B, D].

  A backbone for `vidscenic.tasks.classification`, which adds the linear layer.

  Parameters: encoder/..., pooler_blocks/..., pooler/... (`AttentionPool`).
  """

  encoder_fields: Mapping[str, Any]  # of `jepa.JointEmbedding`
  num_pooler_blocks: int = 3
  dtype: Any = jnp.float32  # compute

  @nn.compact
  def __call__(self, video, *, train: bool = False, intermediates=False):
    """Pools.

    Args:
      video: float[B, T, H, W, 3].
      train: not used: there is no dropout.
      intermediates: also return a dict with `encoded` [B, N, D] and `blocks`
        [blocks, B, N, D].

    Returns:
      [B, D], or a pair.
    """
    del train
    fields = dict(self.encoder_fields) | {'predictor': False}
    trunk = jepa.JointEmbedding(**fields, dtype=self.dtype, name='trunk')
    nn.share_scope(self, trunk)
    encoded = trunk.encode(video)['tokens']
    block = dict(
      num_heads=trunk.num_heads,
      mlp_features=4 * trunk.width,
      norm_eps=trunk.norm_eps,
      activation='gelu_erf',
    )
    x, hidden = transformer.Transformer(
      self.num_pooler_blocks, block, dtype=self.dtype, name='pooler_blocks'
    )(encoded, return_intermediates=True)
    x = heads.AttentionPool(
      num_heads=trunk.num_heads,
      mlp_features=4 * trunk.width,
      residual=True,
      kv_norm=True,
      project_out=False,
      norm_eps=trunk.norm_eps,
      activation='gelu_erf',
      dtype=self.dtype,
      name='pooler',
    )(x)[..., 0, :]
    if not intermediates:
      return x
    return x, {'encoded': encoded, 'blocks': hidden}
