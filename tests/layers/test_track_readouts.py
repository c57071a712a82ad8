"""Readouts of tracks: windows, recurrence, queries that start late."""

import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.layers import track_readouts

RECURRENT = track_readouts.RecurrentTracks(
  features=8, depth=1, num_heads=2, qkv_features=8, mlp_features=8, num_bases=2
)
WINDOW = track_readouts.WindowTracks(
  num_frames=4, width=8, num_heads=2, tiles=2, query_features=8, num_bases=2
)


def test_recurrent_chunks_equal_the_whole(normal, random, run):
  features, queries = normal(2, 5, 3, 6), normal(2, 4, 2)
  given = np.zeros((2, 5, 4), bool)
  given[:, 1, 2] = given[:, 3, 0] = True
  params = random(RECURRENT, features, queries, given)
  whole = run(RECURRENT, params, features, queries, given)
  first = run(RECURRENT, params, features[:, :2], queries, given[:, :2])
  second = run(
    RECURRENT, params, features[:, 2:], queries, given[:, 2:], first.state
  )
  for a, b, c in zip(whole[:3], first[:3], second[:3], strict=True):
    np.testing.assert_allclose(a, np.concatenate([b, c], 1), atol=1e-5)
  np.testing.assert_allclose(whole.state, second.state, atol=1e-5)


def test_what_was_before_a_query_means_nothing_to_it(normal, random, run):
  features, queries = normal(1, 4, 3, 6), normal(1, 2, 2)
  given = np.zeros((1, 4, 2), bool)
  given[:, 2, 0] = given[:, 0, 1] = True
  params = random(RECURRENT, features, queries, given)
  first = run(RECURRENT, params, features, queries, given)
  changed = jnp.concatenate([-features[:, :2], features[:, 2:]], axis=1)
  second = run(RECURRENT, params, changed, queries, given)
  np.testing.assert_array_equal(first.values[:, 2:, 0], second.values[:, 2:, 0])
  assert np.any(first.values[:, 2:, 1] != second.values[:, 2:, 1])


@pytest.mark.parametrize('layers', [RECURRENT, WINDOW])
def test_queries_do_not_see_each_other(layers, normal, random, run):
  features, queries = normal(1, 4, 3, 6), normal(1, 3, 2)
  params = random(layers, features, queries)
  three = run(layers, params, features, queries)
  one = run(layers, params, features, queries[:, 1:2])
  np.testing.assert_allclose(
    three.values[:, :, 1:2], one.values, atol=1e-5, rtol=1e-5
  )


def test_visible_needs_a_certain_position():
  logits = jnp.array([3.0, 3.0, -3.0, 0.5])
  certain = jnp.array([3.0, -3.0, 3.0, 0.5])
  tracks = track_readouts.Tracks(None, logits, certain)
  # sigmoid(0.5) = 0.62, and its square is below one half.
  assert tracks.seen().tolist() == [True, False, False, False]
  tracks = tracks._replace(certain=None)
  assert tracks.seen().tolist() == [True, True, False, True]


def test_windows_hand_over_positions():
  """A reader that adds up features moves points as far as all frames say."""

  def read(features, queries):
    steps = np.cumsum(features[..., 0, :], axis=1) - features[:, :1, 0]
    return track_readouts.Tracks(queries[:, None] + steps[:, :, None])

  features = np.random.default_rng(0).normal(size=(1, 11, 1, 2))
  queries = np.array([[[1.0, 2.0], [3.0, 4.0]]])
  want = read(features, queries).values
  for hop in (1, 2, 3):
    got = track_readouts.slide_windows(
      read, features, queries, length=4, hop=hop
    )
    np.testing.assert_allclose(got.values, want, rtol=1e-5)
  with pytest.raises(ValueError, match='3 frames for a readout of 4'):
    track_readouts.slide_windows(
      read, features[:, :3], queries, length=4, hop=2
    )


def test_other_numbers_of_frames_are_refused(normal, shapes):
  with pytest.raises(ValueError, match='5 frames for a readout of 4'):
    shapes(WINDOW, normal(1, 5, 3, 6), normal(1, 2, 2))
