"""J, F and mean IoU by hand; stored results: tests/parity."""

import math

import numpy as np
import pytest

from vidscenic.evaluation import masks


def square(size=20, low=5, high=15, shift=0):
  mask = np.zeros((size, size), bool)
  mask[low:high, low + shift : high + shift] = True
  return mask


def test_region_similarity_by_hand():
  assert masks.region_similarity(square(shift=5), square()) == 50 / 150
  assert masks.region_similarity(square(), square()) == 1
  empty = np.zeros((20, 20), bool)
  assert masks.region_similarity(empty, empty) == 1
  assert masks.region_similarity(empty, square()) == 0


def test_boundary_f_of_empty_masks():
  empty = np.zeros((20, 20), bool)
  assert masks.boundary_f(empty, empty) == 1
  assert masks.boundary_f(empty, square()) == 0
  assert masks.boundary_f(square(), empty) == 0


def test_boundary_f_forgives_what_is_within_the_bound():
  # The diagonal is 28.3 pixels: 0.03 of it is rounded up to 1 pixel.
  assert masks.boundary_f(square(shift=1), square(), bound=0.03) == 1
  assert masks.boundary_f(square(shift=2), square(), bound=0.03) < 1
  assert masks.boundary_f(square(shift=2), square(), bound=0.06) == 1


def dilated(mask, radius):
  """Every pixel within `radius` of the mask, slowly."""
  y, x = np.nonzero(mask)
  grid_y, grid_x = np.indices(mask.shape)
  square = (grid_y[..., None] - y) ** 2 + (grid_x[..., None] - x) ** 2
  return (square <= radius**2).any(-1)


@pytest.mark.parametrize('bound', [0.001, 0.05, 0.11, 2.0])
def test_boundary_f_equals_dilation_by_a_disc(bound):
  rng = np.random.default_rng(0)
  prediction, target = rng.random((2, 23, 31)) < 0.02
  edges = masks.boundary(prediction), masks.boundary(target)
  radius = masks.radius((23, 31), bound=bound)
  assert radius == math.ceil(bound * math.hypot(23, 31))
  precision = (edges[0] & dilated(edges[1], radius)).sum() / edges[0].sum()
  recall = (edges[1] & dilated(edges[0], radius)).sum() / edges[1].sum()
  want = 2 * precision * recall / max(precision + recall, 1e-9)
  got = masks.boundary_f(prediction, target, bound=bound)
  assert got == pytest.approx(want, abs=1e-12)


def test_objects_count_the_same_whatever_the_length_of_their_video():
  target = np.zeros((4, 12, 12), np.uint8)
  target[:, 2:6, 2:6], target[:, 7:10, 7:10] = 1, 2
  good = target, target
  missed = np.zeros((9, 12, 12), np.uint8), np.repeat(target == 1, 3, 0)[:9]
  means, tables = masks.davis([good, missed])
  assert [j.shape for j, _ in tables] == [(2, 2), (1, 7)]
  assert means['j'] == pytest.approx(2 / 3)
  assert means['jf'] == pytest.approx(2 / 3)


def test_first_and_last_frame_are_not_scored():
  target = np.zeros((4, 12, 12), np.uint8)
  target[:, 2:6, 2:6] = 1
  prediction = target.copy()
  prediction[0], prediction[-1] = 0, 0
  assert masks.davis([(prediction, target)])[0]['j'] == 1


def test_confusion_by_hand():
  target = np.array([0, 0, 1, 1, 255])
  prediction = np.array([0, 1, 1, 1, 7])
  matrix = masks.confusion(prediction, target, 3)
  assert matrix.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
  mean, per_class = masks.mean_iou(matrix)
  assert per_class[:2].tolist() == [1 / 2, 2 / 3]
  assert np.isnan(per_class[2])
  assert mean == pytest.approx(7 / 12)
  assert np.isnan(masks.mean_iou(np.zeros((3, 3)))[0])


def test_wrong_arrays_are_named():
  with pytest.raises(ValueError, match='same shape'):
    masks.video_scores(np.zeros((4, 2, 2), int), np.zeros((4, 2, 3), int))
  with pytest.raises(ValueError, match='3 frames'):
    masks.video_scores(np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int))
  with pytest.raises(ValueError, match='no objects'):
    masks.davis([(np.zeros((3, 2, 2), int),) * 2])
  with pytest.raises(ValueError, match=r'outside \[0, 3\): 0 to 5'):
    masks.confusion(np.array([0, 5]), np.array([0, 1]), 3)
