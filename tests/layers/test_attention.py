"""Attention against slow NumPy, chunking, masks, shared keys, precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.layers import attention, position

FAST = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}


def attend(q, k, v, **options):
  """Compiled attention; bias, mask and options are constants."""
  call = functools.partial(attention.dot_product_attention, **options)
  return jax.jit(call, compiler_options=FAST)(q, k, v)


def slow_attention(q, k, v, *, bias=None, mask=None, masked_rows='uniform'):
  """One batch row at a time: q [Q, h, d], k [S, h, d], v [S, h, e]."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  length, heads, width = q.shape
  out = np.zeros((length, heads, v.shape[-1]))
  for h in range(heads):
    for i in range(length):
      logits = np.array([q[i, h] @ key[h] for key in k]) / np.sqrt(width)
      if bias is not None:
        logits = logits + bias[h, i]
      allowed = np.ones(len(k), bool) if mask is None else mask[h, i]
      if allowed.any():
        weights = np.where(allowed, np.exp(logits - logits[allowed].max()), 0)
      else:
        weights = np.full(len(k), float(masked_rows == 'uniform'))
      out[i, h] = (weights / max(weights.sum(), 1e-30)) @ v[:, h]
  return out


def example(normal, *, batch=2, queries=7, keys=5, heads=3, width=4, v_width=6):
  return (
    normal(batch, queries, heads, width, seed=1),
    normal(batch, keys, heads, width, seed=2),
    normal(batch, keys, heads, v_width, seed=3),
  )


@pytest.mark.parametrize('masked_rows', attention.MASKED_ROWS)
@pytest.mark.parametrize('query_chunk', [0, 3])
def test_equals_numpy_with_bias_and_mask(normal, masked_rows, query_chunk):
  q, k, v = example(normal)
  bias = normal(2, 3, 7, 5, seed=4)
  mask = np.asarray(normal(2, 3, 7, 5, seed=5)) > 0
  mask[1, :, 2] = False  # a row without any key
  got = attend(
    q, k, v, bias=bias, mask=jnp.asarray(mask), masked_rows=masked_rows,
    query_chunk=query_chunk,
  )  # fmt: skip
  want = np.stack([
    slow_attention(
      q[b], k[b], v[b], bias=np.asarray(bias[b]), mask=mask[b],
      masked_rows=masked_rows,
    )
    for b in range(2)
  ])  # fmt: skip
  np.testing.assert_allclose(got, want, atol=1e-5)
  row = np.asarray(got)[1, 2]
  empty = 0 if masked_rows == 'zero' else np.asarray(v[1]).mean(0)
  np.testing.assert_allclose(row, np.broadcast_to(empty, row.shape), atol=1e-6)


@pytest.mark.parametrize(
  'mask_shape', [(1, 1, 7, 5), (2, 1, 1, 5), (7, 5), (5,)]
)
def test_masks_and_biases_broadcast(normal, mask_shape):
  q, k, v = example(normal)
  small = jnp.asarray(np.asarray(normal(*mask_shape)) > -0.3)
  bias = normal(*mask_shape, seed=9)
  full = (2, 3, 7, 5)
  want = attend(
    q, k, v, mask=jnp.broadcast_to(small, full),
    bias=jnp.broadcast_to(bias, full),
  )  # fmt: skip
  for query_chunk in (0, 2):
    got = attend(q, k, v, mask=small, bias=bias, query_chunk=query_chunk)
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize('query_chunk', [1, 3])
def test_chunks_change_neither_values_nor_gradients(normal, jit, query_chunk):
  q, k, v = example(normal)
  mask = jnp.asarray(np.asarray(normal(2, 1, 7, 5)) > -0.5)

  def loss(args, query_chunk):
    out, weights = attention.dot_product_attention(
      *args, mask=mask, query_chunk=query_chunk, return_weights=True
    )
    return jnp.sum(jnp.sin(out)) + jnp.sum(weights**2), (out, weights)

  grad = jit(jax.grad(loss, has_aux=True), static_argnums=1)
  want_grad, want = grad((q, k, v), 0)
  got_grad, got = grad((q, k, v), query_chunk)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    (got_grad, got), (want_grad, want),
  )  # fmt: skip


def test_chunks_bound_memory_of_the_backward_pass(normal):
  q, k, v = example(normal, batch=1, queries=256, keys=256, width=8, v_width=8)

  def temporaries(query_chunk):
    def loss(args):
      return jnp.sum(
        attention.dot_product_attention(*args, query_chunk=query_chunk) ** 2
      )

    compiled = jax.jit(jax.grad(loss)).lower((q, k, v)).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporaries(16) < 0.5 * temporaries(0)


