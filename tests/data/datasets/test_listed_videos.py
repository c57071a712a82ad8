"""What all readers of listed videos share."""

import pytest

from tests.data.datasets import miniature
from vidscenic.data.datasets import listed_videos

HINT = 'videos, from https://example.org'


def entry(number, path='a.mp4', label=0):
  return listed_videos.Listed(f'list, line {number}', f'{number}', path, label)


def source(listed, strict=True):
  return listed_videos.ListedVideos(
    '/data', listed, hint=HINT, strict=strict, class_names=('walk', 'run')
  )


def test_indices_outside_are_errors():
  two = source([entry(1), entry(2, label=1)])
  assert miniature.classes(two) == ['walk', 'run']
  assert two[-2]['label'] == 0
  for index in (2, -3):
    with pytest.raises(IndexError):
      two[index]


def test_labels_are_all_there_or_none_is():
  assert 'label' not in source([entry(1), entry(2, label=None)])[0]


def test_repr_and_empty_sources_name_the_folder():
  assert repr(source([entry(1)])) == "ListedVideos('/data', 1 videos)"
  with pytest.raises(FileNotFoundError, match='/data holds nothing: videos, f'):
    source([])
  with pytest.raises(
    FileNotFoundError,
    match='none of 1 listed files .*list, line 1: no file 1 below /data: v',
  ):
    source([entry(1, path=None)], strict=False)


def test_videos_are_found_by_key_first_folder_first(tmp_path):
  miniature.touch(
    tmp_path,
    'new/b/1.mp4',
    'new/a/1.webm',
    'old/1.mp4',
    'old/2.AVI',
    'old/notes.txt',
    'other/3.mp4',
  )
  got = listed_videos.find_videos(
    str(tmp_path),
    lambda stem: int(stem[-1]) if stem != 'old/2' else None,
    folders=('new', 'old'),
  )
  assert got == {1: 'new/a/1.webm'}
  got = listed_videos.find_videos(str(tmp_path), lambda stem: stem)
  assert got['old/2'] == 'old/2.AVI'
  assert len(got) == 5


def test_annotations_are_looked_for_in_order(tmp_path):
  def find(annotations='', **options):
    return listed_videos.find_annotation(
      str(tmp_path), annotations, ('a.txt', 'b.txt'), HINT, **options
    )

  with pytest.raises(
    FileNotFoundError, match='a.txt is missing: videos.*looked for a.txt, b.txt'
  ):
    find()
  for name in ('annotations/a.txt', 'b.txt', 'a.txt', 'official/b.txt'):
    path = miniature.write(tmp_path, name, '')
    assert find(folders=('official',)) == str(path)
  own = miniature.write(tmp_path, 'lists/own.txt', '')
  assert find(str(own), is_file=True) == str(own)
  for annotations in ('lists/own.txt', 'nowhere'):
    with pytest.raises(FileNotFoundError, match=f'{annotations} is missing'):
      find(annotations)
  with pytest.raises(FileNotFoundError, match='lists/a.txt is missing'):
    find('lists')
