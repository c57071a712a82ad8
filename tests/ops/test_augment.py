import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.ops import augment, masking

# One compilation per shape instead of one per operation.
cutmix_boxes = jax.jit(augment.cutmix_boxes, static_argnames='size')
row_keys = jax.jit(masking.row_keys)
rgb_to_hsv = jax.jit(augment.rgb_to_hsv)
hsv_to_rgb = jax.jit(augment.hsv_to_rgb)
adjust_brightness = jax.jit(augment.adjust_brightness)
adjust_saturation = jax.jit(augment.adjust_saturation)
adjust_contrast = jax.jit(augment.adjust_contrast)
adjust_hue = jax.jit(augment.adjust_hue)
to_gray = jax.jit(augment.to_gray)
gaussian_noise = jax.jit(augment.gaussian_noise)


def clip(*shape, seed=0):
  return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def keys_for(rows, seed=0):
  return row_keys(jax.random.key(seed), jnp.asarray(rows))


def colors():
  """Random colours and all corner cases: greys, ties, black, white."""
  steps = np.array([0.0, 0.25, 0.5, 1.0])
  lattice = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
  return np.concatenate([lattice, clip(200, 3)]).astype(np.float32)


def each(function, values):
  return np.array([function(*map(float, v)) for v in values])


def test_hsv_agrees_with_colorsys_both_ways():
  rgb = colors()
  hsv = np.asarray(rgb_to_hsv(rgb))
  want = each(colorsys.rgb_to_hsv, rgb)
  # Hue is a circle: 0 and 1 are the same.
  gap = np.abs(hsv[:, 0] - want[:, 0])
  np.testing.assert_allclose(np.minimum(gap, 1 - gap), 0, atol=1e-5)
  np.testing.assert_allclose(hsv[:, 1:], want[:, 1:], atol=1e-6)
  back = np.asarray(hsv_to_rgb(hsv))
  np.testing.assert_allclose(back, rgb, atol=1e-5)
  random = clip(200, 3, seed=1)
  np.testing.assert_allclose(
    hsv_to_rgb(random), each(colorsys.hsv_to_rgb, random), atol=1e-5
  )


def test_hsv_has_finite_gradients_at_greys():
  grays = jnp.array([[0.0] * 3, [0.5] * 3, [1.0] * 3, [-0.2] * 3])
  grad = jax.grad(lambda x: jnp.sum(hsv_to_rgb(rgb_to_hsv(x))))(grays)
  assert np.isfinite(grad).all()


def test_parameters_that_change_nothing():
  video = clip(2, 3, 4, 5, 3)
  for function, neutral in (
    (adjust_brightness, 0.0),
    (adjust_saturation, 1.0),
    (adjust_contrast, 1.0),
    (adjust_hue, 0.0),
    (adjust_hue, 1.0),
  ):
    np.testing.assert_allclose(function(video, neutral), video, atol=1e-5)


def test_brightness_and_contrast_by_hand_per_row_and_frame():
  video = clip(2, 3, 4, 5, 3)
  got = adjust_brightness(video, np.array([0.25, -0.5]))
  np.testing.assert_allclose(got[0], video[0] + 0.25, atol=1e-6)
  np.testing.assert_allclose(got[1], video[1] - 0.5, atol=1e-6)
  factor = np.array([0.5, 2.0])
  got = adjust_contrast(video, factor)
  for b, t in np.ndindex(2, 3):
    frame = video[b, t].astype(np.float64)
    mean = frame.reshape(-1, 3).mean(0)
    want = mean + factor[b] * (frame - mean)
    np.testing.assert_allclose(got[b, t], want, atol=1e-5)
  with pytest.raises(ValueError, match=r'shape \(3,\)'):
    adjust_brightness(video, np.zeros(3))


def test_saturation_and_hue_agree_with_colorsys():
  rgb = colors()
  video = rgb.reshape(1, 1, -1, 1, 3)

  def saturate(r, g, b):
    h, s, v = colorsys.rgb_to_hsv(r, g, b)
    return colorsys.hsv_to_rgb(h, min(1, s * 1.3), v)

  def turn(r, g, b):
    h, s, v = colorsys.rgb_to_hsv(r, g, b)
    return colorsys.hsv_to_rgb((h - 0.2) % 1, s, v)

  got = adjust_saturation(video, 1.3).reshape(-1, 3)
  np.testing.assert_allclose(got, each(saturate, rgb), atol=1e-5)
  got = adjust_hue(video, np.array([-0.2])).reshape(-1, 3)
  np.testing.assert_allclose(got, each(turn, rgb), atol=1e-5)


def test_extremes_of_saturation_and_grey():
  video = clip(1, 2, 3, 4, 3)
  flat = np.asarray(adjust_saturation(video, 0.0))
  np.testing.assert_allclose(
    flat, video.max(-1, keepdims=True).repeat(3, -1), atol=1e-6
  )
  gray = np.asarray(to_gray(video))
  np.testing.assert_allclose(
    gray[..., 1], video @ [0.2989, 0.5870, 0.1140], atol=1e-6
  )
  np.testing.assert_array_equal(gray[..., 0], gray[..., 2])


@jax.jit
def _color_augment(keys, video, kwargs):
  return augment.color_augment(keys, video, **kwargs)


def color_augment(rows, video, **changed):
  """With every argument traced, so that all tests share one compilation."""
  kwargs = dict(
    probability=0.8,
    brightness=32 / 255,
    saturation=(0.6, 1.4),
    contrast=(0.6, 1.4),
    hue=0.2,
    gray_probability=0.0,
  )
  out = _color_augment(keys_for(rows), video, kwargs | changed)
  return np.asarray(out)


