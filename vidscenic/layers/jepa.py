"""Encoder and predictor of V-JEPA (arXiv 2404.08471) and V-JEPA 2 (2506.09985).

The encoder sees some tokens of a clip; the predictor gets its features and mask
tokens, and predicts what a teacher, an average of the encoder that sees the
whole clip, makes of other places. Positions are those of V-JEPA 2: rotary codes
in both, in the unusual pairing that its published weights were trained with.

Blocks have GELU in its erf form. The kernels that end the branches of block l
start divided by sqrt(2 l), all kernels with a deviation of 0.02.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vidscenic.layers import masked_decoder, vit

ROTARY = {'fractions': (1 / 3, 1 / 3, 1 / 3), 'pairing': 'vjepa'}


class JointEmbedding(nn.Module):
  """Encoder and predictor.

  Parameters: encoder/... (`vit.VisionTransformer`) and predictor/...
  (`masked_decoder.MaskedDecoder`).
  """

  width: int = 1024
  depth: int = 24
  num_heads: int = 16
  mlp_features: int = 4096
  predictor: bool = True  # False: features only
  predictor_width: int = 384
  predictor_depth: int = 12
  predictor_heads: int = 12
  predictor_mlp_features: int = 1536
  num_mask_tokens: int = 10
  # Which mask token stands for hidden tokens. Training used 0 only; the
  # classes of transformers use 1, and published files keep all.
  mask_index: int = 0
  patch: Sequence[int] = (2, 16, 16)  # (frames, rows, columns)
  norm_eps: float = 1e-6
  implementation: str = 'xla'
  scan: bool = False
  remat: str = 'none'
  dtype: Any = jnp.float32  # compute

  def setup(self):
    kernel = nn.initializers.truncated_normal(0.02)
    block = dict(
      norm_eps=self.norm_eps,
      activation='gelu_erf',
      implementation=self.implementation,
      kernel_init=kernel,
      mlp_init=kernel,
    )
    shared = dict(
      rotary=ROTARY,
      block=block,
      scan=self.scan,
      remat=self.remat,
      dtype=self.dtype,
    )
    self.encoder = vit.VisionTransformer(
      width=self.width,
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_features=self.mlp_features,
      patch=self.patch,
      positions='none',
      residual_init_scale='depth',
      **shared,
    )
    if self.predictor:
      self.decoder = masked_decoder.MaskedDecoder(
        num_outputs=self.width,
        width=self.predictor_width,
        depth=self.predictor_depth,
        num_heads=self.predictor_heads,
        mlp_features=self.predictor_mlp_features,
        positions='none',
        num_mask_tokens=self.num_mask_tokens,
        norm_eps=self.norm_eps,
        residual_init_scale='depth',
        mask_init=nn.initializers.zeros,
        name='predictor',
        **shared,
      )

  def __call__(self, video, keep_ids, predict_ids, *, num_frozen: int = 0):
    """Predicts features of the teacher.

    Args:
      video: float[B, T, H, W, 3].
      keep_ids: int[B, K], row-major numbers of the tokens that are seen.
      predict_ids: int[B, Q].
      num_frozen: blocks of the encoder without gradient, see `Transformer`.

    Returns:
      float32[B, Q, D].
    """
    encoded = self.encode(video, ids=keep_ids, num_frozen=num_frozen)
    return self.predict(
      encoded['tokens'], keep_ids, predict_ids, grid=encoded['grid']
    )

  def encode(self, video, **options):
    """The encoder; a clip shorter than a patch is repeated to fill it.

    Args:
      video: float[B, T, H, W, 3].
      **options: of `vit.VisionTransformer`.

    Returns:
      See there.
    """
    if video.shape[-4] < self.patch[0]:
      times = [1] * video.ndim
      times[-4] = self.patch[0]
      video = jnp.tile(video, times)
    return self.encoder(video, **options)

  def streams(self, video, blocks):
    """Streams of the encoder, see `vit.VisionTransformer.streams`."""
    return self.encoder.streams(video, blocks)

  def predict(self, features, keep_ids, predict_ids, **options):
    """The predictor; arguments and result as in `MaskedDecoder`."""
    return self.decoder(
      features, keep_ids, predict_ids, mask_index=self.mask_index, **options
    )
