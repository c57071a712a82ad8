"""Something-Something v2: templates, places of the lists, bad items."""

import json

import pytest

from tests.data.datasets import miniature
from vidscenic.data.datasets import something_something

FOLDER = '20bn-something-something-v2'
LABELS = {
  'Pushing something from left to right': '1',
  'Holding something next to something': '0',
  'Pushing something from right to left': '2',
}
ITEMS = [
  {
    'id': '78687',
    'label': 'holding potato next to vicks vaporub bottle',
    'template': 'Holding [something] next to [something]',
    'placeholders': ['potato', 'vicks vaporub bottle'],
  },
  {
    'id': '42326',
    'label': 'pushing a pen from right to left',
    'template': 'Pushing [something] from right to left',
    'placeholders': ['a pen'],
  },
]


def make(
  root,
  *,
  items=ITEMS,
  labels=LABELS,
  prefix='something-something-v2-',
  videos=(f'{FOLDER}/78687.webm', f'{FOLDER}/42326.webm'),
  split='train',
  **options,
):
  miniature.write(root, f'{prefix}labels.json', json.dumps(labels))
  miniature.write(root, f'{prefix}{split}.json', json.dumps(items))
  miniature.touch(root, *videos)
  return something_something.SomethingSomething(str(root), split, **options)


def test_classes_are_templates_without_brackets(tmp_path):
  source = make(tmp_path)
  assert miniature.paths(source) == [
    f'{FOLDER}/{i}.webm' for i in (78687, 42326)
  ]
  assert miniature.labels(source) == [0, 2]
  assert source.class_names == tuple(sorted(LABELS, key=LABELS.get))


def test_videos_must_not_be_mirrored(tmp_path):
  assert not make(tmp_path).flip_allowed


@pytest.mark.parametrize(
  ('prefix', 'annotations'),
  [
    ('', ''),
    ('labels/', ''),
    ('annotations/something-something-v2-', ''),
    ('lists/', 'lists'),
  ],
)
def test_places_of_the_lists(tmp_path, prefix, annotations):
  assert len(make(tmp_path, prefix=prefix, annotations=annotations)) == 2


def test_test_set_has_no_labels(tmp_path):
  source = make(tmp_path, items=[{'id': '78687'}], split='test')
  assert sorted(source[0]) == ['path', 'video']


def test_missing_video_is_an_error_unless_allowed(tmp_path):
  videos = [f'{FOLDER}/42326.webm']
  with pytest.raises(
    FileNotFoundError, match=r'train.json, item 1: no file 78687 .*qualcomm'
  ):
    make(tmp_path, videos=videos)
  source = make(tmp_path, videos=videos, strict=False)
  assert (miniature.labels(source), source.num_missing) == ([2], 1)


@pytest.mark.parametrize('what', ['labels', 'train'])
def test_missing_lists_say_where_they_come_from(tmp_path, what):
  make(tmp_path)
  (tmp_path / f'something-something-v2-{what}.json').unlink()
  with pytest.raises(
    FileNotFoundError, match=f'v2-{what}.json is missing: .*registration at'
  ):
    something_something.SomethingSomething(str(tmp_path))


@pytest.mark.parametrize(
  ('items', 'match'),
  [
    ([], 'expected a list'),
    ({'id': '1'}, 'expected a list'),
    (['78687'], 'item 1: expected an object with the strings id, template'),
    ([ITEMS[0], {'id': '42326'}], 'item 2: expected an object with the str'),
    ([{**ITEMS[0], 'id': 78687}], 'item 1: expected an object with the str'),
    ([ITEMS[0], ITEMS[0]], "item 2: .* '78687' is listed twice, .*item 1"),
    (
      [{**ITEMS[0], 'template': 'Holding [something] near [something]'}],
      "item 1: unknown class .* is it 'Holding something next to something'",
    ),
  ],
)
def test_bad_items_are_named(tmp_path, items, match):
  with pytest.raises(ValueError, match=f'train.json(, |: ){match}'):
    make(tmp_path, items=items)


@pytest.mark.parametrize(
  ('labels', 'match'),
  [
    ([], 'expected an object'),
    ({'a': 'x'}, "the id of 'a' must be a number, got 'x'"),
    ({'a': '0', 'b': '0'}, 'the ids must be 0 to 1, each once'),
    ({'a': '1', 'b': '2'}, 'the ids must be 0 to 1, each once'),
  ],
)
def test_bad_labels_are_named(tmp_path, labels, match):
  with pytest.raises(ValueError, match=f'labels.json: {match}'):
    make(tmp_path, labels=labels)
