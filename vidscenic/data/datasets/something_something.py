"""Something-Something v2: what hands do to objects."""

from vidscenic.data.datasets import listed_videos, tables

_HINT = (
  'Something-Something v2, after registration at '
  'https://developer.qualcomm.com/software/ai-datasets/something-something'
)


class SomethingSomething(listed_videos.ListedVideos):
  """Something-Something v2 (arXiv 1706.04261): 174 ways to handle objects.

  Files: `something-something-v2-{train,validation,test,labels}.json` (or
  `train.json`, ...) in `root`, `root/labels`, `root/annotations` or where
  `annotations` says; videos `<id>.webm` (VP9, 240 rows, 12 frames per second)
  in any folders, officially `20bn-something-something-v2`. The class of a video
  is that of its template without the brackets. The test set has no labels.

  Left and right are different classes ('Pushing something from left to right'):
  `flip_allowed` is False, so set `flip=0` in the transform's arguments.

  Evaluation in the literature: top-1 on validation; frames spread over the
  whole video, one or two clips times 3 crops.

  Args:
    root: folder with videos (and lists).
    split: 'train', 'validation' or 'test'.
    annotations: folder of the lists; relative to `root` or absolute.
    strict: a missing or repeated video is an error.

  Raises:
    FileNotFoundError: no folder, list or video.
    ValueError: an argument or an item of a list is wrong.
  """

  flip_allowed = False

  def __init__(
    self,
    root: str,
    split: str = 'train',
    annotations: str = '',
    strict: bool = True,
  ):
    listed_videos.require_choice(
      'split', split, ('train', 'validation', 'test')
    )
    listed_videos.require_root(root, _HINT)
    labels, videos = (
      listed_videos.find_annotation(
        root,
        annotations,
        (f'something-something-v2-{what}.json', f'{what}.json'),
        f'the {what} of {_HINT}',
        folders=('', 'labels'),
      )
      for what in ('labels', split)
    )
    ids = _ids(labels)
    super().__init__(
      root,
      _videos(root, videos, ids, with_labels=split != 'test'),
      hint=_HINT,
      strict=strict,
      class_names=sorted(ids, key=ids.get),
    )


def _ids(path):
  """{template: id} of a labels.json, {"Opening something": "46", ...}."""
  content = tables.read_json(path, _HINT)
  if not isinstance(content, dict) or not content:
    raise ValueError(f'{path}: expected an object {{"template": "id", ...}}')
  ids = {
    name: tables.integer(str(value), path, f'the id of {name!r}')
    for name, value in content.items()
  }
  if sorted(ids.values()) != list(range(len(ids))):
    raise ValueError(f'{path}: the ids must be 0 to {len(ids) - 1}, each once')
  return ids


def _videos(root, path, ids, *, with_labels):
  items = tables.read_json(path, _HINT)
  if not isinstance(items, list) or not items:
    raise ValueError(f'{path}: expected a list of {{"id": ...}}')
  files = listed_videos.find_videos(root, lambda stem: stem.rpartition('/')[2])
  needed = ('id', 'template') if with_labels else ('id',)
  for number, item in enumerate(items, 1):
    where = f'{path}, item {number}'
    fields = item if isinstance(item, dict) else {}
    if not all(isinstance(fields.get(name), str) for name in needed):
      raise ValueError(
        f'{where}: expected an object with the strings {", ".join(needed)}, '
        f'got {str(item)[:80]}'
      )
    label = None
    if with_labels:
      template = fields['template'].replace('[', '').replace(']', '')
      label = tables.class_id(ids, template, where)
    name = fields['id']
    yield listed_videos.Listed(where, name, files.get(name), label)