def test_shared_keys_equal_copied_keys(normal):
  q = normal(2, 4, 7, 3, 4, seed=1)  # [B, K, Q, heads, d]
  k, v = normal(2, 1, 5, 3, 4, seed=2), normal(2, 1, 5, 3, 4, seed=3)
  tiled = [jnp.repeat(x, 4, axis=1) for x in (k, v)]
  want = attend(q, *tiled)
  for query_chunk in (0, 4):
    got = attend(q, k, v, query_chunk=query_chunk)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_softmax_is_float32_in_bfloat16(normal):
  q, k, v = (x.astype(jnp.bfloat16) for x in example(normal, keys=300))
  out, weights = attend(q, k, v, return_weights=True)
  assert out.dtype == jnp.bfloat16 and weights.dtype == jnp.float32
  # 300 bfloat16 weights would sum to 1 within about 1e-2 only.
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
  exact = [x.astype(jnp.float32) for x in (q, k)]
  logits = np.einsum('bqhd,bkhd->bhqk', *exact) / 2
  want = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  np.testing.assert_allclose(weights, want, rtol=1e-4)


def test_fused_kernel_names_what_is_wrong(normal):
  q, k, v = example(normal, width=8, v_width=8)
  call = lambda *args: attention.dot_product_attention(
    *args, implementation='cudnn'
  )
  with pytest.raises(ValueError, match='dtype bfloat16 or float16.*float32'):
    call(q, k, v)
  half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
  with pytest.raises(ValueError, match='qkv_features / num_heads = 4'):
    call(*(x[..., :4] for x in half))
  with pytest.raises(ValueError, match='v_features / num_heads = 6'):
    call(half[0], half[1], half[2][..., :6])
  with pytest.raises(ValueError, match='NVIDIA GPU'):
    call(*half)


@pytest.mark.parametrize('masked', [False, True])
def test_fused_kernel_gets_equivalent_operands(normal, monkeypatch, masked):
  # The kernel itself needs a GPU; its interface is jax.nn's, whose XLA form
  # takes the same operands.
  kernel = jax.nn.dot_product_attention

  def xla(q, k, v, *, implementation, **kwargs):
    assert implementation == 'cudnn' and q.ndim == 4
    for extra in (kwargs['bias'], kwargs['mask']):
      assert extra is None or extra.shape[2:] == (q.shape[1], k.shape[1])
    return kernel(q, k, v, implementation='xla', **kwargs)

  monkeypatch.setattr(jax.nn, 'dot_product_attention', xla)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  q = normal(2, 4, 7, 3, 8).astype(jnp.bfloat16)
  k, v = (normal(2, 1, 5, 3, 8, seed=s).astype(jnp.bfloat16) for s in (1, 2))
  extra = {}
  if masked:
    mask = np.array(normal(2, 4, 1, 7, 5)) > 0
    mask[0, 1, 0, 3] = False
    extra = dict(
      mask=jnp.asarray(mask), bias=normal(3, 1, 5), masked_rows='zero'
    )
  got = attend(q, k, v, implementation='cudnn', **extra)
  want = attend(q, k, v, **extra)
  # bfloat16: 8 bits
  np.testing.assert_allclose(
    got.astype(jnp.float32), want.astype(jnp.float32), atol=3e-2
  )


@pytest.mark.skipif(
  jax.default_backend() != 'gpu', reason='the fused kernel needs a GPU'
)
def test_fused_kernel_agrees_with_xla(normal):
  q = normal(2, 4, 128, 3, 64).astype(jnp.bfloat16)
  k, v = (normal(2, 1, 64, 3, 64, seed=s).astype(jnp.bfloat16) for s in (1, 2))

  def loss(args, implementation):
    out = attention.dot_product_attention(
      *args, implementation=implementation
    ).astype(jnp.float32)
    return jnp.sum(jnp.sin(out)), out

  grad = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
  for got, want in zip(
    jax.tree.leaves(grad((q, k, v), 'cudnn')),
    jax.tree.leaves(grad((q, k, v), 'xla')),
    strict=True,
  ):
    want = want.astype(jnp.float32)
    size = float(jnp.abs(want).max())
    np.testing.assert_allclose(
      got.astype(jnp.float32),
      want,
      atol=2e-2 * size,  # bfloat16
    )


def test_unknown_options_are_errors(normal):
  q, k, v = example(normal)
  for options in (
    dict(implementation='flash'),
    dict(masked_rows='nan'),
    dict(query_chunk=-1),
  ):
    with pytest.raises(ValueError, match=next(iter(options))):
      attention.dot_product_attention(q, k, v, **options)


def slow_module(params, x, kv, *, heads, qk_norm=None, eps=1e-6):
  """[Q, D], [S, D'] -> what enters the output projection, [Q, heads, e]."""

  def project(name, x):
    p = params[name]
    out = np.einsum('nd,dhe->nhe', x, p['kernel'])
    return out + p['bias'] if 'bias' in p else out

  q, k, v = project('query', x), project('key', kv), project('value', kv)
  assert q.shape[1] == heads
  if qk_norm is not None:

    def norm(x, scale):
      x = x - x.mean(-1, keepdims=True) if qk_norm == 'layer' else x
      return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale

    q = norm(q, params['query_norm']['scale'])
    k = norm(k, params['key_norm']['scale'])
  return slow_attention(q, k, v)


