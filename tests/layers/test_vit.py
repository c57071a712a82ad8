"""The vision transformer: tokens, positions, visible subsets, freezing."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.layers import position, transformer, vit

SMALL = dict(width=16, depth=2, num_heads=2, mlp_features=24, patch=(2, 4, 4))


def make(**options):
  return vit.VisionTransformer(**SMALL | options)


@pytest.fixture
def video(normal):
  return normal(2, 4, 8, 12, 3)  # grid (2, 2, 3), 12 tokens


def test_sizes_count_the_published_parameters(shapes):
  # 4DS at 16 x 224 x 224: no class token, no final norm.
  counts = {
    'S': 22_485_888, 'B': 87_439_104, 'L': 305_488_896,
    'G': 1_846_529_664, 'e': 3_809_464_064,
  }  # fmt: skip
  for name, want in counts.items():
    module = vit.VisionTransformer(
      **vit.vit_config(name), grid=(8, 14, 14), final_norm=False, scan=True
    )
    clip = jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.float32)
    tree = shapes(module, clip)
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == want, name
  with pytest.raises(ValueError, match="'XL'"):
    vit.vit_config('XL')


@pytest.mark.parametrize('positions', vit.POSITIONS)
def test_tokens_are_patches_plus_positions(random, run, video, positions):
  module = make(positions=positions, grid=(2, 2, 3))
  params = random(module, video)
  p = params['params']
  table = {
    'none': lambda: np.zeros(16),
    'learned': lambda: p['position']['table'],
    'learned_separable': lambda: (
      p['position']['temporal'][:, None, None] + p['position']['spatial']
    ),
    'sincos_flat': lambda: position.sincos_flat((2, 2, 3), 16),
    'sincos_2d': lambda: position.sincos_2d((2, 3), 16),
    'sincos_3d': lambda: position.sincos_3d((2, 2, 3), 16),
  }[positions]()
  table = np.broadcast_to(table, (2, 2, 3, 16)).reshape(12, 16)
  got = run(module, params, video, method='embed')['tokens']
  plain = make(positions='none')
  embedding = {'params': {k: p[k] for k in ('embedding', 'transformer')}}
  want = run(plain, embedding, video, method='embed')['tokens'] + table
  np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize('positions', ['learned', 'sincos_flat'])
def test_tables_are_resized_to_other_grids(random, run, normal, positions):
  module = make(positions=positions, grid=(2, 4, 4))
  video = normal(1, 4, 12, 20, 3)
  params = random(module, video)
  if positions == 'learned':
    table = params['params']['position']['table']
  else:
    table = position.sincos_flat((2, 4, 4), 16)
  table = position.resize_table(table, (2, 3, 5)).reshape(1, 30, 16)
  got = run(module, params, video, method='embed')['tokens']
  zero = jax.tree.map(jnp.zeros_like, params)
  zero['params']['position'] = params['params'].get('position', {})
  np.testing.assert_allclose(
    run(module, zero, video, method='embed')['tokens'], table, atol=2e-6
  )
  assert got.shape == (1, 30, 16)


ENCODERS = {
  'learned': dict(grid=(2, 2, 3)),
  'vjepa': dict(
    positions='none', rotary=dict(fractions=(1 / 3,) * 3, pairing='vjepa')
  ),
  'layerlock': dict(
    positions='none', rotary=dict(fractions=(0.2, 0.3, 0.3)),
    block=dict(rotary_site='norm'), final_norm=False,
  ),
  'class': dict(
    positions='sincos_3d', class_token=True, rotary=dict(fractions=(0.5, 0, 0))
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', ENCODERS)
def test_visible_subset_equals_rows_of_all_tokens_before_mixing(
  random, run, video, name
):
  module = make(**ENCODERS[name])
  params = random(module, video)
  ids = jnp.array([[7, 0, 11], [3, 2, 8]])
  whole = run(module, params, video, method='embed')
  part = run(module, params, video, ids=ids, method='embed')
  first = int(module.class_token)
  rows = jnp.pad(ids + first, ((0, 0), (first, 0)))
  np.testing.assert_allclose(
    part['tokens'],
    jnp.take_along_axis(whole['tokens'], rows[..., None], axis=1),
    atol=1e-6,
  )
  assert part['grid'] == (2, 2, 3)
  if whole['rotary'] is not None:
    for key in ('cos', 'sin'):
      want = getattr(whole['rotary'], key)[rows]
      np.testing.assert_array_equal(getattr(part['rotary'], key), want)


@pytest.mark.parametrize('name', ENCODERS)
def test_masked_encoding_equals_masked_attention(random, run, video, name):
  # Leaving tokens out is the same as never attending to them.
  module = make(**ENCODERS[name])
  params = random(module, video)
  ids = jnp.array([7, 0, 11, 4])
  first = int(module.class_token)
  rows = np.concatenate([np.arange(first), np.asarray(ids) + first])
  visible = np.zeros(12 + first, bool)
  visible[rows] = True
  part = run(module, params, video, ids=ids)['tokens']
  whole = run(module, params, video, mask=jnp.asarray(visible))['tokens']
  np.testing.assert_allclose(part, whole[:, rows], atol=2e-5)


def test_frames_can_be_encoded_one_by_one(random, run, normal):
  # RVM: positions of one frame, no mixing over time.
  module = make(patch=(1, 4, 4), positions='sincos_flat', class_token=True)
  frames = normal(2, 3, 1, 8, 12, 3)
  params = random(module, frames)
  got = run(module, params, frames)['tokens']
  assert got.shape == (2, 3, 7, 16)
  np.testing.assert_allclose(
    got[1, 2], run(module, params, frames[1, 2])['tokens'], atol=1e-5
  )


def test_class_token_is_first_and_without_position(random, run, video):
  module = make(positions='sincos_3d', class_token=True)
  params = random(module, video)
  tokens = run(module, params, video, method='embed')['tokens']
  want = np.broadcast_to(params['params']['class_token'], (2, 16))
  np.testing.assert_array_equal(tokens[:, 0], want)


def test_intermediates_and_early_stop(random, run, video):
  module = make(grid=(2, 2, 3), scan=True)
  params = random(module, video)
  full = run(module, params, video, return_intermediates=True)
  assert full['intermediates'].shape == (2, 2, 12, 16)
  early = run(module, params, video, stop=1)
  np.testing.assert_allclose(
    early['tokens'], full['intermediates'][0], atol=1e-5
  )
  assert 'intermediates' not in early


def test_frozen_blocks_freeze_embedding_and_positions(random, jit, video):
  module = make(grid=(2, 2, 3), class_token=True)
  params = random(module, video)

  @functools.partial(jit, static_argnums=1)
  def grad(params, num_frozen):
    loss = lambda params: jnp.sum(
      module.apply(params, video, num_frozen=num_frozen)['tokens'] ** 3
    )
    return jax.grad(loss)(params)['params']

  free, held = grad(params, 0), grad(params, 1)
  for name in ('embedding', 'position', 'class_token'):
    assert all(leaf.any() for leaf in jax.tree.leaves(free[name])), name
    assert not any(leaf.any() for leaf in jax.tree.leaves(held[name])), name
  assert not any(
    leaf.any() for leaf in jax.tree.leaves(held['transformer']['block_0'])
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4),
    held['transformer']['block_1'],
    free['transformer']['block_1'],
  )


def test_both_layouts_agree_and_low_precision_is_close(random, run, video):
  options = dict(grid=(2, 2, 3), block=dict(qk_norm='rms'))
  params = random(make(**options), video)
  want = run(make(**options), params, video)['tokens']
  stacked = transformer.stack_blocks(params)
  scanned = run(make(**options, scan=True), stacked, video)['tokens']
  np.testing.assert_allclose(scanned, want, atol=1e-5)
  module = make(**options, dtype=jnp.bfloat16)
  stream = run(module, params, video, method='embed')['tokens']
  assert stream.dtype == jnp.float32
  low = run(module, params, video)['tokens']
  assert low.dtype == jnp.bfloat16
  np.testing.assert_allclose(low.astype(jnp.float32), want, atol=0.1)


class LateTokens(nn.Module):
  """SimpleMAE: learned tokens join before the last block."""

  scan: bool

  def setup(self):
    self.encoder = make(**ENCODERS['layerlock'], scan=self.scan)
    self.late = self.param('late', nn.initializers.normal(), (12, 16))

  def __call__(self, video, ids, *, num_frozen=0):
    embedded = self.encoder.embed(video, ids=ids)
    x = self.encoder.transformer(
      embedded['tokens'], rotary=embedded['rotary'], stop=1,
      num_frozen=num_frozen,
    )  # fmt: skip
    late = jnp.broadcast_to(self.late, (*x.shape[:-2], 12, 16))
    code = self.encoder.rotary_code(embedded['grid'])
    code = code.take(jnp.concatenate([ids, jnp.arange(12)]))
    x = jnp.concatenate([x, late], axis=-2)
    x = self.encoder.transformer(x, rotary=code, start=1, num_frozen=num_frozen)
    return x[..., -12:, :]


@pytest.mark.parametrize('scan', [False, True])
def test_tokens_can_join_late(random, run, video, scan):
  module = LateTokens(scan)
  ids = jnp.array([7, 0, 11, 4])
  params = random(module, video, ids)
  plain = random(make(**ENCODERS['layerlock'], scan=scan), video)['params']
  assert jax.tree.map(jnp.shape, params['params']['encoder']) == jax.tree.map(
    jnp.shape, plain
  )
  out = run(module, params, video, ids)
  assert out.shape == (2, 12, 16)
  np.testing.assert_allclose(
    run(module, params, video, ids, num_frozen=1), out, atol=1e-6
  )


def test_bad_options_are_errors(shapes, video):
  with pytest.raises(ValueError, match='positions must be'):
    shapes(make(positions='absolute'), video)
  with pytest.raises(ValueError, match='needs grid'):
    shapes(make(), video)
