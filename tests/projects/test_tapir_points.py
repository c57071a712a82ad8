"""Which points are tracked, and how their tails lose the camera's motion."""

import json

import numpy as np
import pytest
from PIL import Image

from projects.tapir import points, rainbow

SIZE = (24, 40)


def choose(source, **options):
  defaults = dict(num_points=15, frame=2, seed=0, size=SIZE, num_frames=5)
  return points.choose(str(source), **defaults | options)


def test_a_grid_is_even_and_inside():
  queries = choose('grid')
  assert queries.dtype == np.float32
  assert (queries[:, 0] == 2).all()
  np.testing.assert_allclose(np.unique(queries[:, 1]), [4, 12, 20])
  np.testing.assert_allclose(np.unique(queries[:, 2]), [4, 12, 20, 28, 36])


def test_random_points_follow_the_seed():
  first, second = choose('random'), choose('random', seed=1)
  np.testing.assert_array_equal(first, choose('random'))
  assert not np.array_equal(first, second)
  assert len(first) == 15
  assert (first[:, 1:] >= 0).all() and (first[:, 1:] <= SIZE).all()


@pytest.mark.parametrize('name', ['points.csv', 'points.json', 'named.json'])
def test_lists_are_read(tmp_path, name):
  rows = [[0, 3.5, 4], [4, 40, 24]]
  text = {
    'points.csv': 'frame,x,y\n0,3.5,4\n\n4,40,24\n',
    'points.json': json.dumps(rows),
    'named.json': json.dumps(
      [dict(zip(('frame', 'x', 'y'), row, strict=True)) for row in rows]
    ),
  }[name]
  (tmp_path / name).write_text(text)
  np.testing.assert_array_equal(
    choose(tmp_path / name), [[0, 4, 3.5], [4, 24, 40]]
  )


@pytest.mark.parametrize('name', ['points.csv', 'points.json'])
def test_files_that_are_no_text_are_named(tmp_path, name):
  (tmp_path / name).write_bytes(b'\x89PNG\r\n\xff')
  with pytest.raises(points.PointsError, match=f'{name}: no text with points'):
    choose(tmp_path / name)


def test_points_of_a_mask_lie_in_it(tmp_path):
  mask = np.zeros((*SIZE, 3), np.uint8)
  mask[4:12, 10:30] = 255
  Image.fromarray(mask).save(tmp_path / 'mask.png')
  queries = choose(tmp_path / 'mask.png', num_points=40)
  assert 25 <= len(queries) <= 60
  _, y, x = queries.T
  assert (mask[y.astype(int), x.astype(int)] == 255).all()


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'holds no points'),
    ('0,3,four\n', "line 1: could not convert string to float: 'four'"),
    ('0,3\n', 'line 1: 2 values, want frame, x, y'),
    ('0,1,2\n5,3,4\n', 'point 1 .frame 5.*: the video has the frames 0 to 4'),
    ('0.5,3,4\n', 'frame 0.5.*the video has the frames 0 to 4'),
    ('0,41,4\n', r'outside the frame: want x in \[0, 40\]'),
    ('0,nan,4\n', 'is not finite'),
  ],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path, text, message):
  path = tmp_path / 'points.csv'
  path.write_text(text)
  with pytest.raises(points.PointsError, match=message):
    choose(path)


@pytest.mark.parametrize(
  ('source', 'options', 'message'),
  [
    ('gird', {}, "points_from='gird': want 'grid', 'random', a list"),
    ('grid', {'frame': 5}, 'frame=5: the video has the frames 0 to 4'),
    ('grid', {'num_points': 0}, 'num_points=0: want at least one'),
    ('grid', {'num_points': 2.5}, 'num_points=2.5: want a whole number'),
    ('random', {'seed': -1}, 'seed=-1: want 0 or more'),
  ],
)
def test_wrong_arguments_are_named(source, options, message):
  with pytest.raises(points.PointsError, match=message):
    choose(source, **options)


@pytest.mark.parametrize(
  ('size', 'value', 'message'),
  [((8, 8), 255, '8x8 pixels, the video 24x40'), (SIZE, 0, 'is black')],
)
def test_masks_that_cannot_be_used_are_refused(tmp_path, size, value, message):
  Image.fromarray(np.full(size, value, np.uint8)).save(tmp_path / 'mask.png')
  with pytest.raises(points.PointsError, match=message):
    choose(tmp_path / 'mask.png')


def test_a_homography_is_found_among_points_that_move_by_themselves():
  rng = np.random.default_rng(0)
  source = rng.random((60, 2)) * 200
  want = np.array([[1.02, 0.03, 5], [-0.02, 0.98, -7], [1e-4, -5e-5, 1]])
  target = rainbow.apply_homography(want, source)
  target[:15] += rng.standard_normal((15, 2)) * 30
  got = rainbow.fit_homography(source, target, tolerance=2.0, rng=rng)
  corners = np.array([[0, 0], [200, 0], [0, 200], [200, 200.0]])
  np.testing.assert_allclose(
    rainbow.apply_homography(got, corners),
    rainbow.apply_homography(want, corners),
    atol=0.01,
  )


def test_too_few_or_wild_points_leave_the_picture_as_it_is():
  rng = np.random.default_rng(0)
  few = rng.random((5, 2)) * 100
  for source, target in (
    (few, few + 3),
    (rng.random((50, 2)) * 100, rng.random((50, 2)) * 100),
  ):
    got = rainbow.fit_homography(source, target, tolerance=1.0, rng=rng)
    np.testing.assert_array_equal(got, np.eye(3))


def test_only_what_moves_by_itself_leaves_a_tail():
  """The camera pans by 4 pixels a frame; one point moves on its own."""
  rng = np.random.default_rng(0)
  start = rng.random((30, 2)) * (80, 60) + 40
  own = np.zeros((30, 2))
  own[0] = 0, 3
  painter = rainbow.Rainbow(np.full((30, 3), 255, np.uint8), tail=5)
  black = np.zeros((160, 200, 3), np.uint8)
  for t in range(6):
    found = start + t * (np.array([4, 0]) + own)
    shown = painter.draw(black, found, np.ones(30, bool))
  # The tail of the moving point, straight below where it started.
  x, y = found[0]
  assert shown[int(y) - 9, int(x)].max() > 60
  # Points at rest have none: 12 pixels to the left, where they were.
  lit = [shown[int(y), int(x) - 12].max() for x, y in found[1:]]
  alone = [np.abs(found - (x - 12, y)).max(1).min() > 8 for x, y in found[1:]]
  assert sum(alone) > 5
  assert max(np.array(lit)[alone]) == 0
