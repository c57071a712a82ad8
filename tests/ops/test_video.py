import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.ops import video as video_ops


def noise(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
  'mode, low, high',
  [
    ('signed', [-1, -1, -1], [1, 1, 1]),
    ('unit', [0, 0, 0], [1, 1, 1]),
    (
      'imagenet',
      [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
      [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225],
    ),
  ],
)
def test_black_and_white_have_the_values_of_the_mode(mode, low, high):
  pixels = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
  got = video_ops.normalize(pixels, mode)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, [low, high], atol=1e-6)


@pytest.mark.parametrize('mode', video_ops.RANGES)
def test_every_pixel_value_survives_the_round_trip(mode):
  pixels = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
  values = video_ops.normalize(pixels, mode)
  np.testing.assert_array_equal(video_ops.denormalize(values, mode), pixels)


def test_denormalize_clips():
  got = video_ops.denormalize(jnp.array([-1.5, 2.0]), 'signed')
  assert got.tolist() == [0, 255]


def test_unit_floats_and_bytes_give_the_same_inputs():
  pixels = np.arange(255, dtype=np.uint8).reshape(5, 17, 3)
  floats = video_ops.normalize(pixels, 'unit')
  np.testing.assert_allclose(
    video_ops.normalize(floats, 'signed'),
    video_ops.normalize(pixels, 'signed'),
    atol=1e-6,
  )


def test_normalize_refuses_other_integers_and_unknown_modes():
  with pytest.raises(TypeError, match='int32'):
    video_ops.normalize(np.zeros((2, 3), np.int32))
  with pytest.raises(ValueError, match='zero_one'):
    video_ops.normalize(np.zeros((2, 3), np.uint8), 'zero_one')
  with pytest.raises(ValueError, match='3 channels'):
    video_ops.normalize(np.zeros((2, 4), np.uint8), 'imagenet')


def test_patch_vector_is_time_row_column_channel():
  t, h, w, c = 4, 6, 4, 3
  video = np.arange(2 * t * h * w * c).reshape(2, t, h, w, c)
  got = video_ops.patchify(video, (2, 3, 2))
  assert got.shape == (2, 2, 2, 2, 2 * 3 * 2 * c)
  for i, j, k in np.ndindex(2, 2, 2):
    block = video[1, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3, 2 * k : 2 * k + 2]
    np.testing.assert_array_equal(got[1, i, j, k], block.reshape(-1))


@pytest.mark.parametrize('lead', [(), (2,), (2, 3)])
@pytest.mark.parametrize('channels', [1, 3])
def test_unpatchify_is_the_exact_inverse(lead, channels):
  video = noise(*lead, 4, 6, 10, channels)
  patches = video_ops.patchify(video, (2, 3, 5))
  assert patches.shape == (*lead, 2, 2, 2, 30 * channels)
  np.testing.assert_array_equal(video_ops.unpatchify(patches, (2, 3, 5)), video)


def test_patch_errors_name_the_sizes():
  video = np.zeros((1, 4, 6, 10, 3))
  with pytest.raises(ValueError, match=r'\(4, 6, 10\).*\(2, 4, 5\)'):
    video_ops.patchify(video, (2, 4, 5))
  with pytest.raises(ValueError, match='three sizes'):
    video_ops.patchify(video, (2, 2))
  with pytest.raises(ValueError, match='T, H, W, C'):
    video_ops.patchify(video[0, 0], (1, 2, 2))
  with pytest.raises(ValueError, match='31 values'):
    video_ops.unpatchify(np.zeros((1, 2, 2, 2, 31)), (1, 2, 2))


def test_normalized_patches_match_a_loop():
  patches = noise(2, 3, 8 * 3)
  patches[0] = patches[0] * 5 + 2
  patches[1] *= 1e-3  # as small as the epsilon, so its place matters
  whole = np.zeros_like(patches)
  channels = np.zeros_like(patches)
  for i, j in np.ndindex(2, 3):
    x = patches[i, j].astype(np.float64)
    whole[i, j] = (x - x.mean()) / np.sqrt(x.var(ddof=1) + 1e-6)
    for c in range(3):
      y = x[c::3]
      channels[i, j, c::3] = (y - y.mean()) / (y.std(ddof=1) + 1e-6)
  np.testing.assert_allclose(
    video_ops.normalize_patches(patches, 'patch'), whole, atol=1e-5
  )
  np.testing.assert_allclose(
    video_ops.normalize_patches(patches, 'patch_channel'), channels, atol=1e-5
  )
  np.testing.assert_array_equal(
    video_ops.normalize_patches(patches, 'none'), patches
  )


