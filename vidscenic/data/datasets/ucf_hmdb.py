"""UCF101 and HMDB51: human actions, each with three official splits.

Videos are told apart by their folder and their name without the extension, so
that re-encoded copies are found too; `root` should hold one copy of each.
"""

import os

from vidscenic.data.datasets import class_lists, listed_videos, tables

_UCF101 = 'UCF101, from https://www.crcv.ucf.edu/data/UCF101.php'


class Ucf101(listed_videos.ListedVideos):
  """UCF101 (arXiv 1212.0402): 101 human actions, three ways to split them.

  Files: lists `trainlist01.txt`, `testlist01.txt` to 03 in
  `root/ucfTrainTestlist`, `root`, `root/annotations` or where `annotations`
  says; videos `UCF-101/<Class>/v_<Class>_g01_c01.avi`. A training line is
  `<Class>/<video> <number>`, numbered from 1 as in `classInd.txt`; a test line
  has no number. Some copies write HandStandPushups where others have
  HandstandPushups: case is ignored.

  Evaluation in the literature: top-1 on the test list, mean over the splits.

  Args:
    root: folder with videos (and lists).
    split: 'train' or 'test'.
    fold: which of the three splits: 1, 2 or 3.
    annotations: folder of the lists; relative to `root` or absolute.
    strict: a missing or repeated video is an error.

  Raises:
    FileNotFoundError: no folder, list or video.
    ValueError: an argument or a line of a list is wrong.
  """

  def __init__(
    self,
    root: str,
    split: str = 'train',
    fold: int = 1,
    annotations: str = '',
    strict: bool = True,
  ):
    listed_videos.require_choice('split', split, ('train', 'test'))
    listed_videos.require_choice('fold', fold, (1, 2, 3))
    listed_videos.require_root(root, _UCF101)
    list_file = listed_videos.find_annotation(
      root,
      annotations,
      (f'{split}list{fold:02d}.txt',),
      'a list of UCF101TrainTestSplits-RecognitionTask.zip, part of ' + _UCF101,
      folders=('ucfTrainTestlist',),
    )
    names = class_lists.names('ucf101')
    super().__init__(
      root,
      _ucf101_videos(root, list_file, names),
      hint=_UCF101,
      strict=strict,
      class_names=names,
    )


def _ucf101_videos(root, list_file, names):
  ids = {name.casefold(): number for number, name in enumerate(names)}
  files = listed_videos.find_videos(root, _class_and_video)
  rows = tables.read_columns(
    list_file, ('<Class>/<video>', 'number'), _UCF101, optional=1
  )
  for where, (video, *number) in rows:
    folder, slash, _ = video.rpartition('/')
    if not slash:
      raise ValueError(f'{where}: expected <Class>/<video>, got {video!r}')
    label = tables.class_id(ids, folder.casefold(), where)
    if number and tables.integer(number[0], where, 'number') != label + 1:
      raise ValueError(
        f'{where}: {folder} is class {label + 1} of 101, got {number[0]}'
      )
    path = files.get(_class_and_video(os.path.splitext(video)[0]))
    yield listed_videos.Listed(where, video, path, label)


def _class_and_video(stem):
  """What identifies a video of UCF101 and HMDB51: its folder and its name."""
  return '/'.join(stem.casefold().split('/')[-2:])


_HMDB51 = (
  'HMDB51, from https://serre-lab.clps.brown.edu/resource/'
  'hmdb-a-large-human-motion-database'
)
_HMDB51_PARTS = {'0': '', '1': 'train', '2': 'test'}


class Hmdb51(listed_videos.ListedVideos):
  """HMDB51 (Kuehne et al., ICCV 2011): 51 human actions, three splits.

  Files: lists `<class>_test_split<fold>.txt` of test_train_splits.rar in
  `root/testTrainMulti_7030_splits`, `root`, `root/annotations` or where
  `annotations` says; videos `<class>/*.avi`, whose names hold characters such
  as '#', ';' and '('. Lines are `<video> <part>`: 1 is training (70 videos per
  class), 2 test (30), 0 is in neither.

  Evaluation in the literature: top-1 on the test videos, mean over the splits.

  Args:
    root: folder with videos (and lists).
    split: 'train' or 'test'.
    fold: which of the three splits: 1, 2 or 3.
    annotations: folder of the lists; relative to `root` or absolute.
    strict: a missing or repeated video is an error.

  Raises:
    FileNotFoundError: no folder, list or video.
    ValueError: an argument or a line of a list is wrong.
  """

  def __init__(
    self,
    root: str,
    split: str = 'train',
    fold: int = 1,
    annotations: str = '',
    strict: bool = True,
  ):
    listed_videos.require_choice('split', split, ('train', 'test'))
    listed_videos.require_choice('fold', fold, (1, 2, 3))
    listed_videos.require_root(root, _HMDB51)
    names = class_lists.names('hmdb51')
    lists = [
      listed_videos.find_annotation(
        root,
        annotations,
        (f'{name}_test_split{fold}.txt',),
        'a list of test_train_splits.rar, part of ' + _HMDB51,
        folders=('testTrainMulti_7030_splits',),
      )
      for name in names
    ]
    super().__init__(
      root,
      _hmdb51_videos(root, split, zip(names, lists, strict=True)),
      hint=_HMDB51,
      strict=strict,
      class_names=names,
    )


def _hmdb51_videos(root, split, lists):
  files = listed_videos.find_videos(root, _class_and_video)
  for label, (name, list_file) in enumerate(lists):
    rows = tables.read_columns(list_file, ('video', 'part'), _HMDB51)
    for where, (video, part) in rows:
      if part not in _HMDB51_PARTS:
        raise ValueError(f'{where}: part must be 0, 1 or 2, got {part!r}')
      if _HMDB51_PARTS[part] != split:
        continue
      video = f'{name}/{video}'
      path = files.get(_class_and_video(os.path.splitext(video)[0]))
      yield listed_videos.Listed(where, video, path, label)
