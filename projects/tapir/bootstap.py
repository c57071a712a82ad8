"""Self-training on videos without labels: BootsTAP (arXiv 2402.00847).

A teacher, the running average of the student, tracks random points through a
clean clip. The student sees the clip shrunk by a factor and shifted to a place
that change over time, with the artefacts of JPEG, and often another point of
the same track; it learns to find the teacher's track. Tracks on which the
student does not lead back to the point that the teacher was asked for do not
count. Labelled clips are trained on in the same updates.

No code of the paper is public, and not all of its numbers are known: all are
arguments here.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from projects.tapir import losses
from projects.tapir import task as task_lib
from vidscenic.ops import grids, masking, tracking
from vidscenic.ops import video as video_ops

# Quantisation of luma in JPEG (ITU-T T.81, annex K), used for colour as well.
_QUANTA = np.array(
  [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
  ],
  np.float32,
)


class View(NamedTuple):
  """Where the student's frames show the clip: x' = scale * x + shift.

  Attributes:
    scale: [B, T], the same for x and y, in (0, 1].
    shift: [B, T, 2], (x, y) in raster pixels.
  """

  scale: Any
  shift: Any

  def points(self, points):
    """[B, N, T, 2] of the clip -> of the view, (x, y) in raster pixels."""
    return points * self.scale[:, None, :, None] + self.shift[:, None]

  def back(self, points):
    """[B, N, T, 2] of the view -> of the clip; undoes `points`."""
    return (points - self.shift[:, None]) / self.scale[:, None, :, None]


class SelfTraining(task_lib.PointTracking):
  """Labelled clips as `PointTracking`, and clips without labels.

  Streams: 'labelled' with the fields of `PointTracking`; 'unlabelled' with
  video uint8[B, T, H, W, 3]. Needs `config.ema.decay`: the average is the
  teacher.

  Args:
    unlabelled_clip: (T, H, W); None: as the labelled ones.
    unlabelled_queries: random points per clip.
    unlabelled_weight: of its losses in the total.
    scale: range of the shrinking at the first and at the last frame; in between
      it changes linearly, as does the place.
    jpeg_quality: range of the quality, 1 to 100.
    same_query: probability that the student gets the teacher's own query.
    cycle_distance: pixels at 256 x 256 within which the student must lead back.
    **kwargs: of `PointTracking`.
  """

  def __init__(
    self,
    unlabelled_clip: Sequence[int] | None = None,
    unlabelled_queries: int = 32,
    unlabelled_weight: float = 1.0,
    scale: tuple[float, float] = (0.5, 1.0),
    jpeg_quality: tuple[float, float] = (10.0, 95.0),
    same_query: float = 0.5,
    cycle_distance: float = 4.0,
    **kwargs,
  ):
    super().__init__(**kwargs)
    if self.is_tapnet:
      raise ValueError("model.name='tapnet': only TAPIR trains itself")
    for name, (low, high), top in (
      ('scale', scale, 1.0),
      ('jpeg_quality', jpeg_quality, 100.0),
    ):
      if not 0 < low <= high <= top:
        raise ValueError(
          f'{name}=({low}, {high}): want 0 < low <= high <= {top:g}'
        )
    self.unlabelled_clip = tuple(unlabelled_clip or self.clip)
    if any(side % 8 for side in self.unlabelled_clip[1:]):
      raise ValueError(
        f'unlabelled_clip={self.unlabelled_clip}: want a height and width that '
        'are multiples of 8, the blocks of JPEG'
      )
    self.unlabelled_queries = unlabelled_queries
    self.unlabelled_weight = unlabelled_weight
    self.scale, self.jpeg_quality = tuple(scale), tuple(jpeg_quality)
    self.same_query, self.cycle_distance = same_query, cycle_distance

  def batch_spec(self):
    video = jax.ShapeDtypeStruct((*self.unlabelled_clip, 3), jnp.uint8)
    return {
      'labelled': super().batch_spec(),
      'unlabelled': {'video': video},
    }

  def check_batch(self, batch):
    super().check_batch(batch['labelled'])

  def loss(self, params, model_state, batch, ctx):
    out = super().loss(
      params,
      model_state,
      batch['labelled'],
      ctx._replace(rows=ctx.rows['labelled']),
    )
    if ctx.ema_params is None:
      raise ValueError(
        'SelfTraining needs a teacher: set ema.decay, such as 0.99'
      )
    terms, figures = self.self_loss(
      params,
      ctx.ema_params,
      batch['unlabelled'],
      ctx._replace(rows=ctx.rows['unlabelled']),
    )
    return out._replace(terms=out.terms | terms, metrics=out.metrics | figures)

  def self_loss(self, params, teacher, batch, ctx):
    """Losses on clips without labels.

    Args:
      params: the student's; only these get a gradient.
      teacher: the teacher's.
      batch: video uint8[B, T, H, W, 3] and mask bool[B].
      ctx: rng and rows of these clips.

    Returns:
      (terms, metrics), named 'self_...'.
    """
    video = video_ops.normalize(batch['video'], 'unit')
    length, *size = video.shape[1:4]
    keys = masking.split_keys(
      masking.row_keys(jax.random.fold_in(ctx.rng, 2), ctx.rows), 4
    )
    asked = self._random_queries(keys[:, 0], length, size)
    found = self._track(jax.lax.stop_gradient(teacher), video * 2 - 1, asked)
    found = jax.lax.stop_gradient(self.final(found))
    inside = _in_frame(found.points, size)
    hidden = tracking.predicted_occluded(found.occlusion, found.expected_dist)
    view = draw_view(keys[:, 1], length, size, scale=self.scale)
    seen = jpeg(show(video, view), draw_uniform(keys[:, 2], *self.jpeg_quality))
    given = self._student_queries(
      keys[:, 3], asked, found.points, hidden | ~inside
    )
    mapped = _at_query(view, given)
    tracks = self._track(params, seen * 2 - 1, mapped)
    tracks = tracks._replace(points=jax.vmap(view.back)(tracks.points))
    mask = self._cycle(self.final(tracks), asked, size)[:, :, None]
    mask = jax.lax.stop_gradient(mask & inside)
    found_terms = losses.trajectory_losses(
      tracks,
      self.model.num_pips_iter,
      target_points=found.points,
      target_occluded=found.occlusion > 0,
      size=size,
      rows=batch['mask'],
      mask=mask,
      expected_dist_thresh=self.expected_dist_thresh,
    )
    terms = {
      f'self_{name}': (total, count, scale * self.unlabelled_weight)
      for name, (total, count, scale) in found_terms.items()
    }
    rows = jnp.broadcast_to(batch['mask'][:, None, None], mask.shape)
    kept = (jnp.sum(mask & rows), jnp.sum(rows))
    return terms, {'self_kept': kept}

  def _random_queries(self, keys, length, size):
    def draw(key):
      key_t, key_p = jax.random.split(key)
      count = self.unlabelled_queries
      t = jax.random.randint(key_t, (count, 1), 0, length)
      p = jax.random.uniform(key_p, (count, 2)) * jnp.array(size)
      return jnp.concatenate([t.astype(jnp.float32), p], axis=-1)

    return jax.vmap(draw)(keys)

  def _student_queries(self, keys, asked, points, hidden):
    """Another point of the same track that is not hidden, or the teacher's."""

    def draw(key, asked, points, hidden):
      key_t, key_same = jax.random.split(key)
      logits = jnp.where(hidden, -jnp.inf, 0.0)
      noise = jax.random.gumbel(key_t, logits.shape)
      frame = jnp.argmax(logits + noise, axis=-1)
      place = jnp.take_along_axis(points, frame[:, None, None], axis=1)[:, 0]
      other = jnp.concatenate(
        [frame[:, None].astype(jnp.float32), grids.swap_xy(place)], axis=-1
      )
      same = jax.random.bernoulli(key_same, self.same_query, frame.shape)
      same |= jnp.all(hidden, axis=-1)
      return jnp.where(same[:, None], asked, other)

    return jax.vmap(draw)(keys, asked, points, hidden)

  def _cycle(self, tracks, asked, size):
    """bool[B, N]: the student leads back to the teacher's query."""
    frame = jnp.round(asked[..., :1]).astype(jnp.int32)
    place = jnp.take_along_axis(tracks.points, frame[..., None], axis=2)[
      :, :, 0
    ]
    off = place - grids.swap_xy(asked[..., 1:])
    off = grids.scale_points(off, source=size, target=(256, 256), order='xy')
    hidden = tracking.predicted_occluded(tracks.occlusion, tracks.expected_dist)
    hidden = jnp.take_along_axis(hidden, frame, axis=2)[:, :, 0]
    near = jnp.sum(jnp.square(off), axis=-1) < self.cycle_distance**2
    return near & ~hidden

  def _track(self, params, video, queries):
    return self.model.apply(
      {'params': params},
      video,
      queries,
      query_chunk_size=self.query_chunk_size,
    )


