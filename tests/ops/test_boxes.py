"""Overlap of boxes and its means, by hand."""

import jax
import numpy as np
import pytest

from vidscenic.ops import boxes, metrics

track_iou = jax.jit(boxes.track_iou)

UNIT = np.array([0.0, 0.0, 1.0, 1.0])


@pytest.mark.parametrize(
  ('box', 'want'),
  [
    ([0, 0, 1, 1], 1),
    ([0, 0, 0.5, 1], 0.5),
    ([0, 0.5, 1, 1.5], 1 / 3),
    ([0.25, 0.25, 0.75, 0.75], 0.25),
    ([1, 0, 2, 1], 0),  # they touch
    ([0.5, 0.5, 0.2, 0.9], 0),  # upside down, hence empty
    ([2, 2, 3, 3], 0),
  ],
)
def test_overlap_by_hand(box, want):
  assert float(boxes.iou(np.array(box), UNIT)) == pytest.approx(want)
  assert float(boxes.iou(UNIT, np.array(box))) == pytest.approx(want)


def test_two_empty_boxes_do_not_overlap():
  assert float(boxes.iou(np.zeros(4), np.zeros(4))) == 0


def test_the_order_and_scale_of_axes_do_not_matter():
  rng = np.random.default_rng(0)
  low, size = rng.random((2, 2, 50, 2))
  first, second = np.concatenate([low, low + size], axis=-1)
  want = boxes.iou(first, second)
  swapped = boxes.iou(first[..., [1, 0, 3, 2]], second[..., [1, 0, 3, 2]])
  np.testing.assert_allclose(swapped, want, atol=1e-6)
  scale = np.array([480, 854] * 2)
  np.testing.assert_allclose(
    boxes.iou(first * scale, second * scale), want, atol=1e-5
  )


def tracks():
  """One video, 4 frames, 3 tracks; overlaps 1, 1/2, 0, 1/2 of every track."""
  targets = np.tile(UNIT, (1, 4, 3, 1))
  predicted = targets.copy()
  predicted[0, 1, :, 2] = predicted[0, 3, :, 3] = 0.5
  predicted[0, 2] = 7
  return predicted, targets


def test_frames_behind_the_given_box_count():
  mask = np.ones((1, 4, 3), bool)
  mask[0, 2, 1] = False
  start = np.array([[0, 0, 3]])
  each = track_iou(*tracks(), mask=mask, start=start)
  np.testing.assert_allclose(each, [[1 / 3, 1 / 2, np.nan]], rtol=1e-6)
  np.testing.assert_allclose(boxes.video_iou(each), [5 / 12], rtol=1e-6)


def test_a_video_without_tracks_has_no_score():
  predicted, targets = (np.concatenate([x, x]) for x in tracks())
  mask = np.ones((2, 4, 3), bool)
  mask[1] = False
  each = boxes.video_iou(track_iou(predicted, targets, mask=mask))
  total, count = metrics.mean_of_known(each)
  assert (float(total), float(count)) == (pytest.approx(1 / 3), 1)


def test_what_is_not_annotated_may_be_anything():
  predicted, targets = tracks()
  mask = np.ones((1, 4, 3), bool)
  mask[0, 1] = False
  want = track_iou(predicted, targets, mask=mask)
  predicted[0, 1], targets[0, 1] = np.nan, np.inf
  np.testing.assert_array_equal(track_iou(predicted, targets, mask=mask), want)


def test_a_box_that_is_not_a_number_overlaps_nothing():
  predicted, targets = tracks()
  predicted[:] = np.nan
  each = track_iou(predicted, targets, mask=np.ones((1, 4, 3), bool))
  assert np.all(np.asarray(each) == 0)


def test_shapes_that_differ_are_named():
  with pytest.raises(ValueError, match='want the same shape'):
    boxes.track_iou(np.zeros((1, 2, 3, 4)), np.zeros((1, 2, 1, 4)), mask=True)
