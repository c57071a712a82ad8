"""Position codes against their formulas, and the resize against JAX."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.layers import position


def code(index, width, *, interleaved):
  """One row of a sin-cos table, channel by channel."""
  row = np.zeros(width)
  for j in range(width):
    if interleaved:
      frequency, phase = j // 2, j % 2
    else:
      frequency, phase = j % (width // 2), j // (width // 2)
    angle = index / 10000 ** (2 * frequency / width)
    row[j] = math.cos(angle) if phase else math.sin(angle)
  return row


@pytest.mark.parametrize(
  'width, interleaved', [(8, True), (7, True), (8, False)]
)
def test_sincos_1d_equals_the_formula(width, interleaved):
  got = position.sincos_1d(30, width, interleaved=interleaved)
  want = [code(i, width, interleaved=interleaved) for i in range(30)]
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, want, atol=1e-7)


def test_sincos_flat_numbers_tokens_row_by_row():
  table = position.sincos_flat((3, 5), 8)
  np.testing.assert_allclose(
    table[1, 2], code(1 * 5 + 2, 8, interleaved=True), atol=1e-7
  )


def test_sincos_2d_and_3d_split_the_channels():
  table = position.sincos_2d((3, 5), 16)
  want = [code(2, 8, interleaved=False), code(4, 8, interleaved=False)]
  np.testing.assert_allclose(table[2, 4], np.concatenate(want), atol=1e-7)
  table = position.sincos_3d((4, 3, 5), 16)
  parts = ((3, 8), (1, 4), (2, 4))
  want = [code(i, part, interleaved=False) for i, part in parts]
  np.testing.assert_allclose(table[3, 1, 2], np.concatenate(want), atol=1e-7)
  with pytest.raises(ValueError, match='width=12'):
    position.sincos_3d((4, 3, 5), 12)
  with pytest.raises(ValueError, match='even'):
    position.sincos_1d(4, 7)


def test_grids_are_row_major():
  indices = position.grid_indices((2, 3, 4))
  want = [(t, h, w) for t in range(2) for h in range(3) for w in range(4)]
  np.testing.assert_array_equal(indices, want)


# 16x16 tables of RVM, and shrinking, growing, and odd sizes.
@pytest.mark.parametrize(
  'grid', [(30, 55), (14, 14), (5, 9), (16, 24), (3, 40)]
)
def test_resize_equals_jax_image_resize(normal, grid):
  table = np.asarray(normal(16, 16, 3))
  got = position.resize_table(table, grid)
  assert isinstance(got, np.ndarray) and got.dtype == np.float32
  want = jax.image.resize(table, (*grid, 3), 'bicubic')
  np.testing.assert_allclose(got, want, atol=5e-6)  # JAX works in float32
  np.testing.assert_allclose(
    position.resize_table(jnp.asarray(table), grid), got, atol=2e-6
  )


def test_resize_of_one_axis(normal):
  x = normal(2, 4, 3, 5)
  got = position.resize_axis(x, axis=1, size=8)  # 4DS: time only
  want = jax.image.resize(x, (2, 8, 3, 5), 'cubic')
  np.testing.assert_allclose(got, want, atol=5e-6)
  assert position.resize_axis(x, axis=1, size=4) is x
  with pytest.raises(ValueError, match='cannot resize'):
    position.resize_table(x, (4, 4))


def test_learned_tables(normal, random, run):
  module = position.LearnedPositions((2, 4, 3), 5)
  params = random(module)
  table = params['params']['table']
  np.testing.assert_array_equal(run(module, params), table)
  np.testing.assert_allclose(
    module.apply(params, (2, 7, 9)),
    jax.image.resize(table, (2, 7, 9, 5), 'bicubic'),
    atol=5e-6,
  )
  module = position.LearnedPositions((2, 4, 3), 5, separable=True)
  params = random(module)
  p = params['params']
  np.testing.assert_allclose(
    run(module, params)[1, 2, 1], p['temporal'][1] + p['spatial'][2, 1]
  )


def test_sincos_programs_hold_one_table_per_axis():
  shape = (8, 24, 24, 512)
  lowered = jax.jit(lambda x: x + position.sincos_3d(shape[:3], 512)).lower(
    jnp.zeros(shape)
  )
  # Literals are written in hexadecimal, 8 characters for a number.
  assert len(lowered.as_text()) < 8 * math.prod(shape) / 20


def test_sincos_tables_resize_axis_by_axis():
  full = np.asarray(position.sincos_3d((4, 6, 5), 32))
  np.testing.assert_allclose(
    position.sincos_3d((4, 6, 5), 32, resized=(2, 9, 5)),
    position.resize_table(full, (2, 9, 5)),
    atol=1e-6,
  )
  full = np.asarray(position.sincos_2d((6, 5), 32))
  np.testing.assert_allclose(
    position.sincos_2d((6, 5), 32, resized=(9, 3)),
    position.resize_table(full, (9, 3)),
    atol=1e-6,
  )


def slow_rotary(x, positions, sizes, pairing):
  """x [N, C]; the definitions in `rotary`, pair by pair."""
  out = np.array(x, np.float64)
  for n in range(len(x)):
    begin = 0
    for p, s in zip(positions[n], sizes, strict=True):
      angle = lambda j, p=p, s=s: p * 10000.0 ** (-2 * j / s)
      for j in range(s // 2):
        if pairing == 'half':
          a, b, first, second = begin + j, begin + j + s // 2, j, j
        else:
          a, b, first, second = begin + 2 * j, begin + 2 * j + 1, j, j
          if pairing == 'vjepa':
            first, second = 2 * j % (s // 2), (2 * j + 1) % (s // 2)
        u, v = x[n, a], x[n, b]
        out[n, a] = u * math.cos(angle(first)) - v * math.sin(angle(first))
        out[n, b] = v * math.cos(angle(second)) + u * math.sin(angle(second))
      begin += s
  return out


@pytest.mark.parametrize('pairing', position.PAIRINGS)
@pytest.mark.parametrize('sizes', [(4, 6, 6), (2, 8, 0)])
def test_rotary_equals_the_formula(normal, pairing, sizes):
  indices = position.grid_indices((2, 3, 2))
  x = normal(12, 20)
  table = position.rotary(indices, sizes, pairing=pairing)
  want = slow_rotary(np.asarray(x), indices, sizes, pairing)
  np.testing.assert_allclose(table.apply(x), want, atol=1e-5)
  np.testing.assert_array_equal(table.apply(x)[:, 16:], x[:, 16:])
  heads = jnp.stack([x, 2 * x], axis=1)
  got = jax.jit(lambda table, x: table.apply(x, heads=True))(table, heads)
  np.testing.assert_allclose(got[:, 1], 2 * want, atol=1e-5)
  half = table.apply(x.astype(jnp.bfloat16))
  assert half.dtype == jnp.bfloat16


def test_rotary_rows_follow_the_tokens(normal):
  indices = position.grid_indices((2, 3))
  table = position.rotary(indices, (4, 4))
  ids = jnp.array([[4, 1], [0, 5]])
  x = normal(2, 6, 8)
  want = jnp.take_along_axis(table.apply(x), ids[..., None], axis=1)
  taken = jnp.take_along_axis(x, ids[..., None], axis=1)
  np.testing.assert_allclose(table.take(ids).apply(taken), want, atol=1e-6)
  first = jnp.concatenate([x[:, :1], x], axis=1)
  got = table.prepend(1).apply(first)
  np.testing.assert_allclose(got[:, 0], x[:, 0])
  np.testing.assert_allclose(got[:, 1:], table.apply(x), atol=1e-6)


def test_rotary_sizes_of_the_published_models():
  # 4DS's G, and every head width of V-JEPA 2.
  assert position.rotary_sizes(1664, (0.1, 0.25, 0.25)) == (166, 416, 416)
  for width in range(6, 129):
    want = 2 * ((width // 3) // 2)
    assert position.rotary_sizes(width, (1 / 3,) * 3) == (want,) * 3


def test_rotary_rejects_bad_options():
  indices = position.grid_indices((2, 3))
  with pytest.raises(ValueError, match='pairing'):
    position.rotary(indices, (4, 4), pairing='full')
  for sizes in ((4,), (3, 4)):
    with pytest.raises(ValueError, match='2 even numbers'):
      position.rotary(indices, sizes)
