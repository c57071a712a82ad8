"""Token masks with exact counts, and moving tokens by index.

Every mask hides the same number of tokens in every row, so shapes are static
and nothing is indexed with booleans. Maskers take one key per row, made by
`row_keys` from the global row number: a row gets the same mask whatever the
sharding, the number of processes or the accumulation.

Sources: tube masks, VideoMAE (arXiv 2203.12602); random masks, MAE-ST (arXiv
2205.09113), 4DS and RVM. The papers round differently, see `num_visible` and
`num_hidden`; the count is therefore an argument.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mask(NamedTuple):
  """Which tokens a model sees; [...] are the axes of the keys.

  Attributes:
    keep_ids: int32[..., Nk], visible tokens, ascending.
    drop_ids: int32[..., Nd], hidden tokens, ascending; Nk + Nd = N.
    hidden: bool[..., N], True where hidden.
  """

  keep_ids: jax.Array
  drop_ids: jax.Array
  hidden: jax.Array


def row_keys(rng, rows):
  """One key per row that depends only on rng and the row's global number.

  Args:
    rng: one key (`StepContext.rng`).
    rows: int32[B], global row numbers (`StepContext.rows`).

  Returns:
    keys[B]. Two uses of one rng draw the same numbers: fold a constant into
    rng first where a step needs several.
  """
  return jax.vmap(lambda row: jax.random.fold_in(typed_key(rng), row))(rows)


def split_keys(keys, num: int):
  """Several independent keys per row, e.g. one per target frame.

  Args:
    keys: keys[...].
    num: how many.

  Returns:
    keys[..., num].
  """
  keys = typed_key(keys)
  split = jax.vmap(lambda key: jax.random.split(key, num))(keys.reshape(-1))
  return split.reshape(*keys.shape, num)


def typed_key(rng):
  """Makes an old uint32 key array into one of `jax.random.key`'s type."""
  if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
    return rng
  return jax.random.wrap_key_data(rng)


def num_visible(num_tokens: int, ratio: float) -> int:
  """Visible tokens as int(N * (1 - ratio)), in double precision.

  The rule of SlowFast, mae_st and RVM, floating point error included: for 256
  tokens and 0.95 it is 12, for 1568 and 0.9 it is 156, for 60 and 0.8 it is 11
  where exact arithmetic gives 12.

  Args:
    num_tokens: N.
    ratio: fraction hidden, in [0, 1].

  Raises:
    ValueError: ratio outside [0, 1].
  """
  _check_ratio(ratio)
  return int(num_tokens * (1 - float(ratio)))


def num_hidden(num_tokens: int, ratio: float) -> int:
  """Hidden tokens as int(ratio * N), in double precision.

  VideoMAE's rule for the tokens of one frame: for 196 and 0.9 it hides 176 and
  keeps 20, where `num_visible` would keep 19.

  Args:
    num_tokens: N.
    ratio: fraction hidden, in [0, 1].

  Raises:
    ValueError: ratio outside [0, 1].
  """
  _check_ratio(ratio)
  return int(float(ratio) * num_tokens)


def _check_ratio(ratio):
  if not 0 <= ratio <= 1:
    raise ValueError(f'ratio must be in [0, 1], got {ratio}')


def random_mask(keys, *, num_tokens: int, num_keep: int) -> Mask:
  """Hides tokens anywhere in the clip, all subsets equally likely.

  Args:
    keys: keys[...], one per mask; [B] for one per clip, [B, K] (`split_keys`)
      for one per target frame.
    num_tokens: N.
    num_keep: tokens left visible, in [0, N].

  Returns:
    Mask with the axes of keys in front.

  Raises:
    ValueError: num_keep outside [0, N].
  """
  check_count(num_keep, num_tokens)
  return mask_from_permutation(_permutations(keys, num_tokens), num_keep)


def random_hidden(keys, *, num_tokens: int, num_keep):
  """The `hidden` of `random_mask` for a number that may change while training.

  For models that see all tokens: it says where a mask token stands and where
  a loss counts, so that shapes do not depend on the number. For equal keys
  and numbers it is exactly `random_mask(...).hidden`, and what a smaller
  number keeps is kept by a larger one too. A scheduled ratio becomes
  jnp.floor(N * (1 - ratio)); in float32, unlike `num_visible`.

  Args:
    keys: keys[...], one per mask.
    num_tokens: N.
    num_keep: tokens left visible, a number or an integer array, traced or not,
      that broadcasts against keys. Arrays are not checked: below 0 all tokens
      are hidden, above N none.

  Returns:
    bool[..., N], True where hidden.

  Raises:
    ValueError: a Python number outside [0, N].
  """
  if isinstance(num_keep, int):
    check_count(num_keep, num_tokens)
  ranks = jnp.argsort(_permutations(keys, num_tokens), axis=-1)
  return ranks >= jnp.asarray(num_keep)[..., None]


def tube_mask(keys, *, grid: Sequence[int], keep_per_frame: int) -> Mask:
  """Hides the same places in every frame.

  Args:
    keys: keys[...], one per mask.
    grid: (t, h, w), the token grid; tokens are numbered in that order, w
      fastest.
    keep_per_frame: tokens left visible in a frame, in [0, h*w]; VideoMAE keeps
      h*w - num_hidden(h*w, ratio).

  Returns:
    Mask over t*h*w tokens, t*keep_per_frame of them visible.

  Raises:
    ValueError: keep_per_frame outside [0, h*w].
  """
  t, h, w = grid
  check_count(keep_per_frame, h * w)
  frame = mask_from_permutation(_permutations(keys, h * w), keep_per_frame)
  starts = jnp.arange(t, dtype=jnp.int32)[:, None] * (h * w)

  def repeat(ids):
    every = starts + ids[..., None, :]
    return every.reshape(*ids.shape[:-1], t * ids.shape[-1])

  hidden = jnp.concatenate([frame.hidden] * t, axis=-1)
  return Mask(repeat(frame.keep_ids), repeat(frame.drop_ids), hidden)


