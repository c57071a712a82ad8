import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.ops import masking

# One compilation per shape instead of one per operation.
row_keys = jax.jit(masking.row_keys)
split_keys = jax.jit(masking.split_keys, static_argnums=1)
random_mask = jax.jit(
  masking.random_mask, static_argnames=('num_tokens', 'num_keep')
)
tube_mask = jax.jit(
  masking.tube_mask, static_argnames=('grid', 'keep_per_frame')
)
mask_from_permutation = jax.jit(masking.mask_from_permutation, static_argnums=1)
take_tokens = jax.jit(masking.take_tokens)
scatter_tokens = jax.jit(masking.scatter_tokens, static_argnames='num_tokens')


def keys_for(rows, seed=0):
  return row_keys(jax.random.key(seed), jnp.asarray(rows))


def check_consistent(mask, num_tokens):
  """ids are sorted, complementary, and agree with the bool mask."""
  mask = jax.tree.map(np.asarray, mask)
  assert mask.hidden.shape[-1] == num_tokens
  for row in np.ndindex(mask.hidden.shape[:-1]):
    hidden = mask.hidden[row]
    np.testing.assert_array_equal(mask.keep_ids[row], np.flatnonzero(~hidden))
    np.testing.assert_array_equal(mask.drop_ids[row], np.flatnonzero(hidden))


@pytest.mark.parametrize(
  'num_tokens, ratio, want',
  [
    (256, 0.95, 12),
    (196, 0.95, 9),
    (100, 0.9, 9),  # 100 * (1 - 0.9) = 9.999...
    (60, 0.8, 11),
    (1568, 0.9, 156),
    (1568, 0.95, 78),
    (7, 0.0, 7),
    (7, 1.0, 0),
  ],
)
def test_num_visible_truncates_in_double_precision(num_tokens, ratio, want):
  assert masking.num_visible(num_tokens, ratio) == want


def test_num_hidden_is_the_rule_of_videomae():
  assert masking.num_hidden(196, 0.9) == 176
  with pytest.raises(ValueError, match='1.5'):
    masking.num_hidden(10, 1.5)
  with pytest.raises(ValueError, match='-0.1'):
    masking.num_visible(10, -0.1)


def test_random_mask_has_the_exact_count_and_consistent_ids():
  mask = random_mask(keys_for(range(8)), num_tokens=20, num_keep=6)
  assert mask.keep_ids.shape == (8, 6) and mask.drop_ids.shape == (8, 14)
  assert mask.keep_ids.dtype == mask.drop_ids.dtype == jnp.int32
  check_consistent(mask, 20)
  assert len({tuple(row) for row in mask.keep_ids.tolist()}) == 8


def test_random_hidden_follows_a_traced_count():
  keys = split_keys(keys_for(range(3)), 2)

  @jax.jit
  def hidden_at(step, keys):
    ratio = 0.9 - 0.1 * step  # a schedule
    count = jnp.floor(20 * (1 - ratio) + 1e-4).astype(jnp.int32)
    return masking.random_hidden(keys, num_tokens=20, num_keep=count)

  for step, count in ((0, 2), (3, 8), (9, 20)):
    got = hidden_at(step, keys)
    assert got.shape == (3, 2, 20) and got.dtype == bool
    want = random_mask(keys, num_tokens=20, num_keep=count).hidden
    np.testing.assert_array_equal(got, want)
  assert hidden_at._cache_size() == 1


def test_random_hidden_takes_a_count_per_row():
  counts = np.array([0, 7, 20])
  got = masking.random_hidden(
    keys_for(range(3)), num_tokens=20, num_keep=jnp.asarray(counts)
  )
  np.testing.assert_array_equal((~got).sum(-1), counts)
  with pytest.raises(ValueError, match='cannot keep 21'):
    masking.random_hidden(keys_for(range(3)), num_tokens=20, num_keep=21)


