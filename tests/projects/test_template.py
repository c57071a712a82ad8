"""The template project: small, honest about its control, runs on any folder."""

import functools
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects._template import task as task_lib
from projects._template.configs import synthetic, video_folder
from vidscenic import config as vc
from vidscenic import task as task_api
from vidscenic.data import pipeline, writer
from vidscenic.layers import transformer
from vidscenic.ops import masking
from vidscenic.train import loop

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIP, PATCH = (4, 16, 24), (2, 8, 8)
SMALL = dict(
  patch=PATCH,
  width=16,
  depth=2,
  num_heads=2,
  decoder_width=8,
  decoder_depth=2,
)


def make_task(**model):
  return task_lib.MaskedVideo(clip=CLIP, mask_ratio=0.5, model=SMALL | model)


def make_batch(rows=3, padded=0):
  video = np.random.default_rng(0).integers(0, 256, (rows, *CLIP, 3), np.uint8)
  mask = np.arange(rows) < rows - padded
  return {'video': jnp.asarray(video), 'mask': jnp.asarray(mask)}


def make_context(rows=3, **changes):
  return task_api.StepContext(
    step=jnp.int32(0),
    rng=jax.random.key(1),
    rows=jnp.arange(rows, dtype=jnp.int32),
  )._replace(**changes)


@functools.cache
def params():
  """Random values everywhere: zero biases would hide mistakes."""
  shapes, _ = jax.eval_shape(make_task().init, jax.random.key(0), make_batch())
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: jnp.asarray(0.2 * rng.standard_normal(s.shape), s.dtype), shapes
  )


def run(task, params, batch, *, train=True):
  """(loss, gradients, figures), compiled."""

  def objective(params):
    context = make_context(len(batch['mask']), train=train)
    out = task.loss(params, {}, batch, context)
    total, weight, scale = out.terms['mse']
    return scale * total / weight, out.metrics

  grad = jax.jit(jax.value_and_grad(objective, has_aux=True))
  (loss, figures), grads = grad(params)
  return float(loss), grads, jax.device_get(figures)


@pytest.fixture(scope='module')
def plain():
  return run(make_task(), params(), make_batch())


def test_project_stays_below_150_lines():
  folder = ROOT / 'projects' / '_template'
  lines = [
    line
    for name in ('model.py', 'task.py')
    for line in (folder / name).read_text().splitlines()
  ]
  assert len(lines) < 150
  assert max(len(line) for line in lines) <= 80


@pytest.mark.parametrize('remat', ['none', 'full'])
@pytest.mark.parametrize('scan', [False, True])
def test_scan_and_remat_change_no_number(plain, scan, remat):
  weights = transformer.stack_blocks(params()) if scan else params()
  loss, grads, _ = run(make_task(scan=scan, remat=remat), weights, make_batch())
  grads = transformer.unstack_blocks(grads) if scan else grads
  np.testing.assert_allclose(loss, plain[0], rtol=1e-5)
  assert jax.tree.structure(grads) == jax.tree.structure(plain[1])
  for a, b in zip(
    jax.tree.leaves(grads), jax.tree.leaves(plain[1]), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4)


def test_dtype_may_be_a_string(plain):
  task = make_task(dtype='bfloat16')
  shapes, _ = jax.eval_shape(task.init, jax.random.key(0), make_batch())
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
  loss, grads, _ = run(task, params(), make_batch())
  assert loss != plain[0]  # really computed in another type
  np.testing.assert_allclose(loss, plain[0], rtol=2e-2)  # 8 bits
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  same = run(make_task(dtype='float32'), params(), make_batch())[0]
  assert same == plain[0]


def test_hidden_pixels_do_not_reach_the_encoder():
  task, batch, context = make_task(), make_batch(), make_context()
  forward = jax.jit(lambda b: task._forward(params(), b, context))
  before, drop = forward(batch)
  clips, _ = task.predict(params(), {}, batch, context)
  hidden = np.asarray(clips['visible'] == 0)
  changed = np.where(hidden, 255 - np.asarray(batch['video']), batch['video'])
  after, _ = forward(batch | {'video': jnp.asarray(changed)})
  assert np.any(before['truth'] != after['truth'])
  np.testing.assert_array_equal(before['predicted'], after['predicted'])
  # Half of 12 patches in every row.
  np.testing.assert_array_equal(drop.sum(axis=(1, 2)), [6, 6, 6])


def test_predicted_clips_keep_visible_pixels_in_place():
  clips, carry = make_task().predict(params(), {}, make_batch(), make_context())
  truth = np.asarray(make_batch()['video']) / 127.5 - 1
  np.testing.assert_allclose(clips['truth'], truth, atol=1e-6)
  visible = np.asarray(clips['visible']) != 0
  assert 0.45 < visible.mean() < 0.55
  for name in ('visible', 'predicted'):
    np.testing.assert_allclose(clips[name][visible], truth[visible], atol=1e-6)
  assert carry is None


