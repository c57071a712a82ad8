"""Mixup and CutMix: pixels and labels are mixed in the same proportion."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.tasks import classification


@functools.cache
def compiled_mixing(**kwargs):
  return jax.jit(classification.Mixing(**kwargs))


def mix(seed=0, mask=(True,) * 8, **kwargs):
  """Mixes rows of one colour each, so that their parts can be read off.

  Returns:
    (part of the row itself in every pixel, labels that name the rows).
  """
  colour = jnp.linspace(0.1, 0.9, 8)[:, None, None, None, None]
  video = jnp.broadcast_to(colour, (8, 3, 6, 10, 3))
  mixed, soft = compiled_mixing(**kwargs)(
    jax.random.key(seed), jnp.arange(8), jnp.array(mask), video, jnp.eye(8)
  )
  own, other = np.asarray(video), np.asarray(video[::-1])
  return (np.asarray(mixed) - other) / (own - other), np.asarray(soft)


@pytest.mark.parametrize('per', ['batch', 'row'])
@pytest.mark.parametrize(
  'kind', [{'mixup': 0.4}, {'cutmix': 1.0}, {'mixup': 1.0, 'cutmix': 1.0}]
)
def test_labels_are_mixed_in_proportion_to_the_pixels(kind, per):
  for seed in range(4):
    part, soft = mix(seed, per=per, **kind)
    rows = np.arange(8)
    np.testing.assert_allclose(
      soft[rows, rows], part.mean((1, 2, 3, 4)), atol=1e-5
    )
    np.testing.assert_allclose(
      soft[rows, rows] + soft[rows, 7 - rows], 1, atol=1e-6
    )
    # The same in all frames and channels.
    np.testing.assert_allclose(
      part, np.broadcast_to(part[:, :1, :, :, :1], part.shape), atol=1e-5
    )


@pytest.mark.parametrize(('per', 'number'), [('batch', 1), ('row', 8)])
def test_one_draw_per_batch_or_per_row(per, number):
  _, soft = mix(mixup=1.0, per=per)
  assert len(np.unique(np.diagonal(soft).round(5))) == number


def test_mixup_and_cutmix_take_turns():
  blended, pasted = 0, 0
  for seed in range(40):
    part, _ = mix(seed, mixup=1.0, cutmix=1.0, cutmix_share=0.25)
    binary = np.all((abs(part) < 1e-4) | (abs(part - 1) < 1e-4))
    pasted += int(binary)
    blended += int(not binary)
  assert 4 <= pasted <= 16  # 10 expected, three standard deviations are 8
  assert blended >= 20


def test_mixing_happens_with_its_probability():
  parts = [
    mix(seed, mixup=1.0, probability=0.3, per='row')[0] for seed in range(20)
  ]
  changed = np.mean([abs(p - 1).max((1, 2, 3, 4)) > 1e-4 for p in parts])
  assert 0.2 < changed < 0.4


def test_nothing_of_a_padded_row_is_mixed_into_another():
  part, soft = mix(mask=(True,) * 7 + (False,), mixup=1.0)
  assert soft[0, 0] == 1
  np.testing.assert_array_equal(part[0], 1)
  assert soft[1, 1] < 1


def test_mixing_draws_again_every_step():
  ratios = [np.diagonal(mix(s, mixup=1.0)[1])[0] for s in range(5)]
  assert len(set(np.round(ratios, 5))) == 5
