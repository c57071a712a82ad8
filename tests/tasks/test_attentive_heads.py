"""Readouts that attend once: what they score and refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic import task as task_api
from vidscenic.tasks import any_backbone, attentive_heads, readout

CLIP = (4, 8, 8)
SMALL = {'width': 8, 'num_heads': 2, 'clip': CLIP}
FAST = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}


def features():
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.standard_normal((2, 4, 6, 10)), jnp.float32)
  return readout.Features(tokens, size=CLIP[1:])


def score(head, batch):
  """(terms, figures) with random parameters; the second row is padding."""
  batch = batch | {'mask': np.array([True, False])}
  context = task_api.StepContext(
    jnp.int32(0), jax.random.key(0), jnp.arange(2), train=False
  )

  def run(key):
    params = head.init(key, features())
    return (
      head.loss(params, features(), batch, context),
      head.predict(params, features(), batch)[0],
    )

  (terms, figures), said = jax.device_get(
    jax.jit(run, compiler_options=FAST)(jax.random.key(0))
  )
  return terms, figures, said


def test_classes_count_the_rows_that_are_there():
  head = attentive_heads.Classes(num_classes=7, **SMALL)
  terms, figures, said = score(head, {'label': np.array([3, 5])})
  total, weight, _ = terms['cross_entropy']
  assert weight == 1
  np.testing.assert_allclose(
    total, -np.log(said['probabilities'][0, 3]), rtol=1e-5
  )
  assert set(figures) == {'top1', 'top5'} and figures['top1'][1] == 1
  with pytest.raises(ValueError, match='label 7 .* num_classes'):
    head.check({'label': np.array([0, 7])})


@pytest.mark.parametrize('scale', ['log', 'raw'])
def test_depth_is_scored_over_known_pixels_beside_a_control(scale):
  head = attentive_heads.DenseDepth(
    limits=(1.0, 4.0), scale=scale, decode_patch=(2, 4, 8), query_chunk=3,
    **SMALL,
  )  # fmt: skip
  rng = np.random.default_rng(1)
  depth = rng.uniform(1, 4, (2, *CLIP, 1)).astype(np.float32)
  known = rng.random(depth.shape) < 0.5
  depth[0, 0, 0, 0] = np.nan  # unknown, whatever the mask says
  batch = {'depth': depth, 'depth_mask': known}
  terms, figures, said = score(head, batch)
  known[0, 0, 0, 0] = False
  truth, guess = depth[0][known[0]], said['depth'][0][known[0]]
  assert terms['squared'][1] == len(truth)
  abs_rel = lambda guess: np.sum(np.abs(guess - truth) / truth)
  np.testing.assert_allclose(
    figures['abs_rel'], [abs_rel(guess), len(truth)], rtol=1e-4
  )
  control = np.exp(np.log(truth).mean())
  np.testing.assert_allclose(
    figures['abs_rel_mean'][0], abs_rel(control), rtol=1e-4
  )
  if scale == 'raw':
    wanted, told = truth, guess
  else:
    assert (said['depth'] >= 1).all() and (said['depth'] <= 4.0001).all()
    return  # clipped outputs do not tell the loss
  np.testing.assert_allclose(
    terms['squared'][0], np.sum((told - wanted) ** 2), rtol=1e-4
  )


def test_pose_is_that_of_the_last_camera_seen_from_the_first():
  turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], np.float32)
  cameras = np.tile(np.eye(4, dtype=np.float32), (2, 4, 1, 1))
  cameras[:, :, :3, 3] = [1, 2, 3]  # all start there
  cameras[:, -1, :3, :3] = turn
  cameras[:, -1, :3, 3] = turn @ [1, 2, 3] + [0, 0, 2]
  head = attentive_heads.CameraPose(**SMALL)
  terms, figures, said = score(head, {'cam_from_world': cameras})
  assert terms['squared'][1] == 12
  # Moved by (0, 0, 2) and turned by 90 degrees: a corner of the cube, at
  # distance sqrt(2) from the axis, moves by 2 aside and by 2 along it.
  np.testing.assert_allclose(
    figures['end_point_error_still'], [np.sqrt(8), 1], rtol=1e-5
  )
  rotation = said['pose'][0, :3, :3]
  np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)


@pytest.mark.parametrize(
  ('head', 'options', 'message'),
  [
    (attentive_heads.Classes, {'num_classes': 3, 'num_heads': 3}, 'width=8'),
    (attentive_heads.DenseDepth, {'limits': (2, 1)}, 'limits'),
    (attentive_heads.DenseDepth, {'scale': 'disparity'}, 'scale='),
    (attentive_heads.DenseDepth, {'decode_patch': (2, 3, 4)}, 'decode_patch'),
    (attentive_heads.CameraPose, {'translation_scale': 0}, 'translation_scale'),
  ],
)
def test_unusable_arguments_are_named(head, options, message):
  with pytest.raises(ValueError, match=message):
    head(**SMALL | options)


def test_any_method_of_a_module_gives_features():
  fields = dict(
    width=8, depth=1, num_heads=2, mlp_features=8, patch=[4, 4],
    core_depth=1, core_heads=2, core_mlp_features=8, decoder=False,
    base_grid=[2, 2],
  )  # fmt: skip
  backbone = any_backbone.Backbone(
    'projects.rvm.model:RVM', fields, method='encode', drop_tokens=1
  )
  video = jnp.zeros((1, *CLIP, 3))
  params = jax.eval_shape(backbone.init, jax.random.key(0), video)
  assert set(params['params']) == {'encoder', 'core'}  # its own paths
  out = jax.eval_shape(
    lambda p: readout.as_features(backbone.apply(p, video), video.shape), params
  )
  assert out.tokens.shape == (1, 4, 4, 8)
