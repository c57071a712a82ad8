"""V-JEPA with freezing: targets, teacher, masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.layerlock import vjepa
from vidscenic import task as task_api
from vidscenic.ops import video as video_ops
from vidscenic.train import freezing, paths
from vidscenic.train import state as state_lib

CLIP = (4, 32, 32)  # 2 x 4 x 4 patches
SMALL = dict(
  width=16, depth=2, num_heads=2, mlp_features=24, predictor_width=12,
  predictor_depth=1, predictor_heads=2, predictor_mlp_features=16,
  patch=(2, 8, 8), num_mask_tokens=2,
)  # fmt: skip
MASKS = ({'num_blocks': 1, 'area': 0.3}, {'num_blocks': 1, 'area': 0.5})
FREEZE = dict(freeze_start_step=2, freeze_interval=2, max_frozen_layers=2)
FAST = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}


def make_task(**changes):
  options = dict(clip=CLIP, model=SMALL, masks=MASKS, layerlock=FREEZE)
  return vjepa.MaskedLatents(**options | changes)


def random(task, seed):
  shapes, _ = jax.eval_shape(task.init, jax.random.key(0), batch())
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda s: jnp.asarray(0.2 * rng.standard_normal(s.shape), s.dtype), shapes
  )


def batch():
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (2, *CLIP, 3), np.uint8)
  return {'video': video, 'mask': np.ones(2, bool)}


def context(phase, teacher):
  return task_api.StepContext(
    step=jnp.int32(0),
    rng=jax.random.key(1),
    rows=jnp.arange(2, dtype=jnp.int32),
    phase=phase,
    ema_params=teacher,
  )


@functools.cache
def gradient(phase):
  task = make_task()
  student, teacher = random(task, 0), random(task, 1)

  def objective(student, teacher):
    out = task.loss(student, {}, batch(), context(phase, teacher))
    return sum(s * t / w for t, w, s in out.terms.values())

  run = jax.value_and_grad(objective, argnums=(0, 1))
  return jax.jit(run, compiler_options=FAST)(student, teacher)


def test_teacher_and_frozen_blocks_get_no_gradient():
  task = make_task()
  loss, (student, teacher) = gradient(1)
  assert np.isfinite(loss)
  assert not any(np.any(g) for g in jax.tree.leaves(teacher))
  mask = freezing.frozen_mask(student, task.frozen(1))
  for name, frozen in paths.named_leaves(mask).items():
    value = paths.named_leaves(student)[name]
    if not name.endswith('key/bias') and name != 'predictor/mask_token':
      assert np.any(value) != frozen, name
  # Training knows one mask token only.
  token = np.asarray(student['predictor']['mask_token'])
  assert token[0].any() and not token[1].any()


def test_target_is_the_teachers_block_of_the_phase():
  """And without freezing, that is in V-JEPA, its last layer."""
  task, plain = make_task(), make_task(layerlock=None)
  assert plain.phase(9) == 0 and plain.frozen(0) == ()
  teacher = random(task, 1)
  video = video_ops.normalize(batch()['video'], 'imagenet')

  @functools.partial(jax.jit, compiler_options=FAST)
  def look(teacher):
    found = [
      task.newest_target(None, video, context(k, teacher)) for k in (0, 1, 2)
    ]
    last = plain.newest_target(None, video, context(0, teacher))
    encoded = plain.model.apply({'params': teacher}, video, method='encode')
    return found, task.streams(teacher, video, (1, 2)), last, encoded['tokens']

  found, streams, last, encoded = look(teacher)
  found, streams = [*found, last], [*streams, encoded]
  for got, stream in zip(found, (streams[0], *streams), strict=True):
    x = np.asarray(stream, np.float64)
    want = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    np.testing.assert_allclose(got, want, atol=1e-3)


def test_teacher_takes_over_what_freezes():
  task = make_task()
  student, teacher = random(task, 0), random(task, 1)
  state = state_lib.TrainState(0, 0, student, (), {}, teacher, 0)
  new = jax.jit(lambda s: task.on_phase(s, 0, 1), compiler_options=FAST)(state)
  mask = paths.named_leaves(freezing.frozen_mask(student, task.frozen(1)))
  for name, value in paths.named_leaves(new.ema_params).items():
    source = student if mask[name] else teacher
    np.testing.assert_array_equal(value, paths.named_leaves(source)[name])
  alone = make_task(sync_on_freeze=False)
  assert alone.on_phase(state, 0, 1) is state


def test_context_and_predicted_tokens_are_apart():
  masks = jax.jit(
    lambda: make_task().masks(context(0, None)), compiler_options=FAST
  )()
  assert len(masks) == 2
  for mask in masks:
    for keep, predict in zip(mask.keep_ids, mask.predict_ids, strict=True):
      assert not set(keep.tolist()) & set(predict.tolist())
  # Drawn by themselves: another shape and place for each mask.
  assert masks[0].predict_ids.shape != masks[1].predict_ids.shape


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'clip': (4, 32, 30)}, 'not made of whole patches'),
    ({'masks': ()}, 'masks is empty'),
    ({'masks': ({'num_blocks': 0, 'area': 0.5},)}, r'masks\[0\]'),
    ({'layerlock': FREEZE | {'max_frozen_layers': 3}}, 'max_frozen_layers=3'),
    ({'layerlock': FREEZE | {'target_mode': 'multi'}}, 'target_mode'),
    ({'model': SMALL | {'width_': 3}}, 'model.width_'),
    ({'model': {'size': 'XL'}}, "model.size='XL'"),
    ({'model': SMALL | {'mask_index': 2}}, 'mask_index=2: want one of 2'),
  ],
)
def test_wrong_settings_are_refused_by_name(options, message):
  with pytest.raises(ValueError, match=message):
    make_task(**options)