def draw_view(keys, num_frames: int, size: Sequence[int], *, scale) -> View:
  """Draws size and place at both ends of a clip, linear in between.

  Args:
    keys: keys[B].
    num_frames: T.
    size: (H, W) of the frames.
    scale: (lowest, highest).
  """

  def draw(key):
    key_s, key_p = jax.random.split(key)
    ends = jax.random.uniform(key_s, (2,), minval=scale[0], maxval=scale[1])
    # Of the room that the smaller picture leaves.
    places = jax.random.uniform(key_p, (2, 2))
    when = jnp.linspace(0.0, 1.0, num_frames)[:, None]
    factor = ends[0] * (1 - when) + ends[1] * when
    place = places[:1] * (1 - when) + places[1:] * when
    room = (1 - factor) * jnp.array(size[::-1], jnp.float32)
    return factor[:, 0], place * room

  return View(*jax.vmap(draw)(keys))


def draw_uniform(keys, low: float, high: float):
  """float32[B], one number per key."""
  return jax.vmap(lambda key: jax.random.uniform(key, minval=low, maxval=high))(
    keys
  )


def show(video, view: View):
  """Frames as a view shows them, black around.

  Args:
    video: [B, T, H, W, 3].
    view: of these frames.
  """

  def frame(picture, scale, shift):
    return jax.image.scale_and_translate(
      picture,
      picture.shape,
      (0, 1),
      jnp.stack([scale, scale]),
      shift[::-1],
      method='bilinear',
    )

  return jax.vmap(jax.vmap(frame))(video, view.scale, view.shift)


