import jax
import numpy as np
import pytest

from vidscenic.ops import metrics

# One compilation per shape instead of one per operation.
topk = jax.jit(metrics.topk_accuracy, static_argnames='k')
squared_error = jax.jit(metrics.mean_squared_error)
absolute_error = jax.jit(metrics.mean_absolute_error)
psnr = jax.jit(metrics.psnr)
end_point_error = jax.jit(metrics.end_point_error)
flow_outliers = jax.jit(metrics.flow_outliers)


def test_topk_by_hand():
  logits = np.array([[0.1, 0.9, 0.5], [0.8, 0.1, 0.3], [0.2, 0.3, 0.4]])
  labels = np.array([1, 2, 0])
  for k, hits in ((1, 1), (2, 2), (3, 3)):
    got = topk(logits, labels, k=k)
    assert (float(got[0]), float(got[1])) == (hits, 3)
  got = topk(logits, labels, k=2, mask=np.array([0, 1, 1]))
  assert (float(got[0]), float(got[1])) == (1, 2)


@pytest.mark.parametrize('k', [1, 2, 4])
def test_topk_agrees_with_lax_top_k_ties_included(k):
  rng = np.random.default_rng(0)
  logits = rng.integers(0, 4, (50, 6)).astype(np.float32)
  labels = rng.integers(0, 6, 50)
  _, best = jax.lax.top_k(logits, k)
  want = (np.asarray(best) == labels[:, None]).any(-1).sum()
  assert float(topk(logits, labels, k=k)[0]) == want


def test_nan_logits_and_unknown_labels_are_wrong():
  logits = np.array([[np.nan] * 3, [0, np.nan, 1], [0, 1, 2], [0, 1, 2]])
  got = topk(logits, np.array([0, 2, -1, 3]), k=3)
  assert (float(got[0]), float(got[1])) == (0, 4)


def test_one_hot_labels_and_bad_labels():
  logits = np.array([[0.1, 0.9, 0.5], [0.8, 0.1, 0.3]])
  soft = np.array([[0.3, 0.7, 0.0], [0.0, 1.0, 0.0]])
  assert float(topk(logits, soft)[0]) == 1
  with pytest.raises(ValueError, match='do not fit'):
    topk(logits, np.zeros(3, int))
  with pytest.raises(ValueError, match='k must'):
    topk(logits, np.zeros(2, int), k=0)


def test_pixel_errors_do_not_wrap_around():
  a, b = np.array([[250, 3]], np.uint8), np.array([[255, 1]], np.uint8)
  squared = squared_error(a, b)
  absolute = absolute_error(a, b)
  assert (float(squared[0]), float(squared[1])) == (29, 2)
  assert (float(absolute[0]), float(absolute[1])) == (7, 2)
  with pytest.raises(ValueError, match='differ in shape'):
    squared_error(a, b[:, :1])


def test_psnr_averages_over_clips_not_over_errors():
  target = np.zeros((3, 2, 4, 4, 3))
  prediction = target.copy()
  prediction[0] = 0.1  # mse 0.01: 20 dB
  prediction[1] = 0.01  # mse 1e-4: 40 dB
  prediction[2] = np.nan
  mask = np.array([True, True, False])
  total, count = psnr(prediction, target, mask=mask)
  np.testing.assert_allclose(float(total) / float(count), 30, rtol=1e-5)
  assert float(count) == 2
  per_frame = prediction[:2].reshape(4, 4, 4, 3)
  assert float(psnr(per_frame, target[:2].reshape(4, 4, 4, 3))[1]) == 4


def test_psnr_does_not_depend_on_the_scale_and_is_bounded():
  a, b = np.random.default_rng(0).uniform(size=(2, 2, 3, 4, 4, 3))
  unit = psnr(a, b)[0]
  signed = psnr(a * 2 - 1, b * 2 - 1, value_range=2)[0]
  np.testing.assert_allclose(unit, signed, rtol=1e-5)
  assert float(psnr(a, a)[0]) == 2 * 100


def test_end_point_error_counts_known_vectors_only():
  flow = np.array([[[3.0, 4.0], [0.0, 1.0], [7.0, 7.0]]])
  target = np.zeros((1, 3, 2))
  target[0, 2] = np.nan
  mask = np.array([[True, True, False]])
  total, count = end_point_error(flow, target, mask=mask)
  assert (float(total), float(count)) == (6, 2)


def test_flow_outliers_by_hand():
  target = np.array([[10.0, 0], [100, 0], [100, 0], [1, 0]])
  # 4 of 10 pixels; 4 of 100, which is below 5 %; 6 of 100; 3, not above 3.
  error = np.array([[4.0, 0], [0, 4], [6, 0], [3, 0]])
  total, count = flow_outliers(target + error, target)
  assert (float(total), float(count)) == (2, 4)
  total, _ = flow_outliers(target + error, target, relative=0.0)
  assert float(total) == 3
  mask = np.array([1, 1, 0, 0])
  total, count = flow_outliers(target + error, target, mask=mask)
  assert (float(total), float(count)) == (1, 2)


def test_flow_that_is_not_a_number_is_wrong_unless_masked():
  flow = np.array([[np.nan, 0], [0, 0]])
  assert float(flow_outliers(flow, np.zeros((2, 2)))[0]) == 1
  mask = np.array([0, 1])
  assert float(flow_outliers(flow, np.zeros((2, 2)), mask=mask)[0]) == 0


def test_mean_of_known_leaves_out_what_has_no_score():
  values = np.array([[0.5, np.nan], [1.0, 0.0]])
  got = metrics.mean_of_known(values)
  assert (float(got[0]), float(got[1])) == (1.5, 3)
  got = metrics.mean_of_known(values, mask=np.array([True, False]))
  assert (float(got[0]), float(got[1])) == (0.5, 1)
