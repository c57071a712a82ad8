"""VideoMAE and MAE-ST: encoder of the visible tokens and a narrow decoder.

VideoMAE (arXiv 2203.12602): sin-cos codes of the flattened index, no key bias.
MAE-ST (2205.09113): class token, learned separable positions, biases.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vidscenic.layers import masked_decoder, vit

# decoder_width, decoder_depth, decoder_heads, decoder_mlp_features by size of
# the encoder (`vit.SIZES`).
_VIDEOMAE = {
  'S': (192, 12, 3, 768),
  'B': (384, 4, 6, 1536),
  'L': (512, 12, 8, 2048),
  'H': (640, 12, 8, 2560),
}
_MAE_ST = dict.fromkeys('BLH', (512, 4, 16, 2048))
VARIANTS = ('videomae', 'mae_st')


def model_config(variant: str, size: str) -> dict[str, Any]:
  """Fields of `VideoAutoencoder` of a published model.

  Args:
    variant: one of VARIANTS. MAE-ST's decoder has 16 heads as in its own code,
      8 in SlowFast's; H has patches of 14 pixels there.
    size: 'B', 'L' or 'H'; for VideoMAE also 'S', whose published files in the
      layout of transformers say 16 heads where the original has 6.

  Raises:
    ValueError: unknown variant or size.
  """
  tables = {'videomae': _VIDEOMAE, 'mae_st': _MAE_ST}
  if variant not in tables:
    raise ValueError(f'model.variant={variant!r}: want one of {VARIANTS}')
  if size not in tables[variant]:
    raise ValueError(
      f'model.size={size!r}: {variant} has {tuple(tables[variant])}'
    )
  names = ('width', 'depth', 'heads', 'mlp_features')
  decoder = zip(names, tables[variant][size], strict=True)
  fields = vit.vit_config(size)
  fields |= {f'decoder_{name}': value for name, value in decoder}
  if variant == 'mae_st':
    fields |= {
      'positions': 'learned_separable',
      'decoder_positions': 'learned_separable',
      'class_token': True,
      'qkv_bias': ('query', 'key', 'value'),
      'decoder_bias': True,
      'decoder_norm_eps': 1e-6,
    }
  return fields


def block_fields(
  qkv_bias: Sequence[str] = ('query', 'value'), norm_eps: float = 1e-6
) -> dict[str, Any]:
  """What the blocks of these models have in common, also as classifiers."""
  return {
    'use_bias': tuple(qkv_bias),
    'norm_eps': norm_eps,
    'activation': 'gelu_erf',
  }


class VideoAutoencoder(nn.Module):
  """Predicts tokens of a clip from others.

  Parameters: encoder/... (`vit.VisionTransformer`) and decoder/...
  (`masked_decoder.MaskedDecoder`).
  """

  num_outputs: int = 1536  # values of a target
  width: int = 768
  depth: int = 12
  num_heads: int = 12
  mlp_features: int = 3072
  decoder_width: int = 384
  decoder_depth: int = 4
  decoder_heads: int = 6
  decoder_mlp_features: int = 1536
  patch: Sequence[int] = (2, 16, 16)  # (frames, rows, columns)
  positions: str = 'sincos_flat'  # of `vit.VisionTransformer`
  decoder_positions: str = 'sincos_flat'  # of `MaskedDecoder`
  grid: Sequence[int] | None = None  # (t, h, w) of learned positions
  class_token: bool = False
  qkv_bias: Sequence[str] = ('query', 'value')  # which of them have a bias
  decoder_bias: bool = False  # of the map between encoder and decoder
  final_norm: bool = True  # of the encoder
  norm_eps: float = 1e-6  # the files of transformers say 1e-12
  decoder_norm_eps: float = 1e-5  # of the decoder's last norm
  scan: bool = False
  remat: str = 'none'
  dtype: Any = jnp.float32  # compute

  def setup(self):
    block = block_fields(self.qkv_bias, self.norm_eps)
    shared = dict(scan=self.scan, remat=self.remat, dtype=self.dtype)
    self.encoder = vit.VisionTransformer(
      width=self.width,
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_features=self.mlp_features,
      patch=self.patch,
      positions=self.positions,
      grid=self.grid,
      class_token=self.class_token,
      final_norm=self.final_norm,
      block=block,
      **shared,
    )
    self.decoder = masked_decoder.MaskedDecoder(
      num_outputs=self.num_outputs,
      width=self.decoder_width,
      depth=self.decoder_depth,
      num_heads=self.decoder_heads,
      mlp_features=self.decoder_mlp_features,
      positions=self.decoder_positions,
      grid=self.grid,
      num_prefix=int(self.class_token),
      embed_bias=self.decoder_bias,
      norm_eps=self.decoder_norm_eps,
      block=block,
      **shared,
    )

  def __call__(self, video, keep_ids, predict_ids):
    """Predicts.

    Args:
      video: float[B, T, H, W, 3].
      keep_ids: int[B, K], row-major numbers of the visible tokens.
      predict_ids: int[B, Q], tokens to predict.

    Returns:
      float32[B, Q, num_outputs].
    """
    encoded = self.encoder(video, ids=keep_ids)
    return self.decoder(
      encoded['tokens'], keep_ids, predict_ids, grid=encoded['grid']
    )

  def features(self, video):
    """Tokens of a whole clip without class token: float32[B, t, h, w, D]."""
    encoded = self.encoder(video)
    tokens = encoded['tokens'][..., int(self.class_token) :, :]
    return tokens.reshape(*tokens.shape[:-2], *encoded['grid'], self.width)
