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
from vidscenic.data import device, pipeline, writer
from vidscenic.layers import transformer
from vidscenic.ops import masking

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIP = (4, 16, 24)
SMALL = dict(
  patch=(2, 8, 8),
  width=16,
  depth=2,
  num_heads=2,
  decoder_width=8,
  decoder_depth=1,
)
NUM_ROWS = 3
# Compiling takes longer than running here.
FAST = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}


def make_task(**model):
  return task_lib.MaskedVideo(clip=CLIP, mask_ratio=0.5, model=SMALL | model)


def make_batch():
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (NUM_ROWS, *CLIP, 3), np.uint8)
  return {'video': video, 'mask': np.ones(NUM_ROWS, bool)}


@functools.cache
def make_params():
  """Random values everywhere: zero biases would hide mistakes."""
  shapes, _ = jax.eval_shape(make_task().init, jax.random.key(0), make_batch())
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: jnp.asarray(0.2 * rng.standard_normal(s.shape), s.dtype), shapes
  )


@functools.cache
def program(**model):
  """fn(params, batch) -> ((loss, (figures, clips)), gradients), compiled.

  Clips come from the plain model only.
  """
  task = make_task(**model)
  context = task_api.StepContext(
    step=jnp.int32(0),
    rng=jax.random.key(1),
    rows=jnp.arange(NUM_ROWS, dtype=jnp.int32),
    train=False,
  )

  def objective(params, batch):
    out = task.loss(params, {}, batch, context)
    clips = {}
    if not model:
      clips, _ = task.predict(params, {}, batch, context)
    total, weight, scale = out.terms['mse']
    return scale * total / weight, (out.metrics, clips)

  params = make_params()
  if model.get('scan'):
    params = transformer.stack_blocks(params)
  traced = jax.jit(jax.value_and_grad(objective, has_aux=True))
  return traced.lower(params, make_batch()).compile(compiler_options=FAST)


@functools.cache
def plain():
  """(loss, figures, clips, gradients) of the plain model."""
  (loss, (figures, clips)), grads = jax.device_get(
    program()(make_params(), make_batch())
  )
  return loss, figures, clips, grads


def test_project_stays_below_150_lines():
  folder = ROOT / 'projects' / '_template'
  lines = [
    line
    for name in ('model.py', 'task.py')
    for line in (folder / name).read_text().splitlines()
  ]
  assert len(lines) < 150
  assert max(len(line) for line in lines) <= 80


@pytest.mark.parametrize(
  ('scan', 'remat'), [(True, 'none'), (False, 'full'), (True, 'full')]
)
def test_scan_and_remat_change_no_number(scan, remat):
  params = make_params()
  params = transformer.stack_blocks(params) if scan else params
  (loss, _), grads = program(scan=scan, remat=remat)(params, make_batch())
  grads = transformer.unstack_blocks(grads) if scan else grads
  np.testing.assert_allclose(loss, plain()[0], rtol=1e-5)
  assert jax.tree.structure(grads) == jax.tree.structure(plain()[3])
  for a, b in zip(
    jax.tree.leaves(grads), jax.tree.leaves(plain()[3]), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4)


def test_dtype_may_be_a_string():
  task = make_task(dtype='bfloat16')
  shapes, _ = jax.eval_shape(task.init, jax.random.key(0), make_batch())
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(shapes)} == {'float32'}
  (loss, _), grads = program(dtype='bfloat16')(make_params(), make_batch())
  assert loss != plain()[0]  # really computed in another type
  np.testing.assert_allclose(loss, plain()[0], rtol=2e-2)  # 8 bits
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_hidden_pixels_do_not_reach_the_prediction():
  _, _, clips, _ = plain()
  batch = make_batch()
  hidden = np.broadcast_to(clips['visible'] == 0, batch['video'].shape)
  batch['video'] = np.where(hidden, 255 - batch['video'], batch['video'])
  (_, (_, other)), _ = program()(make_params(), batch)
  assert np.any(other['truth'] != clips['truth'])
  for name in ('visible', 'predicted', 'mean_colour'):
    np.testing.assert_array_equal(other[name], clips[name])


