"""The residual network against NumPy with both norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.layers import resnet

SMALL = dict(features=(4, 6), strides=(1, 2), num_units=(2, 1), stem_features=4)


def slow_conv(x, kernel, stride):
  """x [H, W, C]; padding of XLA's SAME, written out."""
  kh, kw = kernel.shape[:2]
  out_shape = [-(-n // stride) for n in x.shape[:2]]
  pads = []
  for n, k, m in zip(x.shape[:2], (kh, kw), out_shape, strict=True):
    total = max((m - 1) * stride + k - n, 0)
    pads.append((total // 2, total - total // 2))
  x = np.pad(x, [*pads, (0, 0)])
  out = np.zeros((*out_shape, kernel.shape[-1]))
  for i in range(out_shape[0]):
    for j in range(out_shape[1]):
      window = x[i * stride : i * stride + kh, j * stride : j * stride + kw]
      out[i, j] = np.einsum('abc,abco->o', window, kernel)
  return out


def slow_instance_norm(x, p):
  x = x - x.mean((0, 1))
  x = x / np.sqrt((x**2).mean((0, 1)) + 1e-5)
  return x * p['scale'] + p['bias']


def slow_resnet(x, params):
  x = slow_conv(x, params['stem']['kernel'], 2)
  outputs = []
  for group, units in enumerate((2, 1)):
    for unit in range(units):
      p = params[f'group{group}_unit{unit}']
      stride = (1, 2)[group] if unit == 0 else 1
      a = np.maximum(slow_instance_norm(x, p['norm_0']), 0)
      if unit == 0:
        x = slow_conv(a, p['shortcut']['kernel'], stride)
      h = slow_conv(a, p['conv_0']['kernel'], stride)
      h = np.maximum(slow_instance_norm(h, p['norm_1']), 0)
      x = x + slow_conv(h, p['conv_1']['kernel'], 1)
    outputs.append(x)
  return outputs


@pytest.mark.parametrize('size', [(16, 12), (13, 10)])
def test_equals_numpy(normal, random, run, size):
  frames = normal(2, *size, 3)
  module = resnet.ResNet(**SMALL)
  params = random(module, frames)
  got = run(module, params, frames)
  tree = jax.tree.map(lambda a: np.asarray(a, float), params['params'])
  for b in range(2):
    want = slow_resnet(np.asarray(frames[b], float), tree)
    for have, need in zip(got, want, strict=True):
      np.testing.assert_allclose(have[b], need, atol=2e-5)


@pytest.mark.parametrize('norm', resnet.NORMS)
@pytest.mark.parametrize('size', [(32, 24), (17, 30)])
def test_strides_and_shapes(normal, shapes, norm, size):
  module = resnet.ResNet(
    features=(4, 8, 12, 12), num_units=(1, 1, 1, 1), stem_features=4,
    norm=norm,
  )  # fmt: skip
  frames = normal(1, 2, *size, 3)

  def outputs(rng):
    return module.init_with_output(rng, frames)[0]

  got = jax.eval_shape(outputs, jax.random.key(0))
  for x, stride, width in zip(got, (2, 4, 8, 8), (4, 8, 12, 12), strict=True):
    h, w = (-(-n // stride) for n in size)
    assert x.shape == (1, 2, h, w, width)


def test_frames_do_not_influence_each_other(normal, random, run):
  module = resnet.ResNet(**SMALL)
  video = normal(2, 3, 9, 12, 3)
  params = random(module, video)
  changed = video.at[:, 1:].add(1.0)
  before, after = (run(module, params, x)[-1] for x in (video, changed))
  np.testing.assert_allclose(before[:, 0], after[:, 0], atol=1e-6)
  one = run(module, params, video[1, 2])[-1]
  np.testing.assert_allclose(one, before[1, 2], atol=1e-5)


def test_batch_statistics_are_updated_in_training_only(normal, random, run):
  module = resnet.ResNet(**SMALL, norm='batch')
  frames = 2 + normal(3, 8, 8, 3)
  variables = random(module, frames)
  old = jax.tree.map(jnp.abs, variables['batch_stats'])
  variables = dict(variables, batch_stats=old)
  assert set(old) == {f'group{g}_unit{u}' for g, u in ((0, 0), (0, 1), (1, 0))}
  train, new = run(
    module, variables, frames, train=True, mutable=['batch_stats']
  )
  new = new['batch_stats']['group0_unit0']['norm_0']
  stem = run(
    resnet.ResNet((), (), (), stem_features=4, stem_pool=False),
    {'params': {'stem': variables['params']['stem']}},
    frames,
    mutable=['intermediates'],
    capture_intermediates=True,
  )[1]['intermediates']['stem']['__call__'][0]
  batch_mean = np.asarray(stem).mean((0, 1, 2))
  old = old['group0_unit0']['norm_0']
  want = 0.9 * old['mean']['hidden'] + 0.1 * batch_mean
  np.testing.assert_allclose(new['mean']['hidden'], want, atol=1e-5)
  assert new['counter'] == old['counter'] + 1
  test = run(module, variables, frames)
  assert np.abs(train[-1] - test[-1]).max() > 1e-2
  # In evaluation a frame's features do not depend on the others.
  np.testing.assert_allclose(
    run(module, variables, frames[:1])[-1], test[-1][:1], atol=1e-5
  )


def test_stem_pool_and_mixing(normal, random, run):
  # TAP-Net: shifts channels in time, in the first group only.
  calls = []

  def mix(x, group):
    calls.append(group)
    return jnp.roll(x, 1, axis=1) if group == 0 else x

  video = normal(1, 3, 16, 16, 3)
  module = resnet.ResNet(**SMALL, stem_pool=True, mix=mix)
  params = random(module, video)
  calls.clear()
  outputs = run(module, params, video)
  assert calls == [0, 0, 1]
  assert [x.shape[2] for x in outputs] == [4, 2]
  plain = run(resnet.ResNet(**SMALL, stem_pool=True), params, video)
  assert np.abs(plain[0] - outputs[0]).max() > 1e-2


def test_half_precision_is_close(normal, random, run):
  frames = normal(1, 16, 12, 3)
  params = random(resnet.ResNet(**SMALL), frames)
  want = run(resnet.ResNet(**SMALL), params, frames)[-1]
  low = run(resnet.ResNet(**SMALL, dtype=jnp.bfloat16), params, frames)[-1]
  assert low.dtype == jnp.bfloat16
  np.testing.assert_allclose(low.astype(jnp.float32), want, atol=0.1)


def test_bad_options_are_errors(normal, shapes):
  frames = normal(1, 8, 8, 3)
  with pytest.raises(ValueError, match='norm must be'):
    shapes(resnet.ResNet(**SMALL, norm='layer'), frames)
  with pytest.raises(ValueError, match='one entry per group'):
    shapes(resnet.ResNet(**SMALL | dict(strides=(1,))), frames)
