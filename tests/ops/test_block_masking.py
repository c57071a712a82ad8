import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.ops import block_masking, masking

GRID = (4, 6, 5)
TOTAL = 120

multi_block_mask = jax.jit(
  block_masking.multi_block_mask,
  static_argnames=(
    'grid', 'num_blocks', 'area', 'num_keep', 'num_predict', 'duration',
  ),
)  # fmt: skip
cube_mask = jax.jit(
  block_masking.cube_mask, static_argnames=('grid', 'num_hidden', 'tries')
)


@functools.cache
def keys():
  return jax.random.split(jax.random.key(0), 16)


def test_blocks_are_predicted_and_the_rest_is_seen():
  mask = multi_block_mask(
    keys(), jax.random.key(1), grid=GRID, num_blocks=1, area=0.3,
    num_keep=50, num_predict=20,
  )  # fmt: skip
  mask = jax.tree.map(np.asarray, mask)
  assert mask.keep_ids.shape == (16, 50) and mask.predict_ids.shape == (16, 20)
  np.testing.assert_array_equal(mask.weight, 1)
  for keep, predict in zip(mask.keep_ids, mask.predict_ids, strict=True):
    assert list(keep) == sorted(set(keep))
    assert not set(keep) & set(predict)
    t, h, w = np.unravel_index(predict, GRID)
    # Twenty tokens of a block over all slots: within int(0.3 * 30) = 9 places,
    # the first ones in row-major order.
    assert len({*zip(h, w, strict=True)}) <= 9
    assert set(t) <= {0, 1, 2, 3} and np.ptp(h) < 4 and np.ptp(w) < 5


def test_all_rows_of_a_batch_have_blocks_of_one_size():
  sizes = set()
  for seed in range(4):
    mask = multi_block_mask(
      keys(), jax.random.key(seed), grid=(1, 6, 5), num_blocks=1, area=0.6,
      num_keep=5, num_predict=25,
    )  # fmt: skip
    counts = set(np.asarray(mask.weight).sum(1))
    assert len(counts) == 1
    sizes |= counts
  assert len(sizes) > 1  # another shape in another batch


def test_missing_places_are_filled_up_with_weight_0():
  mask = multi_block_mask(
    keys(), jax.random.key(1), grid=GRID, num_blocks=1, area=0.1,
    num_keep=60, num_predict=60, duration=0.25,
  )  # fmt: skip
  for keep, predict, weight in zip(
    *jax.tree.map(np.asarray, mask), strict=True
  ):
    assert sorted([*keep, *predict]) == list(range(TOTAL))
    # The few places of the block come first.
    count = int(weight.sum())
    assert 0 < count <= 4
    np.testing.assert_array_equal(weight, np.arange(60) < count)


def test_counts_fit_nearly_all_masks():
  options = dict(grid=(8, 14, 14), num_blocks=8, area=0.15)
  keep, predict = block_masking.block_counts(**options)
  # V-JEPA says that about 0.9 of a clip are masked by both masks together.
  assert 0.1 * 1568 < keep < 0.4 * 1568 and 0.4 * 1568 < predict < 0.8 * 1568
  mask = multi_block_mask(
    keys(), jax.random.key(2), num_keep=keep, num_predict=predict, **options
  )
  assert np.mean(mask.weight) > 0.97
  assert block_masking.block_counts(**options) == (keep, predict)


def test_counts_that_do_not_fit_are_refused():
  options = dict(grid=GRID, num_blocks=1, area=0.3)
  for keep, predict in ((0, 5), (5, 0), (100, 21)):
    with pytest.raises(ValueError, match='at most 120 together'):
      block_masking.multi_block_mask(
        keys(), keys()[0], num_keep=keep, num_predict=predict, **options
      )
  with pytest.raises(ValueError, match='area=0'):
    block_masking.block_counts(grid=GRID, num_blocks=1, area=0)


@pytest.mark.parametrize('tries', [100, 0])
def test_cubes_hide_an_exact_number(tries):
  mask = cube_mask(keys(), grid=(8, 7, 7), num_hidden=157, tries=tries)
  hidden = np.asarray(mask.hidden)
  np.testing.assert_array_equal(hidden.sum(1), 157)
  for row in range(16):
    np.testing.assert_array_equal(
      mask.drop_ids[row], np.flatnonzero(hidden[row])
    )
    np.testing.assert_array_equal(
      mask.keep_ids[row], np.flatnonzero(~hidden[row])
    )
  # Boxes hide neighbours together; tokens one by one do not.
  clips = hidden.reshape(-1, 8, 7, 7)
  alike = np.mean(clips[:, 1:] == clips[:, :-1])
  assert (alike > 0.75) == (tries > 0)


def test_mask_is_enlarged_by_repeating():
  small = np.array([True, False, False, True])
  big = block_masking.enlarge_mask(small, (1, 2, 2), (2, 2, 4))
  want = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], bool)
  np.testing.assert_array_equal(big.reshape(2, 2, 4), [want, want])
  with pytest.raises(ValueError, match='no multiple'):
    block_masking.enlarge_mask(small, (1, 2, 2), (1, 3, 2))


@pytest.mark.parametrize('ratio', [0.25, 0.5, 0.75, 1.0])
def test_running_cells_choose_every_place_equally_often(ratio):
  chosen = block_masking.running_cell_mask(keys(), grid=(4, 4, 6), ratio=ratio)
  chosen = np.asarray(chosen).reshape(16, 4, 4, 6)
  np.testing.assert_array_equal(chosen.sum(1), 4 * ratio)
  # In every slot, in every cell.
  cells = chosen.reshape(16, 4, 2, 2, 3, 2).sum((3, 5))
  np.testing.assert_array_equal(cells, 4 * ratio)
  if ratio < 1:
    assert 1 < len({row.tobytes() for row in chosen}) <= 4  # phases
  with pytest.raises(ValueError, match='ratio=0.4'):
    block_masking.running_cell_mask(keys(), grid=GRID, ratio=0.4)


def test_ids_of_chosen_tokens_come_first():
  chosen = jnp.array([[0, 1, 0, 1, 1], [0, 0, 0, 1, 0]], bool)
  ids, weight = block_masking.select_ids(chosen, 2)
  np.testing.assert_array_equal(ids, [[1, 3], [3, 0]])
  np.testing.assert_array_equal(weight, [[1, 1], [1, 0]])


def test_a_row_has_the_same_mask_in_any_batch():
  rows = masking.row_keys(jax.random.key(0), jnp.array([3, 7]))
  mask = functools.partial(
    multi_block_mask, shape_key=rows[0], grid=GRID, num_blocks=2, area=0.3,
    num_keep=30, num_predict=30,
  )  # fmt: skip
  for both, one in zip(mask(rows), mask(rows[1:]), strict=True):
    np.testing.assert_array_equal(one, both[1:])
