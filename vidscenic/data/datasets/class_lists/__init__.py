"""Names of classes in the order of their ids, as published models use them.

README.md beside this file says where each list comes from.
"""

import functools
import importlib.resources

# File of each data set: a name per line, or an identifier, a tab and a name.
FILES = {
  'audioset': 'audioset.tsv',
  'hmdb51': 'hmdb51.txt',
  'imagenet': 'imagenet.tsv',
  'kinetics400': 'kinetics400.txt',
  'kinetics600': 'kinetics600.txt',
  'kinetics700': 'kinetics700.txt',
  'something_something_v2': 'something_something_v2.txt',
  'ucf101': 'ucf101.txt',
}


def names(dataset: str) -> tuple[str, ...]:
  """Names for people; class i is the i-th. ImageNet has a few of them twice.

  Args:
    dataset: a key of FILES.

  Raises:
    ValueError: another name.
  """
  return tuple(row[-1] for row in _rows(dataset))


def keys(dataset: str) -> tuple[str, ...]:
  """What the data set's files call the classes; each is there once.

  WordNet ids for ImageNet ('n01440764'), mids for AudioSet ('/m/09x0r'), else
  the names.

  Args:
    dataset: a key of FILES.

  Raises:
    ValueError: another name.
  """
  return tuple(row[0] for row in _rows(dataset))


@functools.cache
def _rows(dataset):
  if dataset not in FILES:
    raise ValueError(
      f'no class list {dataset!r}, there are {", ".join(sorted(FILES))}'
    )
  file = importlib.resources.files(__name__) / FILES[dataset]
  lines = file.read_text(encoding='utf-8').splitlines()
  return tuple(line.split('\t') for line in lines)