def test_control_fills_hidden_patches_with_the_mean_visible_colour():
  task, batch, context = make_task(), make_batch(), make_context(train=False)
  _, _, figures = run(task, params(), batch, train=False)
  clips, _ = task.predict(params(), {}, batch, context)
  want = []
  for truth, visible in zip(clips['truth'], clips['visible'], strict=True):
    truth = np.asarray(truth, np.float64)
    seen = np.asarray(visible != 0).any(axis=-1)
    guess = np.where(seen[..., None], truth, truth[seen].mean(axis=0))
    want.append(10 * np.log10(4 / np.mean((guess - truth) ** 2)))
  total, count = figures['psnr_mean_colour']
  np.testing.assert_allclose([total, count], [sum(want), 3], rtol=1e-4)


def test_loss_is_the_error_of_hidden_pixels_alone(plain):
  clips, _ = make_task().predict(params(), {}, make_batch(), make_context())
  hidden = np.asarray(clips['visible']) == 0
  error = np.asarray(clips['predicted'] - clips['truth'])[hidden]
  np.testing.assert_allclose(plain[0], np.mean(error**2), rtol=1e-4)


def test_padded_rows_count_nothing():
  batch = make_batch(padded=1)
  whole = run(make_task(), params(), batch, train=False)
  part = run(
    make_task(), params(), jax.tree.map(lambda x: x[:2], batch), train=False
  )
  np.testing.assert_allclose(whole[0], part[0], rtol=1e-6)
  for name, pair in part[2].items():
    np.testing.assert_allclose(whole[2][name], pair, rtol=1e-6)


def test_a_row_has_the_same_mask_in_any_batch():
  task = make_task()
  keys = masking.row_keys(jax.random.key(1), jnp.array([2]))
  mask = masking.random_mask(
    keys, num_tokens=task.num_tokens, num_keep=task.num_keep
  )
  in_batch = task._forward(params(), make_batch(), make_context())[1]
  np.testing.assert_array_equal(in_batch[2, :, 0], mask.hidden[0])


@pytest.mark.parametrize('ratio', [0.0, 0.01, 1.0])
def test_ratio_that_hides_nothing_or_all_is_refused(ratio):
  if ratio == 0.01:  # hides one of twelve: allowed
    assert task_lib.MaskedVideo(CLIP, ratio, SMALL).num_keep == 11
    return
  with pytest.raises(ValueError, match=f'mask_ratio={ratio} leaves'):
    task_lib.MaskedVideo(CLIP, ratio, SMALL)


def test_clip_that_is_no_multiple_of_the_patch_is_refused():
  task = task_lib.MaskedVideo((4, 16, 20), 0.5, SMALL)
  batch = {'video': jnp.zeros((1, 4, 16, 20, 3), jnp.uint8)}
  with pytest.raises(ValueError, match='every size must be a multiple'):
    jax.eval_shape(task.init, jax.random.key(0), batch)


def test_smoke_is_the_template_on_synthetic_clips():
  smoke = runpy.run_path(str(ROOT / 'configs' / 'smoke.py'))['get_config']
  assert smoke('steps=36') == synthetic.get_config('steps=36')


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
  folder = tmp_path_factory.mktemp('videos')
  rng = np.random.default_rng(0)
  for i in range(3):
    frames = rng.integers(0, 256, (12, 32, 48), np.uint8)
    frames = np.repeat(frames[..., None], 3, axis=-1)
    writer.write_video(folder / f'{i}.mp4', frames, 12.0)
  return folder


def shrink(config):
  with config.unlocked():
    config.batch_size = 8
    config.task.kwargs.clip = (8, 16, 16)
    config.task.kwargs.model.update(width=16, depth=1, num_heads=2)
    specs = [e.kwargs.data for e in config.evals.values()]
    for spec in (config.data.train, *specs):
      spec.transform_kwargs.size = (16, 16)
  return vc.finalize(config)


def test_folder_of_videos_trains_and_evaluates(videos, tmp_path):
  config = shrink(video_folder.get_config(f'steps=2,heldout={videos}'))
  config.data.train.source_kwargs.path = str(videos)
  assert loop.train(config, tmp_path)
  text = (tmp_path / 'metrics.jsonl').read_text()
  assert 'heldout/psnr_mean_colour' in text
  assert list((tmp_path / 'media').iterdir())


def test_folder_without_held_out_videos_has_no_evaluators():
  assert not len(video_folder.get_config().evals)


@pytest.mark.parametrize(
  ('path', 'error', 'message'),
  [
    ('', ValueError, "data.train: source_kwargs.path='' is empty"),
    ('no/where', FileNotFoundError, "data.train: .*'no/where' does not exist"),
  ],
)
def test_missing_folder_is_named(path, error, message):
  config = video_folder.get_config()
  config.data.train.source_kwargs.path = path
  with pytest.raises(error, match=message):
    pipeline.make_train_iter(config.data.train, batch_size=8, seed=0)
