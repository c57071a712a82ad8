"""Masks made of blocks of tokens, with exact counts.

As in `ops.masking` there is one key per row, and shapes are static. A union of
blocks has a size of its own in every row; the released codes cut all rows of a
batch to the smallest one, here both sizes are fixed beforehand (`block_counts`)
and the few places that a row lacks get the weight 0.

Sources: multi-block masks, V-JEPA (arXiv 2404.08471); cubes, MaskFeat
(2112.09133); running cells, VideoMAE v2 (2303.16727).
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidscenic.ops import masking


class BlockMask(NamedTuple):
  """What a model sees and what it predicts; [...] are the axes of the keys.

  Tokens may be in neither set: they were cut off to keep the counts.

  Attributes:
    keep_ids: int32[..., Nk], visible tokens, ascending.
    predict_ids: int32[..., Np], tokens to predict; none of them is visible.
    weight: float32[..., Np], 0 where an id only fills the row up.
  """

  keep_ids: jax.Array
  predict_ids: jax.Array
  weight: jax.Array


def select_ids(chosen, count: int):
  """The first `count` tokens that are chosen, in row-major order.

  Args:
    chosen: bool[..., N].
    count: ids per row, in [0, N].

  Returns:
    (int32[..., count], float32[..., count]): ids, and 1 where the id is of a
    chosen token. Rows with fewer chosen tokens are filled up with others.
  """
  masking.check_count(count, chosen.shape[-1])
  order = jnp.argsort(~chosen, axis=-1, stable=True).astype(jnp.int32)
  ids = order[..., :count]
  weight = jnp.take_along_axis(chosen, ids, axis=-1)
  return ids, weight.astype(jnp.float32)


def multi_block_mask(
  keys,
  shape_key,
  *,
  grid: Sequence[int],
  num_blocks: int,
  area: float,
  num_keep: int,
  num_predict: int,
  duration: float = 1.0,
  aspect: tuple[float, float] = (0.75, 1.5),
) -> BlockMask:
  """Predicts the union of blocks of one size at random places, sees the rest.

  The size is drawn once for all rows: int(h*w*area) places with a uniform
  aspect, and int(t*duration) slots. V-JEPA has two masks per clip, 8 blocks of
  area 0.15 and 2 of 0.7, both over the whole duration.

  Args:
    keys: keys[...], one per mask.
    shape_key: one key, the same for all rows of the batch.
    grid: (t, h, w); tokens are numbered row-major.
    num_blocks: blocks per mask.
    area: share of a frame that a block covers, in (0, 1].
    num_keep, num_predict: sizes of the two sets, see `block_counts`.
    duration: share of the slots that a block covers, in (0, 1].
    aspect: range of rows divided by columns.

  Returns:
    BlockMask. A row with too few places outside its blocks sees some inside,
    which are then not predicted.

  Raises:
    ValueError: shares outside (0, 1], no blocks, or counts that do not fit.
  """
  _check_blocks(num_blocks, area, duration)
  total = math.prod(grid)
  if num_keep < 1 or num_predict < 1 or num_keep + num_predict > total:
    raise ValueError(
      f'num_keep={num_keep} and num_predict={num_predict}: want 1 or more each '
      f'and at most {total} together'
    )
  shape_key = masking.typed_key(shape_key)
  ratio = jax.random.uniform(shape_key, minval=aspect[0], maxval=aspect[1])
  size = _block_size(grid, area, duration, ratio, jnp)
  keys = masking.typed_key(keys)
  draw = functools.partial(_blocks, grid=grid, size=size, num_blocks=num_blocks)
  predicted = jax.vmap(draw)(keys.reshape(-1)).reshape(*keys.shape, total)
  keep_ids, _ = select_ids(~predicted, num_keep)
  keep_ids = jnp.sort(keep_ids, axis=-1)
  seen = jnp.any(keep_ids[..., None] == jnp.arange(total), axis=-2)
  # Predicted places first, then those in neither set, never visible ones.
  rank = jnp.where(seen, 2, jnp.where(predicted, 0, 1))
  order = jnp.argsort(rank, axis=-1, stable=True).astype(jnp.int32)
  predict_ids = order[..., :num_predict]
  weight = jnp.take_along_axis(predicted & ~seen, predict_ids, axis=-1)
  return BlockMask(keep_ids, predict_ids, weight.astype(jnp.float32))


def block_counts(
  *,
  grid: Sequence[int],
  num_blocks: int,
  area: float,
  duration: float = 1.0,
  aspect: tuple[float, float] = (0.75, 1.5),
  quantile: float = 0.05,
  samples: int = 2000,
) -> tuple[int, int]:
  """Counts for `multi_block_mask` that nearly all rows reach.

  Args:
    grid, num_blocks, area, duration, aspect: as there.
    quantile: share of rows that may have fewer tokens of a set.
    samples: simulated masks, with a fixed seed.

  Returns:
    (num_keep, num_predict), each at least 1.
  """
  _check_blocks(num_blocks, area, duration)
  rng = np.random.default_rng(0)
  t, h, w = grid
  covered = []
  for _ in range(samples):
    slots, rows, columns = _block_size(
      grid, area, duration, rng.uniform(*aspect), np
    )
    mask = np.zeros(grid, bool)
    for _ in range(num_blocks):
      a, b, c = (
        rng.integers(n - size + 1)
        for n, size in ((t, slots), (h, rows), (w, columns))
      )
      mask[a : a + int(slots), b : b + int(rows), c : c + int(columns)] = True
    covered.append(mask.sum())
  total = t * h * w
  num_predict = max(1, int(np.quantile(covered, quantile)))
  num_keep = max(1, int(np.quantile(total - np.array(covered), quantile)))
  return min(num_keep, total - num_predict), num_predict


def _check_blocks(num_blocks, area, duration):
  if num_blocks < 1 or not 0 < area <= 1 or not 0 < duration <= 1:
    raise ValueError(
      f'num_blocks={num_blocks}, area={area}, duration={duration}: want 1 or '
      'more blocks and shares in (0, 1]'
    )


def _block_size(grid, area, duration, ratio, xp):
  t, h, w = grid
  places = int(h * w * area)
  rows = xp.clip(xp.round(xp.sqrt(places * ratio)), 1, h)
  columns = xp.clip(xp.round(xp.sqrt(places / ratio)), 1, w)
  return max(1, int(t * duration)), rows.astype(int), columns.astype(int)


def _blocks(key, *, grid, size, num_blocks):
  """bool[t*h*w], True inside any block."""
  inside = jnp.ones((num_blocks, *grid), bool)
  for axis, (n, length) in enumerate(zip(grid, size, strict=True)):
    places = jax.random.randint(
      jax.random.fold_in(key, axis), (num_blocks,), 0, n - length + 1
    )
    shape = [1] * 4
    shape[axis + 1] = n
    index = jnp.arange(n).reshape(shape)
    start = places.reshape(-1, 1, 1, 1)
    inside &= (index >= start) & (index < start + length)
  return jnp.any(inside, axis=0).reshape(-1)


def cube_mask(
  keys,
  *,
  grid: Sequence[int],
  num_hidden: int,
  tries: int = 100,
  min_share: float = 0.2,
) -> masking.Mask:
  """Hides boxes of random size and place until enough tokens are hidden.

  A box has a uniform area of at least `min_share` of a frame, a log-uniform
  aspect in (0.3, 1 / 0.3) and a uniform duration. One that fills a frame in
  either direction, that adds nothing or too much is not taken. Unlike the
  release, which leaves rows with fewer hidden tokens when `tries` boxes in a
  row were refused, what is missing is then hidden token by token.

  Args:
    keys: keys[...], one per mask.
    grid: (t, h, w); MaskFeat draws on 8 x 7 x 7 and enlarges
      (`enlarge_mask`).
    num_hidden: hidden tokens of every row.
    tries: refused boxes in a row after which no more are drawn.
    min_share: least area of a box.

  Returns:
    Mask over t*h*w tokens.

  Raises:
    ValueError: num_hidden outside [0, t*h*w].
  """
  t, h, w = grid
  total = t * h * w
  masking.check_count(total - num_hidden, total)
  least = h * w * min_share // 1
  slots, rows, columns = jnp.meshgrid(
    *(jnp.arange(n) for n in grid), indexing='ij'
  )

  def box(key):
    # All from one draw: compiling many takes long.
    draws = jax.random.uniform(key, (6,))
    area = least + draws[0] * (h * w - least)
    aspect = jnp.exp((2 * draws[1] - 1) * math.log(1 / 0.3))
    height = jnp.round(jnp.sqrt(area * aspect)).astype(int)
    width = jnp.round(jnp.sqrt(area / aspect)).astype(int)
    length = 1 + jnp.floor(draws[2] * t).astype(int)
    fits = (height < h) & (width < w) & (height > 0) & (width > 0)
    inside = jnp.asarray(fits)
    for draw, n, size, index in (
      (draws[3], t, length, slots),
      (draws[4], h, height, rows),
      (draws[5], w, width, columns),
    ):
      start = jnp.floor(draw * (jnp.maximum(n - size, 0) + 1)).astype(int)
      inside &= (index >= start) & (index < start + size)
    return inside

  def grow(state):
    key, hidden, failed = state
    key, part = jax.random.split(key)
    inside = box(part)
    added = jnp.sum(inside & ~hidden)
    taken = (added > 0) & (added <= num_hidden - jnp.sum(hidden))
    return key, hidden | (inside & taken), jnp.where(taken, 0, failed + 1)

  def goes_on(state):
    _, hidden, failed = state
    return (jnp.sum(hidden) < num_hidden) & (failed < tries)

  def one(key):
    key, last = jax.random.split(key)
    start = key, jnp.zeros((t, h, w), bool), jnp.zeros((), int)
    hidden = jax.lax.while_loop(goes_on, grow, start)[1].reshape(-1)
    # Hidden tokens first, then the others in random order.
    rank = jnp.where(hidden, -1.0, jax.random.uniform(last, (total,)))
    return jnp.argsort(jnp.argsort(rank)) < num_hidden

  keys = masking.typed_key(keys)
  hidden = jax.vmap(one)(keys.reshape(-1)).reshape(*keys.shape, total)
  order = jnp.argsort(hidden, axis=-1, stable=True).astype(jnp.int32)
  num_keep = total - num_hidden
  return masking.Mask(order[..., :num_keep], order[..., num_keep:], hidden)


def enlarge_mask(hidden, grid: Sequence[int], new_grid: Sequence[int]):
  """Repeats every token of a mask: bool[..., N] -> bool[..., N'].

  Args:
    hidden: bool[..., t*h*w].
    grid: (t, h, w).
    new_grid: multiples of them.

  Raises:
    ValueError: sizes that are no multiples.
  """
  if any(new % old for old, new in zip(grid, new_grid, strict=True)):
    raise ValueError(f'{tuple(new_grid)} is no multiple of {tuple(grid)}')
  mask = hidden.reshape(*hidden.shape[:-1], *grid)
  for axis, (old, new) in enumerate(zip(grid, new_grid, strict=True)):
    mask = jnp.repeat(mask, new // old, axis=axis - 3)
  return mask.reshape(*hidden.shape[:-1], -1)


def running_cell_mask(keys, *, grid: Sequence[int], ratio: float = 0.5):
  """Chooses places of 2 x 2 cells in turn, for decoders that predict a part.

  The four places of a cell form a ring; a run of 4 * ratio of them is chosen,
  and moves on by one place per slot. Cells are alike all over a frame; the
  first place is random. Over four slots every place is chosen equally often.

  Args:
    keys: keys[...], one per mask.
    grid: (t, h, w).
    ratio: share chosen: 0.25, 0.5, 0.75 or 1.

  Returns:
    bool[..., t*h*w], True where chosen.

  Raises:
    ValueError: another ratio.
  """
  t, h, w = grid
  count = round(4 * ratio)
  if not 1 <= count <= 4 or abs(4 * ratio - count) > 1e-9:
    raise ValueError(f'ratio={ratio}: want 0.25, 0.5, 0.75 or 1')
  ring = np.array([[0, 1], [3, 2]])  # clockwise
  place = ring[np.arange(h)[:, None] % 2, np.arange(w) % 2]
  turn = jnp.asarray(place - np.arange(t)[:, None, None])
  keys = masking.typed_key(keys)
  phase = jax.vmap(lambda key: jax.random.randint(key, (), 0, 4))(
    keys.reshape(-1)
  )
  chosen = (turn - phase[:, None, None, None]) % 4 < count
  return chosen.reshape(*keys.shape, t * h * w)
