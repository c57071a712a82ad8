"""The data that readouts are scored on have what their heads read."""

import jax
import numpy as np
import pytest

from tests.data.datasets.test_dense import scannet  # noqa: F401, a fixture
from tests.data.datasets.test_perception_test import root as perception  # noqa: F401
from tests.data.datasets.test_real_estate import root as real_estate  # noqa: F401
from tests.data.datasets.test_waymo import root as waymo  # noqa: F401
from vidscenic import config as vc
from vidscenic.data import device, pipeline
from vidscenic.tasks import readout

CLIP = (4, 16, 24)
DATASETS = 'vidscenic.data.datasets.'
HEADS = 'vidscenic.tasks.'
ATTENTIVE = {'width': 8, 'num_heads': 1}
TRACKS = {
  'layers': dict(
    features=8, depth=1, num_bases=2, num_heads=2, qkv_features=8,
    mlp_features=8,
  )
}  # fmt: skip
# Fixture: source, its arguments, head, its arguments, what has to be known.
CASES = {
  'scannet': (
    'dense:ScanNet', {'split': 'val', 'num_frames': 4},
    'attentive_heads:DenseDepth', ATTENTIVE, 'depth_mask',
  ),
  'perception': (
    'perception_test:PerceptionTest', {'num_tracks': 3},
    'track_heads:Points', {'num_points': 3, 'masked': True, **TRACKS},
    'query_mask',
  ),
  'waymo': (
    'waymo:WaymoBoxes', {'num_frames': 4, 'max_boxes': 3},
    'track_heads:Boxes', {'num_boxes': 3, **TRACKS}, 'boxes_mask',
  ),
  'real_estate': (
    'real_estate:RealEstate10K', {'split': 'test', 'num_frames': 4},
    'attentive_heads:CameraPose', ATTENTIVE, 'cam_from_world',
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', CASES)
def test_readers_feed_the_heads(name, request):
  source, options, head, arguments, known = CASES[name]
  root = str(request.getfixturevalue(name))
  (head,) = readout.build_heads(
    {name: {'factory': HEADS + head, **arguments}}, CLIP
  ).values()
  spec = vc.data_spec(
    source=DATASETS + source,
    source_kwargs={'root': root, **options},
    transform_kwargs={
      'num_frames': CLIP[0],
      'size': CLIP[1:],
      'crop': 'none',
      'flip': 0.0,
      'train': False,
    },
  )
  batches = pipeline.make_eval_iter(spec, batch_size=2, limit=1)
  batch = next(batches)
  batches.close()
  wanted = {'video': jax.ShapeDtypeStruct((*CLIP, 3), np.uint8)}
  batch = device.check(batch, wanted | head.fields(), where='data')
  head.check(batch)
  assert batch['mask'].tolist() == [True, False]
  assert np.any(batch[known][0]) and not np.any(batch[known][1])
