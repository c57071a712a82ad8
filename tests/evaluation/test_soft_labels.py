"""Masks and joints on a feature grid; stored results: tests/parity."""

import numpy as np

from vidscenic.evaluation import soft_labels


def test_numbers_of_a_mask_need_not_be_contiguous():
  mask = np.zeros((8, 8), np.uint8)
  mask[:4], mask[4:, 4:] = 7, 200
  soft, numbers = soft_labels.from_mask(mask, size=(8, 8), grid=(8, 8))
  assert numbers.tolist() == [0, 7, 200]
  np.testing.assert_allclose(soft.sum(-1), 1)
  back = soft_labels.to_mask(soft, numbers, size=(8, 8), original=(8, 8))
  np.testing.assert_array_equal(back, mask)


def test_a_cell_sees_the_four_pixels_at_its_centre():
  mask = np.zeros((8, 8), np.uint8)
  mask[1, 1] = 1  # one of rows 1, 2 x columns 1, 2 of the first cell of 4 x 4
  soft, _ = soft_labels.from_mask(mask, size=(8, 8), grid=(2, 2))
  np.testing.assert_allclose(soft[..., 1], [[0.25, 0], [0, 0]])


def test_a_joint_comes_back_within_a_cell():
  joints = np.array([[40.0, 24.0], [8.0, 56.0]])
  soft = soft_labels.from_keypoints(joints, original=(64, 96), grid=(8, 12))
  # 8 pixels per cell; (40, 24) is cell (5, 3) exactly, without half a cell.
  assert soft[3, 5, 1] == 1
  points, found = soft_labels.to_keypoints(soft, original=(64, 96))
  assert found.all()
  np.testing.assert_allclose(points, joints, atol=8)
  np.testing.assert_allclose(points[0], joints[0], atol=1e-4)


def test_a_joint_outside_the_frame_is_not_found():
  joints = np.array([[-50.0, 10.0], [10.0, 10.0]])
  soft = soft_labels.from_keypoints(joints, original=(64, 64), grid=(8, 8))
  points, found = soft_labels.to_keypoints(soft, original=(64, 64))
  assert found.tolist() == [False, True]
  assert points[0].tolist() == [-1, -1]
  assert np.all(soft[..., 0] == (soft[..., 2] == 0))