def test_color_augment_is_the_four_steps_in_order():
  video = clip(2, 3, 4, 5, 3)
  fixed = dict(saturation=(1.4, 1.4), contrast=(0.6, 0.6), hue=0.0)
  got = color_augment([0, 1], video, probability=1.0, brightness=0.0, **fixed)
  want = adjust_contrast(adjust_saturation(video, 1.4), 0.6)
  np.testing.assert_allclose(got, np.clip(want, 0, 1), atol=1e-5)
  # Shifts of up to 1, clipped at once, would leave nothing but black and white.
  got = color_augment([0, 1], video, probability=1.0, brightness=1.0, hue=0.1)
  assert got.std() > 0.05


def test_color_augment_is_consistent_within_a_clip():
  video = clip(2, 1, 4, 5, 3).repeat(3, axis=1)
  got = color_augment([0, 1], video, probability=1.0, gray_probability=0.5)
  np.testing.assert_allclose(got, got[:, :1].repeat(3, axis=1), atol=1e-6)
  shift = (got - video).mean((1, 2, 3, 4))
  assert abs(shift[0] - shift[1]) > 1e-4


def test_color_augment_of_a_row_depends_on_its_key_only():
  video = clip(2, 3, 4, 5, 3)
  first = color_augment([10, 11], video)
  swapped = color_augment([11, 10], video[::-1])
  np.testing.assert_allclose(first, swapped[::-1], atol=1e-6)
  neighbour = color_augment([10, 12], video)
  np.testing.assert_allclose(first[0], neighbour[0], atol=1e-6)


def test_color_augment_can_be_switched_off():
  video = clip(2, 3, 4, 5, 3)
  got = color_augment([0, 1], video, probability=0.0)
  np.testing.assert_array_equal(got, video)


def test_color_probabilities_and_ranges():
  video = clip(1, 1, 2, 2, 3).repeat(600, axis=0)
  got = color_augment(range(600), video, gray_probability=0.2)
  assert got.min() >= 0 and got.max() <= 1
  gray = (got == got[..., :1]).all((1, 2, 3, 4))
  same = (got == video).all((1, 2, 3, 4))
  # Five standard deviations of a rate over 600 rows.
  assert abs(gray.mean() - 0.2) < 5 * np.sqrt(0.16 / 600)
  assert abs(same.mean() - 0.2 * 0.8) < 5 * np.sqrt(0.134 / 600)


def test_augmentation_refuses_bytes_and_missing_keys():
  with pytest.raises(TypeError, match='uint8'):
    color_augment([0], np.zeros((1, 2, 2, 2, 3), np.uint8))
  with pytest.raises(ValueError, match='2 keys for 1 rows'):
    gaussian_noise(keys_for([0, 1]), clip(1, 2, 2, 2, 3), std=0.1)


def test_noise_has_the_asked_deviation_and_is_new_in_every_frame():
  video = np.full((2, 3, 16, 20, 3), 0.5, np.float32)
  got = np.asarray(
    gaussian_noise(keys_for([0, 1]), video, std=np.array([0.1, 0.02]))
  )
  np.testing.assert_allclose(
    (got - 0.5).std((1, 2, 3, 4)), [0.1, 0.02], rtol=0.06
  )
  a, b = got[0, 0].ravel() - 0.5, got[0, 1].ravel() - 0.5
  assert abs(np.corrcoef(a, b)[0, 1]) < 0.1
  alone = gaussian_noise(keys_for([1]), video[1:], std=0.02)
  np.testing.assert_allclose(alone[0], got[1], atol=1e-6)
  white = gaussian_noise(keys_for([0]), video[:1] * 2, std=0.5)
  assert float(white.max()) <= 1


def test_boxes_reach_every_pixel_and_their_area_is_that_of_the_paper():
  boxes, area = jax.jit(lambda keys: augment.cutmix_boxes(keys, size=(32, 32)))(
    keys_for(range(2000))
  )
  boxes = np.asarray(boxes)
  np.testing.assert_allclose(area, boxes.mean((1, 2)), atol=1e-6)
  assert boxes.any(0).all() and not boxes.all((1, 2)).any()
  # Side s = sqrt(1 - u) with density 2 s. A span of side s around a uniform
  # centre covers on average s - s^2 / 4 of a line, so the mean area is the
  # integral of 2 s (s - s^2 / 4)^2 = 1/2 - 1/5 + 1/48. Rounding the side down
  # to even takes about 1 of 32 pixels per axis off.
  assert abs(area.mean() - (1 / 2 - 1 / 5 + 1 / 48)) < 0.04


def test_boxes_are_single_rectangles():
  boxes, _ = cutmix_boxes(keys_for(range(50)), size=(9, 12))
  for box in np.asarray(boxes):
    np.testing.assert_array_equal(box, box.any(1)[:, None] & box.any(0))
    for line in (box.any(1), box.any(0)):  # without gaps
      assert (np.diff(line.astype(int)) == 1).sum() <= 1


def test_ratios_have_the_moments_of_the_beta_distribution():
  ratio = augment.beta_ratios(keys_for(range(2000)), alpha=0.4)
  assert ratio.min() >= 0 and ratio.max() <= 1
  assert abs(ratio.mean() - 1 / 2) < 5 * np.sqrt(0.139 / 2000)
  assert abs(ratio.var() - 1 / (4 * (2 * 0.4 + 1))) < 0.015


def test_bad_alphas_are_refused():
  with pytest.raises(ValueError, match='alpha'):
    augment.beta_ratios(keys_for(range(2)), alpha=0.0)
