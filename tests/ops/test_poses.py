"""Relative poses and their errors, by hand."""

import jax
import numpy as np
import pytest

from vidscenic.ops import poses

errors = jax.jit(poses.errors)
from_numbers = jax.jit(poses.from_numbers)


def pose(degrees=0.0, axis=2, shift=(0, 0, 0)):
  """Rotation about a coordinate axis, then a shift."""
  c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
  i, j = [k for k in range(3) if k != axis]
  result = np.eye(4)
  result[i, i], result[i, j], result[j, i], result[j, j] = c, -s, s, c
  result[:3, 3] = shift
  return result


def means(*args, **kwargs):
  pairs = errors(*args, **kwargs)
  return {k: float(s / max(n, 1)) for k, (s, n) in pairs.items()}


@pytest.mark.parametrize('degrees', [0.0, 0.01, 1.0, 90.0, 179.9, 180.0])
@pytest.mark.parametrize('axis', [0, 1, 2])
def test_angle_of_rotation(degrees, axis):
  got = means(pose(degrees, axis), pose())
  assert got['rotation'] == pytest.approx(degrees, abs=2e-3, rel=1e-4)


def test_errors_of_translation():
  got = means(pose(shift=(0, 3, 0)), pose(shift=(4, 0, 0)))
  assert got['translation'] == pytest.approx(5)
  assert got['direction'] == pytest.approx(90)
  assert got['rotation'] == 0
  assert got['end_point_error'] == pytest.approx(5)


def test_direction_does_not_depend_on_scale():
  got = means(pose(shift=(9, 9, 0)), pose(shift=(0.1, 0, 0)))
  assert got['direction'] == pytest.approx(45, rel=1e-5)
  pairs = errors(pose(shift=(1, 0, 0)), pose())
  assert float(pairs['direction'][1]) == 0
  assert float(pairs['translation'][1]) == 1


def test_end_points_by_hand():
  # A half turn about z takes the point (2, 0, 5) to (-2, 0, 5).
  points = np.array([[2.0, 0, 5], [0, 0, 5]])
  got = means(pose(180), pose(), points=points)
  assert got['end_point_error'] == pytest.approx(2, abs=1e-5)
  # Corners of a cube turned by a right angle about its own axis move by its
  # side.
  assert means(pose(90), pose())['end_point_error'] == pytest.approx(2)


def test_masked_poses_count_nothing():
  both = np.stack([pose(90), np.full((4, 4), np.nan)])
  pairs = errors(both, np.stack([pose(), pose()]), mask=np.array([1, 0]))
  assert float(pairs['rotation'][0]) == pytest.approx(90)
  assert {float(n) for k, (_, n) in pairs.items() if k != 'direction'} == {1}


def test_relative_pose_maps_points_of_one_camera_to_the_other():
  first = pose(30, 0, (1, 2, 3)) @ pose(50, 1)
  last = pose(-70, 2, (0, -1, 4)) @ pose(20, 0)
  got = np.asarray(poses.relative(last, first))
  np.testing.assert_allclose(got, last @ np.linalg.inv(first), atol=1e-5)
  np.testing.assert_allclose(poses.relative(last, last), np.eye(4), atol=1e-6)


def test_numbers_become_the_nearest_rotation():
  want = pose(40, 1, (1, 2, 3))
  numbers = np.concatenate([want[:3, :3].ravel() * 1.7, want[:3, 3]])
  np.testing.assert_allclose(from_numbers(numbers), want, atol=1e-5)


def test_numbers_never_become_a_reflection():
  rng = np.random.default_rng(0)
  got = np.asarray(from_numbers(rng.normal(size=(20, 12))))
  turn = got[:, :3, :3]
  assert np.linalg.det(turn) == pytest.approx(np.ones(20), abs=1e-4)
  np.testing.assert_allclose(
    turn @ turn.swapaxes(1, 2),
    np.broadcast_to(np.eye(3), (20, 3, 3)),
    atol=1e-5,
  )
  with pytest.raises(ValueError, match=r'\[..., 12\]'):
    poses.from_numbers(np.zeros(9))
