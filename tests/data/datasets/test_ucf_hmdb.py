"""UCF101 and HMDB51: three splits, and names that do not agree."""

import pytest

from tests.data.datasets import miniature
from vidscenic.data.datasets import class_lists, ucf_hmdb

# --- UCF101 ---

LISTS = {
  'trainlist01': 'ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\n'
  'YoYo/v_YoYo_g08_c01.avi 101\n',
  'testlist01': 'YoYo/v_YoYo_g01_c01.avi\n',
  'trainlist02': 'YoYo/v_YoYo_g01_c01.avi 101\n',
}
VIDEOS = (
  'UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi',
  'UCF-101/YoYo/v_YoYo_g01_c01.avi',
  'UCF-101/YoYo/v_YoYo_g08_c01.avi',
)


def make_ucf(root, lists=(), videos=VIDEOS, **options):
  for name, text in (LISTS | dict(lists)).items():
    miniature.write(root, f'ucfTrainTestlist/{name}.txt', text)
  miniature.touch(root, *videos)
  return ucf_hmdb.Ucf101(str(root), **options)


def test_ucf_labels_count_from_zero(tmp_path):
  source = make_ucf(tmp_path)
  assert miniature.paths(source) == [VIDEOS[0], VIDEOS[2]]
  assert miniature.labels(source) == [0, 100]
  assert miniature.classes(source) == ['ApplyEyeMakeup', 'YoYo']


def test_ucf_splits(tmp_path):
  assert miniature.paths(make_ucf(tmp_path, split='test')) == [VIDEOS[1]]
  assert miniature.labels(make_ucf(tmp_path, split='test')) == [100]
  assert miniature.paths(make_ucf(tmp_path, fold=2)) == [VIDEOS[1]]


@pytest.mark.parametrize('listed', ['HandStandPushups', 'HandstandPushups'])
@pytest.mark.parametrize('folder', ['HandStandPushups', 'HandstandPushups'])
@pytest.mark.parametrize('name', ['HandStandPushups', 'HandstandPushups'])
def test_ucf_hand_stands_are_found_however_written(
  tmp_path, listed, folder, name
):
  video = f'UCF-101/{folder}/v_{name}_g08_c01.avi'
  lists = {'trainlist01': f'{listed}/v_{listed}_g08_c01.avi 37\n'}
  source = make_ucf(tmp_path, lists, [video])
  assert miniature.paths(source) == [video]
  assert miniature.labels(source) == [36]


def test_ucf_lists_from_windows_and_with_numbers_in_test_lists(tmp_path):
  text = '\r\nYoYo/v_YoYo_g01_c01.avi 101\r\n\r\n'
  source = make_ucf(tmp_path, {'testlist01': text}, split='test')
  assert miniature.labels(source) == [100]


def test_ucf_videos_may_be_encoded_again(tmp_path):
  videos = [path.replace('.avi', '.mp4') for path in VIDEOS]
  assert miniature.paths(make_ucf(tmp_path, (), videos))[0] == videos[0]


@pytest.mark.parametrize(
  ('line', 'match'),
  [
    ('YoYo/v_YoYo_g01_c01.avi 100', 'YoYo is class 101 of 101, got 100'),
    ('YoYo/v_YoYo_g01_c01.avi x', "number must be a number, got 'x'"),
    ('YoYo/v_YoYo_g01_c01.avi 101 7', 'expected 2 fields .*, got 3'),
    ('v_YoYo_g01_c01.avi 101', 'expected <Class>/<video>, got'),
    ('YoYoo/v_YoYo_g01_c01.avi 101', "unknown class 'yoyoo'; is it 'yoyo'"),
    ('ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1', 'twice, .*line 1'),
  ],
)
def test_ucf_bad_lines_are_named(tmp_path, line, match):
  first = LISTS['trainlist01'].splitlines()[0]
  lists = {'trainlist01': f'{first}\n\n{line}\n'}
  with pytest.raises(ValueError, match=f'trainlist01.txt, line 3: .*{match}'):
    make_ucf(tmp_path, lists)


def test_ucf_missing_video_is_named(tmp_path):
  with pytest.raises(
    FileNotFoundError, match='line 2: no file YoYo/v_YoYo_g08.*crcv.ucf.edu'
  ):
    make_ucf(tmp_path, (), VIDEOS[:2])


def test_ucf_missing_list_is_named(tmp_path):
  with pytest.raises(
    FileNotFoundError, match='testlist03.txt is missing: .*RecognitionTask.zip'
  ):
    make_ucf(tmp_path, split='test', fold=3)


def test_ucf_arguments_are_checked(tmp_path):
  for options in ({'fold': 0}, {'split': 'val'}):
    with pytest.raises(
      ValueError, match=r'source_kwargs\.(fold|split) must be'
    ):
      make_ucf(tmp_path, **options)


# --- HMDB51 ---

ODD = '#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi'
BRACKETS = 'Hitch_(2005)_clap;x_u_nm_np1_fr_med_1.avi'


def make_hmdb(root, clap=f'{ODD} 1 \n{BRACKETS} 2 \n', **options):
  """One training video per class, besides those of `clap`."""
  for name in class_lists.names('hmdb51'):
    text = clap if name == 'clap' else f'{name}_0.avi 1 \n{name}_1.avi 0 \n'
    folder = 'testTrainMulti_7030_splits'
    miniature.write(root, f'{folder}/{name}_test_split1.txt', text)
    miniature.touch(root, f'{name}/{name}_0.avi')
  miniature.touch(root, f'clap/{ODD}', f'clap/{BRACKETS}')
  return ucf_hmdb.Hmdb51(str(root), **options)


def test_hmdb_parts_and_odd_names(tmp_path):
  train, test = (make_hmdb(tmp_path, split=s) for s in ('train', 'test'))
  assert miniature.paths(test) == [f'clap/{BRACKETS}']
  assert miniature.classes(test) == ['clap']
  assert miniature.labels(train) == list(range(51))
  assert f'clap/{ODD}' in miniature.paths(train)


def test_hmdb_unused_videos_may_be_absent(tmp_path):
  assert make_hmdb(tmp_path).num_missing == 0


@pytest.mark.parametrize(
  ('line', 'match'),
  [
    ('a.avi 3', "line 3: part must be 0, 1 or 2, got '3'"),
    ('a.avi', r'line 3: expected 2 fields \(video part\), got 1'),
    (f'{ODD} 1', 'line 3: .* twice, first in .*line 1'),
  ],
)
def test_hmdb_bad_lines_are_named(tmp_path, line, match):
  with pytest.raises(ValueError, match=f'clap_test_split1.txt, {match}'):
    make_hmdb(tmp_path, f'{ODD} 1\n\n{line}\n')


def test_hmdb_missing_files_are_named(tmp_path):
  with pytest.raises(
    FileNotFoundError, match='line 1: no file clap/gone.avi .*serre-lab'
  ):
    make_hmdb(tmp_path, 'gone.avi 1\n')
  with pytest.raises(
    FileNotFoundError, match='brush_hair_test_split2.txt is missing: .*rar'
  ):
    make_hmdb(tmp_path, fold=2)
