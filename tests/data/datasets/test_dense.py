"""DAVIS, VIP and ScanNet from miniatures of their layouts."""

import pickle

import numpy as np
import pytest
from PIL import Image

from tests.data import test_png16
from vidscenic.data import clips, containers
from vidscenic.data.datasets import dense


def save(path, image):
  path.parent.mkdir(parents=True, exist_ok=True)
  image.save(path)


def picture(value, size=(6, 4)):
  return Image.new('RGB', size, (value, value, value))


def palette_map(values):
  image = Image.fromarray(values, 'P')
  image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
  return image


def object_map(frame):
  values = np.zeros((4, 6), np.uint8)
  values[1:3, frame : frame + 2] = 3
  values[0] = 1
  return values


def run(transform, record):
  rng = np.random.default_rng(0)
  return transform.augment(transform.sample(record, rng), rng)


@pytest.fixture
def davis(tmp_path):
  for name, frames in (('bear', 3), ('bike-packing', 2), ('unlisted', 1)):
    for i in range(frames):
      save(
        tmp_path / 'JPEGImages/480p' / name / f'{i:05d}.jpg', picture(20 * i)
      )
      save(
        tmp_path / 'Annotations/480p' / name / f'{i:05d}.png',
        palette_map(object_map(i)),
      )
  lists = tmp_path / 'ImageSets/2017'
  lists.mkdir(parents=True)
  (lists / 'val.txt').write_bytes(b'bike-packing\r\nbear\r\n\r\n')
  return tmp_path


def test_davis_follows_the_list_and_keeps_object_numbers(davis):
  source = dense.Davis(str(davis))
  assert [r['path'] for r in source] == ['bike-packing', 'bear']
  record = source[1]
  assert len(record['video']) == 3
  np.testing.assert_array_equal(
    record['segmentations'][..., 0], [object_map(i) for i in range(3)]
  )


def test_davis_goes_through_the_clip_transform(davis):
  source = pickle.loads(pickle.dumps(dense.Davis(str(davis))))
  transform = clips.ClipTransform(
    num_frames=3, train=False, crop='none', size=(8, 12)
  )
  clip = run(transform, source[1])
  assert clip['video'].shape == (3, 8, 12, 3)
  assert abs(int(clip['video'][2, 0, 0, 0]) - 40) <= 2  # JPEG
  np.testing.assert_array_equal(
    clip['segmentations'][1, ::2, ::2, 0], object_map(1)
  )


def test_davis_tells_what_is_missing_and_where_it_comes_from(davis):
  with pytest.raises(FileNotFoundError, match='train.txt.*davischallenge.org'):
    dense.Davis(str(davis), 'train')
  with pytest.raises(FileNotFoundError, match='Full-Res.*davischallenge.org'):
    dense.Davis(str(davis), resolution='Full-Resolution')


def test_a_listed_video_without_frames_is_told_by_line(davis):
  path = davis / 'ImageSets/2017/val.txt'
  path.write_text('bear\n\nbeat\n')
  with pytest.raises(
    FileNotFoundError, match='val.txt, line 3: no folder .*be'
  ):
    dense.Davis(str(davis))


def test_a_video_listed_twice_is_told_by_line(davis):
  (davis / 'ImageSets/2017/val.txt').write_text('bear\nbear\n')
  with pytest.raises(ValueError, match="line 2: video 'bear' is listed twice"):
    dense.Davis(str(davis))


def test_a_frame_without_mask_is_named(davis):
  (davis / 'Annotations/480p/bear/00001.png').unlink()
  with pytest.raises(ValueError, match='JPEGImages.*bear has a frame 00001'):
    dense.Davis(str(davis))


def test_a_damaged_mask_is_named(davis):
  (davis / 'Annotations/480p/bear/00001.png').write_bytes(b'\x89PNG')
  source = dense.Davis(str(davis))
  with pytest.raises(containers.VideoError, match='bear/00001.png'):
    source[1]


@pytest.fixture
def vip(tmp_path):
  for i in (1, 26):
    save(tmp_path / f'Images/videos7/{i:012d}.jpg', picture(i))
    save(
      tmp_path / f'Annotations/Category_ids/videos7/{i:012d}.png',
      Image.fromarray(np.full((4, 6), 19, np.uint8)),
    )
  (tmp_path / 'lists').mkdir()
  (tmp_path / 'lists/val_videos.txt').write_text('videos7\n')
  return tmp_path


