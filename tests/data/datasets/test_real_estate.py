"""RealEstate10K from a miniature with its real lines."""

import pickle

import numpy as np
import pytest
from PIL import Image

from vidscenic.data import clips, containers
from vidscenic.data.datasets import real_estate

CLIP = '000c3ab189999a83'


def line(time, number):
  """Frame `number`: turned by 90 degrees, moved along z."""
  pose = [0, -1, 0, 1, 1, 0, 0, 2, 0, 0, 1, number]
  return ' '.join(map(str, [time, 0.5, 0.8, 0.5, 0.4, 0.0, 0.0, *pose]))


def add_clip(root, name, times, missing=()):
  folder = root / 'frames/test' / name
  folder.mkdir(parents=True)
  for i, time in enumerate(times):
    if time not in missing:
      picture = Image.new('RGB', (8, 4), (20 * i,) * 3)
      picture.save(folder / f'{time}.png')
  lines = ['https://www.youtube.com/watch?v=abc']
  lines += [line(time, i) for i, time in enumerate(times)]
  (root / f'test/{name}.txt').write_text('\n'.join(lines) + '\n')


@pytest.fixture
def root(tmp_path):
  (tmp_path / 'test').mkdir()
  # Times are numbers: 9 ms come before 52 ms.
  add_clip(tmp_path, CLIP, [9000, 52000, 85000, 119000, 152000])
  add_clip(tmp_path, 'ffff', [1000, 2000, 3000], missing=(2000,))
  (tmp_path / 'test/gone.txt').write_text('https://y\n' + line(5, 0))
  return tmp_path


def test_frames_come_with_their_poses_in_the_order_of_time(root):
  source = real_estate.RealEstate10K(str(root), num_frames=2, stride=2)
  assert source.num_missing == 1
  record = source[0]
  assert record['path'] == f'{CLIP}/9000'
  want = [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 2], [0, 0, 0, 1]]
  np.testing.assert_array_equal(record['cam_from_world'][1], want)
  np.testing.assert_array_equal(
    record['intrinsics'], np.float32([[0.5, 0.8, 0.5, 0.4]] * 2)
  )


def test_frames_that_are_not_there_are_left_out(root):
  source = pickle.loads(
    pickle.dumps(real_estate.RealEstate10K(str(root), num_frames=2))
  )
  assert [r['path'] for r in source] == [
    f'{CLIP}/9000', f'{CLIP}/85000', 'ffff/1000'
  ]  # fmt: skip
  np.testing.assert_array_equal(source[2]['cam_from_world'][:, 2, 3], [0, 2])


def test_it_goes_through_the_clip_transform(root):
  record = real_estate.RealEstate10K(str(root), num_frames=4)[0]
  transform = clips.ClipTransform(num_frames=4, train=False, size=(4, 4))
  rng = np.random.default_rng(0)
  clip = transform.augment(transform.sample(record, rng), rng)
  assert clip['video'].shape == (4, 4, 4, 3)
  # Half the width is cut off: the focal length is twice as much of the rest.
  np.testing.assert_allclose(clip['intrinsics'][0], [1.0, 0.8, 0.5, 0.4])


def test_what_is_missing_is_told_with_its_origin(root):
  with pytest.raises(FileNotFoundError, match='train is missing.*google'):
    real_estate.RealEstate10K(str(root), 'train')
  with pytest.raises(FileNotFoundError, match='no clip of 3 has its frames'):
    real_estate.RealEstate10K(str(root), frames='pictures')
  with pytest.raises(ValueError, match='none of its 2 recordings has 16'):
    real_estate.RealEstate10K(str(root))


def test_bad_lines_and_frames_are_named(root):
  path = root / f'test/{CLIP}.txt'
  good = path.read_text()
  source = real_estate.RealEstate10K(str(root), num_frames=2)
  path.write_text(good.replace(line(52000, 1), line(52001, 1)))
  with pytest.raises(containers.VideoError, match='52000.png: .*no line'):
    source[0]
  path.write_text(good.replace(line(52000, 1), '52000 0.5'))
  with pytest.raises(ValueError, match='line 3: expected 19 numbers.* got 2'):
    source[0]
  (root / f'frames/test/{CLIP}/first.png').write_bytes(b'')
  with pytest.raises(ValueError, match='first.png: the name is not a time'):
    real_estate.RealEstate10K(str(root), num_frames=2)
