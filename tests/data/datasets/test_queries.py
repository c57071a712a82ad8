"""TAP-Vid's query modes."""

import pathlib

import numpy as np
import pytest

from vidscenic.data.datasets import queries

GOLDEN = pathlib.Path(__file__).parents[2] / 'golden' / 'tapir_metrics.npz'


@pytest.mark.parametrize('mode', queries.MODES)
def test_sampling_equals_the_published_one(mode):
  with np.load(GOLDEN) as golden:
    found = queries.sample_queries(
      golden['inputs/sampling/target_points'],
      golden['inputs/sampling/target_occluded'],
      mode,
    )
    names = {
      key.removeprefix(f'outputs/sampling/{mode}/'): golden[key][0]
      for key in golden.files
      if key.startswith(f'outputs/sampling/{mode}/')
    }
  assert len(names) >= 3
  for name, want in names.items():
    name = 'track' if name == 'trackgroup' else name
    np.testing.assert_array_equal(getattr(found, name), want)


def test_a_query_is_t_y_x_and_a_target_x_y():
  points = np.array([[[1, 2], [3, 4]]], np.float32)
  found = queries.sample_queries(points, np.array([[True, False]]), 'first')
  np.testing.assert_array_equal(found.query_points, [[1, 4, 3]])
  assert found.query_points.dtype == np.float32


def test_first_drops_tracks_that_are_never_visible():
  occluded = np.array([[True, True], [True, False]])
  found = queries.sample_queries(np.zeros((2, 2, 2)), occluded, 'first')
  np.testing.assert_array_equal(found.track, [1])
  np.testing.assert_array_equal(found.occluded, [[True, False]])


def test_strided_repeats_a_track_for_every_frame_it_is_seen_in():
  occluded = np.zeros((2, 7), bool)
  occluded[1, 3] = True
  found = queries.sample_queries(
    np.zeros((2, 7, 2)), occluded, 'strided', stride=3
  )
  np.testing.assert_array_equal(found.query_points[:, 0], [0, 0, 3, 6, 6])
  np.testing.assert_array_equal(found.track, [0, 1, 0, 0, 1])


@pytest.mark.parametrize('mode', queries.MODES)
def test_no_tracks_give_no_queries(mode):
  found = queries.sample_queries(
    np.zeros((0, 4, 2)), np.zeros((0, 4), bool), mode
  )
  assert found.query_points.shape == (0, 3)
  assert found.target_points.shape == (0, 4, 2)


def test_wrong_arguments_are_named():
  with pytest.raises(ValueError, match="mode must be one of .* got 'last'"):
    queries.sample_queries(np.zeros((1, 4, 2)), np.zeros((1, 4)), 'last')
  with pytest.raises(ValueError, match=r'got \[1, 4, 3\] and \[1, 4\]'):
    queries.sample_queries(np.zeros((1, 4, 3)), np.zeros((1, 4)), 'first')
