"""MooG's training: what is predicted, the controls, readouts beside it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.moog import task as task_lib
from tests.projects import moog_small as small
from vidscenic.train import sharding


@functools.cache
def program(heads=('points', 'boxes', 'depth'), gradients=False, **options):
  """Of a batch: (loss's sums, figures); or (loss, gradients)."""
  task = small.make_task(
    heads={name: small.HEADS[name] for name in heads}, **options
  )

  def parts(params, batch):
    ctx = small.context(len(batch['mask']), train=gradients)
    out = task.loss(params, {}, batch, ctx)
    return out.terms, out.metrics

  def loss(params, batch):
    terms, _ = parts(params, batch)
    return sum(s * n / jnp.maximum(w, 1) for n, w, s in terms.values())

  return small.compiled(jax.value_and_grad(loss) if gradients else parts)


def test_loss_and_figures_are_those_of_the_predicted_pixels():
  task = small.make_task(heads=small.HEADS)
  batch = small.make_batch()
  terms, figures = program()(small.task_params(), batch)
  run = small.compiled(lambda p, b: task.predict(p, {}, b, small.context())[0])
  found = jax.device_get(run(small.task_params(), batch))
  truth = batch['video'][:, :, 1::2, 1::2] / 255
  np.testing.assert_allclose(found['truth'], truth, atol=1e-6)
  square = (found['predicted'] - truth) ** 2
  total, weight, _ = terms['next_frame']
  np.testing.assert_allclose(total / weight, square.mean(), rtol=1e-4)
  psnr = -10 * np.log10(square.mean((2, 3, 4)))
  for name, want in (('psnr_all', psnr), ('psnr', psnr[:, 2:])):
    total, count = figures[name]
    np.testing.assert_allclose(total / count, want.mean(), rtol=1e-4)
  mean = np.cumsum(truth, 1)[:, 1:-1] / np.arange(2, 5)[:, None, None, None]
  for name, guess in (('copy', truth[:, 1:-1]), ('mean', mean)):
    error = ((guess - truth[:, 2:]) ** 2).mean((2, 3, 4))
    total, count = figures[f'psnr_{name}']
    np.testing.assert_allclose(
      total / count, (-10 * np.log10(error)).mean(), rtol=1e-4
    )


@pytest.mark.parametrize('finetune', [False, True])
def test_readouts_reach_the_model_only_if_told_to(finetune):
  clip = (2, 16, 24)
  batch = small.make_batch(1, clip)
  params = small.task_params()
  run = program(('depth',), gradients=True, clip=clip, finetune_heads=finetune)
  other = batch | {'depth': batch['depth'][:, ::-1]}
  moved = jax.tree.map(
    lambda a, b: np.abs(a - b).max(),
    run(params, batch)[1],
    run(params, other)[1],
  )
  assert max(jax.tree.leaves(moved['heads']['depth'])) > 0
  assert (max(jax.tree.leaves(moved['backbone'])) > 0) == finetune


def test_bfloat16_is_close_and_states_stay_float32():
  params, batch = small.task_params(), small.make_batch()
  (exact, _), (rounded, _) = (
    program((), dtype=dtype)(params, batch) for dtype in ('float32', 'bfloat16')
  )
  a, b = exact['next_frame'][0], rounded['next_frame'][0]
  assert a != b
  np.testing.assert_allclose(a, b, rtol=3e-2)  # 8 bits, five steps
  task = small.make_task(dtype='bfloat16')
  out = jax.eval_shape(
    lambda p: task.run(p, jnp.zeros((3, *small.CLIP, 3)), small.context()),
    params,
  )
  assert {str(x.dtype) for x in jax.tree.leaves(out)} == {'float32'}


def test_padded_rows_count_nothing():
  batch = small.make_batch()
  batch['mask'][-1] = False
  other = {k: v.copy() for k, v in batch.items()}
  for name in ('video', 'target_points', 'depth', 'boxes'):
    other[name][-1] = other[name][-1, ::-1]
  first, second = (program()(small.task_params(), b) for b in (batch, other))
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_eight_devices_train_like_one():
  batch = small.make_batch(8, (2, 16, 24))
  batch = {name: batch[name] for name in ('video', 'mask')}
  params = {'backbone': small.task_params()['backbone']}
  run = program((), gradients=True, clip=(2, 16, 24))
  one, grads = run(params, batch)
  mesh = sharding.make_mesh({'data': 8, 'fsdp': 1, 'model': 1})
  with jax.set_mesh(mesh):
    spread = jax.device_put(batch, sharding.batch_sharding(mesh))
    everywhere = jax.device_put(params, sharding.replicated(mesh))
    eight, others = run(everywhere, spread)
  np.testing.assert_allclose(eight, one, rtol=1e-5)
  for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(others), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_separate_readout_training_leaves_the_model_alone():
  task = task_lib.PointReadout(
    clip=small.CLIP,
    variant='config',
    model=small.MODEL,
    head=small.HEADS['points'] | {'kind': 'recurrent'},
  )
  assert task.never_trained() == (r'^backbone/',)
  assert task_lib.PointReadout(finetune=True).never_trained() == ()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'query_points': [0, 17, 3]}, r'outside the frame of 16x24 pixels'),
    ({'query_points': [0, np.nan, 3]}, 'outside the frame'),
    ({'query_points': [5, 3, 3]}, 'there is no frame 5 in a clip of 5'),
    ({'boxes': -3.0}, r'want \(ymin, xmin, ymax, xmax\) in \[0, 1\]'),
  ],
)
def test_wrong_labels_are_refused(change, message):
  task, batch = small.make_task(heads=small.HEADS), small.make_batch()
  batch['boxes_mask'][:] = True
  task.check_batch(batch)
  for name, value in change.items():
    batch[name][0, 0] = value
  with pytest.raises(ValueError, match=message):
    task.check_batch(batch)
  batch['mask'][0] = False  # a padded row may hold anything
  task.check_batch(batch)


def test_window_head_is_only_asked_about_the_first_frame():
  task = task_lib.PointReadout(clip=(16, 16, 24), model=small.MODEL)
  queries = np.tile(np.float32([2, 3, 3]), (1, 4, 1))
  batch = {'video': small.make_video(1, (16, 16, 24)), 'query_points': queries}
  with pytest.raises(ValueError, match="queries='first'"):
    task.check_batch(batch)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: small.make_task(variant='A'), "variant='A'"),
    (lambda: small.make_task(decode='raw'), "decode='raw'"),
    (lambda: small.make_task(clip=(4, 18, 24)), '18 pixels cannot be'),
    (
      lambda: task_lib.PointReadout(clip=(15, 16, 24)),
      'the window head reads 16 frames at once',
    ),
    (lambda: small.make_task(heads={'x': {}}), 'heads.x.factory'),
    (lambda: small.make_task(dtype='float16'), "dtype='float16'"),
    (lambda: small.make_task(heads_weight=0), 'heads_weight=0: want more'),
  ],
)
def test_wrong_arguments_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
