"""Kinetics-400, 600, 700 and 700-2020: human actions in clips from YouTube."""

import collections
import os
import re

from vidscenic.data.datasets import class_lists, listed_videos, tables

_TABLES = {
  'train': ('train.csv',),
  'val': ('val.csv', 'validate.csv'),
  'test': ('test.csv',),
}
_FOLDERS = {
  'train': ('train', 'videos_train', 'train_256'),
  'val': ('val', 'validate', 'validation', 'videos_val', 'val_256'),
  'test': ('test', 'videos_test', 'test_256'),
}
# YouTube ids have 11 characters; copies that were named after the id alone
# leave out the times.
_NAME = re.compile(r'([\w-]{11})(?:_(\d+)_(\d+))?')
_VIDEOS = (
  'the clips of Kinetics, from YouTube by the csv files or from '
  'https://github.com/cvdfoundation/kinetics-dataset'
)


class Kinetics(listed_videos.ListedVideos):
  """Clips of 10 s, each of one of 400, 600 or 700 human actions.

  arXiv 1705.06950 (400), 1808.01340 (600), 1907.06987 (700) and 2010.10864
  (700-2020, other clips of the same classes).

  Tables: `train.csv`, `val.csv` (or `validate.csv`), `test.csv`, in `root`,
  `root/annotations` or where `annotations` says; also under the names of other
  copies (`kinetics-400_val.csv`, `kinetics_val.csv`). Columns label,
  youtube_id, time_start, time_end, in seconds; others are ignored. Held-out
  test tables have no labels.

  Clips: `<id>_<start:06d>_<end:06d>.mp4` (or another extension) in any folders.
  A file `<id>.mp4` stands for the clip if the table has the id once. Names of
  classes as folders do not matter, the table gives the label. If there is a
  folder of the split (`val`, `videos_val`, `val_256`), only that one is listed
  and `replacement`, whose files win.

  Many clips have left YouTube, so that copies differ: by default what is
  missing is counted and logged. Report the number beside results on it.

  Evaluation in the literature: top-1 and top-5 on val; softmax averaged over 4
  or 10 clips times 3 crops (`num_views=10, crop='three',
  protocol='slowfast'`).

  Args:
    root: folder with clips (and tables).
    split: 'train', 'val' or 'test'.
    version: '400', '600', '700' or '700-2020' (the classes of '700').
    annotations: the table, or its folder; relative to `root` or absolute.
    strict: a missing or repeated clip is an error.

  Raises:
    FileNotFoundError: no folder, table or clip.
    ValueError: an argument or a line of the table is wrong.
  """

  def __init__(
    self,
    root: str,
    split: str = 'train',
    version: str | int = '400',
    annotations: str = '',
    strict: bool = False,
  ):
    version = str(version)  # a command line makes a number of 400
    versions = ('400', '600', '700', '700-2020')
    listed_videos.require_choice('version', version, versions)
    listed_videos.require_choice('split', split, _TABLES)
    listed_videos.require_root(root, _VIDEOS)
    short = version.partition('-')[0]
    hint = (
      f'the {split} table of Kinetics-{version}, from '
      'https://github.com/cvdfoundation/kinetics-dataset'
    )
    table = listed_videos.find_annotation(
      root,
      annotations,
      (
        *_TABLES[split],
        f'kinetics-{short}_{split}.csv',
        f'kinetics_{split}.csv',
      ),
      hint,
      is_file=True,
    )
    names = class_lists.names(f'kinetics{short}')
    super().__init__(
      root,
      _clips(root, split, table, names, hint),
      hint=_VIDEOS,
      strict=strict,
      class_names=names,
    )


def _clips(root, split, table, names, hint):
  """Yields the rows of a table with the files that belong to them."""
  ids = {_plain(name): number for number, name in enumerate(names)}
  columns = ['youtube_id', 'time_start', 'time_end']
  if split != 'test':
    columns.append('label')
  rows = [
    # Some copies of the tables have seconds like 12.0; names are cut to 12.
    (
      where,
      row['youtube_id'],
      int(tables.number(row['time_start'], where, 'time_start')),
      int(tables.number(row['time_end'], where, 'time_end')),
      row.get('label', ''),
    )
    for where, row in tables.read_csv(table, columns, hint)
  ]
  listed = collections.Counter(clip for clip, *_ in {row[1:4] for row in rows})
  folders = _existing(root, _FOLDERS[split])
  if folders:
    folders = [*_existing(root, ['replacement']), *folders]
  files = listed_videos.find_videos(root, _key, folders=folders)
  for where, clip, start, end, label in rows:
    path = files.get((clip, start, end))
    if path is None and listed[clip] == 1:
      path = files.get((clip, None, None))
    if label or split != 'test':
      label = tables.class_id(ids, _plain(label), where)
    else:
      label = None
    name = f'{clip}_{start:06d}_{end:06d}'
    yield listed_videos.Listed(where, name, path, label)


def _key(stem):
  match = _NAME.fullmatch(stem.rpartition('/')[2])
  if match is None:
    return None
  clip, start, end = match.groups()
  return (clip, start and int(start), end and int(end))


def _plain(label):
  """Undoes what copies of the tables do to labels: 'riding_a_bike'."""
  return label.strip('"').replace('_', ' ').replace('’', "'").casefold()


def _existing(root, folders):
  return [name for name in folders if os.path.isdir(os.path.join(root, name))]
