"""Blocks against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.layers import blocks, position

BLOCK = dict(num_heads=3, mlp_features=20)
MOOG = dict(BLOCK, order=('self+cross', 'mlp'), qk_norm='rms', norm_bias=False)
RVM = dict(BLOCK, order=('cross', 'mlp', 'self'))


def slow_norm(x, p, eps=1e-6):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
  return x * p['scale'] + p.get('bias', 0)


def slow_gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def slow_mlp(x, p):
  x = slow_gelu(x @ p['up']['kernel'] + p['up']['bias'])
  return x @ p['down']['kernel'] + p['down']['bias']


def slow_attention(x, kv, p):
  def project(name, y):
    y = np.einsum('bnd,dhe->bhne', y, p[name]['kernel'])
    y = y + p[name]['bias'][:, None] if 'bias' in p[name] else y
    if f'{name}_norm' in p:
      rms = np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6)
      y = y / rms * p[f'{name}_norm']['scale']
    return y

  q, k, v = project('query', x), project('key', kv), project('value', kv)
  weights = np.exp(q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]))
  z = weights / weights.sum(-1, keepdims=True) @ v
  return np.einsum('bhne,hed->bnd', z, p['out']['kernel']) + p['out']['bias']


def slow_block(x, kv, p, order):
  for branch in order:
    if branch == 'mlp':
      x = x + slow_mlp(slow_norm(x, p['mlp_norm']), p['mlp'])
    elif branch == 'self':
      n = slow_norm(x, p['self_norm'])
      x = x + slow_attention(n, n, p['self_attention'])
    elif branch == 'cross':
      n = slow_norm(x, p['cross_norm'])
      x = x + slow_attention(n, kv, p['cross_attention'])
    else:
      n = slow_norm(x, p['attention_norm'])
      x = (
        x
        + slow_attention(n, n, p['self_attention'])
        + slow_attention(n, kv, p['cross_attention'])
      )
  return x


@pytest.mark.parametrize(
  'options',
  [BLOCK, RVM, MOOG, dict(MOOG, use_bias=False, qkv_features=6)],
  ids=['vit', 'rvm', 'moog', 'moog-narrow'],
)
def test_block_equals_numpy(normal, random, run, options):
  x, kv = normal(2, 5, 12), normal(2, 4, 9)
  block = blocks.Block(**options)
  params = random(block, x, kv)['params']
  got = run(block, {'params': params}, x, kv)
  tree, x, kv = jax.tree.map(lambda a: np.asarray(a, float), (params, x, kv))
  want = slow_block(x, kv, tree, block.order)
  np.testing.assert_allclose(got, want, atol=3e-5)


def test_perceiver_cross_block(normal, random, run):
  # Perceiver: normalised keys of another width, optional query residual.
  x, kv = normal(2, 5, 12), normal(2, 4, 10)
  make = functools.partial(
    blocks.Block, 2, 12, order=('cross', 'mlp'), kv_norm=True,
    norm_eps=1e-5, qkv_features=10, v_features=6,
  )  # fmt: skip
  params = random(make(), x, kv)['params']
  p, q, y = jax.tree.map(lambda a: np.asarray(a, float), (params, x, kv))
  norm = functools.partial(slow_norm, eps=1e-5)
  a = slow_attention(
    norm(q, p['cross_norm']), norm(y, p['kv_norm']), p['cross_attention']
  )
  for residual in (True, False):
    u = q + a if residual else a
    want = u + slow_mlp(norm(u, p['mlp_norm']), p['mlp'])
    got = run(make(cross_residual=residual), {'params': params}, x, kv)
    np.testing.assert_allclose(got, want, atol=3e-5)


def test_post_norm_block(normal, random, run):
  x = normal(2, 5, 12)
  block = blocks.Block(**BLOCK, norm_placement='post')
  params = random(block, x)['params']
  got = run(block, {'params': params}, x)
  p, x = jax.tree.map(lambda a: np.asarray(a, float), (params, x))
  x = slow_norm(x + slow_attention(x, x, p['self_attention']), p['self_norm'])
  want = slow_norm(x + slow_mlp(x, p['mlp']), p['mlp_norm'])
  np.testing.assert_allclose(got, want, atol=3e-5)


def test_activations():
  x = np.linspace(-3, 3, 13)
  erf = np.array([0.5 * v * (1 + float(jax.lax.erf(v / 2**0.5))) for v in x])
  got = {name: fn(x) for name, fn in blocks.ACTIVATIONS.items()}
  np.testing.assert_allclose(got['gelu_tanh'], slow_gelu(x), atol=1e-6)
  np.testing.assert_allclose(got['gelu_erf'], erf, atol=1e-6)
  np.testing.assert_allclose(got['squared_relu'], np.maximum(x, 0) ** 2)
  assert np.abs(got['gelu_erf'] - got['gelu_tanh']).max() > 1e-4


def test_rotary_site(normal, random, run):
  x = normal(2, 6, 12)
  code = position.rotary(position.grid_indices((2, 3)), (4, 4))
  block = blocks.Block(**BLOCK, rotary_site='norm')
  params = random(block, x)['params']
  got = run(block, {'params': params}, x, rotary=code)
  p, y = jax.tree.map(lambda a: np.asarray(a, float), (params, x))
  n = np.asarray(code.apply(jnp.asarray(slow_norm(y, p['self_norm']))))
  y = y + slow_attention(n, n, p['self_attention'])  # values turn, too
  y = y + slow_mlp(slow_norm(y, p['mlp_norm']), p['mlp'])
  np.testing.assert_allclose(got, y, atol=3e-5)


def test_block_rejects_bad_options(normal, shapes):
  x = normal(1, 3, 12)
  for options, match in (
    (dict(order=('self', 'ffn')), 'order'),
    (dict(order=('self', 'self')), 'order'),
    (dict(order=('self', 'self+cross')), 'order'),
    (dict(order=('cross', 'mlp')), 'needs kv'),
    (dict(norm_placement='both'), 'norm_placement'),
    (dict(rotary_site='v'), 'rotary_site'),
  ):
    with pytest.raises(ValueError, match=match):
      shapes(blocks.Block(**BLOCK | options), x)


def test_drop_path_drops_whole_rows_and_keeps_the_mean(normal):
  x = normal(4000, 2, 3)
  rngs = {'dropout': jax.random.key(1)}
  for rescale in (True, False):
    path = blocks.DropPath(rescale)
    y = np.asarray(path.apply({}, x, 0.25, train=True, rngs=rngs) / x)
    kept = y[:, :1, :1] != 0
    value = 1 / 0.75 if rescale else 1.0
    np.testing.assert_allclose(y, np.where(kept, value, 0) + 0 * y, rtol=1e-5)
    assert abs(kept.mean() - 0.75) < 0.03  # 4 standard deviations
    np.testing.assert_array_equal(path.apply({}, x, 0.25), x)
  half = path.apply({}, x.astype(jnp.bfloat16), 0.25, train=True, rngs=rngs)
  assert half.dtype == jnp.bfloat16


def test_drop_path_keeps_or_drops_an_example_as_a_whole():
  rngs = {'dropout': jax.random.key(1)}
  path = blocks.DropPath()
  x = jnp.ones((2000, 3, 2, 2))  # [B, T, N, D]
  y = np.asarray(path.apply({}, x, 0.25, train=True, rngs=rngs))
  kept = (y != 0).reshape(2000, -1)
  np.testing.assert_array_equal(kept.all(1), kept.any(1))
  assert abs(kept.mean() - 0.75) < 0.04
  y = path.apply({}, x[0, 0], 0.25, train=True, rngs=rngs)  # [N, D]
  assert len(np.unique(y)) == 1
