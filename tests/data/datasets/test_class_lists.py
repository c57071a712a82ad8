"""The class lists that the package brings along."""

import pytest

from vidscenic.data.datasets import class_lists

COUNTS = {
  'audioset': 527,
  'hmdb51': 51,
  'imagenet': 1000,
  'kinetics400': 400,
  'kinetics600': 600,
  'kinetics700': 700,
  'something_something_v2': 174,
  'ucf101': 101,
}


def test_every_list_is_counted_here():
  assert set(COUNTS) == set(class_lists.FILES)


@pytest.mark.parametrize('dataset', COUNTS)
def test_classes_are_complete_and_tidy(dataset):
  keys, names = class_lists.keys(dataset), class_lists.names(dataset)
  assert len(keys) == len(set(keys)) == len(names) == COUNTS[dataset]
  for text in (*keys, *names):
    assert text
    assert text == text.strip()
    assert text.isascii()


@pytest.mark.parametrize(
  ('dataset', 'number', 'name'),
  [
    ('kinetics400', 0, 'abseiling'),
    ('kinetics400', 208, 'passing American football (in game)'),
    ('kinetics600', 1, 'acting in play'),
    ('kinetics700', 699, 'zumba'),
    ('ucf101', 36, 'HandstandPushups'),
    ('hmdb51', 50, 'wave'),
    ('something_something_v2', 0, 'Approaching something with your camera'),
    ('audioset', 526, 'Field recording'),
    ('imagenet', 65, 'sea snake'),
  ],
)
def test_ids_are_those_of_published_models(dataset, number, name):
  assert class_lists.names(dataset)[number] == name


def test_keys_are_what_the_files_of_a_data_set_say():
  assert class_lists.keys('imagenet')[65] == 'n01751748'
  assert class_lists.keys('audioset')[526] == '/m/07hvw1'
  for dataset in ('kinetics400', 'ucf101', 'hmdb51', 'something_something_v2'):
    assert class_lists.keys(dataset) == class_lists.names(dataset)


@pytest.mark.parametrize('dataset', sorted(set(COUNTS) - {'audioset'}))
def test_keys_are_sorted(dataset):
  # classInd.txt of UCF101 puts Hammering before HammerThrow.
  order = str.casefold if dataset == 'ucf101' else str
  keys = class_lists.keys(dataset)
  assert list(keys) == sorted(keys, key=order)


def test_unknown_list_names_the_known_ones():
  with pytest.raises(ValueError, match="no class list 'k400', .*kinetics400"):
    class_lists.names('k400')
