import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.ops import losses

LOGITS = np.array([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]], np.float32)

# name -> (loss of an array [2, 3] and a weight, is the weight [2])
CASES = {
  'squared': (lambda x, w: losses.squared(x, weight=w), False),
  'l1': (lambda x, w: losses.l1(x, weight=w), False),
  'smooth_l1': (lambda x, w: losses.smooth_l1(x, beta=0.7, weight=w), False),
  'huber': (lambda x, w: losses.huber(x, delta=0.7, weight=w), False),
  'weighted_sum': (lambda x, w: losses.weighted_sum(x, weight=w), False),
  'huber_distance': (
    lambda x, w: losses.huber_distance(x, delta=2.0, weight=w),
    True,
  ),
  'softmax_index': (
    lambda x, w: losses.softmax_cross_entropy(
      x, jnp.array([2, 7])[: x.shape[0]], label_smoothing=0.1, weight=w
    ),
    True,
  ),
  'softmax_soft': (
    lambda x, w: losses.softmax_cross_entropy(
      x, jnp.array([[0.2, 0.8, 0], [jnp.nan] * 3])[: x.shape[0]], weight=w
    ),
    True,
  ),
  'sigmoid': (
    lambda x, w: losses.sigmoid_binary_cross_entropy(
      x, jnp.array([[1, 0, 0.3], [jnp.inf] * 3])[: x.shape[0]], weight=w
    ),
    False,
  ),
}

# One compilation per shape instead of one per operation.
squared = jax.jit(losses.squared)
l1 = jax.jit(losses.l1)
smooth_l1 = jax.jit(losses.smooth_l1)
huber = jax.jit(losses.huber)
huber_distance = jax.jit(losses.huber_distance)
softmax_cross_entropy = jax.jit(
  losses.softmax_cross_entropy, static_argnames='label_smoothing'
)
sigmoid_binary_cross_entropy = jax.jit(losses.sigmoid_binary_cross_entropy)


def test_squared_and_l1_by_hand():
  error = np.array([[1.0, -2.0], [3.0, 0.5]])
  weight = np.array([[1.0], [0.5]])
  total, count = squared(error, weight=weight)
  assert (float(total), float(count)) == (1 + 4 + 0.5 * (9 + 0.25), 3)
  total, count = l1(error, weight=weight)
  assert (float(total), float(count)) == (1 + 2 + 0.5 * 3.5, 3)
  total, count = l1(error)
  assert (float(total), float(count)) == (6.5, 4)


def test_huber_and_smooth_l1_by_hand():
  error = np.array([0.5, -1.0, 2.0, -4.0])
  total, _ = huber(error, delta=2.0)
  assert float(total) == 0.125 + 0.5 + 2.0 + 2 * (4 - 1)
  total, _ = smooth_l1(error, beta=2.0)
  assert float(total) == (0.125 + 0.5 + 2.0 + 6.0) / 2
  # The two differ by the factor delta.
  assert float(huber(error, delta=1.0)[0]) == float(
    smooth_l1(error, beta=1.0)[0]
  )


def test_huber_distance_is_of_the_vector_length():
  error = np.array([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0], [9.0, 9.0]])
  total, count = huber_distance(
    error, delta=4.0, weight=np.array([1.0, 1, 1, 0])
  )
  np.testing.assert_allclose(total, 4 * (5 - 2) + 2, rtol=1e-6)
  assert float(count) == 3
  grad = jax.grad(lambda e: huber_distance(e, delta=4.0)[0])(error)
  np.testing.assert_allclose(
    grad, [[2.4, 3.2], [0, 2], [0, 0], [8**0.5, 8**0.5]], rtol=1e-6
  )


def test_softmax_cross_entropy_by_hand():
  p = np.exp(LOGITS.astype(np.float64))
  log_p = np.log(p / p.sum(-1, keepdims=True))
  total, count = softmax_cross_entropy(LOGITS, np.array([1, 2]))
  np.testing.assert_allclose(total, -log_p[0, 1] - log_p[1, 2], rtol=1e-6)
  assert float(count) == 2
  smooth, _ = softmax_cross_entropy(
    LOGITS, np.array([1, 2]), label_smoothing=0.3
  )
  target = np.eye(3)[[1, 2]] * 0.7 + 0.1
  np.testing.assert_allclose(smooth, -(target * log_p).sum(), rtol=1e-6)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_one_hot_and_integer_labels_agree(smoothing):
  labels = np.array([2, 0], np.uint8)
  kwargs = dict(label_smoothing=smoothing, weight=np.array([1.0, 0.5]))

  def run(labels):
    return jax.jit(
      jax.value_and_grad(
        lambda x: softmax_cross_entropy(x, labels, **kwargs)[0]
      )
    )(LOGITS)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    run(labels),
    run(jax.nn.one_hot(labels, 3)),
  )


def test_softmax_labels_that_do_not_fit():
  with pytest.raises(ValueError, match='do not fit'):
    softmax_cross_entropy(LOGITS, np.zeros((2, 1), int))
  with pytest.raises(ValueError, match='do not fit'):
    softmax_cross_entropy(LOGITS, np.zeros(2, np.float32))
  with pytest.raises(ValueError, match='label_smoothing'):
    softmax_cross_entropy(LOGITS, np.zeros(2, int), label_smoothing=2)
  for label in (-1, 3):
    bad = np.array([0, label])
    assert np.isnan(softmax_cross_entropy(LOGITS, bad)[0])


