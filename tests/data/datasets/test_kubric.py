"""MOVi scenes in our conventions, from records and from a TFDS folder."""

import json
import pickle

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from tests.data import tfds_folders
from tests.data.datasets import kubric_room as room
from vidscenic.data import clips
from vidscenic.data.datasets import kubric, point_tracks

X = np.arange(room.WIDTH) + 0.5
Y = np.arange(room.HEIGHT)[:, None] + 0.5


@pytest.fixture(scope='module')
def record():
  return room.record()


@pytest.fixture(scope='module')
def labels(record):
  return kubric.labels(record, kubric.LABELS, max_boxes=5)


def world_points(labels, t):
  """What the labels say about where each pixel of frame t is in the world."""
  fx, fy, cx, cy = labels['intrinsics']
  x, y = np.meshgrid(X[None] / room.WIDTH, Y[:, 0] / room.HEIGHT)
  ray = np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)], -1)
  points = ray * labels['depth'][t]
  pose = np.linalg.inv(labels['cam_from_world'][t].astype(np.float64))
  return points @ pose[:3, :3].T + pose[:3, 3]


def test_depth_runs_along_the_axis_and_fits_the_pose(labels):
  for t in (0, 7):
    distance, _, _, _ = room.cast(t, X, Y)
    want = (
      room.CENTRE[t] + room.rays(t, *np.meshgrid(X, Y)) * distance[..., None]
    )
    np.testing.assert_allclose(world_points(labels, t), want, atol=1e-4)


def test_pose_is_a_rotation_with_y_down_and_z_forward(labels):
  pose = labels['cam_from_world']
  np.testing.assert_allclose(np.linalg.det(pose[:, :3, :3]), 1, rtol=1e-5)
  target = np.array([0, 0, 0.3, 1])  # the camera looks there
  np.testing.assert_allclose((pose @ target)[:, :2], 0, atol=1e-5)
  assert ((pose @ target)[:, 2] > 0).all()
  above = np.array([0, 0, 1.3, 1])
  assert ((pose @ above)[:, 1] < 0).all()


def test_flow_is_dx_dy_to_the_next_and_previous_frame(labels):
  t, row, column = np.array([2, 4]), np.array([50, 33]), np.array([40, 69])
  xy, _ = room.project(room.follow(t, column + 0.5, row + 0.5))
  here = np.stack([column + 0.5, row + 0.5], -1)
  for name, step in (('forward_flow', 1), ('backward_flow', -1)):
    got = labels[name][t, row, column]
    want = xy[[0, 1], t + step] - here
    assert np.abs(want[:, 0] - want[:, 1]).min() > 0.1  # order would show
    np.testing.assert_allclose(got, want, atol=1e-3)


def test_boxes_are_masked_where_an_instance_is_not_seen(record):
  boxes = [np.array([[0.1, 0.2, 0.3, 0.4]]), np.zeros((0, 4))]
  fields = {
    'instances/bboxes': boxes,
    'instances/bbox_frames': [np.array([3]), np.zeros(0, int)],
  }
  got = kubric.labels(record | fields, ['boxes'], range(2, 6), max_boxes=4)
  want = np.zeros((4, 4), bool)
  want[1, 0] = True
  np.testing.assert_array_equal(got['boxes_mask'], want)
  np.testing.assert_allclose(got['boxes'][1, 0], [0.1, 0.2, 0.3, 0.4])


def test_boxes_surround_segments(labels):
  segments = labels['segmentations'][..., 0]
  for k in range(3):
    rows, columns = np.nonzero(segments[4] == k + 1)
    want = [rows.min() / 96, columns.min() / 128]
    np.testing.assert_allclose(labels['boxes'][4, k, :2], want, rtol=1e-6)


def test_too_many_instances_and_unknown_labels_are_told(record):
  with pytest.raises(ValueError, match='room: 3 instances .*max_boxes=2'):
    kubric.labels(record, ['boxes'], max_boxes=2)
  with pytest.raises(
    ValueError, match=r"labels must be among .* \['normals'\]"
  ):
    kubric.labels(record, ['normals'])


def tensor(dtype, *shape):
  return {
    'tensor': {'dtype': dtype, 'shape': {'dimensions': [str(s) for s in shape]}}
  }


def nested(**features):
  return {'featuresDict': {'features': features}}


def several(feature):
  return {'sequence': {'feature': feature}}