@pytest.mark.parametrize('qk_norm', [None, 'rms', 'layer'])
def test_module_equals_numpy(normal, random, run, qk_norm):
  module = attention.MultiHeadAttention(
    3, qkv_features=12, v_features=15, out_features=10, qk_norm=qk_norm
  )
  x, kv = normal(1, 5, 10), normal(1, 4, 7)
  params = random(module, x, kv)['params']
  assert jax.tree.map(jnp.shape, params['query']) == {
    'kernel': (10, 3, 4), 'bias': (3, 4)
  }  # fmt: skip
  assert params['value']['kernel'].shape == (7, 3, 5)
  assert params['out']['kernel'].shape == (3, 5, 10)
  got = run(module, {'params': params}, x, kv)
  tree = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  z = slow_module(tree, x[0], kv[0], heads=3, qk_norm=qk_norm)
  want = np.einsum('qhe,hed->qd', z, tree['out']['kernel'])
  np.testing.assert_allclose(got[0], want + tree['out']['bias'], atol=2e-5)


def test_biases_and_output_projection_are_optional(normal, random, run):
  x = normal(2, 5, 12)

  def tree(**options):
    module = attention.MultiHeadAttention(3, qkv_features=12, **options)
    params = random(module, x)['params']
    return run(module, {'params': params}, x), {
      name: sorted(leaves) for name, leaves in params.items()
    }

  _, names = tree(use_bias=('query', 'value'), out_bias=False)  # VideoMAE
  assert names == {
    'query': ['bias', 'kernel'], 'key': ['kernel'],
    'value': ['bias', 'kernel'], 'out': ['kernel'],
  }  # fmt: skip
  out, names = tree(use_bias=False, project_out=False, v_features=6)
  assert set(names) == {'query', 'key', 'value'} and out.shape == (2, 5, 6)
  with pytest.raises(ValueError, match="'keys'"):
    tree(use_bias=('keys',))
  with pytest.raises(ValueError, match='v_features=7'):
    tree(v_features=7)


def test_projected_keys_can_be_reused(normal, random, run):
  module = attention.MultiHeadAttention(3, qkv_features=12, qk_norm='rms')
  x, kv = normal(2, 5, 12), normal(2, 4, 9)
  params = random(module, x, kv)
  want = run(module, params, x, kv)
  projected = run(module, params, kv, method='project_kv')
  assert projected[0].shape == (2, 4, 3, 4)
  got = run(module, params, x, projected=projected)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_rotary_turns_queries_and_keys(normal, random, run):
  module = attention.MultiHeadAttention(2, qkv_features=16, use_bias=False)
  x = normal(1, 6, 16)
  params = random(module, x)
  code = lambda shift: position.rotary(
    np.arange(6)[:, None] + shift, (8,), pairing='half'
  )
  plain = run(module, params, x)
  turned = run(module, params, x, rotary=code(0))
  assert np.abs(plain - turned).max() > 1e-2
  # Rotary logits depend on differences of positions only.
  np.testing.assert_allclose(
    turned, run(module, params, x, rotary=code(17)), atol=1e-5
  )


def test_weights_are_returned_and_sown(normal, random, run):
  module = attention.MultiHeadAttention(3, qkv_features=12, query_chunk=2)
  x = normal(2, 5, 12)
  params = random(module, x)
  assert set(params) == {'params'}
  out, weights = run(module, params, x, return_weights=True)
  same, sown = run(module, params, x, mutable=['attention_weights'])
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
  assert weights.shape == (2, 3, 5, 5)
  np.testing.assert_array_equal(
    weights, sown['attention_weights']['weights'][0]
  )
  np.testing.assert_array_equal(out, same)


def test_other_intermediates_do_not_change_the_algorithm(normal, random, jit):
  module = attention.MultiHeadAttention(2, qkv_features=8, query_chunk=8)
  x = normal(1, 64, 8)
  params = random(module, x)

  def weights_made(*mutable):
    apply = functools.partial(module.apply, mutable=list(mutable))
    # [heads, Q, S] for all queries, which chunking avoids.
    return '2x64x64xf32' in jit(apply).lower(params, x).as_text()

  assert not weights_made()
  assert not weights_made('intermediates', 'batch_stats')
  assert weights_made('attention_weights')


def test_half_precision_module_keeps_float32_parameters(normal, random, run):
  make = lambda dtype: attention.MultiHeadAttention(
    3, qkv_features=12, qk_norm='rms', dtype=dtype
  )
  x = normal(2, 5, 12)
  params = random(make(jnp.bfloat16), x)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
    jnp.dtype('float32')
  }
  low = run(make(jnp.bfloat16), params, x)
  assert low.dtype == jnp.bfloat16
  want = run(make(jnp.float32), params, x)
  np.testing.assert_allclose(low.astype(jnp.float32), want, atol=0.06)
