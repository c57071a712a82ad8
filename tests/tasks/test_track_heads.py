"""Losses and figures of track heads, computed once more by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from vidscenic import task as task_api
from vidscenic.layers import track_readouts
from vidscenic.tasks import readout, track_heads

CLIP = (3, 128, 64)
LAYERS = dict(
  features=8, depth=1, num_heads=2, qkv_features=8, mlp_features=8, num_bases=2
)
CONTEXT = task_api.StepContext(
  jnp.int32(0), jax.random.key(0), jnp.arange(1), train=False
)
FEATURES = readout.Features(jnp.zeros((1, 3, 2, 4)), CLIP[1:])


def says(head, tracks):
  """A head whose layers say this."""
  head.track = lambda *unused: tracks
  return head


def test_point_loss_counts_pixels_of_a_256_frame():
  """Huber where visible, visibility from the query on, certainty within 6."""
  head = track_heads.Points(clip=CLIP, num_points=2, layers=LAYERS)
  truth = np.float32([[[10, 20]] * 3, [[30, 40]] * 3])[None]
  # In pixels of 256 x 256: point 0 is off by 3, then 8; point 1 is right.
  error = np.float32([[[0, 0], [3, 0], [0, 8]], [[0, 0]] * 3])[None]
  points = truth + error * np.float32([64 / 256, 128 / 256])
  visible = np.float32([[0.0, 1.0, 2.0], [0.0, -1.0, 3.0]])[None]
  tracks = track_readouts.Tracks(
    jnp.swapaxes(points / np.float32([64, 128]), 1, 2),
    jnp.swapaxes(visible, 1, 2),
    jnp.swapaxes(-visible, 1, 2),
  )
  occluded = np.array([[[False] * 3, [False, True, False]]])
  batch = {
    'video': np.zeros((1, *CLIP, 3), np.uint8),
    'query_points': np.float32([[0, 20, 10], [1, 40, 30]])[None],
    'target_points': truth,
    'occluded': occluded,
    'mask': np.ones(1, bool),
  }
  terms, figures = says(head, tracks).loss({}, FEATURES, batch, CONTEXT)
  # Counted: three frames of point 0, the last two of point 1.
  total, weight, scale = terms['position']
  assert scale == 0.05 and weight == 4  # visible ones
  np.testing.assert_allclose(total, 0.5 * 9 + 4 * (8 - 2), rtol=1e-4)
  total, weight, _ = terms['visible']
  softplus = lambda x: np.log1p(np.exp(x))  # noqa: E731
  want = softplus(0) + softplus(-1) + softplus(-2)  # visible, point 0
  want += softplus(-1) + softplus(-3)  # point 1: hidden, then visible
  assert weight == 5
  np.testing.assert_allclose(total, want, rtol=1e-5)
  total, weight, _ = terms['certain']
  # Logits 0, -1 good, -2 too far; 3 pixels away counts as good.
  want = softplus(0) + softplus(1) + softplus(-2) + softplus(3)
  assert weight == 4
  np.testing.assert_allclose(total, want, rtol=1e-5)
  tolerant = track_heads.Points(
    clip=CLIP, num_points=2, expected_dist_thresh=8.5, layers=LAYERS
  )
  terms, _ = says(tolerant, tracks).loss({}, FEATURES, batch, CONTEXT)
  want += softplus(2) - softplus(-2)  # 8 pixels count as good, too
  np.testing.assert_allclose(terms['certain'][0], want, rtol=1e-5)
  # With both points masked but the first, only its frames are left.
  masked = track_heads.Points(
    clip=CLIP, num_points=2, masked=True, layers=LAYERS
  )
  terms, alone = says(masked, tracks).loss(
    {},
    FEATURES,
    batch | {'query_mask': np.array([[True, False]])},
    CONTEXT,
  )
  assert terms['position'][1] == terms['visible'][1] == 3
  # 3 and 8 pixels off: within three and one of five thresholds.
  np.testing.assert_allclose(alone['position_accuracy'][0], 0.4, rtol=1e-6)
  assert set(figures) == {
    'aj', 'position_accuracy', 'occlusion_accuracy', 'aj_still',
    'position_accuracy_still',
  }  # fmt: skip
  # A point that stays is right everywhere, its visibility in 3 of 4 frames.
  np.testing.assert_allclose(
    figures['aj_still'][0] / figures['aj_still'][1], 1.0
  )


def test_boxes_are_given_where_they_are_first_annotated():
  head = track_heads.Boxes(clip=CLIP, num_boxes=2, layers=LAYERS)
  boxes = np.zeros((1, 3, 2, 4), np.float32)
  boxes[..., 2:] = 0.5
  said = boxes.copy()
  said[0, 2, 0] = [0, 0.25, 0.5, 0.5]  # half of it
  mask = np.array([[[False, True], [True, False], [True, False]]])
  batch = {
    'boxes': boxes,
    'boxes_mask': mask,
    'mask': np.ones(1, bool),
  }
  tracks = track_readouts.Tracks(jnp.asarray(said))
  terms, figures = says(head, tracks).loss({}, FEATURES, batch, CONTEXT)
  total, weight, scale = terms['huber']
  assert weight == 3 * 4  # annotated boxes from the first on
  # Huber of 0.25 at 0.1: 0.1 * (0.25 - 0.05).
  np.testing.assert_allclose(total, 0.02, rtol=1e-5)
  # One track has a frame behind its first: IoU 0.5. The other has none.
  assert figures['iou'] == (0.5, 1)
  assert figures['iou_still'] == (1, 1)
