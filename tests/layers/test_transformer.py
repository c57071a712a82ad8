"""Stacks of three blocks: layouts, scan, remat, freezing."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import extend

from vidscenic.layers import norms, transformer

BLOCK = dict(num_heads=3, mlp_features=20)
MOOG = dict(BLOCK, order=('self+cross', 'mlp'), qk_norm='rms', norm_bias=False)
RVM = dict(BLOCK, order=('cross', 'mlp', 'self'))


def close(got, want, atol=1e-5):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5),
    got, want,
  )  # fmt: skip


DEPTH = 3
BLOCKS = {'vit': BLOCK, 'rvm': RVM, 'moog': MOOG}


def make(block='rvm', **options):
  return transformer.Transformer(
    DEPTH, BLOCKS[block], final_norm=True, **options
  )


@pytest.fixture
def stack(normal, random):
  """stack(block): parameters in the unrolled layout, x, kv."""

  def draw(block='rvm'):
    x, kv = normal(2, 5, 12), normal(2, 4, 9)
    kv = None if block == 'vit' else kv
    return random(make(block), x, kv)['params'], x, kv

  return draw


RESULTS = {}


@pytest.fixture
def results(stack, jit):
  """Values and gradients (unrolled layout) of a stack, each computed once."""

  def compute(block, *, scan, remat='none', num_frozen=0):
    key = (block, scan, remat, num_frozen)
    if key not in RESULTS:
      params, x, kv = stack(block)
      module = make(block, scan=scan, remat=remat)

      def loss(params, x):
        y, hidden = module.apply(
          {'params': params}, x, kv, return_intermediates=True,
          num_frozen=num_frozen,
        )  # fmt: skip
        return jnp.sum(jnp.sin(y)) + jnp.sum(hidden[-1] ** 2), (y, hidden)

      params = transformer.stack_blocks(params) if scan else params
      grad = jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
      value, (grads, x_grad) = grad(params, x)
      grads = transformer.unstack_blocks(grads) if scan else grads
      RESULTS[key] = value, (grads, x_grad)
    return RESULTS[key]

  return compute


def test_stacked_and_unrolled_layouts_convert_exactly(stack, shapes):
  params, x, kv = stack()
  assert set(params) == {'final_norm'} | {f'block_{i}' for i in range(DEPTH)}
  stacked = transformer.stack_blocks({'outer': params})['outer']
  assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(
    jnp.shape, shapes(make(scan=True), x, kv)['params']
  )
  again = transformer.unstack_blocks(stacked)
  jax.tree.map(np.testing.assert_array_equal, again, params)
  bad = dict(params)
  del bad['block_1']
  with pytest.raises(ValueError, match='block_0, ..., block_1'):
    transformer.stack_blocks(bad)
  numpy = transformer.stack_blocks(jax.tree.map(np.asarray, params))
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(numpy))


def test_nested_stacks_convert():
  leaf = lambda i, j: np.full((2,), 10 * i + j)
  tree = {
    f'block_{i}': {'inner': {f'block_{j}': {'w': leaf(i, j)} for j in range(3)}}
    for i in range(2)
  }
  stacked = transformer.stack_blocks(tree)
  assert stacked['blocks']['inner']['blocks']['w'].shape == (2, 3, 2)
  jax.tree.map(
    np.testing.assert_array_equal, transformer.unstack_blocks(stacked), tree
  )


def test_scanned_blocks_start_differently(normal, jit):
  module = transformer.Transformer(
    2, dict(num_heads=1, mlp_features=4, order=('mlp',)), scan=True
  )
  params = jit(module.init)(jax.random.key(0), normal(1, 1, 4))['params']
  kernel = params['blocks']['mlp']['up']['kernel']
  assert np.abs(kernel[0] - kernel[1]).max() > 1e-2


@pytest.mark.parametrize('remat', ['none', 'full'])
@pytest.mark.parametrize('scan', [False, True])
def test_last_kernels_start_smaller_with_depth(normal, jit, scan, remat):
  x, kv = normal(1, 3, 24), normal(1, 2, 24)
  ones = nn.initializers.ones
  block = dict(MOOG, kernel_init=ones, mlp_init=ones)

  def init(scale, **range_):
    module = transformer.Transformer(
      DEPTH, block, scan=scan, remat=remat, residual_init_scale=scale
    )
    init = jit(functools.partial(module.init, **range_))
    params = init(jax.random.key(0), x, kv)['params']
    return params if scan else transformer.stack_blocks(params)

  deep = 1 / np.sqrt([2, 4, 6])
  for scale, range_, want in (
    ('depth', {}, deep),
    ('depth', dict(start=1, stop=2), deep),
    (0.5, {}, [0.5] * 3),
    (1.0, {}, [1.0] * 3),
  ):
    params = init(scale, **range_)['blocks']
    for branch, last in (
      ('self_attention', 'out'),
      ('cross_attention', 'out'),
      ('mlp', 'down'),
    ):
      for name, child in params[branch].items():
        if 'kernel' in child:
          got = np.asarray(child['kernel']).reshape(DEPTH, -1)
          expected = want if name == last else [1.0] * 3
          close(got, np.broadcast_to(np.array(expected)[:, None], got.shape))
  with pytest.raises(ValueError, match="'width'"):
    init('width')


@pytest.mark.parametrize(
  'block, num_frozen', [('rvm', 0), ('vit', 2), ('moog', 0)]
)
def test_scan_equals_unrolled(results, block, num_frozen):
  want = results(block, scan=False, num_frozen=num_frozen)
  close(results(block, scan=True, num_frozen=num_frozen), want)
  assert want[0][1][1].shape == (DEPTH, 2, 5, 12)


@pytest.mark.parametrize(
  'scan, remat, num_frozen',
  [(True, 'dots', 0), (False, 'full', 2)],
)
def test_remat_changes_nothing(results, scan, remat, num_frozen):
  want = results('vit', scan=scan, num_frozen=num_frozen)
  got = results('vit', scan=scan, remat=remat, num_frozen=num_frozen)
  close(got, want)


@pytest.mark.parametrize('scan', [False, True])
def test_frozen_blocks_get_exactly_zero_gradient(results, scan):
  value, (free, free_x) = results('vit', scan=scan)
  held_value, (held, held_x) = results('vit', scan=scan, num_frozen=2)
  close(held_value, value)
  for i in range(2):
    assert all(not leaf.any() for leaf in jax.tree.leaves(held[f'block_{i}']))
  # The rest is what it is without freezing.
  close(held['block_2'], free['block_2'])
  close(held['final_norm'], free['final_norm'])
  assert free_x.any() and not held_x.any()


def test_shared_keys_keep_their_gradient_from_trained_blocks(
  normal, random, jit
):
  block = dict(num_heads=1, mlp_features=4, order=('cross',))
  module = transformer.Transformer(3, block, scan=True)
  x, kv = normal(1, 3, 4), normal(1, 2, 4)
  params = random(module, x, kv)

  def grad(num_frozen, first):
    # Only block `first` and later ones may depend on kv.
    def loss(kv):
      h = module.apply(params, x, jax.lax.stop_gradient(kv), stop=first)
      y = module.apply(params, h, kv, start=first, num_frozen=num_frozen)
      return jnp.sum(jnp.sin(y))

    return jit(jax.grad(loss))(kv)

  close(grad(2, 0), grad(0, 2))
  assert grad(2, 0).any() and not grad(3, 0).any()


def test_no_blocks_leave_the_norm(normal, random, run):
  module = transformer.Transformer(0, BLOCK, final_norm=True)  # MooG's encoder
  x = normal(2, 5, 12)
  params = random(module, x)
  assert set(params['params']) == {'final_norm'}
  norm = norms.layer_norm(None)
  want = norm.apply({'params': params['params']['final_norm']}, x)
  close(run(module, params, x), want)


def block_flops(rows, tokens, width, hidden):
  """Matmul FLOPs of the forward pass of one ViT block."""
  per_token = 4 * width**2 + 2 * width * hidden
  return rows * (2 * tokens * per_token + 4 * tokens**2 * width)


def dot_flops(module, params, x, **static):
  """FLOPs of all matrix products of a gradient, loops counted in full."""

  def loss(params):
    return jnp.sum(module.apply({'params': params}, x, **static) ** 2)

  def count(jaxpr):
    total = 0
    for eqn in jaxpr.eqns:
      if eqn.primitive.name == 'dot_general':
        (contract, _), _ = eqn.params['dimension_numbers']
        shape = eqn.invars[0].aval.shape
        inner = int(np.prod([shape[axis] for axis in contract]))
        total += 2 * inner * int(np.prod(eqn.outvars[0].aval.shape))
      repeat = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
      for sub in extend.core.jaxprs_in_params(eqn.params):
        total += repeat * count(sub)
    return total

  return count(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)


@pytest.mark.parametrize('remat', ['none', 'dots', 'full'])
@pytest.mark.parametrize('scan', [False, True])
def test_backward_pass_of_frozen_blocks_is_gone(normal, random, scan, remat):
  module = make('vit', scan=scan, remat=remat)
  x = normal(2, 5, 12)
  params = random(module, x)['params']
  forward = block_flops(2, 5, 12, 20)
  again = {
    'none': 0,
    'dots': 2 * 2 * (2 * 5 * 5 * 12),  # q k and weights v
    'full': forward - 2 * 10 * 20 * 12,  # the last product is not needed again
  }[remat]
  for k in (0, 1, 2):
    got = dot_flops(module, params, x, num_frozen=k)
    # The first trained block costs as much as the others: its norm needs the
    # gradients of the projections' input.
    assert got == DEPTH * forward + (DEPTH - k) * (2 * forward + again), k


def test_compiled_flops_fall_with_frozen_blocks(normal, random, jit):
  # Wide enough for the matrix products to dominate.
  module = transformer.Transformer(DEPTH, dict(num_heads=3, mlp_features=192))
  x = normal(1, 8, 48)
  params = random(module, x)['params']

  def flops(num_frozen):
    def loss(params):
      y = module.apply({'params': params}, x, num_frozen=num_frozen)
      return jnp.sum(y**2)

    compiled = jit(jax.grad(loss)).lower(params).compile()
    return compiled.cost_analysis()['flops']

  ratio = flops(2) / flops(0)
  # 3 forward and 1 of 3 backward passes of twice that: 5 / 9, and small work.
  assert 0.5 < ratio < 0.62, ratio


@pytest.mark.parametrize('scan', [False, True])
def test_ranges_of_blocks_compose(stack, run, scan):
  params, x, kv = stack()
  params = {'params': transformer.stack_blocks(params) if scan else params}
  module = make(scan=scan)
  want, hidden = run(module, params, x, kv, return_intermediates=True)
  first = run(module, params, x, kv, stop=2)
  close(first, hidden[1])
  got, rest = run(module, params, first, kv, start=2, return_intermediates=True)
  close((got, rest), (want, hidden[2:]))
  close(run(module, params, x, kv, stop=1, num_frozen=3), hidden[0])
  empty, none = run(module, params, x, kv, stop=0, return_intermediates=True)
  close(empty, x)
  assert none.shape == (0, 2, 5, 12)
  with pytest.raises(ValueError, match='start=2 and stop=1'):
    run(module, params, x, kv, start=2, stop=1)
  with pytest.raises(ValueError, match='num_frozen'):
    run(module, params, x, kv, num_frozen=5)


@pytest.mark.parametrize('scan', [False, True])
def test_every_block_is_initialised_whatever_the_range(normal, shapes, scan):
  x, kv = normal(2, 5, 12), normal(2, 4, 9)
  part = shapes(make(scan=scan), x, kv, start=1, stop=2, num_frozen=2)
  assert part == shapes(make(scan=scan), x, kv)


def test_masks_reach_both_attentions(stack, run):
  params, x, kv = stack()
  params = {'params': transformer.stack_blocks(params)}
  mask = jnp.array([True, True, True, False, True])
  cross = jnp.array([True, False, True, True])
  module = make(scan=True)
  got = run(module, params, x, kv, mask=mask, cross_mask=cross)
  changed = x.at[:, 3].add(1.0), kv.at[:, 1].add(1.0)
  moved = run(module, params, *changed, mask=mask, cross_mask=cross)
  close(got[:, np.asarray(mask)], moved[:, np.asarray(mask)])
  assert np.abs(got - run(module, params, x, kv)).max() > 1e-2


@pytest.mark.parametrize('scan', [False, True])
def test_weights_of_all_blocks_can_be_captured(stack, run, scan):
  params, x, kv = stack()
  params = {'params': transformer.stack_blocks(params) if scan else params}
  _, sown = run(make(scan=scan), params, x, kv, mutable=['attention_weights'])
  sown = sown['attention_weights']
  if not scan:
    sown = transformer.stack_blocks(sown)
  weights = sown['blocks']['cross_attention']['weights'][0]
  assert weights.shape == (DEPTH, 2, 3, 5, 4)
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize('scan', [False, True])
def test_dropout_and_drop_path_act_in_training_only(stack, run, jit, scan):
  params, x, _ = stack('vit')
  params = {'params': transformer.stack_blocks(params) if scan else params}
  module = transformer.Transformer(
    DEPTH, dict(BLOCK, dropout=0.3), drop_path=0.5, scan=scan, final_norm=True
  )
  close(run(module, params, x), run(make('vit', scan=scan), params, x))
  draw = jit(
    lambda seed: module.apply(
      params, x, train=True, rngs={'dropout': jax.random.key(seed)}
    )
  )
  one = draw(1)
  np.testing.assert_array_equal(one, draw(1))
  assert np.abs(one - draw(2)).max() > 1e-2
  assert np.isfinite(one).all()


def test_drop_path_grows_with_depth(normal, random, run):
  block = dict(num_heads=1, mlp_features=4, order=('mlp',))
  module = transformer.Transformer(3, block, drop_path=0.8, scan=True)
  x = normal(2000, 1, 4)
  _, hidden = run(
    module, random(module, x), x, return_intermediates=True, train=True,
    rngs={'dropout': jax.random.key(1)},
  )  # fmt: skip
  before = np.concatenate([x[None], hidden[:-1]])
  dropped = (before == np.asarray(hidden)).all((-1, -2)).mean(-1)
  np.testing.assert_allclose(dropped, [0, 0.4, 0.8], atol=0.05)


@pytest.mark.parametrize('scan', [False, True])
@pytest.mark.parametrize('stream', ['bfloat16', 'float32'])
def test_stream_keeps_its_dtype(results, stack, run, stream, scan):
  params, x, kv = stack('vit')
  params = {'params': transformer.stack_blocks(params) if scan else params}
  y, hidden = run(
    make('vit', scan=scan, dtype=jnp.bfloat16), params, x.astype(stream), kv,
    return_intermediates=True,
  )  # fmt: skip
  assert hidden.dtype == jnp.dtype(stream) and y.dtype == jnp.bfloat16
  want = results('vit', scan=True)[0][1][0]
  np.testing.assert_allclose(y.astype(jnp.float32), want, atol=0.15)