def _permutations(keys, size):
  keys = typed_key(keys)
  orders = jax.vmap(lambda key: jax.random.permutation(key, size))(
    keys.reshape(-1)
  )
  return orders.reshape(*keys.shape, size)


def mask_from_permutation(permutation, num_keep: int) -> Mask:
  """Keeps the first tokens of a given order; the rest is hidden.

  The way in for goldens and for masks that several clips share. The visible
  ids come back sorted: their order does not matter to attention over tokens
  that carry their position.

  Args:
    permutation: int[..., N], each row a permutation of 0..N-1 (not checked).
    num_keep: how many leading entries stay visible, in [0, N].

  Returns:
    Mask.

  Raises:
    ValueError: num_keep outside [0, N].
  """
  order = jnp.asarray(permutation, jnp.int32)
  check_count(num_keep, order.shape[-1])
  keep_ids = jnp.sort(order[..., :num_keep], axis=-1)
  drop_ids = jnp.sort(order[..., num_keep:], axis=-1)
  hidden = jnp.argsort(order, axis=-1) >= num_keep
  return Mask(keep_ids, drop_ids, hidden)


def mask_from_hidden(hidden, num_keep: int) -> Mask:
  """Makes a Mask of a boolean one that leaves num_keep tokens visible.

  Args:
    hidden: bool[..., N], True where hidden.
    num_keep: visible tokens of every row. With another number the ids are
      those of a stable sort by `hidden`, and do not agree with it.

  Returns:
    Mask.

  Raises:
    ValueError: num_keep outside [0, N], or, for concrete input (not while
      tracing), a row with another number of visible tokens.
  """
  hidden = jnp.asarray(hidden, bool)
  check_count(num_keep, hidden.shape[-1])
  if not isinstance(hidden, jax.core.Tracer):
    counts = jnp.sum(~hidden, axis=-1)
    if bool(jnp.any(counts != num_keep)):
      raise ValueError(
        f'num_keep={num_keep} but the rows leave {counts.tolist()} visible'
      )
  order = jnp.argsort(hidden, axis=-1, stable=True).astype(jnp.int32)
  return Mask(order[..., :num_keep], order[..., num_keep:], hidden)


def check_count(num_keep: int, num_tokens: int) -> None:
  """Raises ValueError unless 0 <= num_keep <= num_tokens."""
  if not 0 <= num_keep <= num_tokens:
    raise ValueError(
      f'cannot keep {num_keep} of {num_tokens} tokens: expected a number in '
      f'[0, {num_tokens}]'
    )


def take_tokens(tokens, ids):
  """Picks tokens by index.

  Args:
    tokens: [..., N, D], or one table [N, D] for all rows (positions).
    ids: int[..., K] in [0, N); its leading axes broadcast against those of
      tokens, so a shared int[K] works too.

  Returns:
    [..., K, D], in the order of ids.

  Raises:
    ValueError: leading axes that do not broadcast.
  """
  ids = jnp.asarray(ids)
  if tokens.ndim == 2:
    return jnp.take(tokens, ids, axis=0)
  lead = _broadcast_lead(tokens.shape[:-2], ids.shape[:-1])
  tokens = jnp.broadcast_to(tokens, lead + tokens.shape[-2:])
  ids = jnp.broadcast_to(ids, lead + ids.shape[-1:])
  return jnp.take_along_axis(tokens, ids[..., None], axis=-2)


def scatter_tokens(tokens, ids, *, num_tokens: int, fill):
  """Puts tokens back at their places; the others get `fill`.

  With Mask.keep_ids and the mask token this is MAE's unshuffle. The ids need
  not be sorted.

  Args:
    tokens: [..., K, D].
    ids: int[..., K] in [0, num_tokens), no repeats within a row; leading axes
      broadcast against those of tokens.
    num_tokens: N.
    fill: what broadcasts to [..., N, D]: a scalar, the mask token [D], or one
      token per place [N, D]. Cast to the dtype of tokens.

  Returns:
    [..., N, D].

  Raises:
    ValueError: K > N, or leading axes that do not broadcast.
  """
  ids = jnp.asarray(ids)
  count, width = tokens.shape[-2:]
  check_count(count, num_tokens)
  lead = _broadcast_lead(tokens.shape[:-2], ids.shape[:-1])
  tokens = jnp.broadcast_to(tokens, lead + (count, width))
  ids = jnp.broadcast_to(ids, lead + (count,))
  out = jnp.broadcast_to(
    jnp.asarray(fill, tokens.dtype), lead + (num_tokens, width)
  )
  rows = math.prod(lead)
  flat = jax.vmap(lambda row, i, x: row.at[i].set(x, unique_indices=True))(
    out.reshape(rows, num_tokens, width),
    ids.reshape(rows, count),
    tokens.reshape(rows, count, width),
  )
  return flat.reshape(out.shape)


def _broadcast_lead(tokens, ids):
  try:
    return jnp.broadcast_shapes(tokens, ids)
  except ValueError as error:
    raise ValueError(
      f'leading axes of tokens {tokens} and ids {ids} do not broadcast'
    ) from error