@pytest.mark.parametrize('num_keep', [0, 5])
def test_nothing_or_everything_may_be_hidden(num_keep):
  order = np.array([[4, 1, 3, 0, 2], [0, 1, 2, 3, 4]])
  mask = mask_from_permutation(order, num_keep)
  check_consistent(mask, 5)
  assert np.asarray(mask.hidden).sum() == 2 * (5 - num_keep)
  tokens = np.ones((2, num_keep, 3))
  full = scatter_tokens(tokens, mask.keep_ids, num_tokens=5, fill=2)
  np.testing.assert_array_equal(full, 1 if num_keep else 2)


def test_a_row_keeps_its_mask_wherever_it_stands():
  def draw(rows):
    return random_mask(keys_for(rows), num_tokens=20, num_keep=6)

  rows = np.arange(8)
  order = np.array([5, 0, 7, 2, 1, 6, 3, 4])
  whole, shuffled = draw(rows), draw(rows[order])
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a[order], b), whole, shuffled
  )
  # As under accumulation: two microbatches.
  parts = [draw(rows[:4]), draw(rows[4:])]
  joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  jax.tree.map(np.testing.assert_array_equal, whole, joined)


def test_sharding_does_not_change_the_masks():
  mesh = jax.make_mesh(
    (4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))

  def draw(rows):
    return random_mask(keys_for(rows), num_tokens=20, num_keep=6)

  sharded = draw(jax.device_put(jnp.arange(8), spec))
  assert len(sharded.keep_ids.sharding.device_set) == 4
  jax.tree.map(np.testing.assert_array_equal, draw(jnp.arange(8)), sharded)


def test_all_tokens_are_hidden_equally_often():
  mask = random_mask(keys_for(range(4000)), num_tokens=20, num_keep=6)
  rate = np.asarray(mask.hidden).mean(0)
  # Five standard deviations of a mean of 4000 draws with p = 0.7.
  np.testing.assert_allclose(rate, 0.7, atol=5 * np.sqrt(0.21 / 4000))


def test_split_keys_give_independent_masks_per_target_frame():
  keys = split_keys(keys_for([3, 9]), 3)
  assert keys.shape == (2, 3)
  mask = random_mask(keys, num_tokens=9, num_keep=4)
  assert mask.keep_ids.shape == (2, 3, 4)
  check_consistent(mask, 9)
  drawn = np.asarray(mask.keep_ids).reshape(6, 4)
  assert len({tuple(row) for row in drawn.tolist()}) > 4


def test_old_style_keys_draw_the_same():
  rows = jnp.arange(3)
  new = row_keys(jax.random.key(4), rows)
  old = row_keys(jax.random.PRNGKey(4), rows)
  assert (jax.random.key_data(new) == jax.random.key_data(old)).all()


def test_tubes_repeat_over_time_with_an_exact_count_per_frame():
  t, h, w = 3, 4, 5
  keep = h * w - masking.num_hidden(h * w, 0.9)
  mask = tube_mask(keys_for(range(4)), grid=(t, h, w), keep_per_frame=keep)
  assert keep == 2 and mask.keep_ids.shape == (4, t * keep)
  check_consistent(mask, t * h * w)
  frames = np.asarray(mask.hidden).reshape(4, t, h * w)
  np.testing.assert_array_equal(frames, frames[:, :1].repeat(t, axis=1))
  assert (frames[:, 0].sum(-1) == 18).all()
  assert len({tuple(row) for row in frames[:, 0].tolist()}) > 1


def test_counts_outside_the_grid_are_refused():
  with pytest.raises(ValueError, match='keep 21 of 20'):
    tube_mask(keys_for([0]), grid=(2, 4, 5), keep_per_frame=21)
  with pytest.raises(ValueError, match='keep -1 of 20'):
    random_mask(keys_for([0]), num_tokens=20, num_keep=-1)


