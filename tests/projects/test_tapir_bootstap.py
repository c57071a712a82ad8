"""Self-training: what the student sees, and who learns from whom."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.tapir import bootstap
from tests.projects import tapir_models
from vidscenic import task as task_api
from vidscenic.ops import masking

ROWS, T = 2, 4
KEYS = masking.row_keys(jax.random.key(3), jnp.arange(ROWS))


def make_view():
  return bootstap.draw_view(KEYS, T, tapir_models.SIZE, scale=(0.5, 1.0))


def test_views_map_there_and_back():
  view = make_view()
  points = np.random.default_rng(0).random((ROWS, 5, T, 2)) * 40
  np.testing.assert_allclose(view.back(view.points(points)), points, atol=1e-4)


def test_views_stay_inside_the_frame_and_change_evenly():
  view = make_view()
  height, width = tapir_models.SIZE
  corners = np.array([[0, 0], [width, height]], np.float32)
  corners = np.broadcast_to(corners[None, :, None], (ROWS, 2, T, 2))
  mapped = np.asarray(view.points(corners))
  assert mapped.min() >= -1e-4
  assert (mapped <= np.array([width, height]) + 1e-4).all()
  np.testing.assert_allclose(np.diff(view.scale, n=2, axis=1), 0, atol=1e-6)


def test_pixels_go_where_the_view_says():
  """A bright spot is found at the mapped place."""
  video = np.zeros((ROWS, T, 32, 40, 3), np.float32)
  video[:, :, 9:12, 19:22] = 1
  view = make_view()
  shown = np.asarray(bootstap.show(video, view)).mean(-1)
  spot = np.full((ROWS, 1, T, 2), [20.5, 10.5], np.float32)
  want = np.asarray(view.points(spot))[:, 0]
  y, x = np.mgrid[:32, :40] + 0.5
  total = shown.sum((2, 3))
  got = np.stack([(shown * g).sum((2, 3)) / total for g in (x, y)], -1)
  np.testing.assert_allclose(got, want, atol=0.05)


def test_outside_of_the_view_it_is_black():
  view = bootstap.View(jnp.full((1, 1), 0.5), jnp.array([[[10.0, 8.0]]]))
  shown = np.array(bootstap.show(np.ones((1, 1, 32, 40, 3), np.float32), view))
  assert shown[0, 0, 9:23, 11:29].min() > 0.99
  shown[0, 0, 7:25, 9:31] = 0
  assert shown.max() == 0


def test_jpeg_of_high_quality_keeps_the_picture_and_of_low_does_not():
  video = tapir_models.make_video(1)[None].astype(np.float32) / 255
  video = np.repeat(video, 2, axis=0)
  out = np.asarray(bootstap.jpeg(video, jnp.array([100.0, 10.0])))
  error = np.abs(out - video).mean((1, 2, 3, 4))
  assert error[0] < 0.004  # half a level of 255, and rounding
  assert error[1] > 3 * error[0]
  flat = np.full((1, 1, 32, 40, 3), 0.5, np.float32)
  np.testing.assert_allclose(bootstap.jpeg(flat, jnp.ones(1)), flat, atol=0.01)


@functools.cache
def gradients():
  """(terms, metrics, gradient of the student, of the teacher)."""
  task = bootstap.SelfTraining(
    model=tapir_models.SMALL,
    clip=(T, *tapir_models.SIZE),
    num_queries=3,
    unlabelled_queries=4,
    cycle_distance=1e6,
  )
  _, params = tapir_models.make_params()
  # As if it saw everything, so that some tracks are kept.
  params = jax.tree.map(lambda x: x, params)
  ctx = task_api.StepContext(
    jnp.int32(0), jax.random.key(1), jnp.arange(ROWS, dtype=jnp.int32)
  )
  batch = {
    'video': np.stack(
      [tapir_models.make_video(T, seed=i) for i in range(ROWS)]
    ),
    'mask': np.ones(ROWS, bool),
  }

  def loss(student, teacher):
    terms, figures = task.self_loss(student, teacher, batch, ctx)
    return sum(s * a / n for a, n, s in terms.values()), (terms, figures)

  fn = jax.jit(
    jax.grad(loss, argnums=(0, 1), has_aux=True),
    compiler_options=tapir_models.FAST,
  )
  grads, (terms, figures) = fn(params, params)
  return terms, figures, *grads


def test_only_the_student_learns():
  _, _, student, teacher = gradients()
  assert all(not np.any(g) for g in jax.tree.leaves(teacher))
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(student))


def test_terms_are_named_apart_from_the_labelled_ones():
  terms, figures, *_ = gradients()
  assert all(name.startswith('self_') for name in terms)
  kept, total = figures['self_kept']
  assert 0 <= kept <= total == ROWS * 4 * T


def test_a_teacher_is_needed():
  task = bootstap.SelfTraining(
    model=tapir_models.SMALL, clip=(T, *tapir_models.SIZE), num_queries=3
  )
  assert set(task.batch_spec()) == {'labelled', 'unlabelled'}
  rows = jnp.arange(1, dtype=jnp.int32)
  ctx = task_api.StepContext(
    jnp.int32(0),
    jax.random.key(1),
    {'labelled': rows, 'unlabelled': rows},
  )
  _, params = tapir_models.make_params()
  batch = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct((1, *s.shape), s.dtype), task.batch_spec()
  )
  for part in batch.values():
    part['mask'] = jax.ShapeDtypeStruct((1,), bool)
  with pytest.raises(ValueError, match=r'ema\.decay'):
    jax.eval_shape(lambda p, b: task.loss(p, {}, b, ctx)[0], params, batch)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'scale': (0.0, 1.0)}, r'scale=\(0.0, 1.0\): want 0 < low'),
    ({'jpeg_quality': (10, 101)}, 'jpeg_quality'),
    ({'model': {'name': 'tapnet'}}, 'only TAPIR trains itself'),
    ({'unlabelled_clip': (8, 60, 64)}, r'unlabelled_clip=\(8, 60, 64\): want'),
  ],
)
def test_wrong_arguments_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    bootstap.SelfTraining(**options)
