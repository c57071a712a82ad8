"""RVM's training: which frames, which masks, which loss, which controls."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.rvm import data as data_lib
from projects.rvm import streaming
from tests.parity import quick
from tests.projects import rvm_small as small
from vidscenic.data import containers
from vidscenic.ops import masking

SOURCES = small.NUM_SOURCES


@functools.cache
def program(**options):
  """fn(params, batch, carry) -> (loss, figures, clips), compiled once.

  Figures hold also masked_loss, that of masked patches alone, and clips the
  carry.
  """
  task = small.make_task(**options)
  masked = small.make_task(loss='masked', **options)

  @quick.jit
  def run(params, batch, carry):
    context = small.context(len(batch['mask']))
    out = task.loss(params, {}, batch, context)
    total, weight, scale = out.terms['mse']
    masked_loss = masked.loss(params, {}, batch, context).terms['mse'][:2]
    clips, carry = task.predict(params, {}, batch, context, carry)
    return (
      scale * total / weight,
      out.metrics | {'masked_loss': masked_loss},
      clips | {'carry': carry},
    )

  first = streaming.init_state(task.model, batch=3, size=small.SIZE)
  return lambda params, batch, carry=first: run(params, batch, carry)


@functools.cache
def plain():
  return jax.device_get(program()(small.make_params(), small.make_batch()))


def hidden_pixels(clips):
  """Pixels of noise are hardly ever grey in all three channels."""
  return (clips['visible'] == 0.5).all(axis=-1, keepdims=True)


def mean(figures, name):
  total, count = figures[name]
  return total / count


def test_loss_is_the_error_of_all_pixels():
  loss, _, clips = plain()
  error = clips['reconstructed'] - clips['truth']
  np.testing.assert_allclose(loss, np.mean(error**2), rtol=1e-5)


def test_loss_of_masked_patches_alone():
  _, figures, clips = plain()
  error = (clips['reconstructed'] - clips['truth']) ** 2
  hidden = np.broadcast_to(hidden_pixels(clips), error.shape)
  for name in ('masked_loss', 'mse_hidden'):
    want = error[hidden].mean()
    np.testing.assert_allclose(mean(figures, name), want, rtol=1e-5)


def test_controls_put_source_frames_in_place_of_targets():
  _, figures, clips = plain()
  video = small.make_batch()['video'] / 255
  sources, targets = np.split(video, [SOURCES], axis=1)
  np.testing.assert_allclose(clips['truth'], targets, atol=1e-6)
  for name, guess in (
    ('mse_copy_last', sources[:, -1:]),
    ('mse_mean_sources', sources.mean(1, keepdims=True)),
  ):
    want = np.mean((guess - targets) ** 2)
    np.testing.assert_allclose(mean(figures, name), want, rtol=1e-5)


def test_other_sources_are_those_of_the_next_clip():
  batch = small.make_batch()
  video = batch['video'].copy()
  video[:, :SOURCES] = np.roll(video[:, :SOURCES], 1, axis=0)
  loss, _, _ = program()(small.make_params(), batch | {'video': video})
  np.testing.assert_allclose(
    mean(plain()[1], 'mse_other_sources'), loss, rtol=1e-5
  )
  assert loss != plain()[0]


def test_every_target_of_every_clip_has_a_mask_of_its_own():
  hidden = hidden_pixels(plain()[2])
  patches = hidden[:, :, ::4, ::8, 0].reshape(-1, 12)
  assert len(np.unique(patches, axis=0)) == len(patches)
  np.testing.assert_array_equal(patches.sum(1), [9] * len(patches))


def test_a_row_has_the_same_masks_in_any_batch():
  keys = masking.row_keys(jax.random.key(1), jnp.array([2]))
  mask = masking.random_mask(
    masking.split_keys(keys, small.NUM_TARGETS), num_tokens=12, num_keep=3
  )
  got = hidden_pixels(plain()[2])[2, :, ::4, ::8, 0]
  np.testing.assert_array_equal(got.reshape(-1, 12), mask.hidden[0])


def test_hidden_pixels_do_not_reach_the_reconstruction():
  batch = small.make_batch()
  targets = batch['video'][:, SOURCES:]
  changed = np.where(hidden_pixels(plain()[2]), 255 - targets, targets)
  video = np.concatenate([batch['video'][:, :SOURCES], changed], axis=1)
  _, _, clips = program()(small.make_params(), batch | {'video': video})
  assert np.any(clips['truth'] != plain()[2]['truth'])
  np.testing.assert_array_equal(
    clips['reconstructed'], plain()[2]['reconstructed']
  )


def test_padded_rows_count_nothing():
  batch = small.make_batch()
  batch['mask'][-1] = False
  first = program()(small.make_params(), batch)
  batch['video'][-1] = 0
  second = program()(small.make_params(), batch)
  assert first[0] == second[0] != plain()[0]
  for name, (total, count) in first[1].items():
    assert second[1][name] == (total, count)
    assert 0 < count < plain()[1][name][1]


def test_deltas_count_from_the_chosen_frame():
  ids = small.make_batch()['frame_ids']
  later = ids + np.array([0, 0, 0, 2, 2])  # targets two steps later
  want = plain()[2]['reconstructed']
  for origin, frame_ids, same in (
    ('last', later, True),
    ('first', later, False),
    ('last', ids, False),
  ):
    options = {} if origin == 'first' else {'delta_origin': origin}
    batch = small.make_batch() | {'frame_ids': frame_ids}
    _, _, clips = program(**options)(small.make_params(), batch)
    assert np.allclose(clips['reconstructed'], want, atol=1e-5) == same


def test_a_state_can_be_carried_on():
  first = plain()[2]
  _, _, again = program()(
    small.make_params(), small.make_batch(), first['carry']
  )
  video = small.make_batch()['video'][:, :SOURCES]
  model = small.make_task().model
  twice, _ = streaming.encode_video(
    model, small.make_params(), np.concatenate([video, video], axis=1)
  )
  for clips, part in ((first, twice[:, :SOURCES]), (again, twice[:, SOURCES:])):
    want = streaming.feature_map(model, part, small.SIZE)
    np.testing.assert_allclose(clips['features'], want, atol=2e-5)


def test_features_need_no_decoder():
  task = small.make_task(model={'decoder': False})
  batch = small.make_batch()
  params = small.make_params(decoder=False)
  assert set(params) == {'encoder', 'core'}
  clips, _ = jax.eval_shape(
    lambda: task.predict(params, {}, batch, small.context())
  )
  assert {k: v.shape for k, v in clips.items()} == {
    'features': (3, SOURCES, 3, 4, 12)
  }
  with pytest.raises(ValueError, match='decoder=False: nothing to train'):
    task.loss(params, {}, batch, small.context())


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'mask_ratio': 0.95}, 'mask_ratio=0.95 leaves 0 of 12'),
    ({'mask_ratio': 0.0}, 'mask_ratio=0.0 leaves 12 of 12'),
    ({'loss': 'both'}, "task.kwargs.loss='both'"),
    ({'delta_origin': 'now'}, "task.kwargs.delta_origin='now'"),
    ({'size': (12, 30)}, 'must be multiples of the patch'),
    ({'model': {'widht': 12}}, "widht is unknown; did you mean 'width'"),
  ],
)
def test_unusable_arguments_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    small.make_task(**options)


@pytest.mark.parametrize('last', [64, -1])
def test_a_delta_without_a_code_is_refused(last):
  batch = small.make_batch()
  small.make_task().check_batch(batch)
  batch['frame_ids'][1, -1] = last
  with pytest.raises(ValueError, match=rf'delta {last}, .*\[0, 64\).*gaps'):
    small.make_task().check_batch(batch)


def test_sources_that_are_not_in_a_row_are_refused():
  batch = small.make_batch()
  batch['frame_ids'][2, 2] = 5
  small.make_task().check_batch(batch | {'mask': np.arange(3) < 2})  # padding
  with pytest.raises(ValueError, match=r'\[0, 1, 5\], want .*num_sources=3'):
    small.make_task().check_batch(batch)


# Which frames.


def make_record(length=20):
  """A video whose frames are as bright as their numbers say."""
  video = np.zeros((length, 8, 8, 3), np.uint8)
  video += np.arange(length, dtype=np.uint8)[:, None, None, None]
  return {'video': video, 'path': 'clip.mp4', 'fps': 30.0}


def draw(count=300, record=None, **options):
  """frame_ids and brightness of examples."""
  options = (
    dict(num_sources=4, num_targets=2, gaps=(2, 5), size=(8, 8), crop='none')
    | options
  )
  transform = data_lib.SourcesAndTargets(**options)
  ids, numbers = [], []
  for seed in range(count):
    rng = np.random.default_rng(seed)
    clip = transform.augment(
      transform.sample(record or make_record(), rng), rng
    )
    ids.append(clip['frame_ids'])
    numbers.append(clip['video'][:, 0, 0, 0].astype(int))
  return np.stack(ids), np.stack(numbers)


def test_targets_lie_at_random_gaps_behind_sources_in_a_row():
  ids, numbers = draw()
  np.testing.assert_array_equal(numbers - numbers[:, :1], ids)
  np.testing.assert_array_equal(ids[:, :4], np.tile(np.arange(4), (300, 1)))
  gaps, counts = np.unique(ids[:, 4:] - 3, return_counts=True)
  np.testing.assert_array_equal(gaps, [2, 3, 4, 5])
  assert counts.min() > 120  # of 150
  assert len(np.unique(ids[:, 4:] @ [10, 1])) == 16  # each by itself
  # 9 frames of 20: twelve places, whatever the gaps.
  assert set(numbers[:, 0]) == set(range(12))


def test_gaps_count_in_steps():
  ids, numbers = draw(20, stride=2, num_sources=2, gaps=(3, 6))
  np.testing.assert_array_equal(numbers - numbers[:, :1], 2 * ids)
  ids, numbers = draw(20, fps=10.0, num_sources=2, gaps=(1, 3))
  np.testing.assert_array_equal(numbers - numbers[:, :1], 3 * ids)


def test_a_video_that_is_too_short_is_named():
  assert draw(1, make_record(9))
  with pytest.raises(
    containers.VideoError,
    match=r'clip.mp4.*8 frames.*gaps=\(2, 5\) need 9.*transform_kwargs.gaps',
  ):
    draw(1, make_record(8))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'gaps': (0, 4)}, r'gaps=\(0, 4\)'),
    ({'gaps': (5, 4)}, r'gaps=\(5, 4\)'),
    ({'num_targets': 0}, 'num_targets=0'),
    ({'num_views': 2}, 'transform_kwargs.num_views'),
    ({'crop': 'middle'}, 'crop'),
  ],
)
def test_unusable_draws_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    draw(1, **options)