def test_an_explicit_permutation_keeps_its_first_entries():
  order = np.array([[4, 1, 3, 0, 2], [0, 1, 2, 3, 4]])
  mask = mask_from_permutation(order, 2)
  assert mask.keep_ids.tolist() == [[1, 4], [0, 1]]
  assert mask.drop_ids.tolist() == [[0, 2, 3], [2, 3, 4]]
  check_consistent(mask, 5)
  shared = mask_from_permutation(order[0], 2)
  assert shared.hidden.tolist() == [True, False, True, True, False]


def test_a_boolean_mask_round_trips_and_its_count_is_checked():
  mask = random_mask(keys_for(range(8)), num_tokens=20, num_keep=6)
  again = masking.mask_from_hidden(mask.hidden, 6)
  jax.tree.map(np.testing.assert_array_equal, mask, again)
  traced = jax.jit(lambda h: masking.mask_from_hidden(h, 6))(mask.hidden)
  jax.tree.map(np.testing.assert_array_equal, mask, traced)
  with pytest.raises(ValueError, match='num_keep=4'):
    masking.mask_from_hidden(mask.hidden, 4)


def test_taking_and_scattering_restores_every_token():
  tokens = np.random.default_rng(0).normal(size=(2, 3, 9, 4))
  keys = split_keys(keys_for([0, 1]), 3)
  mask = random_mask(keys, num_tokens=9, num_keep=4)
  kept = take_tokens(tokens, mask.keep_ids)
  fill = np.arange(4.0)
  full = scatter_tokens(kept, mask.keep_ids, num_tokens=9, fill=fill)
  want = np.where(np.asarray(mask.hidden)[..., None], fill, tokens)
  np.testing.assert_allclose(full, want, rtol=1e-6)
  both = scatter_tokens(
    take_tokens(tokens, mask.drop_ids),
    mask.drop_ids,
    num_tokens=9,
    fill=full,
  )
  np.testing.assert_allclose(both, tokens, rtol=1e-6)


def test_unsorted_ids_and_shared_ids_work():
  tokens = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
  ids = np.array([3, 0, 4])
  kept = take_tokens(tokens, ids)
  np.testing.assert_array_equal(kept, tokens[:, ids])
  full = scatter_tokens(kept, ids, num_tokens=5, fill=0.0)
  np.testing.assert_array_equal(full[:, ids], tokens[:, ids])
  np.testing.assert_array_equal(full[:, [1, 2]], 0)
  table = tokens[0]
  np.testing.assert_array_equal(
    take_tokens(table, np.array([[1, 2], [4, 0]])),
    table[[[1, 2], [4, 0]]],
  )
  with pytest.raises(ValueError, match='do not broadcast'):
    take_tokens(tokens, np.zeros((3, 2), int))


def test_gathering_before_or_after_adding_positions_is_the_same():
  tokens = np.random.default_rng(2).normal(size=(2, 7, 3)).astype(np.float32)
  table = np.random.default_rng(3).normal(size=(7, 3)).astype(np.float32)
  ids = np.array([[0, 2, 5], [1, 5, 6]])
  np.testing.assert_array_equal(
    take_tokens(tokens + table, ids),
    take_tokens(tokens, ids) + take_tokens(table, ids),
  )


def test_gradients_reach_kept_tokens_and_the_mask_token_only():
  ids = jnp.array([[0, 3], [1, 2]])

  def total(tokens, fill):
    full = scatter_tokens(
      take_tokens(tokens, ids), ids, num_tokens=4, fill=fill
    )
    return jnp.sum(full * jnp.arange(1.0, 5.0)[:, None])

  tokens_grad, fill_grad = jax.jit(jax.grad(total, (0, 1)))(
    jnp.ones((2, 4, 1)), jnp.ones(1)
  )
  assert tokens_grad[..., 0].tolist() == [[1, 0, 0, 4], [0, 2, 3, 0]]
  assert fill_grad.tolist() == [2 + 3 + 1 + 4]
