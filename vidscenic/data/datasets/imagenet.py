"""ImageNet-1k (ILSVRC 2012) as a folder of pictures."""

import os
from collections.abc import Iterator

from vidscenic.data import video_lists
from vidscenic.data.datasets import (
  class_lists,
  listed_videos,
  pictures,
  tables,
)

EXTENSIONS = ('.jpeg', '.jpg', '.png')

_HINT = (
  'ImageNet-1k, after registration at https://image-net.org/download-images'
)
_KAGGLE = 'LOC_val_solution.csv'
_SYNSETS = 'imagenet_2012_validation_synset_labels.txt'
_LISTS_HINT = (
  f"the classes of the validation images: {_KAGGLE} of Kaggle's copy, or "
  f'{_SYNSETS}, a WordNet id per line, of the TensorFlow models. (The numbers '
  'of ILSVRC2012_validation_ground_truth.txt follow another order than the ids '
  'of models.) Subfolders by class need no list'
)


class ImageNet(listed_videos.ListedVideos):
  """Pictures of 1,000 classes; 1,281,167 to train, 50,000 to validate.

  Files: `train/<wnid>/*.JPEG` and `val/`, sorted into subfolders likewise or
  flat with a list (see `annotations`). Ids count from 0 in the order of the
  WordNet ids, as the published models have them, also where a copy holds only
  some of the classes.

  A record's video is one encoded picture, a video of one frame:
  `clips.ClipTransform(num_frames=1)` gives [1, H, W, 3] for models of videos,
  and what wants an image drops the first axis or decodes `record['video'][0]`.

  Evaluation in the literature: top-1 on val, one centre crop.

  Args:
    root: folder that holds `train` and `val`.
    split: 'train' or 'val'.
    annotations: for a flat `val`: the list or its folder, relative to `root`
      or absolute; by default looked for in `root` and `root/annotations`.
    strict: a missing or repeated picture of a list is an error.

  Raises:
    FileNotFoundError: no folder, list or picture.
    ValueError: an argument, a folder's name or a line of a list is wrong.
  """

  def __init__(
    self,
    root: str,
    split: str = 'train',
    annotations: str = '',
    strict: bool = True,
  ):
    listed_videos.require_choice('split', split, ('train', 'val'))
    listed_videos.require_root(root, _HINT)
    folder = tables.require_folder(os.path.join(root, split), _HINT)
    ids = {k: number for number, k in enumerate(class_lists.keys('imagenet'))}
    with os.scandir(folder) as entries:
      by_class = any(entry.is_dir() for entry in entries)
    if by_class or split == 'train':
      listed = _from_folders(folder, split, ids)
    else:
      list_file = listed_videos.find_annotation(
        root, annotations, (_KAGGLE, _SYNSETS), _LISTS_HINT, is_file=True
      )
      listed = _from_list(root, split, list_file, ids)
    super().__init__(
      root,
      listed,
      hint=_HINT,
      strict=strict,
      class_names=class_lists.names('imagenet'),
    )

  def _video(self, path):
    return pictures.read_files([os.path.join(self._root, path)])


def _from_folders(folder, split, ids) -> Iterator[listed_videos.Listed]:
  entries, _ = video_lists.scan_folder(folder, EXTENSIONS, with_labels=False)
  for path in sorted(entry.path for entry in entries):
    # A picture beside the class folders is no class and refused as one.
    label = tables.class_id(ids, path.partition('/')[0], folder)
    yield listed_videos.Listed(folder, path, f'{split}/{path}', label)


def _from_list(root, split, list_file, ids) -> Iterator[listed_videos.Listed]:
  files = listed_videos.find_videos(
    root,
    lambda stem: stem.rpartition('/')[2],
    folders=(split,),
    extensions=EXTENSIONS,
  )
  if list_file.endswith('.csv'):
    rows = (
      (where, row['ImageId'], row['PredictionString'])
      for where, row in tables.read_csv(
        list_file, ('ImageId', 'PredictionString'), _LISTS_HINT
      )
    )
  else:
    rows = (
      (where, f'ILSVRC2012_val_{number:08d}', line)
      for number, (where, line) in enumerate(
        tables.read_lines(list_file, _LISTS_HINT), 1
      )
    )
  for where, name, text in rows:
    # Kaggle's field: 'n01978287 85 1 499 272', one box after the other.
    label = tables.class_id(ids, text.partition(' ')[0], where)
    yield listed_videos.Listed(where, name, files.get(name), label)
