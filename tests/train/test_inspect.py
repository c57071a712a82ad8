"""FLOPs against counts by hand; tables, memory and compilations."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.train import inspect, sharding

B, N, D, H = 3, 5, 7, 11  # rows, tokens, width, hidden


def flops(fn, *shapes, **types):
  arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  arguments += [jax.ShapeDtypeStruct(s, d) for d, s in types.items()]
  return inspect.matmul_flops(jax.jit(fn).trace(*arguments))


def product(*sizes):
  """FLOPs of one matrix product: a multiplication and an addition each."""
  return {'float32': 2.0 * math.prod(sizes)}


def test_matrix_product():
  assert flops(jnp.matmul, (N, D), (D, H)) == product(N, D, H)


def test_batched_product_with_two_contractions():
  attend = functools.partial(jnp.einsum, 'bqhd,bkhd->bhqk')
  assert flops(attend, (B, N, 2, D), (B, H, 2, D)) == product(B, 2, N, H, D)
  mix = functools.partial(jnp.einsum, 'bnhd,hdf->bnf')
  assert flops(mix, (B, N, 2, D), (2, D, H)) == product(B, N, 2, D, H)


def test_types_are_counted_apart():
  def mixed(x, y):
    return x @ x.T, y @ y.T

  assert flops(mixed, (N, D), bfloat16=(H, D)) == {
    'float32': 2.0 * N * N * D,
    'bfloat16': 2.0 * H * H * D,
  }


def test_other_operations_are_not_counted():
  assert not flops(lambda x: jnp.exp(x).sum() + x[0, 0], (N, D))


def test_dead_code_is_not_counted():
  def fn(x, w):
    _ = x @ w
    return x + 1

  assert not flops(fn, (N, D), (D, H))


def test_calls_within_calls_are_followed():
  inner = jax.jit(jnp.matmul)
  outer = jax.jit(lambda x, w: jax.nn.silu(inner(x, w)))
  assert flops(jax.vmap(outer, (0, None)), (B, N, D), (D, H)) == product(
    B, N, D, H
  )


def test_backward_pass_doubles_the_work():
  # Products: forward, gradient of x, gradient of w.
  grad = jax.grad(lambda x, w: jnp.tanh(x @ w).sum(), argnums=(0, 1))
  assert flops(grad, (N, D), (D, H)) == product(3, N, D, H)
  only_w = jax.grad(lambda w, x: jnp.tanh(x @ w).sum())
  assert flops(only_w, (D, H), (N, D)) == product(2, N, D, H)


def test_scan_counts_its_body_for_every_step():
  def fn(x, weights):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, weights)[0]

  layers = 4
  assert flops(fn, (N, D), (layers, D, D)) == product(layers, N, D, D)
  # Forward, and two products per layer backward, x included.
  grad = jax.grad(lambda *a: fn(*a).sum(), argnums=(0, 1))
  assert flops(grad, (N, D), (layers, D, D)) == product(3 * layers, N, D, D)


def test_scans_within_scans_multiply():
  def inner(h, _):
    return jnp.tanh(h @ h), None

  def outer(h, _):
    return jax.lax.scan(inner, h, length=3)[0], None

  fn = lambda x: jax.lax.scan(outer, x, length=5)[0]
  assert flops(fn, (D, D)) == product(15, D, D, D)


@pytest.mark.parametrize(('remat', 'products'), [(False, 5), (True, 7)])
def test_recomputed_work_counts_again(remat, products):
  def fn(params, x):
    for w in params:
      x = jnp.tanh(x @ w)
    return x.sum()

  fn = jax.checkpoint(fn) if remat else fn
  # Two layers: 2 products forward, 2 gradients of w and 1 of the middle x;
  # with remat the 2 of the forward pass again.
  grad = jax.value_and_grad(lambda a, b, x: fn((a, b), x), argnums=(0, 1))
  assert flops(grad, (D, D), (D, D), (N, D)) == product(products, N, D, D)


@pytest.mark.parametrize('order', [(0, 1), (1, 0)])
def test_condition_counts_its_dearest_branch(order):
  branches = (lambda x: x @ x, lambda x: x @ x @ x @ x)

  def fn(x):
    return jax.lax.cond(x[0, 0] > 0, *(branches[i] for i in order), x)

  assert flops(fn, (D, D)) == product(3, D, D, D)


def convolution(groups=1, stride=1):
  return functools.partial(
    jax.lax.conv_general_dilated,
    window_strides=(stride, stride),
    padding='SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('stride', [1, 2])
def test_convolution(groups, stride):
  image, kernel = (B, 8, 12, 4), (3, 5, 4 // groups, 6)
  pixels = B * (8 // stride) * (12 // stride)
  one = pixels * 6 * 3 * 5 * (4 // groups)
  fn = convolution(groups, stride)
  assert flops(fn, image, kernel) == product(one)
  # Each gradient is as much work as the forward pass.
  grad = jax.grad(lambda *a: jnp.sum(fn(*a) ** 2), argnums=(0, 1))
  assert flops(grad, image, kernel) == product(3 * one)


def test_transformer_layer_agrees_with_the_textbook():
  layer = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)
  x = jax.ShapeDtypeStruct((B, N, 8), jnp.float32)
  params = jax.eval_shape(layer.init, jax.random.key(0), x)
  got = inspect.matmul_flops(jax.jit(layer.apply).trace(params, x))
  # Query, key, value and output; scores and mixing.
  assert got == {'float32': 2.0 * B * (4 * N * 8 * 8 + 2 * N * N * 8)}


def test_fused_attention_counts_like_the_products_it_replaces(monkeypatch):
  # Tracing asks for the versions of a GPU and its library; nothing runs here.
  from jax._src.cudnn import fused_attention_stablehlo as fused

  monkeypatch.setattr(fused, 'check_cudnn_version', lambda: 99_999)
  monkeypatch.setattr(fused, 'check_compute_capability', lambda *_: True)
  shapes = (B, 16, 4, 64), (B, 32, 4, 64), (B, 32, 4, 64)
  inputs = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in shapes]

  def count(implementation, backward):
    attend = functools.partial(
      jax.nn.dot_product_attention, implementation=implementation
    )
    total = lambda *a: jnp.sum(attend(*a).astype(jnp.float32) ** 2)
    fn = jax.grad(total, argnums=(0, 1, 2)) if backward else attend
    return sum(inspect.matmul_flops(jax.jit(fn).trace(*inputs)).values())

  one = 2.0 * B * 4 * 16 * 32 * 64
  assert count('cudnn', False) == count('xla', False) == 2 * one
  # Both run 2 products forward and 4 backward; the kernel repeats one.
  assert count('xla', True) == 6 * one
  assert count('cudnn', True) == 7 * one


def test_compiled_cost_knows_memory():
  fn = jax.jit(lambda x: x @ x)
  cost = inspect.cost(
    fn.lower(jax.ShapeDtypeStruct((64, 64), jnp.float32)).compile()
  )
  assert cost['argument_bytes'] == cost['output_bytes'] == 64 * 64 * 4
  assert cost['flops'] >= 2 * 64**3
  assert cost['temp_bytes'] >= 0


def test_ideal_time_adds_up_types_at_their_own_rate(monkeypatch):
  rates = {'float32': 10.0, 'bfloat16': 40.0}
  monkeypatch.setattr(inspect, 'matmul_rate', rates.get)
  # Eight fake devices of one CPU count once.
  got = inspect.ideal_seconds({'float32': 20.0, 'bfloat16': 20.0, 'int8': 0.0})
  assert got == 2.5


def test_matmul_rate_is_measured_once():
  rate = inspect.matmul_rate('float32', 64)
  assert 1e6 < rate < 1e15
  assert inspect.matmul_rate('float32', 64) == rate


@pytest.fixture
def placed():
  """Shapes on eight devices: one leaf cut, one whole."""
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 4, 'model': 1})
  rules = (('kernel', 'fsdp'), ('.*', 'replicate'))
  shapes = {
    'a': {
      'kernel': jax.ShapeDtypeStruct((3, 16), jnp.float32),
      'bias': jax.ShapeDtypeStruct((16,), jnp.bfloat16),
    }
  }
  shardings = sharding.shardings_from_rules(shapes, rules, mesh)
  return jax.tree.map(
    lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
    shapes,
    shardings,
  )


def test_memory_is_that_of_one_device(placed):
  assert inspect.device_bytes(placed) == 3 * 16 * 4 // 4 + 16 * 2
  arrays = jax.tree.map(
    lambda s: jax.device_put(np.zeros(s.shape, s.dtype), s.sharding), placed
  )
  assert inspect.device_bytes(arrays) == inspect.device_bytes(placed)
  assert inspect.device_bytes({}) == 0


def test_sharding_table_lists_what_is_cut(placed):
  (line,) = inspect.sharding_table(placed).splitlines()
  assert 'kernel' in line and "(None, 'fsdp')" in line and '[3, 16]' in line
  whole = {'bias': placed['a']['bias']}
  assert 'every leaf is whole' in inspect.sharding_table(whole)


def test_parameter_table_adds_up(placed):
  table = inspect.parameter_table(placed)
  assert 'a/kernel' in table and '(3, 16)' in table and 'bfloat16' in table
  assert f'Total: {3 * 16 + 16}' in table


def test_compilations_are_counted_until_closed():
  counter = inspect.CompileCounter()
  fn = jax.jit(lambda x: x * 3 + 1)
  x = np.ones(3, np.float32)
  fn(x).block_until_ready()
  first = counter.count
  assert first >= 1
  fn(x + 1).block_until_ready()
  assert counter.count == first
  fn(np.ones(4, np.float32)).block_until_ready()
  assert counter.count > first
  counter.close()
  last = counter.count
  fn(np.ones(5, np.float32)).block_until_ready()
  assert counter.count == last
