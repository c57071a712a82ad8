"""MPI Sintel and KITTI 2015 from miniatures of their layouts."""

import pickle

import numpy as np
import pytest
from PIL import Image

from tests.data import test_png16
from vidscenic.data import clips, containers
from vidscenic.data.datasets import flow, flow_files


def save(path, image):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(path)


def grey(number):
  return np.full((4, 6, 3), number, np.uint8)


@pytest.fixture
def sintel(tmp_path):
  """Two scenes with 3 and 2 frames: three pairs."""
  training = tmp_path / 'training'
  for scene, frames in (('alley_1', 3), ('cave_2', 2)):
    for i in range(1, frames + 1):
      name = f'{scene}/frame_{i:04d}'
      for render in ('clean', 'final'):
        save(training / render / f'{name}.png', grey(10 * i))
      invalid = np.zeros((4, 6), np.uint8)
      invalid[0, 0] = 255
      save(training / 'invalid' / f'{name}.png', invalid)
      if i < frames:
        occluded = np.zeros((4, 6), np.uint8)
        occluded[:, 5] = 255
        save(training / 'occlusions' / f'{name}.png', occluded)
        path = training / 'flow' / f'{name}.flo'
        path.parent.mkdir(parents=True, exist_ok=True)
        flow_files.write_flo(path, np.full((4, 6, 2), (0.5 * i, -1)))
  return tmp_path


def test_sintel_pairs_stay_within_a_scene(sintel):
  source = flow.Sintel(str(sintel), 'clean')
  names = ['alley_1/frame_0001', 'alley_1/frame_0002', 'cave_2/frame_0001']
  assert [source[i]['path'] for i in range(len(source))] == names


def test_sintel_flow_belongs_to_the_first_frame(sintel):
  record = flow.Sintel(str(sintel))[1]
  np.testing.assert_array_equal(record['forward_flow'][0, 2, 3], [1, -1])
  assert not record['forward_flow'][1].any()
  assert not record['flow_mask'][1].any()
  assert not record['flow_known'][1].any()


def test_sintel_mask_leaves_out_occluded_and_invalid_pixels(sintel):
  record = flow.Sintel(str(sintel))[0]
  want = np.ones((4, 6), bool)
  want[0, 0] = want[:, 5] = False
  np.testing.assert_array_equal(record['flow_mask'][0], want)
  assert record['flow_known'][0].all()


def test_sintel_goes_through_the_clip_transform(sintel):
  source = pickle.loads(pickle.dumps(flow.Sintel(str(sintel))))
  transform = clips.ClipTransform(
    num_frames=2, train=False, crop='none', size=()
  )
  rng = np.random.default_rng(0)
  clip = transform.augment(transform.sample(source[1], rng), rng)
  np.testing.assert_array_equal(clip['video'][:, 0, 0, 0], [20, 30])
  np.testing.assert_array_equal(clip['forward_flow'][0, 2, 3], [1, -1])
  assert clip['flow_known'].sum() == 24


def test_a_missing_sintel_file_is_named_with_its_origin(sintel):
  path = sintel / 'training/occlusions/alley_1/frame_0002.png'
  path.unlink()
  with pytest.raises(FileNotFoundError) as error:
    flow.Sintel(str(sintel))
  assert str(path) in str(error.value)
  assert 'http://sintel.is.tue.mpg.de' in str(error.value)


def test_masks_of_another_size_are_refused(sintel):
  save(
    sintel / 'training/occlusions/cave_2/frame_0001.png',
    np.zeros((4, 7), np.uint8),
  )
  source = flow.Sintel(str(sintel))
  with pytest.raises(containers.VideoError, match='frame_0001.png: has size'):
    source[2]


@pytest.fixture
def kitti(tmp_path):
  training = tmp_path / 'training'
  for name in ('000000_10', '000000_11', '000001_10', '000001_11'):
    save(training / 'image_2' / f'{name}.png', grey(int(name[-2:])))
  for i in range(2):
    truth = np.full((4, 6, 3), 32768, np.uint16)
    truth[..., 0] += 64 * (i + 1)
    truth[..., 2] = 1
    truth[:2, :, 2] = 0
    for kind in ('flow_occ', 'flow_noc'):
      path = training / kind / f'{i:06d}_10.png'
      path.parent.mkdir(exist_ok=True)
      path.write_bytes(test_png16.encode(truth))
      truth[3, :, 2] = 0  # leaves the picture
  return tmp_path


def test_kitti_counts_pixels_that_leave_as_known_but_unseen(kitti):
  record = flow.KittiFlow(str(kitti))[1]
  assert record['path'] == '000001_10'
  np.testing.assert_array_equal(record['forward_flow'][0, 2, 2], [2, 0])
  assert record['flow_known'][0].any(1).tolist() == [False, False, True, True]
  assert record['flow_mask'][0].any(1).tolist() == [False, False, True, False]
  assert len(record['video']) == 2


def test_a_missing_kitti_folder_is_named_with_its_origin(tmp_path):
  with pytest.raises(FileNotFoundError, match='flow_occ.*cvlibs.net.*registr'):
    flow.KittiFlow(str(tmp_path))
