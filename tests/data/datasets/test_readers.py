"""The table of readers names every reader, and each as it is."""

import importlib
import inspect
import pkgutil

import pytest

from vidscenic import config as vc
from vidscenic.data import datasets


@pytest.mark.parametrize('name', datasets.READERS)
def test_reader_exists_and_takes_the_arguments(name):
  factory, kwargs = datasets.READERS[name]
  parameters = inspect.signature(vc.resolve(factory)).parameters
  assert next(iter(parameters)) in ('root', 'path')
  assert set(kwargs) <= set(parameters)


# TapVidCsv asks for its list of annotations first.
@pytest.mark.parametrize('name', sorted({*datasets.READERS} - {'tapvid_csv'}))
def test_an_empty_folder_name_is_refused_by_field(name):
  factory, kwargs = datasets.READERS[name]
  with pytest.raises(
    ValueError, match=r"source_kwargs\.(root|path)='' is empty"
  ):
    vc.build(factory, '', **kwargs)


def test_every_source_is_in_the_table():
  """A source is what has a length and takes a root."""
  found = set()
  for info in pkgutil.walk_packages(datasets.__path__, datasets.__name__ + '.'):
    module = importlib.import_module(info.name)
    for name, item in vars(module).items():
      own = inspect.isclass(item) and item.__module__ == info.name
      if own and not name.startswith('_') and hasattr(item, '__getitem__'):
        parameters = list(inspect.signature(item).parameters)
        # Bases of readers are made of entries.
        if parameters[0] == 'root' and 'listed' not in parameters:
          found.add(f'{info.name}:{name}')
  assert len(found) >= 10
  assert found <= {reader.factory for reader in datasets.READERS.values()}
