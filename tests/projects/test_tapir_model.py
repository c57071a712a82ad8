"""TAPIR: what changes no number, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.tapir import correlation, mixer
from projects.tapir import features as features_lib
from projects.tapir import task as task_lib
from tests.projects import tapir_models
from vidscenic.ops import video as video_ops

T, N = 5, 7


@functools.cache
def program(query_chunk_size=0, grad_chunks=0, **fields):
  """fn(queries) -> `Tracks`, compiled."""
  model, params = tapir_models.make_params(**fields)
  video = video_ops.normalize(tapir_models.make_video(T)[None])
  fn = jax.jit(
    lambda params, queries: model.apply(
      {'params': params},
      video,
      queries,
      query_chunk_size=query_chunk_size,
      grad_chunks=grad_chunks,
    ),
    compiler_options=tapir_models.FAST,
  )
  return lambda queries: jax.tree.map(np.asarray, fn(params, queries))


@functools.cache
def plain():
  return program()(tapir_models.make_queries(N, T)[None])


def assert_same(a, b, atol=1e-4):  # pixels and logits, float32
  for x, y in zip(a, b, strict=True):
    np.testing.assert_allclose(x, y, atol=atol)


def test_a_query_does_not_see_the_others():
  queries = tapir_models.make_queries(N, T)
  queries[1:] = tapir_models.make_queries(N - 1, T, seed=5)
  one = lambda tracks: jax.tree.map(lambda x: x[:, :, :1], tracks)
  assert_same(one(program()(queries[None])), one(plain()))


@pytest.mark.parametrize(
  'options',
  [
    {'query_chunk_size': 3, 'feature_extractor_chunk_size': 2},
    {'query_chunk_size': 3, 'grad_chunks': 1},
  ],
)
def test_chunks_change_no_number(options):
  assert_same(
    program(**options)(tapir_models.make_queries(N, T)[None]), plain()
  )


def test_the_query_is_the_first_guess_in_its_frame():
  queries = tapir_models.make_queries(N, T)
  points = plain().points[0, 0]
  for track, (t, y, x) in zip(points, queries, strict=True):
    np.testing.assert_allclose(track[int(t)], [x, y], atol=1e-4)


def test_padded_frames_change_no_number():
  model, params = tapir_models.make_params()
  video = tapir_models.make_video(T)
  video = np.concatenate([video, 255 - video[:3]])
  queries = tapir_models.make_queries(N, T)[None]

  def stages(model, video, num_frames):
    grids = model.feature_grids(video)
    features = model.query_features(grids, queries)
    return model.trajectories(
      grids, features, queries=queries, num_frames=num_frames
    )[0]

  padded = jax.jit(
    lambda p, v, n: model.apply({'params': p}, v, n, method=stages),
    compiler_options=tapir_models.FAST,
  )(params, video_ops.normalize(video[None]), T)
  assert_same(jax.tree.map(lambda x: x[:, :, :, :T], padded), plain())


def mix(net, x, state=None):
  """Applies a `Mixer` with random parameters."""
  shapes = jax.eval_shape(net.init, jax.random.key(0), x)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda s: np.float32(0.3 * rng.standard_normal(s.shape)), shapes
  )
  return jax.jit(net.apply, compiler_options=tapir_models.FAST)(
    params, x, state
  )


@pytest.mark.parametrize('causal', [False, True])
def test_future_frames_do_not_reach_the_causal_mixer(causal):
  net = mixer.Mixer(3, 8, 2, causal=causal)
  x = np.random.default_rng(0).standard_normal((2, 9, 4)).astype(np.float32)
  before, _ = mix(net, x)
  changed = np.concatenate([x[:, :5], x[:, 5:] + 1], axis=1)
  after, _ = mix(net, changed)
  assert not np.allclose(before[:, 5:], after[:, 5:])
  assert np.allclose(before[:, :5], after[:, :5], atol=1e-6) == causal


def test_state_continues_the_mixer():
  net = mixer.Mixer(3, 8, 2, kernel_size=5, causal=True)
  x = np.random.default_rng(0).standard_normal((2, 9, 4)).astype(np.float32)
  whole, _ = mix(net, x)
  state, parts, begin = None, [], 0
  for length in (1, 3, 5):
    part, state = mix(net, x[:, begin : begin + length], state)
    parts.append(part)
    begin += length
  np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-5)


def test_both_ways_of_correlation_agree_with_a_slow_one(monkeypatch):
  rng = np.random.default_rng(0)
  grid = rng.standard_normal((1, 2, 5, 6, 4)).astype(np.float32)
  features = rng.standard_normal((1, 3, 2, 4)).astype(np.float32)
  centres = np.array([[[[2.2, 3.7], [5.9, -0.4]], [[0, 0], [6, 5]],
                       [[-30, 2.5], [3.5, 100]]]], np.float32)  # fmt: skip
  want = np.zeros((1, 3, 2, 7, 7))
  for n in range(3):
    for t in range(2):
      for i in range(7):
        for j in range(7):
          x, y = centres[0, n, t] + [j - 3 - 0.5, i - 3 - 0.5]
          for row in (int(np.floor(y)), int(np.floor(y)) + 1):
            for column in (int(np.floor(x)), int(np.floor(x)) + 1):
              if 0 <= row < 5 and 0 <= column < 6:
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                value = features[0, n, t] @ grid[0, t, row, column]
                want[0, n, t, i, j] += weight * value
  want = want.reshape(1, 3, 2, 49)
  for most in (4096, 0):
    monkeypatch.setattr(correlation, '_MAX_DENSE', most)
    got = jax.jit(
      correlation.local_correlations, compiler_options=tapir_models.FAST
    )(features, grid, centres)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
  ('size', 'want'),
  [
    ((480, 854), [(256, 256), (344, 464), (480, 848)]),
    ((512, 512), [(256, 256), (512, 512)]),
    ((240, 240), [(256, 256)]),
    ((256, 256), [(256, 256)]),
  ],
)
def test_refinement_goes_up_to_the_videos_size(size, want):
  assert list(features_lib.default_resolutions(size, (256, 256))) == want


def test_refinement_above_the_videos_size_resizes_it():
  model, params = tapir_models.make_params()
  grids = jax.eval_shape(
    lambda p, v: model.apply(
      {'params': p}, v, ((32, 40), (64, 80)), method=model.feature_grids
    ),
    params,
    jax.ShapeDtypeStruct((1, 2, 32, 40, 3), jnp.float32),
  )
  assert [grids.resolution(i) for i in range(2)] == [(32, 40), (64, 80)]
  assert grids.refinement == (0, 1)


def test_sides_that_are_no_multiples_of_8_are_refused():
  model, params = tapir_models.make_params()
  video = np.zeros((1, 1, 32, 40, 3), np.float32)
  with pytest.raises(ValueError, match=r'resolution \(30, 40\): want'):
    model.apply({'params': params}, video, ((30, 40),), method='feature_grids')


def test_state_of_a_model_that_is_not_causal_is_refused():
  model, _ = tapir_models.make_params()
  with pytest.raises(ValueError, match='use_causal_conv=False'):
    model.initial_state(3)


def test_nothing_is_float64():
  model, params = tapir_models.make_params(extra_convs=True)
  with jax.enable_x64(True):
    shapes = jax.eval_shape(
      lambda p, v, q: model.apply({'params': p}, v, q),
      params,
      jax.ShapeDtypeStruct((1, 3, 32, 40, 3), jnp.float32),
      jax.ShapeDtypeStruct((1, 2, 3), jnp.float32),
    )
  assert {str(leaf.dtype) for leaf in shapes} == {'float32'}


@pytest.mark.parametrize(
  ('model', 'message'),
  [
    ({'name': 'raft'}, "model.name must be one of .* got 'raft'"),
    ({'pyramid_levels': 1}, 'model.pyramid_levels is no field of tapir'),
  ],
)
def test_unknown_models_and_fields_are_named(model, message):
  with pytest.raises(ValueError, match=message):
    task_lib.PointTracking(model)
