"""Boxes: which pixels their lines cover."""

import warnings

import numpy as np
import pytest

from vidscenic.viz import boxes, colors

RED = np.array([[255, 0, 0]], np.uint8)


def black(*shape):
  return np.zeros((*shape, 3), np.uint8)


def test_line_lies_inside_the_box_on_its_border_pixels():
  # Rows 2 to 7 and columns 3 to 11 of 10 x 16.
  box = np.array([[2 / 10, 3 / 16, 8 / 10, 12 / 16]], np.float32)
  got = boxes.draw_boxes(black(10, 16), box, colors=RED, width=1)
  want = np.zeros((10, 16))
  want[2:8, 3:12] = 255
  want[3:7, 4:11] = 0
  np.testing.assert_array_equal(got[..., 0], want)
  assert not got[..., 1:].any()


def test_thick_line_grows_inwards_and_fills_a_small_box():
  box = np.array([[0.1, 0.1, 0.9, 0.9], [0.4, 0.4, 0.6, 0.6]])
  got = boxes.draw_boxes(
    black(10, 10), box, colors=np.repeat(RED, 2, 0), width=3
  )
  want = np.zeros((10, 10))
  want[1:9, 1:9] = 255
  want[4:6, 4:6] = 255
  np.testing.assert_array_equal(got[..., 0], want)


def test_box_beyond_the_image_is_cut_without_edges_at_the_border():
  box = np.array([[-0.5, 0.2, 0.5, 1.7]])
  got = boxes.draw_boxes(black(10, 10), box, colors=RED, width=1)[..., 0]
  want = np.zeros((10, 10))
  want[:5, 2] = want[4, 2:] = 255
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
  'box',
  [
    [np.nan, 0, 1, 1],
    [0, 0, np.inf, 1],
    [0.5, 0.2, 0.5, 0.9],
    [0.9, 0.9, 0.1, 0.1],
    [1.5, 1.5, 1.9, 1.9],
    [-9.0, -9.0, -8.0, -8.0],
    [0, 0, 0, 0],
  ],
)
def test_empty_unknown_and_outer_boxes_draw_nothing(box):
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    got = boxes.draw_boxes(black(20, 30), np.array([box]), labels=['name'])
  assert not got.any()


def test_mask_chooses_boxes_in_every_frame():
  video, box = black(2, 20, 20), np.tile([0.1, 0.1, 0.9, 0.9], (2, 1, 1))
  before = video.copy()
  got = boxes.draw_boxes(video, box, np.array([[True], [False]]))
  assert got[0].any() and not got[1].any()
  np.testing.assert_array_equal(video, before)
  np.testing.assert_array_equal(got[0], boxes.draw_boxes(video[0], box[0]))


def test_label_stands_above_the_box_or_inside_at_the_top():
  box = np.array([[0.5, 0.1, 0.9, 0.9], [0.0, 0.1, 0.4, 0.9]])
  plain = boxes.draw_boxes(black(100, 100), box)
  got = boxes.draw_boxes(black(100, 100), box, labels=['dog', ''])
  rows, columns = np.nonzero((got != plain).any(-1))
  assert (rows.min(), rows.max(), columns.min()) == (36, 49, 10)
  got = boxes.draw_boxes(black(100, 100), box, labels=['', 'dog'])
  rows, columns = np.nonzero((got != plain).any(-1))
  assert rows.min() >= 0 and rows.max() < 14 and columns.max() < 50


def test_label_stays_in_the_picture_at_the_right():
  box = np.array([[0.5, 0.95, 0.9, 1.0]])
  got = boxes.draw_boxes(black(100, 100), box, labels=['elephant'])
  patch = got[36:50] == colors.distinct(1)[0]
  columns = np.flatnonzero(patch.all(-1).any(0))
  assert columns.max() == 99 and columns.min() < 60


def test_label_wider_than_the_picture_is_cut():
  got = boxes.draw_boxes(
    black(40, 30), np.array([[0.5, 0.0, 1.0, 1.0]]), labels=['w' * 50]
  )
  assert got.shape == (40, 30, 3) and got[:20].any()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'boxes': np.zeros((3, 2, 4))}, r"boxes must be float\[2, 'K', 4\]"),
    ({'boxes': np.zeros((2, 3, 5))}, 'boxes must be'),
    ({'mask': np.ones((2, 4), bool)}, r'mask must be \[2, 3\]'),
    ({'labels': ['a']}, r'labels must be \[3\] for the boxes, got \[1\]'),
    ({'colors': RED}, r'colors must be uint8\[3, 3\]'),
  ],
)
def test_shapes_that_do_not_fit_are_told(change, message):
  good = {'frames': black(2, 8, 8), 'boxes': np.zeros((2, 3, 4))}
  with pytest.raises(ValueError, match=message):
    boxes.draw_boxes(**good | change)
