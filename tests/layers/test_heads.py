"""Heads against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.layers import attention, heads


def doubles(tree):
  return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def slow_norm(x, p, eps=1e-6):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
  return x * p['scale'] + p['bias']


def slow_mlp(x, p, erf=False):
  x = x @ p['up']['kernel'] + p['up']['bias']
  x = np.asarray(jax.nn.gelu(x, approximate=not erf))
  return x @ p['down']['kernel'] + p['down']['bias']


def slow_heads(x, p):
  """Dense to [..., heads, d]."""
  return np.einsum('...nd,dhe->...nhe', x, p['kernel']) + p.get('bias', 0)


def slow_attention(q, k, v):
  """[B, Q, heads, d] -> heads concatenated."""
  weights = np.exp(np.einsum('bqhd,bkhd->bhqk', q, k) / np.sqrt(q.shape[-1]))
  weights = weights / weights.sum(-1, keepdims=True)
  z = np.einsum('bhqk,bkhd->bqhd', weights, v)
  return z.reshape(*z.shape[:-2], -1)


@pytest.mark.parametrize('pool', ['mean', 'token'])
@pytest.mark.parametrize('norm', [False, True])
def test_classification_head(normal, random, run, pool, norm):
  x = normal(2, 5, 8)
  module = heads.ClassificationHead(3, pool=pool, norm=norm, norm_eps=1e-5)
  params = random(module, x)
  got = run(module, params, x)
  p, x = doubles((params['params'], x))
  y = x.mean(1) if pool == 'mean' else x[:, 0]
  y = slow_norm(y, p['norm'], 1e-5) if norm else y
  want = y @ p['classifier']['kernel'] + p['classifier']['bias']
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_classifier_starts_at_zero(normal):
  head = heads.ClassificationHead(3, norm=True)
  logits, _ = head.init_with_output(jax.random.key(0), normal(2, 5, 8))
  np.testing.assert_array_equal(logits, jnp.zeros((2, 3)))
  with pytest.raises(ValueError, match='pool'):
    heads.ClassificationHead(3, pool='max').init(
      jax.random.key(0), normal(2, 5, 8)
    )


@pytest.mark.parametrize('style', ['map', 'vjepa'])
def test_attention_pool(normal, random, run, style):
  x = normal(2, 5, 12)
  options = {
    'map': dict(num_queries=2),
    'vjepa': dict(
      residual=True, kv_norm=True, project_out=False, activation='gelu_erf'
    ),
  }[style]
  module = heads.AttentionPool(3, 20, **options)
  params = random(module, x)
  got = run(module, params, x)
  p, x = doubles((params['params'], x))
  kv = slow_norm(x, p['kv_norm']) if style == 'vjepa' else x
  query = np.broadcast_to(p['query'], (2, *p['query'].shape))
  a = p['attention']
  y = slow_attention(
    slow_heads(query, a['query']),
    slow_heads(kv, a['key']),
    slow_heads(kv, a['value']),
  )
  if style == 'map':
    assert got.shape == (2, 2, 12)
    kernel = a['out']['kernel'].reshape(12, 12)
    y = y @ kernel + a['out']['bias']
  else:
    assert 'out' not in a
    y = y + query
  want = y + slow_mlp(
    slow_norm(y, p['mlp_norm']), p['mlp'], erf=style == 'vjepa'
  )
  np.testing.assert_allclose(got, want, atol=3e-5)


@pytest.mark.parametrize(
  'make',
  [
    lambda **kw: heads.AttentionPool(3, 20, **kw),
    lambda **kw: heads.AttentionPool(
      3, 20, residual=True, kv_norm=True, project_out=False, **kw
    ),
    lambda **kw: heads.ClassificationHead(4, norm=True, **kw),
    lambda **kw: heads.ClassificationHead(4, pool='token', **kw),
  ],
  ids=['pool', 'pool-residual', 'mean', 'token'],
)
def test_half_precision_in_half_precision_out(normal, random, run, make):
  x = normal(2, 5, 12)
  params = random(make(), x)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
    jnp.dtype('float32')
  }
  want = run(make(), params, x)
  for tokens in (x, x.astype(jnp.bfloat16)):
    low = run(make(dtype=jnp.bfloat16), params, tokens)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), want, atol=0.1)


def test_attention_pool_ignores_masked_tokens(normal, random, run):
  x = normal(2, 5, 12)
  module = heads.AttentionPool(3, 20)
  params = random(module, x)
  mask = jnp.array([True, True, False, True, True])
  want = run(module, params, x[:, np.asarray(mask)])
  got = run(module, params, x, mask=mask)
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('external', [False, True])
@pytest.mark.parametrize('plain', [False, True])
def test_attentive_readout(normal, random, run, external, plain):
  features, queries = normal(2, 3, 4, 10), normal(2, 5, 7)
  args = (features, queries) if external else (features,)
  module = heads.AttentiveReadout(
    6, width=12, num_heads=3, num_queries=5, plain=plain,
    temporal_table=not plain,
  )  # fmt: skip
  params = random(module, *args)
  got = run(module, params, *args)
  p, f, e = doubles((params['params'], features, queries))
  if not plain:
    f = slow_norm(f, p['kv_norm']) + p['temporal_table']
  f = f.reshape(2, 12, 10)
  if external:
    q = slow_heads(e, p['query'])
  else:
    q = np.broadcast_to(p['query'], (2, 5, 3, 4))
  assert ('bias' in p['key']) == (not plain)
  y = slow_attention(q, slow_heads(f, p['key']), slow_heads(f, p['value']))
  if not plain:
    y = q.reshape(2, 5, 12) + y @ p['out']['kernel'] + p['out']['bias']
    y = y + slow_mlp(slow_norm(y, p['mlp_norm']), p['mlp'])
    assert p['mlp']['up']['kernel'].shape == (12, 48)
  want = y @ p['final']['kernel'] + p['final']['bias']
  np.testing.assert_allclose(got, want, atol=3e-5)


def test_single_learned_query_loses_its_axis(normal, random, run):
  features = normal(2, 3, 4, 10)
  module = heads.AttentiveReadout(6, width=12, num_heads=3)
  assert run(module, random(module, features), features).shape == (2, 6)
  queries = normal(2, 1, 7)
  params = random(module, features, queries)
  assert run(module, params, features, queries).shape == (2, 1, 6)


def test_readout_in_chunks_with_dropout_and_half_precision(normal, random, run):
  features = normal(2, 3, 4, 10)
  make = lambda **options: heads.AttentiveReadout(
    6, width=12, num_heads=3, num_queries=7, **options
  )
  params = random(make(), features)
  want = run(make(), params, features)
  chunked = run(make(query_chunk=3), params, features)
  np.testing.assert_allclose(chunked, want, atol=1e-5)
  low = run(make(dtype=jnp.bfloat16), params, features)
  assert low.dtype == jnp.bfloat16
  np.testing.assert_allclose(low.astype(jnp.float32), want, atol=0.15)
  module = make(dropout=0.5)
  rngs = {'dropout': jax.random.key(0)}
  np.testing.assert_allclose(run(module, params, features), want, atol=1e-5)
  dropped = run(module, params, features, train=True, rngs=rngs)
  assert np.abs(dropped - want).max() > 1e-2
  with pytest.raises(ValueError, match='width=12'):
    random(heads.AttentiveReadout(6, width=12, num_heads=5), features)


def test_shared_queries_use_one_kernel_call_per_clip(normal):
  # Learned queries without batch axis are broadcast by the attention itself.
  q, k = normal(1, 4, 3, 2), normal(5, 6, 3, 2)
  got = attention.dot_product_attention(q, k, k)
  want = attention.dot_product_attention(jnp.repeat(q, 5, axis=0), k, k)
  np.testing.assert_allclose(got, want, atol=1e-6)