def test_clips_keep_visible_pixels_in_place():
  _, _, clips, _ = plain()
  truth = make_batch()['video'] / 127.5 - 1
  np.testing.assert_allclose(clips['truth'], truth, atol=1e-6)
  visible = clips['visible'] != 0
  # Half of the 12 patches; no pixel of this batch is exactly 0.
  assert [v.mean() for v in visible] == [0.5] * NUM_ROWS
  for name in ('visible', 'predicted', 'mean_colour'):
    np.testing.assert_allclose(clips[name][visible], truth[visible], atol=1e-6)


def test_control_is_the_mean_colour_of_visible_pixels():
  _, figures, clips, _ = plain()
  want = []
  for truth, visible in zip(clips['truth'], clips['visible'], strict=True):
    truth = np.asarray(truth, np.float64)
    seen = (visible != 0).any(axis=-1)
    guess = np.where(seen[..., None], truth, truth[seen].mean(axis=0))
    want.append(10 * np.log10(4 / np.mean((guess - truth) ** 2)))
  np.testing.assert_allclose(
    figures['psnr_mean_colour'], [sum(want), NUM_ROWS], rtol=1e-4
  )


def test_fresh_model_predicts_the_control():
  task = make_task()
  batch = jax.tree.map(lambda x: x[:1], make_batch())
  fresh, _ = jax.jit(task.init, compiler_options=FAST)(jax.random.key(0), batch)
  (_, (figures, clips)), _ = program()(fresh, make_batch())
  np.testing.assert_allclose(
    clips['predicted'], clips['mean_colour'], atol=1e-6
  )
  np.testing.assert_allclose(
    figures['psnr_predicted'], figures['psnr_mean_colour'], rtol=1e-5
  )


def test_loss_is_the_error_of_hidden_pixels_alone():
  loss, _, clips, _ = plain()
  error = (clips['predicted'] - clips['truth'])[clips['visible'] == 0]
  np.testing.assert_allclose(loss, np.mean(error**2), rtol=1e-4)


def test_padded_rows_count_nothing():
  batch = make_batch()
  batch['mask'][-1] = False
  (first, (figures, _)), _ = program()(make_params(), batch)
  batch['video'][-1] = 0
  (second, (same, _)), _ = program()(make_params(), batch)
  assert first == second != plain()[0]
  for name, (total, count) in figures.items():
    assert count == NUM_ROWS - 1
    assert same[name][0] == total


def test_a_row_has_the_same_mask_in_any_batch():
  task = make_task()
  keys = masking.row_keys(jax.random.key(1), jnp.array([2]))
  mask = masking.random_mask(
    keys, num_tokens=task.num_tokens, num_keep=task.num_keep
  )
  hidden = mask.hidden.reshape(2, 2, 3)  # patches of the clip
  hidden = np.kron(hidden, np.ones(SMALL['patch'], bool))
  visible = plain()[2]['visible'][2].any(axis=-1)
  np.testing.assert_array_equal(visible, ~hidden)


@pytest.mark.parametrize('ratio', [0.0, 0.95, 1.0])
def test_ratio_that_hides_nothing_or_all_is_refused(ratio):
  # 0.95 of twelve patches leave less than one.
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


def test_folder_of_videos_fits_the_task(tmp_path):
  rng = np.random.default_rng(0)
  for i in range(3):
    frames = rng.integers(0, 256, (12, 72, 96, 3), np.uint8)
    writer.write_video(tmp_path / f'{i}.mp4', frames, 12.0)
  config = video_folder.get_config(f'heldout={tmp_path}')
  config.data.train.source_kwargs.path = str(tmp_path)
  task = vc.build(config.task.factory, **config.task.kwargs)
  heldout = config.evals.heldout.kwargs.data
  assert config.evals.pictures.kwargs.data == heldout
  train = pipeline.make_train_iter(config.data.train, batch_size=4, seed=0)
  held = pipeline.make_eval_iter(heldout, batch_size=4)
  for batches, real in ((train, 4), (held, 3)):
    batch = device.check(next(batches), task.batch_spec(), where='data')
    assert batch['video'].shape == (4, 8, 64, 64, 3)
    assert batch['mask'].sum() == real
    batches.close()


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
