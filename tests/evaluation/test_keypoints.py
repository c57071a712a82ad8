"""PCK by hand; stored results: tests/parity."""

import numpy as np
import pytest

from vidscenic.evaluation import keypoints


def person(frames=2):
  """Two joints, 50 pixels apart: a size of 30."""
  return np.tile(np.array([[0.0, 0.0], [30.0, 40.0]]), (frames, 1, 1))


def test_by_hand():
  prediction = person()
  prediction[1, 0] = [3, 0]  # 0.1 of the size, which is right at 0.1
  prediction[1, 1] += [0, 10]  # a third of it
  scores, table = keypoints.pck([(prediction, np.ones((2, 2)), person())])
  assert scores == {0.1: 50, 0.2: 50, 0.3: 50, 0.4: 100, 0.5: 100}
  assert table[0].tolist() == [100, 0]


def test_the_given_frame_does_not_count():
  prediction = person()
  prediction[0] = 1000
  scores, _ = keypoints.pck([(prediction, np.ones((2, 2)), person())])
  assert scores[0.1] == 100


def test_joints_not_found_are_left_out_also_of_the_box():
  prediction, found = person(3), np.ones((3, 2), bool)
  found[1, 1] = False  # the box of frame 1 is a point: joint 0 cannot be right
  prediction[1, 0] = [1, 0]
  scores, table = keypoints.pck([(prediction, found, person(3))])
  assert table[-1].tolist() == [50, 100]
  assert scores[0.5] == 75
  none = np.zeros((2, 2), bool)
  scores, table = keypoints.pck([(person(), none, person())])
  assert np.isnan(scores[0.1])
  assert np.isnan(table).all()


def test_wrong_arrays_are_named():
  with pytest.raises(ValueError, match='no videos'):
    keypoints.pck([])
  with pytest.raises(ValueError, match='do not fit'):
    keypoints.pck([(person(), np.ones((2, 3)), person())])
