"""Recurrent Video Masked Autoencoders (RVM, arXiv 2512.13684).

A ViT encodes every frame by itself. A recurrent core, GRU gates around a small
cross-attention transformer, folds the tokens into a state of one token per
patch and a class token. The state after a frame is also its feature map. In
training a decoder fills in future frames, of which about 5 % of the patches are
visible, from the features of some source frames.

The layout follows the published weights where these and the paper's equations
differ: the state is normalised in front of the reset gate. Keys and values of
the decoder are projected once per clip, not once per target frame.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidscenic.layers import norms, position, recurrent, transformer, vit
from vidscenic.ops import masking
from vidscenic.ops import video as video_ops

# Fields of `RVM` besides those of the standard ViT. The core of S is no copy of
# its encoder's blocks: 8 heads, not 6, and MLPs of 2048.
_CORES = {'S': (8, 2048), 'B': (12, 3072), 'L': (16, 4096), 'H': (16, 5120)}
SIZES = tuple(_CORES)
_CROSS = ('cross', 'mlp', 'self')


def rvm_config(size: str) -> dict[str, int]:
  """Fields of `RVM` for a published size.

  Args:
    size: one of SIZES.

  Raises:
    ValueError: unknown size.
  """
  if size not in _CORES:
    raise ValueError(f'model.size={size!r}: known sizes are {SIZES}')
  heads, mlp = _CORES[size]
  return vit.vit_config(size) | {'core_heads': heads, 'core_mlp_features': mlp}


class RecurrentCore(nn.Module):
  """One step of the recurrence: (state, encoded frame) -> (state, state).

  u = sigmoid(e W_iu + s W_su), r = sigmoid(e W_ir + s W_sr),
  c = transformer(queries e, keys and values r * norm(s)),
  s' = (1 - u) s + u c.

  The gates see the raw state. They and the state are float32 whatever `dtype`
  is: trained on 4 frames, the recurrence runs over hundreds.

  Parameters: input_update, input_reset, state_update, state_reset, all kernels
  [D, D]; state_norm, a scale; transformer/... Sows update, reset, kv and
  candidate into 'intermediates'.
  """

  depth: int
  num_heads: int
  mlp_features: int
  state_norm_eps: float = 1e-4
  implementation: str = 'xla'
  query_chunk: int = 0
  scan: bool = False
  remat: str = 'none'
  dtype: Any = jnp.float32  # compute of the transformer

  @nn.compact
  def __call__(self, state, encoded):
    """Takes one frame.

    Args:
      state: float32[..., N + 1, D].
      encoded: [..., N + 1, D], tokens of the frame, class token first.

    Returns:
      (new state, the same as features), float32[..., N + 1, D].
    """
    encoded = encoded.astype(jnp.float32)

    def gate(name):
      width = encoded.shape[-1]
      from_input = nn.Dense(width, use_bias=False, name=f'input_{name}')
      from_state = nn.Dense(width, use_bias=False, name=f'state_{name}')
      return nn.sigmoid(from_input(encoded) + from_state(state))

    update, reset = gate('update'), gate('reset')
    norm = norms.layer_norm(
      'state_norm', eps=self.state_norm_eps, use_bias=False
    )
    kv = reset * norm(state)
    candidate = transformer.Transformer(
      self.depth,
      block=dict(
        num_heads=self.num_heads,
        mlp_features=self.mlp_features,
        order=_CROSS,
        implementation=self.implementation,
        query_chunk=self.query_chunk,
      ),
      final_norm=True,
      scan=self.scan,
      remat=self.remat,
      dtype=self.dtype,
      name='transformer',
    )(encoded, kv)
    for name, value in (
      ('update', update),
      ('reset', reset),
      ('kv', kv),
      ('candidate', candidate),
    ):
      self.sow('intermediates', name, value)
    state = (1 - update) * state + update * candidate.astype(jnp.float32)
    return state, state


class RVM(nn.Module):
  """Encoder, recurrent core and, unless `decoder` is off, pixel decoder.

  Frames are float[..., H, W, 3] in [0, 1], without further normalisation.

  Parameters: encoder/... (`vit.VisionTransformer`), core/... (`RecurrentCore`);
  embedder (width to decoder_width, for both streams), mask_token, delta,
  decoder/... and head of the decoder.
  """

  width: int = 384  # D
  depth: int = 12  # blocks of the encoder
  num_heads: int = 6
  mlp_features: int = 1536
  core_depth: int = 4
  core_heads: int = 8
  core_mlp_features: int = 2048
  decoder: bool = True  # False: features only, and no parameters for the rest
  decoder_width: int = 512  # M
  decoder_depth: int = 8
  decoder_heads: int = 16
  decoder_mlp_features: int = 2048
  patch: Sequence[int] = (16, 16)  # (rows, columns)
  # Grid of the encoder's table of positions; other grids get it resized.
  base_grid: Sequence[int] = (16, 16)
  num_deltas: int = 64  # distances in time that have a code of their own
  state_norm_eps: float = 1e-4
  implementation: str = 'xla'  # of attention, or 'cudnn'
  query_chunk: int = 0
  scan: bool = False
  remat: str = 'none'
  dtype: Any = jnp.float32  # compute; state, gates and residuals are float32

  def setup(self):
    shared = dict(scan=self.scan, remat=self.remat, dtype=self.dtype)
    attention = dict(
      implementation=self.implementation, query_chunk=self.query_chunk
    )
    self.encoder = vit.VisionTransformer(
      width=self.width,
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_features=self.mlp_features,
      patch=(1, *self.patch),
      positions='sincos_flat',
      grid=(1, *self.base_grid),
      class_token=True,
      block=attention,
      **shared,
    )
    self.core = RecurrentCore(
      depth=self.core_depth,
      num_heads=self.core_heads,
      mlp_features=self.core_mlp_features,
      state_norm_eps=self.state_norm_eps,
      **attention,
      **shared,
    )
    if self.decoder:
      width = self.decoder_width
      self.embedder = nn.Dense(width, dtype=self.dtype)
      self.mask_token = self.param(
        'mask_token', nn.initializers.normal(0.02), (1, width)
      )
      self.delta = nn.Dense(width)
      self.decoder_blocks = transformer.Transformer(
        self.decoder_depth,
        block=dict(
          num_heads=self.decoder_heads,
          mlp_features=self.decoder_mlp_features,
          order=_CROSS,
          **attention,
        ),
        final_norm=True,
        name='decoder',
        **shared,
      )
      # Pixels are compared in float32; eight bits would be too few.
      self.head = nn.Dense(3 * math.prod(self.patch))

  def encode_frames(self, frames, *, ids=None):
    """Encodes frames one by one.

    Args:
      frames: float[..., H, W, 3].
      ids: int[..., K], numbers of the visible patches, row-major; None: all N.

    Returns:
      [..., N + 1 or K + 1, D], class token first.
    """
    return self.encoder(frames[..., None, :, :, :], ids=ids)['tokens']

  def step(self, state, frame):
    """One frame of a stream.

    Args:
      state: float32[B, N + 1, D].
      frame: float[B, H, W, 3].

    Returns:
      (features, new state); they are the same, float32[B, N + 1, D].
    """
    state, features = self.core(state, self.encode_frames(frame))
    return features, state

  def encode(self, video, state=None):
    """Encodes all frames as one batch, then runs the core over time.

    Args:
      video: float[B, T, H, W, 3].
      state: as in `step`; None: zeros.

    Returns:
      (features [B, T, N + 1, D], last state [B, N + 1, D]), float32.
    """
    encoded = self.encode_frames(video)
    if state is None:
      shape = (*encoded.shape[:1], *encoded.shape[2:])
      state = jnp.zeros(shape, jnp.float32)
    state, features = recurrent.scan_time(self.core, state, encoded)
    return features, state

  def decode(self, features, targets, ids, deltas=None):
    """Fills in target frames from the features of the sources.

    Args:
      features: [B, T, N + 1, D], of `encode`.
      targets: float[B, K, H, W, 3]; only the visible patches are looked at.
      ids: int[B, K, n] or broadcastable, numbers of the visible patches.
      deltas: int[B, K], distance in time of each target. A number outside [0,
        num_deltas) gets no code but the bias. None: no code and no bias.

    Returns:
      float32[B, K, H, W, 3], not clipped.
    """
    height, width = (
      n // p for n, p in zip(targets.shape[-3:-1], self.patch, strict=True)
    )
    visible = self.embedder(self.encode_frames(targets, ids=ids))
    visible = visible.astype(jnp.float32)
    grid = masking.scatter_tokens(
      visible[..., 1:, :], ids, num_tokens=height * width, fill=self.mask_token
    )
    if deltas is not None:
      code = self.delta(jax.nn.one_hot(deltas, self.num_deltas))
      grid += code[..., None, :]
    # The decoder's table is made for the grid at hand and never resized.
    table = position.sincos_flat((height, width), self.decoder_width)
    grid += table.reshape(height * width, -1)
    queries = jnp.concatenate([visible[..., :1, :], grid], axis=-2)
    kv = self.embedder(features)
    # One for all targets: the axis of length 1 is shared, not repeated.
    kv = kv.reshape(kv.shape[0], 1, -1, kv.shape[-1])
    decoded = self.decoder_blocks(queries, kv)[..., 1:, :]
    pixels = self.head(decoded.astype(jnp.float32))
    pixels = pixels.reshape(*pixels.shape[:-2], 1, height, width, -1)
    return video_ops.unpatchify(pixels, (1, *self.patch))[..., 0, :, :, :]

  def __call__(self, sources, targets, ids, deltas=None, state=None):
    """Reconstructs targets from sources.

    Args:
      sources: float[B, T, H, W, 3].
      targets, ids, deltas: see `decode`.
      state: see `encode`.

    Returns:
      dict with reconstructed [B, K, H, W, 3], features [B, T, N + 1, D] and
      state [B, N + 1, D], float32.
    """
    features, state = self.encode(sources, state)
    reconstructed = self.decode(features, targets, ids, deltas)
    return {
      'reconstructed': reconstructed,
      'features': features,
      'state': state,
    }