@pytest.mark.parametrize('mode', ['none', 'patch', 'patch_channel'])
def test_a_flat_patch_is_a_finite_target_without_gradient(mode):
  def total(x):
    return jnp.sum(video_ops.normalize_patches(x, mode))

  value, grad = jax.value_and_grad(total)(jnp.zeros((1, 12)))
  assert value == 0
  np.testing.assert_array_equal(grad, 0)


def test_normalize_patches_refuses_partial_pixels_and_unknown_modes():
  with pytest.raises(ValueError, match='13 values'):
    video_ops.normalize_patches(np.zeros((1, 13)), 'patch_channel')
  with pytest.raises(ValueError, match='layer'):
    video_ops.normalize_patches(np.zeros((1, 12)), 'layer')


def test_bilinear_without_antialias_uses_half_pixel_centres():
  row = np.array([0.0, 1.0, 4.0, 9.0], np.float32).reshape(1, 4, 1)
  got = video_ops.resize(row, size=(1, 2), method='bilinear', antialias=False)
  # Sources (o + 0.5) * 2 - 0.5 = 0.5 and 2.5.
  np.testing.assert_allclose(got.ravel(), [0.5, 6.5], atol=1e-6)


def test_antialias_averages_when_shrinking():
  board = (np.indices((8, 8)).sum(0) % 2).astype(np.float32)[..., None]
  smooth = video_ops.resize(
    board, size=(2, 2), method='bilinear', antialias=True
  )
  np.testing.assert_allclose(smooth, 0.5, atol=0.02)


def test_resize_keeps_leading_axes_and_says_its_dtype():
  video = (np.arange(2 * 3 * 4 * 6 * 3) % 256).astype(np.uint8)
  video = video.reshape(2, 3, 4, 6, 3)
  near = video_ops.resize(video, size=(2, 3), method='nearest', antialias=False)
  np.testing.assert_array_equal(near, video[..., 1::2, 1::2, :])
  assert near.dtype == jnp.uint8
  linear = video_ops.resize(
    video, size=(2, 3), method='bilinear', antialias=False
  )
  assert linear.dtype == jnp.float32 and linear.shape == (2, 3, 2, 3, 3)
  half = video_ops.resize(
    jnp.zeros((4, 6, 1), jnp.bfloat16),
    size=(8, 8),
    method='bicubic',
    antialias=True,
  )
  assert half.dtype == jnp.bfloat16


def test_resize_refuses_bad_sizes():
  with pytest.raises(ValueError, match='height, width'):
    video_ops.resize(
      np.zeros((4, 4, 3)), size=(4,), method='nearest', antialias=False
    )
  with pytest.raises(ValueError, match='H, W, C'):
    video_ops.resize(
      np.zeros((4, 4)), size=(4, 4), method='nearest', antialias=False
    )


def test_time_moves_into_the_batch_and_back():
  video = noise(2, 5, 3, 4, 1)
  frames = video_ops.merge_time(video)
  np.testing.assert_array_equal(frames[7], video[1, 2])
  np.testing.assert_array_equal(video_ops.split_time(frames, 5), video)
  with pytest.raises(ValueError, match='10 frames'):
    video_ops.split_time(frames, 3)


def test_take_frames_picks_per_clip_or_shared():
  video = noise(2, 5, 3)
  ids = np.array([[4, 0, 0], [1, 2, 3]])
  got = video_ops.take_frames(video, ids)
  for b, k in np.ndindex(2, 3):
    np.testing.assert_array_equal(got[b, k], video[b, ids[b, k]])
  np.testing.assert_array_equal(
    video_ops.take_frames(video, [3, 1]), video[:, [3, 1]]
  )
  with pytest.raises(ValueError, match=r'\[2, K\]'):
    video_ops.take_frames(video, np.zeros((3, 1), int))


def test_frame_ids_of_the_two_mae_code_bases():
  strided = video_ops.strided_frame_ids(16, 2)
  assert strided.tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
  assert video_ops.strided_frame_ids(7, 3, offset=1).tolist() == [1, 4]
  spread = video_ops.spread_frame_ids(16, 8)
  assert spread.tolist() == [0, 2, 4, 6, 8, 10, 12, 15]
