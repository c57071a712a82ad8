"""Colours of numbers, depth and flow."""

import warnings

import numpy as np
import pytest

from vidscenic.viz import colors

BLACK = [0, 0, 0]


@pytest.fixture(autouse=True)
def no_warnings():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    yield


def test_tables_have_their_published_ends_and_middle():
  turbo, inferno = colors.table('turbo'), colors.table('inferno')
  assert turbo[[0, 255]].tolist() == [[48, 18, 59], [122, 4, 3]]
  assert inferno[[0, 255]].tolist() == [[0, 0, 4], [252, 255, 164]]
  # (164, 252, 60) and (188, 55, 84) in the whole tables.
  np.testing.assert_allclose(turbo[128], [164, 252, 60], atol=6)
  np.testing.assert_allclose(inferno[128], [188, 55, 84], atol=6)


def test_inferno_grows_brighter_all_the_way():
  luma = colors.table('inferno') @ [0.299, 0.587, 0.114]
  assert (np.diff(luma) > 0).all()


def test_unknown_table_is_refused():
  with pytest.raises(ValueError, match="got 'jet'"):
    colors.table('jet')


def test_distinct_colors_do_not_depend_on_their_number():
  np.testing.assert_array_equal(colors.distinct(3), colors.distinct(9)[:3])
  apart = np.abs(np.diff(colors.distinct(12).astype(int), axis=0)).sum(1)
  assert apart.min() > 100


def test_heat_is_linear_between_low_and_high_and_clipped():
  got = colors.heat_colors([-1.0, 0.0, 1.0, 2.0, 9.0], low=0.0, high=2.0)
  np.testing.assert_array_equal(
    got, colors.table('inferno')[[0, 0, 128, 255, 255]]
  )


def test_heat_takes_its_range_from_known_values():
  got = colors.heat_colors([np.nan, 3.0, 5.0, np.inf, 4.0], name='turbo')
  turbo = colors.table('turbo')
  np.testing.assert_array_equal(
    got, [BLACK, turbo[0], turbo[255], BLACK, turbo[128]]
  )


@pytest.mark.parametrize('values', [[np.nan, np.nan], []])
def test_heat_of_nothing_is_black(values):
  got = colors.heat_colors(values)
  assert got.shape == (len(values), 3) and not got.any()


def test_heat_of_equal_values_is_the_first_color():
  np.testing.assert_array_equal(
    colors.heat_colors([7.0, 7.0]), colors.table('inferno')[[0, 0]]
  )


@pytest.mark.parametrize('inverse', [True, False])
def test_near_is_red_far_is_blue_unknown_is_black(inverse):
  depth = np.array([1.0, 4.0, np.nan, 0.0, -1.0, np.inf, 2.0])[:, None]
  mask = np.ones((7, 1), bool)
  mask[6] = False
  got = colors.depth_colors(depth, mask, inverse=inverse, low=1.0, high=4.0)
  turbo = colors.table('turbo')
  np.testing.assert_array_equal(got, [turbo[255], turbo[0]] + [BLACK] * 5)


def test_inverse_depth_has_equal_steps_of_disparity():
  depth = np.array([[[1.0]], [[1.6]], [[4.0]]])
  steps = {}
  for inverse in (True, False):
    got = colors.depth_colors(depth, inverse=inverse, low=1.0, high=4.0)
    match = (got[1, 0] == colors.table('turbo')).all(-1)
    steps[inverse] = np.flatnonzero(match)[0] / 255
  # 1/1.6 = 0.625 is half way from 1/4 to 1; 1.6 is a fifth from 1 to 4.
  assert steps[True] == pytest.approx(0.5, abs=0.005)
  assert steps[False] == pytest.approx(0.8, abs=0.005)


def test_depth_range_ignores_a_few_outliers():
  depth = np.linspace(1, 2, 1000)
  spoilt = depth.copy()
  spoilt[:10], spoilt[-10:] = 1e-6, 1e6
  a, b = (colors.depth_colors(d[:, None]).astype(int) for d in (depth, spoilt))
  assert np.abs(a - b)[50:-50].max() < 15


@pytest.mark.parametrize(
  ('right', 'down', 'color'),
  [
    (0, 0, (255, 255, 255)),
    (1, 0, (255, 0, 0)),
    (1, -0.0, (255, 0, 0)),
    # Half way round is colour 27: the third after green-cyan, 255 - 510 // 11.
    (-1, 0, (0, 209, 255)),
    # A quarter is 13.5: red and 255 * 13 // 15 to 255 * 14 // 15 of green.
    (0, 1, (255, 229, 0)),
    # Three quarters are 40.5: blue and 255 * 4 // 13 to 255 * 5 // 13 of red.
    (0, -1, (88, 0, 255)),
    (0.5, 0, (255, 127, 127)),
    (2, 0, (191, 0, 0)),  # out of range: three quarters as bright
  ],
)
def test_flow_wheel_of_middlebury(right, down, color):
  got = colors.flow_colors(np.array([[right, down]], np.float32), largest=1.0)
  assert tuple(got[0]) == color


def test_flow_is_scaled_by_its_longest_vector():
  flow = np.array([[3.0, 4.0], [0.6, 0.8], [np.nan, 0], [2e9, 0], [50, 50]])
  mask = np.array([True, True, True, True, False])
  got = colors.flow_colors(flow, mask)
  np.testing.assert_array_equal(
    got[:2], colors.flow_colors(flow[:2], largest=5.0)
  )
  assert not got[2:].any()


def test_no_flow_at_all_is_white_and_no_known_flow_black():
  still = np.zeros((2, 3, 2))
  assert (colors.flow_colors(still) == 255).all()
  assert not colors.flow_colors(still * np.nan).any()


def test_wheel_shows_where_flow_points():
  wheel = colors.flow_wheel(101)
  assert wheel[50, 50].tolist() == [255, 255, 255]
  np.testing.assert_allclose(wheel[50, 100], [255, 0, 0], atol=4)
  np.testing.assert_allclose(wheel[100, 50], [255, 229, 0], atol=4)
  assert wheel[0, 0].tolist() == [255, 255, 255]


def test_input_is_not_modified():
  flow = np.array([[np.nan, 1.0], [2.0, 3.0]], np.float32)
  depth, before = np.array([[np.nan], [2.0]], np.float32), flow.copy()
  colors.flow_colors(flow)
  colors.depth_colors(depth)
  colors.heat_colors(depth)
  np.testing.assert_array_equal(flow, before)
  np.testing.assert_array_equal(depth, [[np.nan], [2.0]])


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: colors.flow_colors(np.zeros((4, 3))), r'float\[..., 2\]'),
    (lambda: colors.flow_colors(np.zeros((4, 2)), largest=0), 'largest'),
    (lambda: colors.depth_colors(np.zeros((4, 4))), r'float\[..., 1\]'),
    (lambda: colors.depth_colors(np.ones((4, 1)), low=0.0), '0 < low <= high'),
  ],
)
def test_wrong_shapes_are_told(call, message):
  with pytest.raises(ValueError, match=message):
    call()
