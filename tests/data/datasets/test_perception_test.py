"""Perception Test from a miniature with its real fields and traps."""

import json
import pickle

import numpy as np
import pytest

from vidscenic.data import clips, containers, writer
from vidscenic.data.datasets import perception_test

LENGTH, HEIGHT, WIDTH = 6, 16, 32


def point_track(number, frame_ids, y, x):
  return {
    'id': number,
    'label': 'corner',
    'parent_objects': [0],
    'frame_ids': frame_ids,
    'points': [y, x],  # two rows, y first
  }


def box_track(number, frame_ids, boxes, start):
  return {
    'id': number,
    'label': 'cup',
    'bounding_boxes': boxes,
    'frame_ids': frame_ids,
    'timestamps': [i * 33_000 for i in frame_ids],
    'initial_tracking_box': [int(i == start) for i in range(len(frame_ids))],
  }


def entry(name, split='valid', points=(), boxes=()):
  return {
    'metadata': {
      'split': split,
      'video_id': name,
      'frame_rate': 30.0,
      'num_frames': LENGTH,
      'resolution': [HEIGHT, WIDTH],
      'is_camera_moving': name == 'video_7',
    },
    'object_tracking': list(boxes),
    'point_tracking': list(points),
  }


ENTRIES = {
  'video_7': entry(
    'video_7',
    points=[
      point_track(0, [0, 1, 2, 3], [0.25, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 1.0]),
      point_track(1, [2, 4], [0.125, 0.75], [0.0, 0.25]),
    ],
    boxes=[box_track(0, [0, 3], [[0.1, 0.2, 0.3, 0.6], [0, 0, 1, 1]], 1)],
  ),
  'video_8': entry('video_8'),
  'video_9': entry('video_9', points=[point_track(0, [5], [0.5], [0.5])]),
  'video_10': entry(
    'video_10', 'train', points=[point_track(0, [0], [0.5], [0.5])]
  ),
}


@pytest.fixture
def root(tmp_path):
  (tmp_path / 'videos').mkdir()
  frames = np.zeros((LENGTH, HEIGHT, WIDTH, 3), np.uint8)
  for name in ('video_7', 'video_9'):
    writer.write_video(str(tmp_path / f'videos/{name}.mp4'), frames, fps=30)
  save(tmp_path, ENTRIES)
  return tmp_path


def save(root, entries):
  (root / 'all_valid.json').write_text(json.dumps(entries))


def test_only_videos_of_the_split_with_tracks_are_listed(root):
  source = perception_test.PerceptionTest(str(root))
  assert [r['path'] for r in source] == ['video_7', 'video_9']
  assert [bool(r['camera_moving']) for r in source] == [True, False]


def test_points_are_stored_as_rows_of_y_and_x(root):
  record = perception_test.PerceptionTest(str(root))[0]
  np.testing.assert_allclose(
    record['target_points'][0, :4],
    [[16, 4], [16, 8], [16, 8], [32, 8]],  # (x, y) in pixels
  )
  np.testing.assert_allclose(
    record['target_points'][1, [2, 4]], [[0, 2], [8, 12]]
  )


def test_frames_without_annotation_are_occluded(root):
  record = perception_test.PerceptionTest(str(root))[0]
  want = [[0, 0, 0, 0, 1, 1], [1, 1, 0, 1, 0, 1]]
  np.testing.assert_array_equal(record['occluded'], np.array(want, bool))


def test_the_query_is_the_first_annotated_frame(root):
  record = perception_test.PerceptionTest(str(root))[0]
  np.testing.assert_allclose(record['query_points'], [[0, 4, 16], [2, 2, 0]])


def test_boxes_change_their_order_of_coordinates(root):
  source = perception_test.PerceptionTest(str(root), task='object_tracking')
  (record,) = list(source)
  np.testing.assert_allclose(record['boxes'][0, 0], [0.2, 0.1, 0.6, 0.3])
  np.testing.assert_array_equal(
    record['boxes_mask'][:, 0], [True, False, False, True, False, False]
  )
  np.testing.assert_array_equal(record['start_frames'], [3])


