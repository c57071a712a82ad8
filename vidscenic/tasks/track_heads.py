"""Heads for `readout.Readout`: point tracks and box tracks.

The losses are this code base's own ("project recipe"): MooG and 4DS publish the
heads and not how they were trained. Points follow TAPIR (arXiv 2306.08637).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidscenic import config as vc
from vidscenic.layers import track_readouts
from vidscenic.ops import boxes as box_ops
from vidscenic.ops import grids, losses, metrics, tracking
from vidscenic.tasks import readout

KINDS = {
  'recurrent': track_readouts.RecurrentTracks,
  'window': track_readouts.WindowTracks,
}
_SCORED = (256, 256)  # size at which TAP-Vid and the loss count pixels
_HUBER = 4.0  # pixels
_POSITION_SCALE = 0.05  # of the position's loss


class _TrackHead(readout.Head):
  """Layers of one of KINDS, over clips of any length."""

  num_coordinates = 0

  def __init__(self, clip, kind, hop, layers):
    if kind not in KINDS:
      raise ValueError(f'kind={kind!r}: want one of {(*KINDS,)}')
    self.clip, self.kind, self.hop = tuple(clip), kind, hop
    self.layers = vc.build(
      f'{track_readouts.__name__}:{KINDS[kind].__name__}',
      field='task.kwargs.heads.layers',
      **{'num_coordinates': self.num_coordinates, **(layers or {})},
    )
    if kind == 'window' and self.clip[0] < self.layers.num_frames:
      raise ValueError(
        f'task.kwargs.clip={self.clip}: the window head reads '
        f'{self.layers.num_frames} frames at once; give clips of at least as '
        "many, set layers.num_frames, or kind='recurrent'"
      )

  def init(self, rng, features):
    tokens = features.tokens
    if self.kind == 'window':
      tokens = tokens[:, : self.layers.num_frames]
    queries = jnp.zeros((len(tokens), 1, self.num_coordinates))
    return self.layers.init(rng, tokens, queries)['params']

  def track(self, params, features, queries, given=None, state=None):
    """`Tracks` of queries [B, Q, C] in [0, 1]; given bool[B, T, Q] or None."""
    if self.kind == 'recurrent':
      return self.layers.apply(
        {'params': params}, features.tokens, queries, given, state
      )
    return track_readouts.slide_windows(
      lambda tokens, q: self.layers.apply({'params': params}, tokens, q),
      features.tokens,
      queries,
      length=self.layers.num_frames,
      hop=self.hop or self.layers.num_frames // 2,
    )


class Points(_TrackHead):
  """Point tracks.

  Batch: query_points float32[B, N, 3], (t, y, x); target_points [B, N, T, 2],
  (x, y), all in raster pixels of the clip; occluded bool[B, N, T]; if `masked`
  also query_mask bool[B, N], True for the tracks that count.

  Loss, over frames from the query on, in pixels of a 256 x 256 frame: Huber of
  the distance where visible (0.05), binary cross-entropy of visibility, and of
  certainty where visible. Figures: TAP-Vid's, of clips, beside those of points
  that stay.

  Args:
    clip: (T, H, W) of a training clip.
    num_points: N.
    masked: batches hold query_mask; for data with fewer tracks than N, or with
      tracks that the clip does not show.
    kind: 'recurrent' or 'window'; the latter needs queries in frame 0.
    hop: frames between windows in longer clips; 0: half a window.
    expected_dist_thresh: pixels of a 256 x 256 frame; a nearer prediction is
      certain. What is not certain counts as hidden, so a head that is hardly
      ever so near calls nothing visible and has aj 0: give it a larger one.
    layers: fields of `track_readouts.RecurrentTracks` or `WindowTracks`.

  Raises:
    ValueError: an unusable argument, named.
  """

  num_coordinates = 2

  def __init__(
    self,
    *,
    clip: Sequence[int],
    num_points: int = 64,
    masked: bool = False,
    kind: str = 'recurrent',
    hop: int = 0,
    expected_dist_thresh: float = 6.0,
    layers: Mapping[str, Any] | None = None,
  ):
    super().__init__(clip, kind, hop, layers)
    if not self.layers.visibility:
      raise ValueError('layers.visibility: point tracks need True')
    if expected_dist_thresh <= 0:
      raise ValueError(f'{expected_dist_thresh=} must be positive')
    self.expected_dist_thresh = expected_dist_thresh
    self.num_points, self.masked = num_points, masked

  def fields(self):
    n, t = self.num_points, self.clip[0]
    mask = {'query_mask': jax.ShapeDtypeStruct((n,), jnp.bool_)}
    return (mask if self.masked else {}) | {
      'query_points': jax.ShapeDtypeStruct((n, 3), jnp.float32),
      'target_points': jax.ShapeDtypeStruct((n, t, 2), jnp.float32),
      'occluded': jax.ShapeDtypeStruct((n, t), jnp.bool_),
    }

  def check(self, batch):
    real = np.asarray(batch.get('mask', True))
    queries = np.asarray(batch['query_points'])[real]
    length, height, width = batch['video'].shape[1:4]
    check_points(
      queries,
      (length, height, width),
      first_only=self.kind == 'window',
    )

  def loss(self, params, features, batch, ctx):
    tracks, queries = self._track(params, features, batch)
    points = grids.unit_to_pixels(
      jnp.swapaxes(tracks.values, 1, 2), size=_SCORED, order='xy'
    )
    truth = grids.scale_points(
      batch['target_points'], source=features.size, target=_SCORED, order='xy'
    )
    hidden = batch['occluded']
    frames = jnp.arange(points.shape[2])
    counted = frames >= jnp.round(queries[..., :1])
    counted &= losses.align(self._known(batch), counted)
    seen = counted & ~hidden
    error = points - truth
    position = losses.huber_distance(error, delta=_HUBER, weight=seen)
    logits = jnp.swapaxes(tracks.visible, 1, 2)
    visible = losses.sigmoid_binary_cross_entropy(
      logits, ~hidden, weight=counted
    )
    terms = {
      'position': (*position, _POSITION_SCALE),
      'visible': (*visible, 1.0),
    }
    if tracks.certain is not None:
      distance = jnp.sum(jnp.square(jax.lax.stop_gradient(error)), axis=-1)
      good = distance < self.expected_dist_thresh**2
      certain = losses.sigmoid_binary_cross_entropy(
        jnp.swapaxes(tracks.certain, 1, 2), good, weight=seen
      )
      terms['certain'] = (*certain, 1.0)
    return terms, self._scores(points, tracks, truth, batch, queries)

  def _scores(self, points, tracks, truth, batch, queries):
    given = {
      'query_points': queries,
      'target_points': truth,
      'target_occluded': batch['occluded'],
      'mode': 'first',
      'mask': self._known(batch),
    }
    still = jnp.broadcast_to(
      _to_scored(queries, batch['video'].shape)[:, :, None], points.shape
    )
    scores = tracking.tap_vid(
      points=points,
      occluded=~jnp.swapaxes(tracks.seen(), 1, 2),
      **given,
    )
    # The control: the point stays where it was asked for, always visible.
    control = tracking.tap_vid(
      points=still, occluded=jnp.zeros_like(batch['occluded']), **given
    )
    known = {
      'aj': scores['average_jaccard'],
      'position_accuracy': scores['average_pts_within_thresh'],
      'occlusion_accuracy': scores['occlusion_accuracy'],
      'aj_still': control['average_jaccard'],
      'position_accuracy_still': control['average_pts_within_thresh'],
    }
    return {
      name: metrics.mean_of_known(value, mask=batch['mask'])
      for name, value in known.items()
    }

  def _known(self, batch):
    """bool[B] or [B, N]: what counts."""
    if not self.masked:
      return batch['mask']
    return batch['mask'][:, None] & batch['query_mask']

  def predict(self, params, features, batch, state=None):
    """Returns points [B, N, T, 2], (x, y) in pixels, and occluded [B, N, T]."""
    tracks, _ = self._track(params, features, batch, state)
    points = grids.unit_to_pixels(
      jnp.swapaxes(tracks.values, 1, 2), size=features.size, order='xy'
    )
    occluded = ~jnp.swapaxes(tracks.seen(), 1, 2)
    return {'points': points, 'occluded': occluded}, tracks.state

  def _track(self, params, features, batch, state=None):
    queries = batch['query_points']
    where = grids.pixels_to_unit(queries, size=features.size, order='tyx')
    where = where[..., :0:-1]  # (t, y, x) -> (x, y)
    frames = jnp.arange(features.tokens.shape[1])
    given = frames[:, None] == jnp.round(queries[:, None, :, 0])
    return self.track(params, features, where, given, state), queries


def _to_scored(queries, shape):
  """(x, y) at 256 x 256 of queries (t, y, x)."""
  return grids.scale_points(
    queries[..., :0:-1], source=shape[2:4], target=_SCORED, order='xy'
  )


def check_points(
  queries, clip: Sequence[int], *, first_only: bool = False
) -> None:
  """Refuses queries that name no place in the clip.

  Args:
    queries: [..., 3], (t, y, x) in raster pixels.
    clip: (T, H, W).
    first_only: only frame 0 can be asked for.

  Raises:
    ValueError: names the query and the remedy.
  """
  queries = np.asarray(queries, np.float64).reshape(-1, 3)
  length, height, width = clip
  t, y, x = queries.T
  wrong = ~np.isfinite(queries).all(1)
  wrong |= (y < 0) | (y > height) | (x < 0) | (x > width)
  if wrong.any():
    query = [float(f'{v:g}') for v in queries[wrong][0]]
    raise ValueError(
      f'query_points: (t, y, x) = {query} is outside the frame of '
      f'{height}x{width} pixels: give pixels of the resized frame, or leave '
      'the query out'
    )
  wrong = (np.round(t) < 0) | (np.round(t) > length - 1)
  if wrong.any():
    raise ValueError(
      f'query_points: there is no frame {t[wrong][0]:g} in a clip of {length} '
      f'frames: t must be 0 to {length - 1}'
    )
  wrong = np.round(t) != 0
  if first_only and wrong.any():
    raise ValueError(
      f'query_points: a query in frame {t[wrong][0]:g}, but the window head is '
      "only asked about frame 0: use a source with queries='first', or the "
      'recurrent head'
    )


class Boxes(_TrackHead):
  """Box tracks: the box of one frame is given, and followed.

  Batch: boxes float32[B, T, K, 4], (ymin, xmin, ymax, xmax) in [0, 1], and
  boxes_mask bool[B, T, K]. Given is the first annotated box of a track, for the
  window head only where that is in frame 0.

  Loss: Huber of the four numbers in annotated frames. Figures: iou, the mean
  overlap over a track, then over a clip's tracks, and that of a box that stays.

  Args:
    clip: (T, H, W) of a training clip.
    num_boxes: K.
    kind, hop, layers: as of `Points`; layers default to no visibility.

  Raises:
    ValueError: an unusable argument, named.
  """

  num_coordinates = 4

  def __init__(
    self,
    *,
    clip: Sequence[int],
    num_boxes: int = 9,
    kind: str = 'recurrent',
    hop: int = 0,
    layers: Mapping[str, Any] | None = None,
  ):
    super().__init__(clip, kind, hop, {'visibility': False, **(layers or {})})
    self.num_boxes = num_boxes

  def fields(self):
    t, k = self.clip[0], self.num_boxes
    return {
      'boxes': jax.ShapeDtypeStruct((t, k, 4), jnp.float32),
      'boxes_mask': jax.ShapeDtypeStruct((t, k), jnp.bool_),
    }

  def check(self, batch):
    real = np.asarray(batch.get('mask', True))
    known = np.asarray(batch['boxes'])[real][batch['boxes_mask'][real]]
    if known.size and not (np.isfinite(known).all() and known.min() >= -0.5):
      raise ValueError(
        'boxes: want (ymin, xmin, ymax, xmax) in [0, 1] where boxes_mask is '
        f'True, got numbers down to {known.min():g}'
      )

  def loss(self, params, features, batch, ctx):
    tracks, start, first = self._track(params, features, batch)
    known = batch['boxes_mask'] & losses.align(
      batch['mask'], batch['boxes_mask']
    )
    if self.kind == 'window':
      known &= (start == 0)[:, None]
    frames = jnp.arange(known.shape[1])
    counted = known & (frames[:, None] >= start[:, None])
    error = tracks.values - batch['boxes']
    total, weight = losses.huber(error, delta=0.1, weight=counted[..., None])
    figures = {}
    still = jnp.broadcast_to(first[:, None], tracks.values.shape)
    for name, boxes in (('iou', tracks.values), ('iou_still', still)):
      overlap = box_ops.track_iou(
        boxes, batch['boxes'], mask=known, start=start
      )
      figures[name] = metrics.mean_of_known(
        box_ops.video_iou(overlap), mask=batch['mask']
      )
    # Numbers in [0, 1] make a small Huber loss: as large as that of points.
    return {'huber': (total, weight, 100.0)}, figures

  def predict(self, params, features, batch, state=None):
    """Returns tracked_boxes [B, T, K, 4], (ymin, xmin, ymax, xmax)."""
    tracks, _, _ = self._track(params, features, batch, state)
    return {'tracked_boxes': tracks.values}, tracks.state

  def _track(self, params, features, batch, state=None):
    """(`Tracks`, first annotated frames int[B, K], boxes there)."""
    known = batch['boxes_mask']
    start = jnp.argmax(known, axis=1)
    first = jnp.take_along_axis(
      batch['boxes'], start[:, None, :, None], axis=1
    )[:, 0]
    frames = jnp.arange(known.shape[1])
    given = (frames[:, None] == start[:, None]) & jnp.any(
      known, axis=1, keepdims=True
    )
    tracks = self.track(params, features, first, given, state)
    return tracks, start, first
