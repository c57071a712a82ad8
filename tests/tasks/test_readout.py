"""Readouts: any backbone, any head, frozen or not."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic import task as task_api
from vidscenic.tasks import depth_head, readout

CLIP = (4, 16, 24)
STACK = dict(depth=1, num_heads=2, qkv_features=8, mlp_features=8)
POINTS = {
  'factory': 'vidscenic.tasks.track_heads:Points',
  'num_points': 3,
  'layers': dict(features=8, num_bases=2, **STACK),
}
VIT = {
  'backbone': 'vidscenic.layers.vit:VisionTransformer',
  'backbone_kwargs': {
    'width': 8,
    'depth': 1,
    'num_heads': 2,
    'mlp_features': 8,
    'patch': (2, 8, 8),
    'positions': 'sincos_3d',
  },
}
FAST = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
  'xla_cpu_use_fusion_emitters': False,
}


class Counter(nn.Module):
  """A backbone with a state: the number of frames so far."""

  @nn.compact
  def __call__(self, video, state=None, *, keys=None):
    self.param('unused', nn.initializers.zeros, (1,))
    start = 0 if state is None else state
    number = start + jnp.arange(video.shape[1])
    features = jnp.broadcast_to(
      number[None, :, None, None], (*video.shape[:2], 2, 3)
    )
    return {'features': features, 'state': start + video.shape[1]}


def make_batch(rows=2):
  rng = np.random.default_rng(0)
  size = np.float32([24, 16])
  return {
    'video': rng.integers(0, 256, (rows, *CLIP, 3), np.uint8),
    'query_points': np.float32([[0, 3, 5], [1, 9, 20], [2, 1, 1]])[None].repeat(
      rows, 0
    ),
    'target_points': rng.random((rows, 3, 4, 2), np.float32) * size,
    'occluded': rng.random((rows, 3, 4)) < 0.3,
    'mask': np.ones(rows, bool),
  }


def context(rows=2, train=True):
  return task_api.StepContext(
    jnp.int32(0), jax.random.key(0), jnp.arange(rows), train=train
  )


def test_features_of_tubelets_are_resized_to_frames():
  tokens = np.arange(2 * 2 * 6 * 5, dtype=np.float32).reshape(2, 12, 5)
  found = readout.as_features(
    {'tokens': tokens, 'grid': (2, 2, 3)}, (2, *CLIP, 3)
  )
  assert found.tokens.shape == (2, 4, 6, 5) and found.grid == (2, 3)
  want = jax.image.resize(tokens.reshape(2, 2, 6, 5), (2, 4, 6, 5), 'cubic')
  np.testing.assert_allclose(found.tokens, want, rtol=1e-5)


def test_arrays_are_features_too():
  grid = np.zeros((2, 4, 2, 3, 5))
  assert readout.as_features(grid, (2, *CLIP, 3)).grid == (2, 3)
  with pytest.raises(ValueError, match=r'want \[B, T, N, D\]'):
    readout.as_features(np.zeros((2, 3, 6, 5)), (2, *CLIP, 3))


@pytest.mark.parametrize('finetune', [False, True])
def test_backbone_learns_only_if_told_to(finetune):
  label = {
    'factory': 'vidscenic.tasks.attentive_heads:Classes',
    'num_classes': 3,
    'width': 4,
    'num_heads': 1,
  }
  task = readout.Readout(
    clip=CLIP, heads={'label': label}, finetune=finetune, **VIT
  )
  batch = make_batch() | {'label': np.array([0, 2])}
  shapes, _ = jax.eval_shape(task.init, jax.random.key(0), batch)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda s: jnp.asarray(rng.standard_normal(s.shape), s.dtype), shapes
  )

  def loss(params):
    out = task.loss(params, {}, batch, context())
    return sum(s * n / w for n, w, s in out.terms.values())

  grads = jax.jit(jax.grad(loss), compiler_options=FAST)(params)
  sizes = {
    name: max(np.abs(g).max() for g in jax.tree.leaves(part))
    for name, part in grads.items()
  }
  assert sizes['heads'] > 0
  assert (sizes['backbone'] > 0) == finetune
  assert bool(task.never_trained()) != finetune


def test_states_of_backbone_and_heads_are_carried_on():
  task = readout.Readout(
    clip=CLIP, backbone=f'{__name__}:Counter', heads={'points': POINTS}
  )
  batch = make_batch()
  params, _ = task.init(jax.random.key(0), batch)

  @functools.partial(jax.jit, compiler_options=FAST)
  def predict(batch, carry):
    return task.predict(params, {}, batch, context(train=False), carry)

  whole, _ = predict(batch, None)
  parts, carry = [], None
  for start in (0, 2):
    part = batch | {
      'video': batch['video'][:, start : start + 2],
      'query_points': batch['query_points'] - np.float32([start, 0, 0]),
    }
    found, carry = predict(part, carry)
    parts.append(found['points'])
  np.testing.assert_allclose(
    whole['points'], np.concatenate(parts, axis=2), rtol=1e-4
  )
  assert carry[0] == 4


def test_depth_is_known_where_it_is_positive_and_finite():
  head = depth_head.Depth(
    clip=CLIP, limits=(1.0, 9.0), factor=4, eval_factor=4, masked=False,
    layers=dict(num_bases=2, **STACK),
  )  # fmt: skip
  features = readout.Features(jnp.ones((1, 4, 2, 3)), CLIP[1:])
  params = jax.jit(head.init, compiler_options=FAST)(
    jax.random.key(0), features
  )
  depth = np.full((1, *CLIP, 1), 3.0, np.float32)
  depth[:, :, 2::4, 2::4] = np.nan
  depth[:, 0, 2, 2] = 5.0
  batch = {'depth': depth, 'mask': np.ones(1, bool)}
  loss = lambda b: head.loss(params, features, b, context(1, train=False))  # noqa: E731
  _, figures = jax.jit(loss, compiler_options=FAST)(batch)
  for name in ('abs_rel', 'abs_rel_mean'):
    total, count = figures[name]
    assert count == 1 and np.isfinite(total)
  assert figures['abs_rel_mean'][0] < 1e-5  # the mean of one pixel


def test_head_without_factory_is_refused():
  with pytest.raises(ValueError, match='heads.points.factory'):
    readout.Readout(clip=CLIP, heads={'points': {}}, **VIT)
