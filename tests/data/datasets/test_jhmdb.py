"""JHMDB from a miniature of its layout."""

import pickle

import numpy as np
import pytest
import scipy.io
from PIL import Image

from vidscenic.data import clips, containers
from vidscenic.data.datasets import jhmdb

# Real names hold such characters.
CATCH = 'Ball_hochwerfen_-_Rolle_(Timo_3)_catch_f_cm_np1_le_bad_0'
WAVE = '21_wave_u_nm_np1_fr_goo_5'


@pytest.fixture
def root(tmp_path):
  """A test video of 4 frames in 'catch'; one of each subset in 'wave'."""
  (tmp_path / 'splits').mkdir()
  for name, lines in (
    ('catch_test_split1.txt', [f'{CATCH}.avi 2 ']),
    ('wave_test_split1.txt', [f'{WAVE}.avi 2', 'other.avi 1', '']),
    ('wave_test_split2.txt', [f'{WAVE}.avi 1', 'other.avi 2']),
  ):
    (tmp_path / 'splits' / name).write_text('\r\n'.join(lines))
  for path, frames, poses in (
    (f'catch/{CATCH}', 4, 4),
    (f'wave/{WAVE}', 4, 3),
    ('wave/other', 1, 1),
  ):
    add_video(tmp_path, path, frames, poses)
    # Archives made on a Mac hold such folders beside the videos.
    (tmp_path / 'Rename_Images' / path).parent.joinpath('.AppleDouble').mkdir(
      exist_ok=True
    )
  return tmp_path


def positions(frames):
  """Joint j is at (10 j + t, j + 1) in pixels that count from 1."""
  joint, frame = np.meshgrid(np.arange(15), np.arange(frames), indexing='ij')
  return np.stack([10.0 * joint + frame, joint + 1.0])


def add_video(root, path, frames, poses):
  folder = root / 'Rename_Images' / path
  folder.mkdir(parents=True)
  for i in range(frames):
    Image.new('RGB', (120, 40), (i, i, i)).save(folder / f'{i + 1:05d}.png')
  folder = root / 'joint_positions' / path
  folder.mkdir(parents=True)
  scipy.io.savemat(
    folder / 'joint_positions.mat',
    {'pos_img': positions(poses), 'viewpoint': 'E'},
    do_compression=True,
  )


def test_only_the_subset_is_listed(root):
  source = jhmdb.Jhmdb(str(root))
  assert [r['path'] for r in source] == [f'catch/{CATCH}', f'wave/{WAVE}']
  assert [int(r['label']) for r in source] == [0, 1]
  assert source.class_names == ('catch', 'wave')
  source = jhmdb.Jhmdb(str(root), split=2)
  assert [r['path'] for r in source] == ['wave/other']


def test_propagation_counts_pixels_from_zero(root):
  record = jhmdb.Jhmdb(str(root))[0]
  want = positions(4).transpose(1, 2, 0) - 1
  np.testing.assert_allclose(record['target_points'], want)
  np.testing.assert_allclose(record['query_points'][3], [0, 3, 29])
  assert record['target_points'].dtype == np.float32
  assert not record['occluded'].any()


def test_tracking_keeps_coordinates_and_drops_joints_that_start_outside(root):
  record = jhmdb.Jhmdb(str(root), protocol='tracking')[0]
  want = positions(4).transpose(1, 2, 0)
  np.testing.assert_allclose(record['target_points'][:12], want[:12])
  # Joints 12 and on are at x >= 120, the width, in frame 0.
  assert (record['target_points'][12:] == -1).all()
  assert record['occluded'][12:].all()
  assert not record['occluded'][:12].any()


def test_a_video_is_cut_to_its_poses(root):
  record = jhmdb.Jhmdb(str(root))[1]
  assert len(record['video']) == 3
  assert record['target_points'].shape == (15, 3, 2)


def test_a_single_frame_keeps_its_axis(root):
  record = jhmdb.Jhmdb(str(root), subset='train')[0]
  assert record['target_points'].shape == (15, 1, 2)


def test_it_goes_through_the_clip_transform(root):
  source = pickle.loads(pickle.dumps(jhmdb.Jhmdb(str(root))))
  transform = clips.ClipTransform(
    num_frames=4, train=False, crop='none', size=(20, 60)
  )
  rng = np.random.default_rng(0)
  clip = transform.augment(transform.sample(source[0], rng), rng)
  want = (positions(4).transpose(1, 2, 0) - 1) / 2
  np.testing.assert_allclose(clip['target_points'], want)


def test_a_missing_video_is_told_by_line(root):
  with open(root / 'splits/wave_test_split1.txt', 'a') as f:
    f.write('gone.avi 2\n')
  with pytest.raises(
    FileNotFoundError, match='wave_test_split1.txt, line 3: no folder .*gone'
  ):
    jhmdb.Jhmdb(str(root))


def test_missing_joints_are_told_by_line(root):
  (root / f'joint_positions/wave/{WAVE}/joint_positions.mat').unlink()
  with pytest.raises(FileNotFoundError, match='line 1: .*joint_positions.mat'):
    jhmdb.Jhmdb(str(root))


@pytest.mark.parametrize(
  ('line', 'reason'),
  [
    ('x.avi 3', "expected 1 .train. or 2 .test., got '3'"),
    ('x.avi', 'expected 2 fields'),
    (f'{WAVE}.avi 1', 'listed twice'),
  ],
)
def test_bad_lines_are_told(root, line, reason):
  path = root / 'splits/wave_test_split1.txt'
  path.write_text(f'{WAVE}.avi 2\n\n{line}\n')
  with pytest.raises(ValueError, match=f'split1.txt, line 3: .*{reason}'):
    jhmdb.Jhmdb(str(root))


def test_missing_parts_are_named_with_their_origin(root, tmp_path):
  with pytest.raises(FileNotFoundError, match='_split3.txt.*jhmdb.is.tue.mpg'):
    jhmdb.Jhmdb(str(root), split=3)
  with pytest.raises(FileNotFoundError, match='nothing is missing.*jhmdb.is'):
    jhmdb.Jhmdb(str(tmp_path / 'nothing'))


def test_joints_of_another_shape_are_refused(root):
  scipy.io.savemat(
    root / f'joint_positions/catch/{CATCH}/joint_positions.mat',
    {'pos_img': np.zeros((2, 13, 4))},
  )
  with pytest.raises(containers.VideoError, match=r'pos_img must be \[2, 15'):
    jhmdb.Jhmdb(str(root))[0]
