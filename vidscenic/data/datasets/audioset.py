"""AudioSet (Gemmeke et al., ICASSP 2017): sounds of clips from YouTube."""

import re
from collections.abc import Iterator

import numpy as np

from vidscenic.data.datasets import class_lists, listed_videos, tables

SPLITS = ('balanced_train', 'unbalanced_train', 'eval')

_HINT = (
  'AudioSet, tables from https://research.google.com/audioset/download.html'
)
# Every id is in AudioSet once; tools add a 'Y' before it, or times after it.
_NAME = re.compile(r'Y?([\w-]{11})(?:_\d+(?:\.\d+)?){0,2}')
_COLUMNS = ('YTID', 'start_seconds', 'end_seconds', 'positive_labels')


class AudioSet(listed_videos.ListedVideos):
  """Clips of 10 s with sound, each with one or more of 527 kinds of sounds.

  Tables: `{balanced_train,unbalanced_train,eval}_segments.csv` in `root`,
  `root/annotations` or where `annotations` says: lines
  `YTID, start_seconds, end_seconds, "mid,mid,..."` after three comment lines.

  Clips: videos with sound, already cut to the 10 s (22,160, 2 million and
  20,371 segments), in any folders, named `<id>`, `Y<id>`, `<id>_<start>` or
  `<id>_<start>_<end>`. Files with sound alone are not listed: records hold
  videos. `audio_rate` and `audio_samples` of `clips.ClipTransform` read the
  sound.

  The label of a record is float32[527], 1 where a sound was confirmed; the
  others are not sure to be absent.

  Many clips have left YouTube: by default what is missing is counted and
  logged. Evaluation in the literature: average precision per class, mean over
  classes (mAP) on eval; scores averaged over 16 overlapping clips
  (arXiv 2103.03206).

  Args:
    root: folder with clips (and tables).
    split: one of SPLITS.
    annotations: folder of the tables; relative to `root` or absolute.
    strict: a missing or repeated clip is an error.

  Raises:
    FileNotFoundError: no folder, table or clip.
    ValueError: an argument or a line of the table is wrong.
  """

  def __init__(
    self,
    root: str,
    split: str = 'balanced_train',
    annotations: str = '',
    strict: bool = False,
  ):
    listed_videos.require_choice('split', split, SPLITS)
    listed_videos.require_root(root, _HINT)
    table = listed_videos.find_annotation(
      root, annotations, (f'{split}_segments.csv',), _HINT
    )
    super().__init__(
      root,
      _clips(root, table),
      hint=_HINT,
      strict=strict,
      class_names=class_lists.names('audioset'),
    )

  def _label(self, label):
    several = np.zeros(len(self.class_names), np.float32)
    several[list(label)] = 1
    return several


def _clips(root, table) -> Iterator[listed_videos.Listed]:
  ids = {mid: number for number, mid in enumerate(class_lists.keys('audioset'))}
  files = listed_videos.find_videos(root, _key)
  rows = tables.read_csv(table, _COLUMNS, _HINT, header=False, comment='#')
  for where, row in rows:
    clip = row['YTID']
    if clip == 'YTID':  # some copies have the header without its '#'
      continue
    label = tuple(
      tables.class_id(ids, mid.strip(), where)
      for mid in row['positive_labels'].split(',')
    )
    yield listed_videos.Listed(where, clip, files.get(clip), label)


def _key(stem):
  match = _NAME.fullmatch(stem.rpartition('/')[2])
  return match and match[1]