def test_vip_reads_category_ids(vip):
  (record,) = list(dense.Vip(str(vip)))
  assert record['path'] == 'videos7'
  assert record['segmentations'].shape == (2, 4, 6, 1)
  assert (record['segmentations'] == dense.Vip.NUM_CLASSES - 1).all()


def test_vip_tells_where_it_comes_from(vip):
  with pytest.raises(FileNotFoundError, match='train_videos.txt.*sysu-hcp.net'):
    dense.Vip(str(vip), 'train')


@pytest.fixture
def scannet(tmp_path):
  """A scan of 12 frames, named without zeros, and one of 2."""
  for scene, frames in (('scene0000_00', 12), ('scene0001_00', 2)):
    folder = tmp_path / 'scans' / scene
    for i in range(frames):
      save(folder / 'color' / f'{i}.jpg', picture(20 * i, (12, 8)))
      depth = np.full((4, 6, 1), 1000 + i, np.uint16)
      depth[0, 0] = 0
      path = folder / 'depth' / f'{i}.png'
      path.parent.mkdir(exist_ok=True)
      path.write_bytes(test_png16.encode(depth))
  (tmp_path / 'scannetv2_val.txt').write_text('scene0000_00\nscene0001_00\n')
  return tmp_path


def test_scannet_frames_are_in_numeric_order(scannet):
  record = dense.ScanNet(str(scannet), 'val', num_frames=12)[0]
  grey = record['video'][:, 1, 1, 0].astype(int)
  assert (np.diff(grey) > 10).all()


def test_scannet_depth_is_in_metres_and_masked_where_missing(scannet):
  record = dense.ScanNet(str(scannet), 'val', num_frames=3)[1]
  assert record['path'] == 'scene0000_00/3'
  assert record['depth'].dtype == np.float32
  np.testing.assert_allclose(record['depth'][:, 1, 1, 0], [1.003, 1.004, 1.005])
  assert not record['depth_mask'][:, 0, 0].any()
  assert record['depth_mask'][:, 1:].all()


def test_scannet_colour_is_scaled_to_the_depth_maps(scannet):
  record = dense.ScanNet(str(scannet), 'val', num_frames=2)[0]
  assert record['video'].shape == (2, 4, 6, 3)
  clip = run(
    clips.ClipTransform(num_frames=2, train=False, size=(4, 4)), record
  )
  assert clip['video'].shape[:3] == clip['depth'].shape[:3] == (2, 4, 4)


@pytest.mark.parametrize(
  ('kwargs', 'count', 'last'),
  [
    (dict(num_frames=4), 3, 8),
    (dict(num_frames=4, hop=1), 9, 8),
    (dict(num_frames=3, stride=4), 1, 0),
    (dict(num_frames=2), 7, 0),  # 6 and, of the other scan, 1
  ],
)
def test_scannet_stretches(scannet, kwargs, count, last):
  source = pickle.loads(
    pickle.dumps(dense.ScanNet(str(scannet), 'val', **kwargs))
  )
  assert len(source) == count
  assert source[count - 1]['path'].endswith(f'/{last}')
  with pytest.raises(IndexError):
    source[count]


def test_scannet_needs_a_scan_that_is_long_enough(scannet):
  with pytest.raises(ValueError, match='none of its 2 recordings has 13'):
    dense.ScanNet(str(scannet), 'val', num_frames=13)


def test_scannet_tells_what_is_missing_and_where_it_comes_from(scannet):
  with pytest.raises(FileNotFoundError, match='scannetv2_train.*github.com'):
    dense.ScanNet(str(scannet), 'train')
  (scannet / 'scannetv2_val.txt').write_text('scene0009_00\n')
  with pytest.raises(FileNotFoundError, match='line 1: no folder .*scan-net'):
    dense.ScanNet(str(scannet), 'val')


def test_scannet_refuses_colour_for_depth(scannet):
  path = scannet / 'scans/scene0000_00/depth/0.png'
  path.write_bytes(test_png16.encode(np.zeros((4, 6, 3), np.uint16)))
  with pytest.raises(containers.VideoError, match='one channel, got 3'):
    dense.ScanNet(str(scannet), 'val', num_frames=2)[0]
