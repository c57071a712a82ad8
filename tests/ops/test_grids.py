import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidscenic.ops import grids
from vidscenic.ops import video as video_ops

bilinear = jax.jit(grids.bilinear, static_argnames='mode')
trilinear = jax.jit(grids.trilinear, static_argnames='mode')


def noise(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def slow_linear(values, index, mode):
  """One point, float64, corner by corner; index in array coordinates."""
  sizes = values.shape[:-1]
  if mode == 'clamp':
    index = [min(max(i, 0), n - 1) for i, n in zip(index, sizes, strict=True)]
  base = [int(np.floor(i)) for i in index]
  out = np.zeros(values.shape[-1])
  for corner in np.ndindex(*(2,) * len(sizes)):
    place = [b + c for b, c in zip(base, corner, strict=True)]
    if any(p < 0 or p >= n for p, n in zip(place, sizes, strict=True)):
      continue
    weight = 1.0
    for i, p in zip(index, place, strict=True):
      weight *= 1 - abs(i - p)
    out += weight * values[tuple(place)]
  return out


def test_conversions_have_hand_computed_values():
  size = (240, 320)
  corner_xy = np.array([320.0, 240.0])
  pixels_to_unit, unit_to_pixels = grids.pixels_to_unit, grids.unit_to_pixels
  assert pixels_to_unit(corner_xy, size=size, order='xy').tolist() == [1, 1]
  query = np.array([7.0, 60.0, 240.0])
  unit = pixels_to_unit(query, size=size, order='tyx')
  assert unit.tolist() == [7, 0.25, 0.75]
  back = unit_to_pixels(unit, size=size, order='tyx')
  assert back.tolist() == query.tolist()
  assert grids.unit_to_signed(np.array([0, 0.25, 1])).tolist() == [-1, -0.5, 1]
  assert grids.signed_to_unit(np.array([-1, -0.5, 1])).tolist() == [0, 0.25, 1]
  assert grids.swap_xy(np.array([[1, 2]])).tolist() == [[2, 1]]


@pytest.mark.parametrize('order', grids.ORDERS)
def test_scaling_there_and_back_is_the_identity_and_spares_time(order):
  points = np.abs(noise(5, len(order))) * 50
  there = grids.scale_points(
    points, source=(256, 128), target=(32, 64), order=order
  )
  factor = {'x': 0.5, 'y': 0.125, 't': 1}
  want = points * [factor[axis] for axis in order]
  np.testing.assert_allclose(there, want, rtol=1e-6)
  back = grids.scale_points(
    there, source=(32, 64), target=(256, 128), order=order
  )
  np.testing.assert_allclose(back, points, rtol=1e-6)


def test_scaling_commutes_with_normalisation():
  points = np.abs(noise(6, 2))
  large = grids.scale_points(points, source=(5, 7), target=(11, 3), order='xy')
  np.testing.assert_allclose(
    grids.pixels_to_unit(large, size=(11, 3), order='xy'),
    grids.pixels_to_unit(points, size=(5, 7), order='xy'),
    rtol=1e-6,
  )


def test_wrong_orders_are_refused():
  with pytest.raises(ValueError, match='last axis of 3'):
    grids.pixels_to_unit(np.zeros((4, 2)), size=(2, 2), order='tyx')
  with pytest.raises(ValueError, match="'ij'"):
    grids.unit_to_pixels(np.zeros((4, 2)), size=(2, 2), order='ij')
  with pytest.raises(ValueError, match=r'\(4, 3\)'):
    grids.swap_xy(np.zeros((4, 3)))
  with pytest.raises(ValueError, match='pixel_centers'):
    grids.pixel_centers((2, 3), order='tyx')


def test_pixel_centers_are_at_one_half():
  xy = grids.pixel_centers((3, 5), order='xy')
  assert xy.shape == (3, 5, 2) and xy[2, 4].tolist() == [4.5, 2.5]
  yx = grids.pixel_centers((3, 5), order='yx')
  np.testing.assert_array_equal(yx, grids.swap_xy(xy))
  tyx = grids.pixel_centers((2, 3, 5), order='tyx')
  assert tyx.shape == (2, 3, 5, 3) and tyx[1, 2, 4].tolist() == [1, 2.5, 4.5]


@pytest.mark.parametrize('mode', grids.MODES)
def test_bilinear_matches_a_loop_inside_and_outside(mode):
  image = noise(4, 6, 3)
  points = np.random.default_rng(1).uniform(-3, 9, (60, 2))
  corners = [[0, 0], [6, 4], [0.5, 0.5], [5.5, 3.5], [-0.5, 2], [6.5, 4.5]]
  points = np.concatenate([points, corners]).astype(np.float32)
  got = bilinear(image, points, mode=mode)
  want = [slow_linear(image, (y - 0.5, x - 0.5), mode) for x, y in points]
  np.testing.assert_allclose(got, want, atol=1e-5)  # float32, values up to 3


@pytest.mark.parametrize('mode', grids.MODES)
def test_trilinear_matches_a_loop_and_does_not_shift_time(mode):
  video = noise(3, 4, 5, 2)
  points = np.random.default_rng(2).uniform(-2, 7, (60, 3))
  points = np.concatenate([points, [[0, 0.5, 0.5], [2, 3.5, 4.5]]])
  points = points.astype(np.float32)
  got = trilinear(video, points, mode=mode)
  want = [slow_linear(video, (t, y - 0.5, x - 0.5), mode) for t, y, x in points]
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_sampling_at_pixel_centres_returns_the_video():
  video = noise(2, 3, 4, 5, 2)
  for mode in grids.MODES:
    xy = jnp.broadcast_to(
      grids.pixel_centers((4, 5), order='xy'), (2, 3, 4, 5, 2)
    )
    np.testing.assert_array_equal(bilinear(video, xy, mode=mode), video)
    tyx = jnp.broadcast_to(
      grids.pixel_centers((3, 4, 5), order='tyx'), (2, 3, 4, 5, 3)
    )
    got = trilinear(video, tyx, mode=mode)
    np.testing.assert_array_equal(got, video)


def test_trilinear_at_whole_frames_is_bilinear_in_that_frame():
  video = noise(3, 4, 5, 2)
  xy = np.random.default_rng(3).uniform(0, 4, (3, 7, 2)).astype(np.float32)
  t = np.broadcast_to(np.arange(3.0)[:, None, None], (3, 7, 1))
  tyx = np.concatenate([t, xy[..., ::-1]], axis=-1).reshape(-1, 3)
  np.testing.assert_allclose(
    trilinear(video, tyx, mode='clamp').reshape(3, 7, 2),
    bilinear(video, xy, mode='clamp'),
    atol=1e-6,
  )


def test_resizing_is_sampling_at_scaled_centres():
  image = noise(4, 6, 3)
  centers = grids.pixel_centers((8, 18), order='xy')
  points = grids.scale_points(
    centers, source=(8, 18), target=(4, 6), order='xy'
  )
  np.testing.assert_allclose(
    bilinear(image, points, mode='clamp'),
    video_ops.resize(image, size=(8, 18), method='bilinear', antialias=False),
    atol=1e-5,
  )


@pytest.mark.parametrize('mode', grids.MODES)
def test_shifting_image_and_points_together_changes_nothing(mode):
  image = np.zeros((9, 10, 2), np.float32)
  image[2:5, 3:6] = noise(3, 3, 2)
  points = np.random.default_rng(4).uniform(2, 6, (20, 2)).astype(np.float32)
  moved = np.roll(image, (3, 2), axis=(0, 1))
  np.testing.assert_allclose(
    bilinear(moved, points + np.array([2, 3]), mode=mode),
    bilinear(image, points, mode=mode),
    atol=1e-5,
  )


def test_transposing_the_image_swaps_the_coordinates():
  image = noise(4, 6, 2)
  points = np.random.default_rng(5).uniform(-1, 7, (20, 2)).astype(np.float32)
  np.testing.assert_allclose(
    bilinear(image.swapaxes(0, 1), grids.swap_xy(points), mode='zeros'),
    bilinear(image, points, mode='zeros'),
    atol=1e-6,
  )


def test_query_axes_may_have_any_shape():
  image = noise(2, 3, 4, 5, 2)
  points = np.random.default_rng(6).uniform(0, 4, (2, 3, 7, 2, 2))
  got = bilinear(image, points, mode='zeros')
  assert got.shape == (2, 3, 7, 2, 2)
  one = bilinear(image[1, 2], points[1, 2, 6, 1], mode='zeros')
  np.testing.assert_allclose(got[1, 2, 6, 1], one, atol=1e-6)
  empty = bilinear(image, points[:, :, :0], mode='clamp')
  assert empty.shape == (2, 3, 0, 2, 2)


def test_shapes_that_do_not_fit_are_refused():
  image, points = np.zeros((2, 4, 5, 1)), np.zeros((3, 7, 2))
  with pytest.raises(ValueError, match=r'\(2, 4, 5, 1\).*\(3, 7, 2\)'):
    bilinear(image, points, mode='clamp')
  with pytest.raises(ValueError, match='last axis of 3'):
    trilinear(image, np.zeros((7, 2)), mode='clamp')
  with pytest.raises(ValueError, match='wrap'):
    bilinear(image, points[:2], mode='wrap')


def test_dtypes_follow_the_image():
  points = np.array([[1.0, 1.5]], np.float32)
  bytes_ = np.array([[0, 255]] * 2, np.uint8)[..., None]
  got = bilinear(bytes_, points, mode='clamp')
  assert got.dtype == jnp.float32 and got.tolist() == [[127.5]]
  half = bilinear(jnp.asarray(bytes_, jnp.bfloat16), points, mode='clamp')
  assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize('mode', grids.MODES)
def test_gradients_match_differences_and_stay_finite(mode):
  image = noise(4, 6, 2)

  @jax.jit
  def total(image, points):
    return jnp.sum(grids.bilinear(image, points, mode=mode) ** 2)

  grad = jax.jit(jax.grad(total, (0, 1)))
  points = np.array([[1.7, 2.2], [4.9, 0.8], [0.2, 3.8]] * 3, np.float32)
  image_grad, points_grad = grad(image, points)
  h = 1e-2  # the sum is quadratic in every coordinate: no truncation error

  def slope(image_step, points_step):
    above = total(image + image_step, points + points_step)
    below = total(image - image_step, points - points_step)
    return (float(above) - float(below)) / (2 * h)

  for place in np.ndindex(3, 2):
    step = np.zeros_like(points)
    step[place] = h
    want = slope(0, step)
    np.testing.assert_allclose(points_grad[place], want, atol=5e-3)
  step = np.zeros_like(image)
  step[2, 1, 0] = h
  want = slope(step, 0)
  np.testing.assert_allclose(image_grad[2, 1, 0], want, atol=5e-3)

  corners = [[0, 0], [6, 4], [0.5, 0.5], [5.5, 3.5], [-0.5, 4.5]]
  far = [[-1e9, 2], [1e30, -1e30], [np.inf, 1], [1, -np.inf]]
  points = np.array(corners + far, np.float32)
  value = bilinear(image, points, mode=mode)
  image_grad, points_grad = grad(image, points)
  for result in (value, image_grad, points_grad):
    assert np.isfinite(result).all()
  np.testing.assert_array_equal(np.asarray(points_grad)[5:8, 0], 0)
  if mode == 'zeros':
    np.testing.assert_array_equal(value[5:], 0)


def test_a_nan_point_gives_nan_and_leaves_its_neighbours_alone():
  image = noise(4, 6, 2)
  points = np.array([[np.nan, 1], [2, 1]], np.float32)
  got = bilinear(image, points, mode='zeros')
  assert np.isnan(got[0]).all() and np.isfinite(got[1]).all()