def jpeg(video, quality):
  """The artefacts of JPEG: rounded cosine coefficients of 8 x 8 pixels.

  Args:
    video: [B, T, H, W, 3] in [0, 1], H and W multiples of 8.
    quality: [B], 1 to 100, as libjpeg counts.

  Returns:
    The same shape, in [0, 1].
  """
  n = np.arange(8)
  basis = np.cos(np.pi * (2 * n + 1) * n[:, None] / 16) / 2
  basis[0] /= np.sqrt(2)
  basis = jnp.array(basis, jnp.float32)
  luma = jnp.array(
    [
      [0.299, 0.587, 0.114],
      [-0.168736, -0.331264, 0.5],
      [0.5, -0.418688, -0.081312],
    ],
    jnp.float32,
  )
  factor = jnp.where(quality < 50, 50 / quality, 2 - quality / 50)
  quanta = factor[:, None, None] * _QUANTA
  quanta = jnp.maximum(quanta, 1)[:, None, None, :, None, :, None]
  x = (video * 255 - 128) @ luma.T
  shape = (*x.shape[:2], x.shape[2] // 8, 8, x.shape[3] // 8, 8, 3)
  x = x.reshape(shape)
  x = jnp.einsum('ui,vj,bthiwjc->bthuwvc', basis, basis, x)
  x = jnp.round(x / quanta) * quanta
  x = jnp.einsum('ui,vj,bthuwvc->bthiwjc', basis, basis, x)
  x = x.reshape(video.shape) @ jnp.linalg.inv(luma).T
  return jnp.clip((x + 128) / 255, 0, 1)


def _at_query(view, queries):
  """[B, N, 3] (t, y, x) of the clip -> of the view."""
  frame = jnp.round(queries[..., 0]).astype(jnp.int32)
  scale = jnp.take_along_axis(view.scale, frame, axis=1)[..., None]
  shift = jnp.take_along_axis(view.shift, frame[..., None], axis=1)
  place = grids.swap_xy(queries[..., 1:]) * scale + shift
  return jnp.concatenate([queries[..., :1], grids.swap_xy(place)], axis=-1)


def _in_frame(points, size):
  x, y = points[..., 0], points[..., 1]
  return (x >= 0) & (y >= 0) & (x <= size[1]) & (y <= size[0])
