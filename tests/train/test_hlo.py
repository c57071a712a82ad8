"""Counting matrix products in programs."""

import jax
import jax.numpy as jnp
import pytest

from vidscenic.train import hlo


def count(fn, *shapes, compiled=True):
  lowered = jax.jit(fn).lower(
    *(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)
  )
  text = lowered.compile().as_text() if compiled else lowered.as_text('hlo')
  return hlo.dot_flops(text)


@pytest.mark.parametrize('compiled', [True, False])
def test_products_count_two_per_multiply_add(compiled):
  def fn(a, b):
    return jnp.einsum('bij,bkj->bik', a, b) @ jnp.ones((5, 7))

  want = 2 * 2 * 3 * 5 * 4 + 2 * 2 * 3 * 5 * 7
  assert count(fn, (2, 3, 4), (2, 5, 4), compiled=compiled) == want


def test_dead_code_is_gone_after_compiling():
  def fn(a):
    kept = a @ a
    return kept, jax.lax.stop_gradient(
      jnp.zeros((8, 8)) * (a @ a @ a)
    ).sum() * 0

  first = count(lambda a: (fn(a)[0],), (8, 8))
  assert first == 2 * 8**3


def test_called_functions_count_as_often_as_they_are_called():
  inner = jax.jit(lambda a: a @ a)
  twice = lambda a: inner(inner(a) + 1)
  assert count(twice, (8, 8), compiled=False) == 2 * 2 * 8**3


def test_products_in_loops_are_refused():
  def fn(a):
    return jax.lax.fori_loop(0, 9, lambda _, x: x @ a, a)

  with pytest.raises(ValueError, match='in a loop'):
    count(fn, (8, 8), compiled=False)


def test_loops_without_products_are_no_obstacle():
  def fn(a, n):
    return jax.lax.while_loop(lambda x: x.sum() < n, lambda x: x + 1, a) @ a

  assert count(fn, (8, 8), (), compiled=False) == 2 * 8**3