def test_tracks_are_cut_or_filled_to_a_number(root):
  make = lambda **options: perception_test.PerceptionTest(str(root), **options)
  whole, one = make()[0], make(num_tracks=1)[0]
  np.testing.assert_array_equal(
    one['target_points'], whole['target_points'][:1]
  )
  three = make(num_tracks=3)[0]
  np.testing.assert_array_equal(
    three['query_points'][:2], whole['query_points']
  )
  np.testing.assert_array_equal(three['query_mask'], [True, True, False])
  assert three['occluded'][2].all()
  boxes = make(task='object_tracking', num_tracks=2)[0]
  assert boxes['boxes'].shape == (LENGTH, 2, 4)
  np.testing.assert_array_equal(boxes['boxes_mask'].sum(0), [2, 0])


def test_it_goes_through_the_clip_transform(root):
  source = pickle.loads(pickle.dumps(perception_test.PerceptionTest(str(root))))
  transform = clips.ClipTransform(
    num_frames=LENGTH, train=False, crop='none', size=(256, 256)
  )
  rng = np.random.default_rng(0)
  clip = transform.augment(transform.sample(source[0], rng), rng)
  np.testing.assert_allclose(clip['target_points'][0, 3], [256, 128])
  np.testing.assert_allclose(clip['query_points'][1], [2, 32, 0])


def test_a_list_of_ids_chooses_videos(root):
  (root / 'ids.csv').write_text('video_9\r\n')
  source = perception_test.PerceptionTest(str(root), id_list='ids.csv')
  assert [r['path'] for r in source] == ['video_9']
  (root / 'ids.csv').write_text('video_9\nvideo_6\n')
  with pytest.raises(
    ValueError, match="ids.csv, line 2: .* no video 'video_6'"
  ):
    perception_test.PerceptionTest(str(root), id_list='ids.csv')


def test_the_file_of_one_task_is_found(root):
  (root / 'all_valid.json').rename(root / 'point_tracking_valid.json')
  assert len(perception_test.PerceptionTest(str(root))) == 2


def test_missing_annotations_are_named_with_their_origin(root):
  with pytest.raises(
    FileNotFoundError,
    match='all_test.json or point_tracking_test.json is missing: .*github.com/'
    'google-deepmind/perception_test.*test_annotations.zip',
  ):
    perception_test.PerceptionTest(str(root), 'test')


def test_a_missing_video_is_named(root):
  (root / 'videos/video_9.mp4').unlink()
  with pytest.raises(
    FileNotFoundError, match="video 'video_9': no video .*9.mp4"
  ):
    perception_test.PerceptionTest(str(root))


def test_a_video_shorter_than_its_annotations_is_an_error(root):
  tracks = [point_track(0, [0, 6], [0.5, 0.5], [0.5, 0.5])]
  save(root, {'video_7': entry('video_7', points=tracks)})
  source = perception_test.PerceptionTest(str(root))
  with pytest.raises(containers.VideoError, match='6 frames, frame 6 is annot'):
    source[0]


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    (dict(points=[[0.5, 0.5, 0.5]] * 4), r'track 3: points must be \[2\]\[n\]'),
    (dict(frame_ids=[0]), 'track 3: frame_ids must be 2 frame numbers'),
    (dict(frame_ids=[-1, 0]), 'track 3: frame_ids must be 2 frame numbers'),
    (dict(frame_ids=[0.5, 1]), 'track 3: frame_ids must be 2 frame numbers'),
    (dict(points=None), 'track 3: points must be'),
  ],
)
def test_bad_tracks_are_named(root, change, reason):
  track = point_track(3, [0, 1], [0.5, 0.5], [0.5, 0.5]) | change
  save(root, {'video_7': entry('video_7', points=[track])})
  with pytest.raises(
    ValueError, match=f"valid.json, video 'video_7': {reason}"
  ):
    perception_test.PerceptionTest(str(root))


def test_a_missing_field_is_named(root):
  track = point_track(3, [0], [0.5], [0.5])
  del track['points']
  save(root, {'video_7': entry('video_7', points=[track])})
  with pytest.raises(ValueError, match="'video_7': the field 'points' is miss"):
    perception_test.PerceptionTest(str(root))


def test_a_box_track_needs_one_start(root):
  track = box_track(3, [0, 3], [[0, 0, 1, 1]] * 2, start=5)
  save(root, {'video_7': entry('video_7', boxes=[track])})
  with pytest.raises(ValueError, match='initial_tracking_box must be 1 once'):
    perception_test.PerceptionTest(str(root), task='object_tracking')