FEATURES = {
  'metadata': nested(
    video_name={'text': {}},
    num_frames=tensor('int32'),
    height=tensor('int32'),
    width=tensor('int32'),
    depth_range=tensor('float32', 2),
    forward_flow_range=tensor('float32', 2),
    backward_flow_range=tensor('float32', 2),
  ),
  'video': {'video': {}},
  'segmentations': several({'image': {}}),
  'depth': several({'image': {}}),
  'normal': {'video': {}},
  'object_coordinates': {'video': {}},
  'forward_flow': several(tensor('uint16', room.HEIGHT, room.WIDTH, 2)),
  'backward_flow': several(tensor('uint16', room.HEIGHT, room.WIDTH, 2)),
  'camera': nested(
    focal_length=tensor('float32'),
    sensor_width=tensor('float32'),
    positions=tensor('float32', room.FRAMES, 3),
    quaternions=tensor('float32', room.FRAMES, 4),
  ),
  'instances': several(
    nested(
      bboxes_3d=tensor('float32', room.FRAMES, 8, 3),
      quaternions=tensor('float32', room.FRAMES, 4),
      bboxes=several({'boundingBox': {}}),
      bbox_frames=several(tensor('int32')),
    )
  ),
}


def serialized(record):
  """The record as tf.train.Example, as TFDS stores it."""
  example = tf_example_pb2.Example()
  feature = example.features.feature
  for name, value in record.items():
    if name in ('instances/bboxes', 'instances/bbox_frames'):
      lengths = [len(row) for row in value]
      feature[f'{name}/ragged_row_lengths_0'].int64_list.value.extend(lengths)
      name, value = f'{name}/ragged_flat_values', np.concatenate(value)
    values = [value] if isinstance(value, bytes) else value
    if isinstance(values, list):
      feature[name].bytes_list.value.extend(values)
    elif np.asarray(values).dtype.kind == 'f':
      feature[name].float_list.value.extend(np.ravel(values))
    else:
      feature[name].int64_list.value.extend(np.ravel(values))
  return example.SerializeToString()


@pytest.fixture(scope='module')
def root(record, tmp_path_factory):
  """movi_e/256x256/1.0.0 with one training scene."""
  folder = tmp_path_factory.mktemp('movi') / 'movi_e' / '256x256' / '1.0.0'
  folder.mkdir(parents=True)
  name = 'movi_e-train.array_record-00000-of-00001'
  tfds_folders.write_array_record(folder / name, [serialized(record)])
  split = {
    'name': 'train',
    'shardLengths': ['1'],
    'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
    'numBytes': '1',
  }
  info = {'name': 'movi_e', 'fileFormat': 'array_record', 'splits': [split]}
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  (folder / 'features.json').write_text(json.dumps(nested(**FEATURES)))
  return str(folder)


def test_movi_gives_clips_with_labels(root, labels):
  source = pickle.loads(
    pickle.dumps(kubric.Movi(root, labels=kubric.LABELS, max_boxes=5))
  )
  assert len(source) == 1
  stored = source[0]
  assert stored['path'] == 'room'
  for name, want in labels.items():  # positions are float32 on disk
    np.testing.assert_allclose(stored[name], want, rtol=1e-5, atol=1e-5)
  transform = clips.ClipTransform(
    num_frames=4, train=False, crop='none', size=(48, 64)
  )
  rng = np.random.default_rng(0)
  clip = transform.augment(transform.sample(stored, rng), rng)
  assert clip['video'].shape == (4, 48, 64, 3)
  assert clip['depth'].shape == (4, 48, 64, 1)
  # The flow of the last frame leads out of the clip.
  assert clip['flow_mask'][:3].any()
  assert not clip['flow_mask'][3].any()


def test_scenes_hold_all_that_tracks_need(root, record):
  source = kubric.scenes(root, 'train', labels=('boxes',))
  assert 'forward_flow' not in source[0]
  transform = point_tracks.KubricTracks(num_tracks=50, labels=('boxes',))
  examples = []
  for stored in (source[0], record):
    rng = np.random.default_rng(0)
    examples.append(transform.augment(transform.sample(stored, rng), rng))
  for name, want in examples[1].items():
    np.testing.assert_allclose(examples[0][name], want, atol=1e-3)


def test_a_missing_folder_is_named_with_its_origin(tmp_path):
  with pytest.raises(
    FileNotFoundError,
    match='gs://kubric-public/tfds.*vidscenic.tools.tfrecord_to_array_record',
  ):
    kubric.Movi(str(tmp_path / 'movi_e'))
