"""Grids, strips, labels and side-by-side pictures."""

import numpy as np
import pytest

from vidscenic.viz import images


def _pixels(*shape, seed=0):
  # Never white: the background is.
  return np.random.default_rng(seed).integers(0, 250, shape).astype(np.uint8)


def test_to_uint8_clips_and_rounds():
  values = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, np.nan, np.inf, -np.inf])
  got = images.to_uint8(values)
  assert got.dtype == np.uint8
  np.testing.assert_array_equal(got, [0, 0, 128, 255, 255, 0, 255, 0])
  np.testing.assert_array_equal(
    images.to_uint8([-1.0, 0.2, 1.0], low=-1, high=1), [0, 153, 255]
  )


def test_grid_puts_images_of_different_sizes_into_equal_cells():
  sizes = [(5, 7), (3, 4), (5, 2), (1, 7)]
  cells = [_pixels(*size, 3, seed=i) for i, size in enumerate(sizes)]
  got = images.grid(cells, columns=3, pad=2)
  assert got.shape == (5 + 2 + 5, 7 * 3 + 2 * 2, 3)
  np.testing.assert_array_equal(got[:5, :7], cells[0])
  np.testing.assert_array_equal(got[:3, 9:13], cells[1])
  np.testing.assert_array_equal(got[:5, 18:20], cells[2])
  np.testing.assert_array_equal(got[7:8, :7], cells[3])
  covered = sum(np.prod(size) for size in sizes) * 3
  assert (got == 255).sum() == got.size - covered


def test_grid_is_square_by_default():
  assert images.grid(_pixels(7, 4, 6, 3), pad=1).shape == (14, 20, 3)


def test_strip_shows_first_and_last_frame_and_even_steps():
  video = _pixels(9, 4, 5, 3)
  got = images.strip(video, 3, pad=1)
  assert got.shape == (4, 3 * 5 + 2, 3)
  for column, frame in zip((0, 6, 12), (0, 4, 8), strict=True):
    np.testing.assert_array_equal(got[:, column : column + 5], video[frame])


def test_strip_of_a_short_video_shows_every_frame_once():
  video = _pixels(2, 4, 5, 3)
  np.testing.assert_array_equal(
    images.strip(video, 8, pad=0), np.concatenate(list(video), axis=1)
  )


@pytest.mark.parametrize('shape', [(10, 60, 3), (3, 10, 60, 3)])
def test_label_adds_text_above_and_keeps_the_pixels(shape):
  pixels = _pixels(*shape)
  got = images.label(pixels, 'jaccard gyp', size=12)
  assert got.shape == (*shape[:-3], 26, 60, 3)
  np.testing.assert_array_equal(got[..., 16:, :, :], pixels)
  bar = got[..., :16, :, :]
  assert 20 < (bar < 128).sum() / np.prod(shape[:-3]) < bar.size / 2


def test_label_shortens_what_does_not_fit():
  pixels = _pixels(4, 50, 3)
  long = images.label(pixels, 'a' * 200)
  assert long.shape == (19, 50, 3)
  # The two outermost columns are margins.
  assert (long[:15, :2] == 255).all() and (long[:15, -2:] == 255).all()
  assert images.label(pixels[:, :3], 'word').shape == (19, 3, 3)


def test_side_by_side_joins_videos_and_pads_their_height():
  left, right = _pixels(3, 4, 5, 3), _pixels(3, 6, 2, 3, seed=1)
  got = images.side_by_side(left, right, pad=3)
  assert got.shape == (3, 6, 10, 3)
  np.testing.assert_array_equal(got[:, :4, :5], left)
  np.testing.assert_array_equal(got[:, :, 8:], right)
  assert (got[:, 4:, :5] == 255).all() and (got[:, :, 5:8] == 255).all()