def test_a_class_that_is_ruled_out_costs_nothing_when_it_is_not_the_target():
  logits = jnp.array([[0.0, 0.0, -jnp.inf]])
  soft = jnp.array([[0.5, 0.5, 0.0]])
  total, _ = softmax_cross_entropy(logits, soft)
  np.testing.assert_allclose(total, np.log(2), rtol=1e-6)


def test_sigmoid_cross_entropy_by_hand_and_for_large_logits():
  x = np.array([0.0, 1.5, -2.0])
  z = np.array([1.0, 0.25, 0.0])
  q = 1 / (1 + np.exp(-x))
  want = -(z * np.log(q) + (1 - z) * np.log(1 - q)).sum()
  total, count = sigmoid_binary_cross_entropy(x, z)
  np.testing.assert_allclose(total, want, rtol=1e-6)
  assert float(count) == 3
  large = np.array([200.0, -200.0, 200.0, 30.0], np.float32)
  got = [
    float(sigmoid_binary_cross_entropy(x, z)[0])
    for x, z in zip(large, [True, False, False, True], strict=True)
  ]
  np.testing.assert_allclose(got, [0, 0, 200, np.exp(-30)], rtol=1e-5)
  grad = jax.grad(lambda x: sigmoid_binary_cross_entropy(x, np.ones(3))[0])(
    np.float32(x)
  )
  np.testing.assert_allclose(grad, q - 1, atol=1e-6)


@pytest.mark.parametrize('name', CASES)
def test_padding_may_hold_anything(name):
  loss, per_row = CASES[name]
  good = np.array([[0.3, -1.2, 2.0]], np.float32)
  weight = np.array([1.0, 0.0])
  weight = weight if per_row else weight[:, None]
  run = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (want, want_count), want_grad = run(good, weight[:1])
  # One compiled function for all paddings, so the comparison is bit by bit.
  (clean, _), clean_grad = run(np.concatenate([good, 0 * good]), weight)
  np.testing.assert_allclose(clean, want, rtol=1e-6)
  np.testing.assert_allclose(clean_grad[:1], want_grad, rtol=1e-6)
  np.testing.assert_array_equal(clean_grad[1], 0)
  for garbage in (np.nan, np.inf, -np.inf, 1e38):
    padded = np.concatenate([good, np.full((1, 3), garbage, np.float32)])
    (total, count), grad = run(padded, weight)
    assert total.dtype == count.dtype == jnp.float32
    assert (total, count) == (clean, want_count)
    np.testing.assert_array_equal(grad, clean_grad)


@pytest.mark.parametrize('name', CASES)
def test_all_padding_is_zero_over_zero(name):
  loss, per_row = CASES[name]
  weight = np.zeros(2) if per_row else np.zeros((2, 1))
  total, count = jax.jit(loss)(np.full((2, 3), np.nan), weight)
  assert (float(total), float(count)) == (0, 0)


@pytest.mark.parametrize('name', CASES)
def test_gradients_match_differences(name):
  loss, _ = CASES[name]
  x = np.array([[0.3, -1.2, 2.0]], np.float32)
  total = jax.jit(lambda x: loss(x, 1.0)[0])
  grad = jax.jit(jax.grad(total))(x)
  h = 1e-2
  for i in range(3):
    step = h * np.eye(3, dtype=np.float32)[i : i + 1]
    slope = (total(x + step) - total(x - step)) / (2 * h)
    np.testing.assert_allclose(grad[0, i], slope, atol=1e-3)  # h^2, float32


def test_the_weight_carries_no_gradient():
  def both(w):
    total, count = squared(jnp.ones((2, 3)), weight=w)
    return total + count

  np.testing.assert_array_equal(jax.grad(both)(jnp.ones((2, 1))), 0)


def test_half_precision_is_summed_in_float32():
  error = jnp.ones(1000, jnp.bfloat16)
  total, count = squared(error, weight=jnp.ones(1000, jnp.bfloat16))
  assert total.dtype == jnp.float32
  assert (float(total), float(count)) == (1000, 1000)


def test_a_row_mask_must_be_aligned_first():
  error = np.ones((2, 2, 3))
  mask = np.array([True, False])
  with pytest.raises(ValueError, match=r'weight of shape \(2,\)'):
    squared(error, weight=mask)
  total, count = squared(error, weight=losses.align(mask, error))
  assert (float(total), float(count)) == (6, 6)
  with pytest.raises(ValueError, match='no leading part'):
    losses.align(np.ones(3), error)
  with pytest.raises(ValueError, match='does not broadcast'):
    squared(error, weight=np.ones((5, 1, 1)))


def test_masked_entries_can_stay_in_the_denominator():
  visible = np.array([[1.0, 0.0, 1.0]])
  total, _ = squared(np.full((1, 3), 3.0), weight=visible)
  count = losses.count(np.array([[True]]), (1, 3))
  assert float(total / count) == 6


def test_the_mean_over_microbatches_is_that_of_the_batch():
  error = np.random.default_rng(0).normal(size=(4, 5))
  mask = np.array([1.0, 0, 0, 1])[:, None]
  whole = squared(error, weight=mask)
  parts = [
    squared(error[:1], weight=mask[:1]),
    squared(error[1:], weight=mask[1:]),
  ]
  np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-6)
