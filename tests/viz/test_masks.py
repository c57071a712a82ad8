"""Segmentation overlays and hidden patches."""

import numpy as np
import pytest

from vidscenic.viz import masks


def test_palette_follows_the_bits_of_the_number():
  got = masks.segmentation_colors(256)
  # From the rule of PASCAL VOC, by hand: 3 = 0b011 sets red and green, 8 =
  # 0b1000 red's second bit. Of 255 red has bits 0, 3 and 6, green 1, 4 and 7,
  # blue 2 and 5.
  for number, color in {
    0: (0, 0, 0),
    1: (128, 0, 0),
    2: (0, 128, 0),
    3: (128, 128, 0),
    4: (0, 0, 128),
    7: (128, 128, 128),
    8: (64, 0, 0),
    9: (192, 0, 0),
    20: (0, 64, 128),
    255: (224, 224, 192),
  }.items():
    assert tuple(got[number]) == color
  assert len(np.unique(got, axis=0)) == 256


def test_objects_are_tinted_and_the_background_is_kept():
  frame = np.full((6, 8, 3), 100, np.uint8)
  segments = np.zeros((6, 8, 1), np.uint8)
  segments[1:4, 2:5] = 2
  got = masks.draw_masks(frame, segments, alpha=0.25, outline=0)
  want = frame.copy()
  want[1:4, 2:5] = (75, 107, 75)  # 3/4 of 100 and 1/4 of (0, 128, 0)
  np.testing.assert_array_equal(got, want)
  assert (frame == 100).all()


@pytest.mark.parametrize('width', [1, 2])
def test_outline_lies_inside_the_object_at_full_brightness(width):
  frame = np.zeros((9, 9, 3), np.uint8)
  segments = np.zeros((9, 9, 1), np.int32)
  segments[2:7, 1:8] = 1
  got = masks.draw_masks(frame, segments, alpha=0.0, outline=width)
  want = np.zeros((9, 9), int)
  want[2:7, 1:8] = 255
  want[2 + width : 7 - width, 1 + width : 8 - width] = 0
  np.testing.assert_array_equal(got[..., 0], want)
  assert not got[..., 1:].any()


def test_touching_objects_both_have_an_outline_but_not_at_the_image_border():
  segments = np.ones((4, 6, 1), np.uint8)
  segments[:, 3:] = 2
  got = masks.draw_masks(
    np.zeros((4, 6, 3), np.uint8), segments, alpha=0.0, outline=1
  )
  want = np.zeros((4, 6, 3))
  want[:, 2] = (255, 0, 0)
  want[:, 3] = (0, 255, 0)
  np.testing.assert_array_equal(got, want)


def test_video_equals_its_frames_and_takes_own_colors():
  rng = np.random.default_rng(0)
  video = rng.integers(0, 255, (3, 10, 12, 3), np.uint8)
  segments = rng.integers(0, 4, (3, 10, 12, 1)).astype(np.uint8)
  colors = rng.integers(0, 255, (4, 3), np.uint8)
  got = masks.draw_masks(video, segments, colors=colors)
  for t in range(3):
    np.testing.assert_array_equal(
      got[t], masks.draw_masks(video[t], segments[t], colors=colors)
    )
  tinted = masks.draw_masks(video, segments, colors=colors, alpha=1, outline=0)
  shown = segments[..., 0] > 0
  np.testing.assert_array_equal(tinted[shown], colors[segments[..., 0]][shown])


@pytest.mark.parametrize(
  ('segments', 'colors', 'message'),
  [
    (np.zeros((3, 3, 1), np.uint8), None, r'must be int\[4, 4, 1\]'),
    (np.zeros((4, 4), np.uint8), None, r'must be int\[4, 4, 1\]'),
    (np.zeros((4, 4, 1)), None, 'got float64'),
    (np.full((4, 4, 1), -1), None, 'hold -1 to -1'),
    (np.full((4, 4, 1), 3), np.zeros((3, 3), np.uint8), 'colours for 0 to 2'),
    (np.full((4, 4, 1), 1 << 30), None, 'for 0 to 65535: renumber'),
    (np.ones((4, 4, 1), int), np.zeros((3, 3)), r'must be uint8\[K, 3\]'),
  ],
)
def test_segments_that_cannot_be_drawn_are_told(segments, colors, message):
  with pytest.raises(ValueError, match=message):
    masks.draw_masks(np.zeros((4, 4, 3), np.uint8), segments, colors=colors)


def test_hidden_patches_are_grey_and_the_rest_is_kept():
  video = np.random.default_rng(0).integers(0, 100, (4, 6, 8, 3), np.uint8)
  hidden = np.zeros((2, 2, 4), bool)
  hidden[1, 0, 3] = True
  got = masks.hide_patches(video, hidden)
  want = video.copy()
  want[2:4, 0:3, 6:8] = 128
  np.testing.assert_array_equal(got, want)
  with pytest.raises(ValueError, match='do not divide'):
    masks.hide_patches(video, np.zeros((3, 2, 4), bool))
  with pytest.raises(ValueError, match='do not divide'):
    masks.hide_patches(video, np.zeros((0, 2, 4), bool))