def test_side_by_side_labels_every_part():
  part = _pixels(4, 40, 3)
  got = images.side_by_side(part, part, labels=['ours', 'target'], pad=2)
  assert got.shape == (19, 82, 3)
  assert (got[:15, :40] < 128).any() and (got[:15, 42:] < 128).any()


def test_blend_mixes_by_alpha_and_rounds():
  pixels = np.array([[0, 100, 255], [10, 20, 30]], np.uint8)
  over = np.array([203, 101, 0], np.uint8)
  got = images.blend(pixels, over, np.array([[0.25], [1.0]]))
  np.testing.assert_array_equal(got, [[51, 100, 191], [203, 101, 0]])
  np.testing.assert_array_equal(images.blend(pixels, over, 0.0), pixels)


def test_upsample_shows_tokens_as_blocks():
  colors = _pixels(2, 2, 3, 3)
  got = images.upsample(colors, (4, 9), smooth=False)
  np.testing.assert_array_equal(got, colors.repeat(2, 1).repeat(3, 2))


def test_upsample_is_linear_between_the_centres_of_tokens():
  got = images.upsample(np.array([[0.0, 8.0]]), (1, 8))
  # Centres at 2 and 6 of 8 pixels; constant beyond.
  np.testing.assert_allclose(got, [[0, 0, 1, 3, 5, 7, 8, 8]], atol=1e-6)


def test_sheet_has_a_named_row_per_video_and_numbered_columns():
  videos = {name: _pixels(9, 20, 60, 3, seed=i) for i, name in enumerate('ab')}
  got = images.sheet(videos, 3, pad=2)
  # Name, numbers, pictures; gap; name, pictures.
  assert got.shape == (15 + 15 + 20 + 2 + 15 + 20, 3 * 60 + 2 * 2, 3)
  for column, frame in enumerate((0, 4, 8)):
    part = slice(column * 62, column * 62 + 60)
    np.testing.assert_array_equal(got[30:50, part], videos['a'][frame])
    np.testing.assert_array_equal(got[67:, part], videos['b'][frame])
    assert (got[15:30, part] < 128).any()


def test_stack_joins_images_of_any_size():
  top, bottom = _pixels(3, 5, 3), _pixels(2, 7, 3, seed=1)
  got = images.stack([top, bottom], pad=1)
  assert got.shape == (6, 7, 3)
  np.testing.assert_array_equal(got[:3, :5], top)
  np.testing.assert_array_equal(got[4:], bottom)
  assert (got[3] == 255).all() and (got[:3, 5:] == 255).all()


@pytest.mark.parametrize(
  'call',
  [
    lambda: images.grid([]),
    lambda: images.grid([_pixels(4, 4, 3)], columns=0),
    lambda: images.grid([_pixels(4, 4, 3).astype(np.float32)]),
    lambda: images.grid([_pixels(4, 4)]),
    lambda: images.strip(_pixels(4, 4, 3)),
    lambda: images.strip(_pixels(0, 4, 4, 3)),
    lambda: images.label(_pixels(4, 4, 1), 'x'),
    lambda: images.side_by_side(),
    lambda: images.side_by_side(_pixels(2, 4, 4, 3), _pixels(4, 4, 3)),
    lambda: images.side_by_side(_pixels(2, 4, 4, 3), _pixels(3, 4, 4, 3)),
    lambda: images.side_by_side(_pixels(4, 4, 3), labels=['a', 'b']),
    lambda: images.to_uint8([0.5], low=1, high=1),
    lambda: images.sheet({}),
    lambda: images.sheet({'a': _pixels(2, 4, 4, 3), 'b': _pixels(3, 4, 4, 3)}),
    lambda: images.sheet({'a': _pixels(2, 4, 4, 3)}, 0),
    lambda: images.stack([]),
    lambda: images.upsample(np.zeros((4, 4), np.uint8), (8, 8)),
    lambda: images.upsample(np.zeros((0, 4)), (8, 8)),
  ],
)
def test_bad_pixels_are_refused(call):
  with pytest.raises(ValueError):
    call()
