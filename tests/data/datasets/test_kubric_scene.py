"""Stored fields of a Kubric scene: their scales, orders and sizes."""

import numpy as np
import pytest

from tests.data import test_png16
from tests.data.datasets import kubric_room as room
from vidscenic.data import containers
from vidscenic.data.datasets import kubric_scene

X = np.arange(room.WIDTH) + 0.5
Y = np.arange(room.HEIGHT)[:, None] + 0.5


@pytest.fixture(scope='module')
def record():
  return room.record()


def test_distance_is_scaled_between_its_limits(record):
  want, _, _, _ = room.cast(3, X, Y)
  got = kubric_scene.Scene(record).distance([3])[0]
  low, high = record['metadata/depth_range']
  np.testing.assert_allclose(got, want, atol=(high - low) / 65535)


def test_segments_are_instance_numbers_plus_one(record):
  _, want, _, _ = room.cast(5, X, Y)
  got = kubric_scene.Scene(record).segments([5])[0]
  np.testing.assert_array_equal(got, want)
  assert set(np.unique(got)) == {0, 1, 2, 3}


def test_quaternions_begin_with_w():
  # A quarter turn about z: x goes to y.
  turn = kubric_scene.rotations(np.array([[0.5**0.5, 0, 0, 0.5**0.5]]))[0]
  np.testing.assert_allclose(turn @ [1, 0, 0], [0, 1, 0], atol=1e-12)
  np.testing.assert_allclose(turn @ [0, 0, 1], [0, 0, 1], atol=1e-12)


def test_camera_projects_as_the_renderer_does(record):
  camera = kubric_scene.Scene(record).camera(range(room.FRAMES))
  rng = np.random.default_rng(0)
  points = rng.uniform(-2, 2, (20, room.FRAMES, 3))
  want, _ = room.project(points)
  got, z = camera.project(points)
  np.testing.assert_allclose(got, want, atol=1e-6)
  assert (z > 0).all()
  behind = camera.position + (camera.position - points)
  assert (camera.project(behind)[1] < 0).all()


def test_rays_go_where_points_are_projected(record):
  camera = kubric_scene.Scene(record).camera([2])
  x, y = np.array([3.5, 70.0]), np.array([90.5, 10.0])
  rays = camera.rays(x, y)
  np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1)
  points = camera.position + 4 * rays @ camera.rotation[0].T
  xy, _ = camera.project(points[:, None])
  np.testing.assert_allclose(xy[:, 0], np.stack([x, y], -1), atol=1e-9)


def test_points_in_the_plane_of_the_camera_stay_finite(record):
  camera = kubric_scene.Scene(record).camera([0])
  xy, _ = camera.project(camera.position[None])
  assert np.isfinite(xy).all()


@pytest.mark.parametrize(
  ('field', 'value', 'reason'),
  [
    ('camera/positions', np.zeros(5), r'positions has 5 numbers.*\[8, 3\]'),
    ('camera/focal_length', np.zeros(2), 'focal_length has 2 numbers'),
    ('depth', [b''] * 7, 'depth has 7 pictures, expected 8'),
  ],
)
def test_fields_of_another_size_are_named(record, field, value, reason):
  scene = kubric_scene.Scene(record | {field: value})
  with pytest.raises(ValueError, match=f'room: .*{reason}'):
    scene.camera([0]), scene.distance([0])


def test_a_missing_field_is_named(record):
  record = {k: v for k, v in record.items() if k != 'normal'}
  with pytest.raises(ValueError, match='room: the field normal is missing'):
    kubric_scene.Scene(record).images16('normal', [0], channels=3)


def test_pictures_of_another_kind_are_named(record):
  small = [test_png16.encode(np.zeros((2, 2, 1), np.uint16))] * room.FRAMES
  scene = kubric_scene.Scene(record | {'depth': small, 'normal': b'x' * 8})
  with pytest.raises(ValueError, match=r'depth has pictures of \(2, 2\)'):
    scene.distance([0])
  with pytest.raises(ValueError, match='depth has 1 channels, expected 3'):
    kubric_scene.Scene(record).images16('depth', [0], channels=3)
  broken = [b'\x89PNG'] * room.FRAMES
  with pytest.raises(containers.VideoError, match=r'room, depth\[4\]'):
    kubric_scene.Scene(record | {'depth': broken}).distance([4])
