"""TAPIR: tracking any point by matching, then refinement.

arXiv 2306.08637; with `use_causal_conv` its online variant (arXiv 2308.15975),
with `extra_convs` BootsTAPIR (arXiv 2402.00847). Three stages, each of which
can be called on its own (`method=`):

  grids = feature_grids(video)                  frame by frame
  features = query_features(grids, queries)     looked up in the grids
  tracks, state = trajectories(grids, features, queries=queries)

Queries do not see each other. Positions are raster pixels of the video, queries
(t, y, x), tracks (x, y); see `ops.grids`.

Deliberate differences from the released code: levels above the video's own size
are resized (there the video is used as it is); the temporal shift of the first
BootsTAPIR stops at the borders of each clip (there it reaches into the next
clip of the batch).
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from projects.tapir import chunks, correlation, cost_volume, mixer
from projects.tapir import features as features_lib
from projects.tapir import tracks as tracks_lib
from vidscenic.layers import resnet
from vidscenic.ops import grids as grids_lib
from vidscenic.ops import video as video_ops

_HEAD = 4  # numbers per frame beside features: x, y, occlusion, uncertainty


class Tapir(nn.Module):
  """The model; fields have the names and defaults of the released code.

  Parameters: backbone (`resnet.ResNet`), extra_convs/layer_{i}/{norm, up,
  down}, cost_volume (`CostVolumeHeads`), mixer (`Mixer`).
  """

  pyramid_level: int = 1  # further, pooled grids that positions are matched in
  num_pips_iter: int = 4  # iterations at each resolution
  mixer_hidden_dim: int = 512
  num_mixer_blocks: int = 12
  mixer_kernel_shape: int = 3  # frames
  softmax_temperature: float = 20.0
  use_causal_conv: bool = False
  extra_convs: bool = False
  extra_conv_layers: int = 5
  extra_conv_multiplier: int = 4
  extra_conv_shift: bool = False  # sees both neighbour frames ('use_tsm')
  initial_resolution: Sequence[int] = (256, 256)
  stem_channels: int = 64
  channels_per_group: Sequence[int] = (64, 128, 256, 256)
  blocks_per_group: Sequence[int] = (2, 2, 2, 2)
  feature_extractor_chunk_size: int = 0  # frames at a time; 0: all

  def setup(self):
    if self.extra_conv_shift and self.feature_extractor_chunk_size:
      raise ValueError(
        'extra_conv_shift looks at neighbour frames: set '
        'feature_extractor_chunk_size=0'
      )
    self.backbone = nn.remat(resnet.ResNet)(
      features=self.channels_per_group,
      num_units=self.blocks_per_group,
      stem_features=self.stem_channels,
    )
    if self.extra_convs:
      self.extra = features_lib.ExtraConvs(
        self.extra_conv_layers,
        self.extra_conv_multiplier,
        self.extra_conv_shift,
        name='extra_convs',
      )
    self.cost_volume = nn.remat(cost_volume.CostVolumeHeads)(
      self.softmax_temperature
    )
    self.mixer = mixer.Mixer(
      _HEAD + self.feature_dim,
      self.mixer_hidden_dim,
      self.num_mixer_blocks,
      self.mixer_kernel_shape,
      self.use_causal_conv,
    )

  @property
  def feature_dim(self) -> int:
    """Ch + Cl."""
    return self.channels_per_group[1] + self.channels_per_group[3]

  def __call__(
    self,
    video,
    queries,
    *,
    query_chunk_size: int = 0,
    refinement_resolutions: Sequence[Sequence[int]] | None = None,
    grad_chunks: int = 0,
  ) -> tracks_lib.Tracks:
    """Tracks queries through a video.

    Args:
      video: [B, T, H, W, 3] in [-1, 1].
      queries: [B, N, 3], (t, y, x).
      query_chunk_size, grad_chunks: see `trajectories`.
      refinement_resolutions: see `feature_grids`.

    Returns:
      `Tracks`, K = 1 + num_pips_iter * number of refinements.
    """
    grids = self.feature_grids(video, refinement_resolutions)
    features = self.query_features(grids, queries)
    tracks, _ = self.trajectories(
      grids,
      features,
      queries=queries,
      query_chunk_size=query_chunk_size,
      grad_chunks=grad_chunks,
    )
    return tracks

  def feature_grids(
    self,
    video,
    refinement_resolutions: Sequence[Sequence[int]] | None = None,
  ) -> features_lib.FeatureGrids:
    """First stage: features of every frame at every resolution.

    Args:
      video: [B, T, H, W, 3] in [-1, 1], any size.
      refinement_resolutions: (Hr, Wr) of each refinement; None:
        `default_resolutions`.

    Raises:
      ValueError: a side that is no multiple of 8, or no refinement.
    """
    size = tuple(video.shape[2:4])
    initial = tuple(self.initial_resolution)
    if refinement_resolutions is None:
      refinement_resolutions = features_lib.default_resolutions(size, initial)
    wanted = [initial, *map(tuple, refinement_resolutions)]
    if len(wanted) < 2:
      raise ValueError('refinement_resolutions is empty')
    for resolution in wanted:
      if len(resolution) != 2 or any(
        r < 1 or r % features_lib.STRIDE for r in resolution
      ):
        raise ValueError(
          f'resolution {resolution}: want two multiples of '
          f'{features_lib.STRIDE}'
        )
    levels, refinement = [self._features(video, initial)], []
    for before, resolution in itertools.pairwise(wanted):
      if resolution != before:
        levels.append(self._features(video, resolution))
      refinement.append(len(levels) - 1)
    return features_lib.FeatureGrids(tuple(levels), tuple(refinement), size)

  def _features(self, video, resolution) -> features_lib.Grid:
    length = video.shape[1]
    chunk = min(self.feature_extractor_chunk_size or length, length)
    if chunk == length:
      return self._frame_features(video, resolution)
    count = math.ceil(length / chunk)
    # The last chunk is filled up with copies of the last frame.
    video = jnp.pad(
      video,
      [(0, 0), (0, count * chunk - length), *[(0, 0)] * 3],
      mode='edge',
    )
    video = video.reshape(len(video), count, chunk, *video.shape[2:])
    _, grid = chunks.scan(
      lambda model, carry, x: (carry, model._frame_features(x, resolution)),
      in_axes=1,
      out_axes=1,
    )(self, (), video)
    return jax.tree.map(
      lambda x: x.reshape(len(x), -1, *x.shape[3:])[:, :length], grid
    )

  def _frame_features(self, video, resolution) -> features_lib.Grid:
    if tuple(video.shape[2:4]) != resolution:
      video = video_ops.resize(
        video, size=resolution, method='bilinear', antialias=True
      )
    groups = self.backbone(video)
    lowres = groups[3]
    if self.extra_convs:
      lowres = self.extra(lowres)
    return features_lib.Grid(
      features_lib.unit_vectors(lowres), features_lib.unit_vectors(groups[1])
    )

  def query_features(
    self, grids: features_lib.FeatureGrids, queries
  ) -> tuple[features_lib.Grid, ...]:
    """Second stage: features at the queries, for every level.

    Args:
      grids: of the frames that the queries are in.
      queries: [B, N, 3], (t, y, x), t counted in these frames. A fractional t
        blends two frames.
    """

    def look_up(grid):
      points = grids_lib.scale_points(
        queries, source=grids.size, target=grid.shape[2:4], order='tyx'
      )
      return grids_lib.trilinear(grid, points, mode='clamp')

    return tuple(jax.tree.map(look_up, level) for level in grids.levels)

  def trajectories(
    self,
    grids: features_lib.FeatureGrids,
    features: Sequence[features_lib.Grid],
    *,
    queries=None,
    query_chunk_size: int = 0,
    grad_chunks: int = 0,
    state=None,
    num_frames=None,
  ) -> tuple[tracks_lib.Tracks, Any]:
    """Third stage: tracks through the frames of the grids.

    Args:
      grids: of the frames to track in.
      features: of the queries.
      queries: [B, N, 3], (t, y, x), if they are in these frames: there the
        first guess is the query itself. None where the frames are those of a
        stream.
      query_chunk_size: queries at a time, which bounds memory; 0: all. It
        changes no result.
      grad_chunks: if not 0, only the refinements of so many chunks, the first
        ones, have gradients; the first guesses of all have. Put the queries in
        random order then.
      state: `initial_state`, or what an earlier call returned, to go on behind
        its frames; None: the clip starts here. Only for `use_causal_conv`.
      num_frames: int32 scalar, frames in front that are real; the others are
        padding, so that few programs serve clips of many lengths. None: all.

    Returns:
      (tracks, state behind the last frame; () unless causal).
    """
    num_queries = features[0].lowres.shape[1]
    # Of states, the axis of queries is behind those of iterations and rows.
    inputs, axes = (tuple(features), queries, state), (1, 1, 2)
    trained = grad_chunks * query_chunk_size or num_queries
    parts = []
    for begin, end in ((0, min(trained, num_queries)), (trained, num_queries)):
      if begin < end:
        part = tuple(
          jax.tree.map(
            lambda x, a=a, b=begin, e=end: chunks.take(x, b, e, a), x
          )
          for x, a in zip(inputs, axes, strict=True)
        )
        body = lambda model, x, g=not begin: model._track(
          grids, x, num_frames, g
        )
        parts.append(
          chunks.in_chunks(
            body, self, part, query_chunk_size, axes=axes, out_axis=2
          )
        )
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=2), *parts)

  def first_guesses(
    self,
    grids: features_lib.FeatureGrids,
    features,
    queries,
    *,
    query_chunk_size: int = 0,
  ) -> tracks_lib.Tracks:
    """`trajectories` without refinement: `Tracks` with K = 1."""

    def guess(model, inputs):
      features, queries = inputs
      first = model._first_guess(grids, features, queries)
      return jax.tree.map(lambda x: x[None], _in_video(first, grids))

    inputs = (features[0].lowres, queries)
    return chunks.in_chunks(
      guess, self, inputs, query_chunk_size, axes=(1, 1), out_axis=2
    )

  def initial_state(self, num_points: int, num_levels: int = 1, batch: int = 1):
    """State of `trajectories` in front of the first frame: zeros.

    Args:
      num_points: N; axis 2 of every leaf, so that a point's state can be reset.
      num_levels: number of refinements.
      batch: B.

    Raises:
      ValueError: the model is not causal.
    """
    if not self.use_causal_conv:
      raise ValueError(
        'use_causal_conv=False: this model needs whole clips; load a causal one'
      )
    return tuple(
      mixer.initial_state(
        (self.num_pips_iter, batch, num_points),
        hidden_dim=self.mixer_hidden_dim,
        num_blocks=self.num_mixer_blocks,
        kernel_size=self.mixer_kernel_shape,
      )
      for _ in range(num_levels)
    )

  def _track(self, grids, inputs, num_frames, refinement_gradient):
    """Tracks one chunk of queries: (Tracks, state)."""
    features, queries, state = inputs
    first = self._first_guess(grids, features[0].lowres, queries)
    parts, states = [jax.tree.map(lambda x: x[None], first)], []
    start = first
    for number, level in enumerate(grids.refinement):
      tracks, after = self._refine(
        start,
        features[level],
        grids.levels[level],
        grids.resolution(0),
        None if state is None else state[number],
        num_frames,
      )
      # Only positions are handed on to the next level.
      start = first._replace(points=tracks.points[-1])
      parts.append(tracks)
      states.append(after)
    if not refinement_gradient:
      parts[1:] = jax.lax.stop_gradient(parts[1:])
    tracks = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    return _in_video(tracks, grids), tuple(states)

  def _first_guess(self, grids, features, queries) -> tracks_lib.Tracks:
    """From the cost volume; positions in pixels of the initial resolution."""
    initial, grid = grids.resolution(0), grids.levels[0].lowres
    points, logits = self.cost_volume(features, grid)
    points = grids_lib.scale_points(
      points, source=grid.shape[2:4], target=initial, order='xy'
    )
    if queries is not None:
      points = tracks_lib.pin_queries(
        points, queries, size=grids.size, target=initial
      )
    return tracks_lib.Tracks(points, logits[..., 0], logits[..., 1])

  def _refine(self, first, features, level, initial, state, num_frames):
    """All iterations at one resolution: (Tracks, state)."""
    pyramid = [level.hires, level.lowres]
    for _ in range(self.pyramid_level):
      pyramid.append(_pool(pyramid[-1]))
    shape = first.points.shape[:3]
    query = [features.hires, features.lowres]
    query = [
      jnp.broadcast_to(q[:, :, None], (*shape, q.shape[-1])) for q in query
    ]
    carry = (first, jnp.concatenate(query, axis=-1))

    watched = self.is_mutable_collection('intermediates')

    def iterate(model, carry, state):
      carry, after, seen = model._iterate(
        carry, pyramid, initial, state, num_frames
      )
      return carry, (carry[0], after, seen if watched else None)

    _, (tracks, after, seen) = chunks.scan(
      nn.remat(iterate, prevent_cse=False), length=self.num_pips_iter
    )(self, carry, state)
    if watched:
      self.sow('intermediates', 'mixer_in', seen[0])
      self.sow('intermediates', 'mixer_out', seen[1])
    return tracks, after

  def _iterate(self, carry, pyramid, initial, state, num_frames):
    tracks, features = carry
    parts = jnp.split(features, [pyramid[0].shape[-1]], axis=-1)
    scores = [
      correlation.local_correlations(
        parts[min(number, 1)],
        grid,
        grids_lib.scale_points(
          tracks.points, source=initial, target=grid.shape[2:4], order='xy'
        ),
      )
      for number, grid in enumerate(pyramid)
    ]
    # The published model has places for the position, and leaves them empty.
    inputs = [
      jnp.zeros_like(tracks.points),
      tracks.occlusion[..., None],
      tracks.expected_dist[..., None],
      features,
      *scores,
    ]
    inputs = jnp.concatenate(inputs, axis=-1)
    change, after = self.mixer(inputs, state, num_frames)
    # Changes are pixels of this resolution, positions of the initial one.
    height, width = (features_lib.STRIDE * n for n in pyramid[1].shape[2:4])
    moved = grids_lib.scale_points(
      change[..., :2], source=(height, width), target=initial, order='xy'
    )
    tracks = tracks_lib.Tracks(
      tracks.points + moved,
      tracks.occlusion + change[..., 2],
      tracks.expected_dist + change[..., 3],
    )
    features = features + change[..., _HEAD:]
    return (tracks, features), after, (inputs, change)


def _pool(grid):
  """Means of 2 x 2 cells; an odd last row or column is dropped."""
  lead, size = grid.shape[:2], grid.shape[2:]
  pooled = nn.avg_pool(grid.reshape(-1, *size), (2, 2), (2, 2))
  return pooled.reshape(*lead, *pooled.shape[1:])


def _in_video(tracks, grids):
  points = grids_lib.scale_points(
    tracks.points, source=grids.resolution(0), target=grids.size, order='xy'
  )
  return tracks._replace(points=points)
