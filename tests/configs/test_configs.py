"""Every config in the repository builds, in all the ways that it documents."""

import importlib.util
import pathlib
import re

import jax
import pytest

from vidscenic import config as vc
from vidscenic.train import run as run_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted(
  str(path.relative_to(ROOT))
  for folder in ('configs', 'projects/*/configs')
  for path in ROOT.glob(f'{folder}/*.py')
  if path.name != '__init__.py'
)


def load(file):
  name = file.removesuffix('.py').replace('/', '_')
  spec = importlib.util.spec_from_file_location(name, ROOT / file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def documented(file):
  """Arguments after the colon in the commands of a config's docstring."""
  commands = re.findall(rf'--config={re.escape(file)}(\S*)', load(file).__doc__)
  return sorted({'', *(text.removeprefix(':') for text in commands)})


CASES = [(file, arg) for file in FILES for arg in documented(file)]


def data_specs(config):
  """(place, data spec) of everything that a config reads."""
  todo = [('data.train', config.data.train)] if 'train' in config.data else []
  for name, spec in config.evals.items():
    todo += [
      (f'evals.{name}.kwargs.{field}', value)
      for field, value in spec.kwargs.items()
      if field == 'data' or field.endswith('_data')
    ]
  for where, spec in todo:
    yield where, spec
    for group in ('mixture', 'streams'):
      todo += [(f'{where}.{k}', part) for k, part in spec[group].items()]


def test_there_are_configs():
  assert {'configs/smoke.py', 'configs/video_classifier.py'} <= set(FILES)


@pytest.mark.parametrize('file', FILES)
def test_docstring_has_the_command(file):
  assert f'--config={file}' in load(file).__doc__


@pytest.mark.parametrize('file', FILES)
def test_fields_that_the_docstring_sets_exist(file):
  module = load(file)
  configs = [module.get_config(arg) for arg in documented(file)]
  for field in re.findall(r'--config\.([\w.]+)', module.__doc__):

    def holds(config, field=field):
      for part in field.split('.'):
        if part not in config:
          return False
        config = config[part]
      return True

    assert any(holds(config) for config in configs), field


@pytest.mark.parametrize(('file', 'arg'), CASES)
def test_config_builds_without_data(file, arg):
  config = load(file).get_config(arg)
  assert config.is_locked
  before = config.to_json()
  assert vc.finalize(config).to_json() == before
  run = run_lib.Run(config, devices=jax.devices()[:1])
  assert jax.tree.leaves(run.state_shapes.params)
  # Not by run.evaluators(), which looks for the data.
  for name, spec in config.evals.items():
    evaluator = vc.build(
      spec.factory, run.task, run.mesh, field=f'evals.{name}', **spec.kwargs
    )
    assert evaluator.measures()


@pytest.mark.parametrize(('file', 'arg'), CASES)
def test_sources_and_transforms_exist_and_take_their_arguments(file, arg):
  for where, spec in data_specs(load(file).get_config(arg)):
    for part in ('source', 'transform'):
      if spec[part]:
        vc.prepare(
          spec[part], 0, field=f'{where}.{part}', **spec[f'{part}_kwargs']
        )


@pytest.mark.parametrize('file', FILES)
def test_unknown_argument_is_named(file):
  with pytest.raises(ValueError, match='no_such_argument'):
    load(file).get_config('no_such_argument=3')
