"""Readouts of point and box tracks from the features of any backbone.

Features are [B, T, N, D]: N tokens per frame, on a grid or not. Queries are
points (x, y) or boxes (ymin, xmin, ymax, xmax) in [0, 1].

  `WindowTracks` (MooG, arXiv 2411.05927; 4DS, 2412.15212) reads all frames of a
    window of fixed length at once; queries are in its first frame.
  `RecurrentTracks` (MooG) goes from frame to frame; queries may come in any
    frame, clips may have any length and come in chunks.

In both, queries do not see each other.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidscenic.layers import (
  fourier,
  heads,
  norms,
  pixel_decoder,
  recurrent,
  transformer,
)

_STATE_EPS = 1e-4


class Tracks(NamedTuple):
  """What a readout says of every query in every frame.

  Attributes:
    values: float32[B, T, Q, 2 or 4], points (x, y) or boxes, in [0, 1].
    visible: float32[B, T, Q] logits, None if the readout does not say.
    certain: float32[B, T, Q] logits that the position is good, or None.
    state: float32[B, Q, D], to go on with, None if there is none.
  """

  values: jax.Array
  visible: jax.Array | None = None
  certain: jax.Array | None = None
  state: jax.Array | None = None

  def seen(self, threshold: float = 0.5):
    """bool[B, T, Q]: probably visible and, if known, well placed."""
    seen = jax.nn.sigmoid(self.visible)
    if self.certain is not None:
      seen *= jax.nn.sigmoid(self.certain)
    return seen > threshold


class TwoLayers(nn.Module):
  """Dense, tanh-GELU, Dense: [..., D] -> [..., out_features]."""

  features: int
  out_features: int
  dtype: Any = jnp.float32  # compute

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(self.features, dtype=self.dtype, name='up')(x)
    x = nn.gelu(x, approximate=True)
    return nn.Dense(self.out_features, dtype=self.dtype, name='down')(x)


class QueryEmbedding(nn.Module):
  """Fourier code of the coordinates, then an MLP: [..., 2 or 4] -> [..., D].

  Parameters: mlp/{up, down}.
  """

  features: int = 512  # of both layers
  out_features: int | None = None  # None: features
  num_bases: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, queries):
    code = fourier.octaves(jnp.asarray(queries, jnp.float32), self.num_bases)
    self.sow('intermediates', 'fourier', code)
    return TwoLayers(
      self.features,
      self.out_features or self.features,
      dtype=self.dtype,
      name='mlp',
    )(code)


class WindowTracks(nn.Module):
  """Tracks over a window, read by one cross-attention to all its tokens.

  With `tiles` k every query is asked k times, each time for num_frames / k
  frames, with a learned code of its place added.

  Parameters: query (a `QueryEmbedding`), tile_table [k, query width] with
  several tiles, readout (a `heads.AttentiveReadout`).
  """

  num_frames: int = 16  # of a window; in the weights
  num_coordinates: int = 2  # 2 for points, 4 for boxes
  visibility: bool = True  # also say whether the query is visible
  certainty: bool = True  # with visibility: and how good the position is
  sigmoid: bool = True  # values in [0, 1]
  width: int = 1024  # of the readout
  num_heads: int = 8
  tiles: int = 8
  query_features: int = 512
  query_out_features: int | None = None  # None: query_features
  num_bases: int = 16
  implementation: str = 'xla'
  dtype: Any = jnp.float32  # compute

  @nn.compact
  def __call__(self, features, queries):
    """Reads out.

    Args:
      features: [B, num_frames, N, D].
      queries: [B, Q, num_coordinates], in the first frame.

    Returns:
      `Tracks`.

    Raises:
      ValueError: another number of frames, or tiles that do not divide it.
    """
    if features.shape[1] != self.num_frames:
      raise ValueError(
        f'{features.shape[1]} frames for a readout of {self.num_frames}: give '
        f'windows of {self.num_frames} frames, or use the recurrent readout'
      )
    if self.num_frames % self.tiles:
      raise ValueError(
        f'num_frames={self.num_frames} must be a multiple of tiles={self.tiles}'
      )
    batch, count = queries.shape[:2]
    embedded = QueryEmbedding(
      self.query_features,
      self.query_out_features,
      self.num_bases,
      dtype=self.dtype,
      name='query',
    )(queries)
    self.sow('intermediates', 'query_embedding', embedded)
    if self.tiles > 1:
      table = self.param(
        'tile_table',
        nn.initializers.normal(0.02),
        (self.tiles, embedded.shape[-1]),
      )
      embedded = embedded[:, :, None] + table.astype(embedded.dtype)
      embedded = embedded.reshape(batch, count * self.tiles, -1)
    span = self.num_frames // self.tiles
    channels = self.num_coordinates
    channels += self.visibility + (self.visibility and self.certainty)
    out = heads.AttentiveReadout(
      span * channels,
      width=self.width,
      num_heads=self.num_heads,
      implementation=self.implementation,
      dtype=self.dtype,
      name='readout',
    )(features, embedded)
    self.sow('intermediates', 'raw', out)
    out = out.astype(jnp.float32)
    # (query, tile) x (frame, channel) -> frame, query, channel.
    out = out.reshape(batch, count, self.tiles, span, channels)
    out = out.transpose(0, 2, 3, 1, 4)
    out = out.reshape(batch, self.num_frames, count, channels)
    return _tracks(out, self.num_coordinates, self.sigmoid)


def _tracks(out, num_coordinates, sigmoid, state=None):
  values = out[..., :num_coordinates]
  values = jax.nn.sigmoid(values) if sigmoid else values
  extra = [out[..., i] for i in range(num_coordinates, out.shape[-1])]
  visible, certain = [*extra, None, None][:2]
  return Tracks(values, visible, certain, state)


class _Update(nn.Module):
  """One frame of `RecurrentTracks`: (state, (features, given)) -> state, out.

  Parameters: attention, mlp, state_norm, values, logits.
  """

  features: int
  transformer: Mapping[str, Any]
  num_coordinates: int
  num_logits: int
  dtype: Any

  @nn.compact
  def __call__(self, state, inputs, embedded):
    tokens, given = inputs
    if given is not None:
      state = jnp.where(given[..., None], embedded, state)
    change = transformer.ProjectedTransformer(
      **self.transformer, dtype=self.dtype, name='attention'
    )(state, tokens)
    corrected = state + change
    self.sow('intermediates', 'corrected', corrected)
    mlp = TwoLayers(self.features, self.features, self.dtype, name='mlp')
    state = norms.layer_norm('state_norm', eps=_STATE_EPS, use_bias=False)(
      corrected + mlp(corrected)
    )
    self.sow('intermediates', 'state', state)
    out = TwoLayers(self.features, self.num_coordinates, name='values')(
      corrected
    )
    if self.num_logits:
      logits = TwoLayers(self.features, self.num_logits, name='logits')
      out = jnp.concatenate([out, logits(corrected)], axis=-1)
    return state, out


class RecurrentTracks(nn.Module):
  """Tracks frame by frame: every query has a state that reads the tokens.

  Parameters: query (a `QueryEmbedding`), update/{attention, mlp, state_norm,
  values, logits}.
  """

  num_coordinates: int = 2
  visibility: bool = True
  certainty: bool = True  # with visibility
  features: int = 512  # of the state, and of all MLPs
  hidden_features: int | None = None  # of the attention; None: features
  depth: int = 3
  num_heads: int = 8
  qkv_features: int = 512
  mlp_features: int = 2048
  num_bases: int = 16
  implementation: str = 'xla'
  remat: bool = False  # compute frames again in the backward pass
  dtype: Any = jnp.float32  # compute; the state stays float32

  @nn.compact
  def __call__(self, features, queries, given=None, state=None):
    """Reads out.

    Args:
      features: [B, T, N, D], any T.
      queries: [B, Q, num_coordinates].
      given: bool[B, T, Q], in which frame each query is given; None: in the
        first, or before it if there is a state. What is said of the frames
        before that means nothing.
      state: of an earlier call on the frames before.

    Returns:
      `Tracks`.
    """
    embedded = QueryEmbedding(
      self.features, num_bases=self.num_bases, dtype=self.dtype, name='query'
    )(queries).astype(jnp.float32)
    state = embedded if state is None else state
    block = pixel_decoder.BLOCK | {
      'order': ('cross', 'mlp'),
      'num_heads': self.num_heads,
      'qkv_features': self.qkv_features,
      'mlp_features': self.mlp_features,
      'implementation': self.implementation,
    }
    update = _Update(
      self.features,
      {
        'depth': self.depth,
        'block': block,
        'hidden_features': self.hidden_features or self.features,
        'out_features': self.features,
      },
      self.num_coordinates,
      self.visibility + (self.visibility and self.certainty),
      self.dtype,
      name='update',
    )
    state, out = recurrent.scan_time(
      update,
      state,
      (features, given),
      broadcast=(embedded,),
      remat=self.remat,
    )
    return _tracks(out, self.num_coordinates, True, state)


def slide_windows(read, features, queries, *, length: int, hop: int):
  """Reads a clip of any length window by window.

  The query of a window is where the window before has put it in that frame, so
  queries still belong to the first frame of the clip.

  Args:
    read: (features [B, length, N, D], queries [B, Q, C]) -> `Tracks`.
    features: [B, T, N, D].
    queries: [B, Q, C].
    length: of a window.
    hop: frames from one window to the next, less than `length`.

  Returns:
    `Tracks` of T frames. Every frame is taken from the last window that begins
    with it or before.

  Raises:
    ValueError: fewer frames than a window has, or a hop outside [1, length).
  """
  num_frames = features.shape[1]
  if num_frames < length:
    raise ValueError(
      f'{num_frames} frames for a readout of {length}: give at least {length} '
      'frames, or use the recurrent readout'
    )
  if not 1 <= hop < length:
    raise ValueError(f'hop={hop}: want 1 to {length - 1}')
  starts = [*range(0, num_frames - length, hop), num_frames - length]
  parts, position = [], queries
  for i, start in enumerate(starts):
    tracks = read(features[:, start : start + length], position)
    stop = starts[i + 1] - start if start != starts[-1] else length
    parts.append(jax.tree.map(lambda x, stop=stop: x[:, :stop], tracks))
    if stop < length:
      position = tracks.values[:, stop]
  return jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=1), *parts)
