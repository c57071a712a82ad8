"""One decoder for VideoMAE, MAE-ST, V-JEPA and cross-attention predictors."""

import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.layers import masked_decoder

GRID = (2, 2, 3)
SMALL = dict(
  num_outputs=5, width=16, depth=2, num_heads=2, mlp_features=24
)  # fmt: skip
KEEP = jnp.array([[7, 0, 4], [1, 2, 10]])
PREDICT = jnp.array([[3, 11], [0, 5]])
ROTARY = {'fractions': (1 / 3, 1 / 3, 1 / 3), 'pairing': 'vjepa'}
KINDS = {
  'videomae': {},
  'mae_st': {'positions': 'learned_separable', 'num_prefix': 1},
  'vjepa': {'positions': 'none', 'rotary': ROTARY, 'num_mask_tokens': 3},
  'cross': {'reads': 'cross', 'positions': 'sincos_3d'},
}


@pytest.mark.parametrize('kind', KINDS)
def test_order_of_tokens_does_not_matter(random, run, normal, kind):
  module = masked_decoder.MaskedDecoder(**SMALL | KINDS[kind])
  prefix = module.num_prefix
  features = normal(2, prefix + 3, 8)
  params = random(module, features, KEEP, PREDICT, grid=GRID)
  out = run(module, params, features, KEEP, PREDICT, grid=GRID)
  assert out.shape == (2, 2, 5)
  order = jnp.array([2, 0, 1])
  turned = jnp.concatenate(
    [features[:, :prefix], features[:, prefix:][:, order]], axis=1
  )
  same = run(
    module, params, turned, KEEP[:, order], PREDICT[:, ::-1], grid=GRID
  )
  np.testing.assert_allclose(same[:, ::-1], out, atol=2e-5)
  # Other places, another prediction: the positions reach it.
  moved = run(module, params, features, (KEEP + 1) % 12, PREDICT, grid=GRID)
  assert np.abs(np.asarray(moved - out)).max() > 1e-3


def test_cross_attention_predicts_every_place_by_itself(random, run, normal):
  module = masked_decoder.MaskedDecoder(**SMALL | KINDS['cross'])
  features = normal(2, 3, 8)
  params = random(module, features, KEEP, PREDICT, grid=GRID)
  out = run(module, params, features, KEEP, PREDICT, grid=GRID)
  one = run(module, params, features, KEEP, PREDICT[:, 1:], grid=GRID)
  np.testing.assert_allclose(one, out[:, 1:], atol=1e-5)


def test_mask_index_chooses_the_token(random, run, normal):
  module = masked_decoder.MaskedDecoder(**SMALL | KINDS['vjepa'])
  features = normal(2, 3, 8)
  params = random(module, features, KEEP, PREDICT, grid=GRID)
  args = (module, params, features, KEEP, PREDICT)
  first = run(*args, grid=GRID)
  assert np.abs(run(*args, grid=GRID, mask_index=1) - first).max() > 1e-3
  swapped = params['params']['mask_token'][::-1]
  params = {'params': params['params'] | {'mask_token': swapped}}
  np.testing.assert_allclose(
    run(*(module, params, *args[2:]), grid=GRID, mask_index=2), first, atol=1e-6
  )


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'reads': 'all'}, "reads='all'"),
    ({'positions': 'sincos'}, "positions='sincos'"),
    ({'reads': 'cross', 'rotary': ROTARY}, 'no self-attention'),
  ],
)
def test_bad_options_are_errors(shapes, normal, options, message):
  module = masked_decoder.MaskedDecoder(**SMALL | options)
  with pytest.raises(ValueError, match=message):
    shapes(module, normal(2, 3, 8), KEEP, PREDICT, grid=GRID)


def test_mask_index_out_of_range_is_an_error(shapes, normal):
  module = masked_decoder.MaskedDecoder(**SMALL)
  with pytest.raises(ValueError, match='mask_index=1'):
    shapes(module, normal(2, 3, 8), KEEP, PREDICT, grid=GRID, mask_index=1)
