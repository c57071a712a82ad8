"""Waymo boxes from a miniature with the real columns."""

import io
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from vidscenic.data import clips, containers
from vidscenic.data.datasets import waymo

pyarrow = pytest.importorskip('pyarrow')
from pyarrow import parquet  # noqa: E402

SEGMENT = '10203656353524179475_7625_000_7645_000'
TIMES = [1000, 1100, 1200, 1300, 1400]
WIDTH, HEIGHT = 32, 16


def picture(value, size=(WIDTH, HEIGHT)):
  out = io.BytesIO()
  Image.new('RGB', size, (value,) * 3).save(out, 'png')
  return out.getvalue()


def box(time, name, center, size, *, camera=1, kind=1):
  return {
    'key.segment_context_name': SEGMENT,
    'key.frame_timestamp_micros': time,
    'key.camera_name': camera,
    'key.camera_object_id': name,
    '[CameraBoxComponent].box.center.x': float(center[0]),
    '[CameraBoxComponent].box.center.y': float(center[1]),
    '[CameraBoxComponent].box.size.x': float(size[0]),
    '[CameraBoxComponent].box.size.y': float(size[1]),
    '[CameraBoxComponent].type': kind,
  }


def save(path, rows, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)


@pytest.fixture
def root(tmp_path):
  pictures = [
    {
      'key.segment_context_name': SEGMENT,
      'key.frame_timestamp_micros': time,
      'key.camera_name': camera,
      '[CameraImageComponent].image': picture(40 * i + camera),
    }
    for camera in (2, 1)
    for i, time in reversed([*enumerate(TIMES)])  # in no order
  ]
  folder = tmp_path / 'validation'
  # Rows 5 to 9 are camera 1's, in three row groups.
  save(folder / f'camera_image/{SEGMENT}.parquet', pictures, row_group_size=4)
  boxes = [box(t, 'car', (8 + i, 4), (8, 4)) for i, t in enumerate(TIMES)]
  boxes += [
    box(1000, 'bus', (16, 8), (16, 16)),
    box(1200, 'bus', (24, 8), (16, 16)),
    box(1100, 'late', (4, 4), (2, 2)),  # not in the first frame
    box(1000, 'sign', (4, 4), (2, 2), kind=3),
    box(1000, 'left', (4, 4), (2, 2), camera=2),
  ]
  save(folder / f'camera_box/{SEGMENT}.parquet', boxes)
  return tmp_path


def test_objects_of_the_first_frame_the_largest_first(root):
  source = waymo.WaymoBoxes(str(root), num_frames=3, max_boxes=3)
  assert len(source) == 1
  record = source[0]
  assert record['path'] == f'{SEGMENT}/1000'
  assert record['boxes'].dtype == np.float32
  np.testing.assert_array_equal(record['box_types'], [1, 1, 0])
  np.testing.assert_array_equal(
    record['boxes_mask'], [[1, 1, 0], [0, 1, 0], [1, 1, 0]]
  )
  # (ymin, xmin, ymax, xmax) over 16 x 32 pixels: the bus, then the car.
  np.testing.assert_allclose(record['boxes'][0, 0], [0, 0.25, 1, 0.75])
  np.testing.assert_allclose(
    record['boxes'][2, 1], [2 / 16, 6 / 32, 6 / 16, 14 / 32]
  )
  few = waymo.WaymoBoxes(str(root), num_frames=3, max_boxes=1)[0]
  np.testing.assert_array_equal(few['boxes'], record['boxes'][:, :1])


def test_pictures_are_those_of_the_camera_by_time(root):
  source = waymo.WaymoBoxes(str(root), num_frames=3, stride=2)
  source = pickle.loads(pickle.dumps(source))
  record = source[0]
  assert record['video'] == [picture(40 * i + 1) for i in (0, 2, 4)]
  other = waymo.WaymoBoxes(str(root), num_frames=1, camera=2)
  assert len(other) == 5 and other[3]['video'] == [picture(122)]


def test_it_goes_through_the_clip_transform(root):
  record = waymo.WaymoBoxes(str(root), num_frames=3, max_boxes=2)[0]
  transform = clips.ClipTransform(num_frames=3, train=False, size=(16, 16))
  rng = np.random.default_rng(0)
  clip = transform.augment(transform.sample(record, rng), rng)
  # The middle half is left: the bus fills it from side to side.
  np.testing.assert_allclose(clip['boxes'][0, 0], [0, 0, 1, 1])
  np.testing.assert_allclose(clip['boxes'][2, 0], [0, 0.5, 1, 1])


def test_missing_files_are_told_with_their_origin(root):
  with pytest.raises(FileNotFoundError, match='training.*waymo.com/open'):
    waymo.WaymoBoxes(str(root), 'training')
  (root / f'validation/camera_box/{SEGMENT}.parquet').unlink()
  with pytest.raises(FileNotFoundError, match='camera_box.*waymo.com/open'):
    waymo.WaymoBoxes(str(root))


def test_damaged_tables_are_named(root):
  source = waymo.WaymoBoxes(str(root), num_frames=2)
  path = root / f'validation/camera_box/{SEGMENT}.parquet'
  save(path, [{'key.frame_timestamp_micros': 1000}])
  with pytest.raises(containers.VideoError, match="no column 'key.camera_na"):
    source[0]
  path = root / f'validation/camera_image/{SEGMENT}.parquet'
  path.write_bytes(b'PAR1')
  with pytest.raises(ValueError, match=f'{SEGMENT}.parquet'):
    waymo.WaymoBoxes(str(root))


def test_pyarrow_is_named_where_it_is_missing(root, monkeypatch):
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  with pytest.raises(ImportError, match=r"pip install 'vidscenic\[waymo\]'"):
    waymo.WaymoBoxes(str(root))
