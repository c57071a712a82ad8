"""Attention overlays."""

import numpy as np
import pytest

from vidscenic.viz import attention, colors

GREY = np.full((8, 12, 3), 100, np.uint8)


def test_no_attention_is_dim_grey_and_most_is_the_last_color():
  weights = np.zeros((2, 3))
  weights[0, 2] = 0.5
  got = attention.draw_attention(GREY, weights, alpha=1.0)
  # Grey of 100 at 70 %, cut to a whole number.
  assert set(got[5:, :5].flat) <= {69, 70}
  np.testing.assert_array_equal(got[0, 11], colors.table('inferno')[255])
  assert (GREY == 100).all()


def test_colored_frame_turns_grey():
  frame = np.zeros((4, 4, 3), np.uint8)
  frame[..., 1] = 200
  got = attention.draw_attention(frame, np.zeros((2, 2)))
  assert (got == int(200 * 0.587 * 0.7)).all()


def test_heat_is_relative_to_the_highest_weight():
  weights = np.full((1, 1), 0.2)
  full = attention.draw_attention(GREY, weights)
  half = attention.draw_attention(GREY, weights, highest=0.4)
  base = attention.draw_attention(GREY, weights * 0)
  inferno = colors.table('inferno').astype(float)
  np.testing.assert_allclose(
    full[0, 0], 0.2 * base[0, 0] + 0.8 * inferno[255], atol=1
  )
  np.testing.assert_allclose(
    half[0, 0], 0.6 * base[0, 0] + 0.4 * inferno[128], atol=1
  )


def test_each_map_goes_with_the_frames_of_its_tubelet():
  video = np.random.default_rng(0).integers(0, 255, (4, 8, 12, 3), np.uint8)
  weights = np.random.default_rng(1).random((2, 2, 3))
  got = attention.draw_attention(video, weights)
  for t in range(4):
    want = attention.draw_attention(
      video[t], weights[t // 2], highest=weights.max()
    )
    np.testing.assert_array_equal(got[t], want)


def test_nan_counts_as_no_attention():
  weights = np.array([[np.nan, 1.0]])
  got = attention.draw_attention(GREY, weights)
  want = attention.draw_attention(GREY, np.array([[0.0, 1.0]]))
  np.testing.assert_array_equal(got, want)


def test_sheet_has_a_row_per_query_and_a_column_per_head():
  weights = np.random.default_rng(0).random((3, 2, 2, 3))
  got = attention.attention_sheet(GREY, weights, width=48)
  # A bar of 15 for the names, two rows of 32 and gaps of 2.
  assert got.shape == (15 + 32 + 2 + 32, 3 * 48 + 2 * 2, 3)
  frame = np.full((32, 48, 3), 100, np.uint8)
  for head in range(3):
    want = attention.draw_attention(frame, weights[head, 1])
    np.testing.assert_array_equal(got[49:, head * 50 : head * 50 + 48], want)


def test_sheet_marks_the_query():
  weights = np.zeros((1, 2, 2, 3))
  queries = np.array([[6.0, 4.0], [3.0, 2.0]])
  plain = attention.attention_sheet(GREY, weights, width=96)
  got = attention.attention_sheet(GREY, weights, queries=queries, width=96)
  # Scaled by 8: centres (48, 32) and (24, 16) of pictures 64 high.
  for top, (x, y) in ((15, (48, 32)), (15 + 64 + 2, (24, 16))):
    rows, columns = np.nonzero((got != plain)[top : top + 64].any(-1))
    assert rows.mean() + 0.5 == pytest.approx(y)
    assert columns.mean() + 0.5 == pytest.approx(x)
    # 4.5 pixels from the centre: the white line of the ring.
    assert got[top + y, x + 4].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (
      lambda: attention.draw_attention(GREY, np.zeros((1, 2, 3))),
      r'float\[h, w\]',
    ),
    (
      lambda: attention.draw_attention(
        GREY[None].repeat(3, 0), np.zeros((2, 2, 3))
      ),
      't dividing 3',
    ),
    (
      lambda: attention.draw_attention(GREY[None], np.zeros((0, 2, 3))),
      't dividing 1',
    ),
    (lambda: attention.attention_sheet(GREY, np.zeros((2, 2, 3))), 'heads, Q'),
    (
      lambda: attention.attention_sheet(
        GREY, np.zeros((2, 2, 2, 3)), queries=np.zeros((3, 2))
      ),
      r'float\[2, 2\]',
    ),
    (
      lambda: attention.attention_sheet(
        GREY, np.zeros((2, 2, 2, 3)), heads=['a']
      ),
      '1 names for 2 heads',
    ),
  ],
)
def test_shapes_that_do_not_fit_are_told(call, message):
  with pytest.raises(ValueError, match=message):
    call()
