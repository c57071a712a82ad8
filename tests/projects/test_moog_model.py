"""MooG's recurrence: chunks, token counts, initial states, what is decoded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.moog import model as model_lib
from projects.moog import task as task_lib
from tests.projects import moog_small as small
from vidscenic.ops import masking
from vidscenic.train import inspect

VIDEO = small.make_video().astype(np.float32) / 255
VARIANTS = tuple(model_lib.VARIANTS)


@functools.cache
def program(variant, use_loss_gradient=False, **fields):
  model = small.make_model(
    variant, use_loss_gradient=use_loss_gradient, **fields
  )

  def run(video, state=None, **kwargs):
    params = small.model_params(variant, use_loss_gradient)
    return model.apply({'params': params}, video, state, factor=4, **kwargs)

  return small.compiled(run)


@functools.cache
def whole(variant, use_loss_gradient=False):
  return jax.device_get(program(variant, use_loss_gradient)(VIDEO))


def assert_close(a, b, atol=2e-5):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, atol=atol, rtol=1e-5)


@pytest.mark.parametrize('variant', VARIANTS)
def test_chunks_of_any_length_equal_the_whole(variant):
  run, state, parts = program(variant), None, []
  for start, stop in ((0, 2), (2, 5)):
    out = run(VIDEO[:, start:stop], state)
    state = out.state
    parts.append(out._replace(state=None))
  joined = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)
  assert_close(joined, whole(variant)._replace(state=None))
  assert_close(state, whole(variant).state)


@pytest.mark.parametrize('use_loss_gradient', [False, True])
def test_scan_equals_the_loop_over_steps(use_loss_gradient):
  loop = program('config', use_loss_gradient, scan=False)(VIDEO)
  assert_close(loop, whole('config', use_loss_gradient))


def test_loss_gradient_shows_the_corrector_how_the_prediction_was_wrong():
  run = program('config', True)
  first = run(VIDEO)
  other = VIDEO.copy()
  # A pixel of the lattice of the first frame.
  other[:, 0, 2, 2] = 1 - other[:, 0, 2, 2]
  tokens_alone = program('config')(other), program('config')(VIDEO)
  assert np.any(run(other).corrected[:, 0] != first.corrected[:, 0])
  np.testing.assert_array_equal(
    run(other).predicted[:, 0], first.predicted[:, 0]
  )
  assert np.any(tokens_alone[0].corrected[:, 0] != first.corrected[:, 0])


def test_features_are_the_states_of_the_variant():
  out = whole('checkpoint')
  np.testing.assert_array_equal(out.features, out.corrected)
  np.testing.assert_array_equal(out.entered[:, 1:], out.corrected[:, :-1])
  out = whole('config')
  np.testing.assert_array_equal(
    out.features, np.concatenate([out.predicted, out.corrected], axis=2)
  )


def test_any_number_of_tokens_fits_the_weights():
  out = program('checkpoint', num_tokens=9)(VIDEO)
  assert out.features.shape == (3, 5, 9, 16)
  assert np.isfinite(out.features).all()


def test_tokens_are_a_set():
  """Nothing but the initial noise tells tokens apart."""
  noise = 1e-4 * np.random.default_rng(0).standard_normal((3, 5, 16))
  order = [3, 1, 4, 0, 2]
  run = program('checkpoint')
  first = run(VIDEO, initial=noise.astype(np.float32))
  second = run(VIDEO, initial=noise[:, order].astype(np.float32))
  assert_close(first.features[:, :, order], second.features, atol=1e-4)


def test_random_states_belong_to_the_row_and_not_to_the_batch():
  keys = masking.row_keys(jax.random.key(3), jnp.arange(3))
  run = program('config')
  three = run(VIDEO, keys=keys)
  one = run(VIDEO[1:2], keys=keys[1:2])
  assert_close(three.features[1:2], one.features)
  other = run(VIDEO, keys=masking.row_keys(jax.random.key(4), jnp.arange(3)))
  assert np.abs(other.features - three.features).max() > 1e-3


def test_supplied_states_are_not_normalized_again():
  """Drawn ones are, if steps end with the norm."""
  noise = np.full((3, 5, 16), 1e-4, np.float32)
  noise[..., ::2] *= -1
  drawn = program('config')(VIDEO, initial=noise)
  scale = small.model_params('config')['step']['state_norm']['scale']
  # Variance 1e-8 is far below the epsilon of 1e-4: a factor of 100, not 1e4.
  want = noise / np.sqrt(1e-8 + 1e-4) * scale
  np.testing.assert_allclose(drawn.entered[:, 0], want, rtol=1e-5)
  going_on = program('config')(VIDEO, noise)
  np.testing.assert_array_equal(going_on.entered[:, 0], noise)


@pytest.mark.parametrize('kind', ['learned', 'encoder'])
def test_other_initial_states_are_trained(kind):
  model = small.make_model(initial_state=kind, remat=False)
  shapes = jax.eval_shape(model.init, jax.random.key(0), VIDEO)['params']
  params = small.fill(shapes)

  def size(params):
    out = model.apply({'params': params}, VIDEO[:, :1])
    return jnp.sum(out.corrected**3)

  grads = small.compiled(jax.grad(size))(params)
  name = {'learned': 'initial_state', 'encoder': 'initial_projection'}[kind]
  assert max(np.abs(g).max() for g in jax.tree.leaves(grads[name])) > 0


def test_gradients_stop_where_they_are_told_to():
  def slope(prob):
    model = small.make_model(stop_gradient_prob=prob, remat=False)
    params = small.model_params('config')

    def last(video):
      out = model.apply({'params': params}, video)
      return jnp.sum(out.corrected[:, -1] ** 3)

    return small.compiled(jax.grad(last))(VIDEO[:, :3])

  always = slope(1.0)
  np.testing.assert_array_equal(always[:, :-1], 0)
  assert np.abs(always[:, -1]).max() > 0


def test_a_subset_of_pixels_is_that_of_the_full_decode():
  model, params = small.make_model(), small.model_params('config')
  tokens = whole('config').predicted

  @small.compiled
  def decode(rows, columns):
    return model.apply(
      {'params': params},
      tokens,
      rows,
      columns,
      size=(16, 24),
      method='decode',
    )

  every = decode(jnp.arange(16), jnp.arange(24))
  rows, columns = np.array([3, 9, 0]), np.array([23, 1])
  np.testing.assert_allclose(
    decode(rows, columns), every[:, :, rows][:, :, :, columns], atol=1e-5
  )


def test_program_does_not_grow_with_the_number_of_frames():
  model = small.make_model()

  def size(frames):
    video = jnp.zeros((1, frames, 16, 24, 3))
    run = lambda p: jnp.sum(model.apply({'params': p}, video).state)  # noqa: E731
    text = jax.jit(jax.grad(run)).lower(small.model_params('config')).as_text()
    return len(text.splitlines())

  assert size(3) == size(12)


def test_flops_of_training_are_those_of_the_published_model():
  """At most 209e9 per frame in a clip of 8, where no step follows the last."""

  def flops(frames):
    clip = (frames, 128, 128)
    batch = {
      'video': jax.ShapeDtypeStruct((1, *clip, 3), jnp.uint8),
      'mask': jax.ShapeDtypeStruct((1,), bool),
    }
    task = task_lib.NextFrame(clip=clip, model={'remat': False, 'scan': False})

    def loss(params, batch):
      out = task.loss(params, {}, batch, small.context(1, train=True))
      return out.terms['next_frame'][0]

    traced = jax.jit(jax.grad(loss)).trace(params, batch)
    return sum(inspect.matmul_flops(traced).values())

  task = task_lib.NextFrame(clip=(1, 128, 128))
  batch = {'video': jnp.zeros((1, 1, 128, 128, 3), jnp.uint8)}
  params, _ = jax.eval_shape(task.init, jax.random.key(0), batch)
  two, three = flops(2), flops(3)
  assert 150e9 < (three + 5 * (three - two)) / 8 <= 209e9


@pytest.mark.parametrize(
  ('fields', 'video', 'message'),
  [
    ({}, (1, 2, 18, 24, 3), 'multiples of 4'),
    ({}, (1, 2, 16, 24), r'\[B, T, H, W, 3\]'),
    ({'features': 'all'}, (1, 2, 16, 24, 3), "features='all': want one of"),
    (
      {'initial_state': 'encoder', 'num_tokens': 99},
      (1, 2, 16, 24, 3),
      'has only 24 tokens',
    ),
  ],
)
def test_wrong_input_is_refused(fields, video, message):
  model = small.make_model(**fields)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(video))


def test_unknown_variant_is_refused():
  with pytest.raises(ValueError, match="variant='A': want one of"):
    model_lib.variant('A')
