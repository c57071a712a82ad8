"""The table of published weights: complete, consistent, and it resolves."""

import pathlib

import pytest

from vidscenic import config as vc
from vidscenic.importers import published

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = [entry.name for entry in published.WEIGHTS]


def entry(**changes):
  return published.find('rvm_small')._replace(**changes)


def test_table_is_consistent():
  published.check(published.WEIGHTS)


@pytest.mark.parametrize(
  ('second', 'message'),
  [
    ({'file': 'b'}, 'name is not unique: rvm_small'),
    ({'name': 'b'}, 'file is not unique: pretrain_rvm_small'),
    ({'name': 'b', 'file': 'b', 'url': 'http://x/b'}, "b: 'http://x/b' is no"),
    ({'name': 'a/b', 'file': 'b'}, "'a/b': want letters"),
    ({'name': 'b', 'file': '../b'}, "'../b' is no file name"),
    ({'name': 'b', 'file': 'b', 'importer': 'x.y'}, "b: 'x.y', want"),
  ],
)
def test_mistakes_in_the_table_are_found(second, message):
  with pytest.raises(ValueError, match=message):
    published.check([entry(), entry(**second)])


@pytest.mark.parametrize('name', NAMES)
def test_sizes_agree_with_float32_parameters(name):
  """Where both are known: four bytes each, up to rounding and MiB."""
  e = published.find(name)
  if e.size is not None and e.parameters is not None:
    assert e.size == pytest.approx(4 * e.parameters, rel=0.015)


@pytest.mark.parametrize('name', NAMES)
def test_addresses_end_in_the_file_or_the_repository(name):
  e = published.find(name)
  if e.url.startswith('https://huggingface.co/'):
    owner, repository, *rest = e.url.split('/')[3:]
    assert rest == ['resolve', 'main', 'pytorch_model.bin']
    assert e.file == f'{owner}_{repository}.bin'
  else:
    assert e.url.split('/')[-1] == e.file


@pytest.mark.parametrize('name', NAMES)
def test_factories_of_existing_projects_resolve(name):
  """Projects that are not written yet are named all the same."""
  e = published.find(name)
  for factory, kwargs in (
    (e.importer, e.importer_options),
    (e.task, e.task_kwargs),
  ):
    module = factory.split(':')[0]
    if (ROOT / f'{module.replace(".", "/")}.py').exists():
      num_args = 2 if factory == e.importer else 0
      vc.prepare(factory, num_args, **kwargs)


def test_unknown_name_gets_the_nearest_ones():
  with pytest.raises(ValueError, match="'rvm-large' is no name.*rvm_large"):
    published.find('rvm-large')
  with pytest.raises(ValueError, match='no name of published weights$'):
    published.find('qqqqqq')


def test_files_are_recognised_wherever_they_lie():
  found = published.find_file('/data/tapir_checkpoint_panning.npy')
  assert found.name == 'tapir'
  assert published.find_file('/data/mine.npy') is None


def test_sizes_are_readable():
  texts = [published.size_text(n) for n in (None, 79_500_000, 15_240 * 10**6)]
  assert texts == ['?', '79.5 MB', '15.2 GB']


def test_table_in_markdown_has_a_line_per_file():
  lines = published.markdown([entry(size=None, parameters=None)]).splitlines()
  assert lines[0].startswith('| name | project | size |')
  assert lines[2] == (
    '| [`rvm_small`](https://storage.googleapis.com/representations4d/'
    'checkpoints/pretrain_rvm_small16_256_204031069.npz) | rvm | ? | ? | '
    '[2512.13684](https://arxiv.org/abs/2512.13684) | CC-BY-4.0 | '
    'frozen: SSv2 59.7, Kinetics-700 49.6 |'
  )
  assert len(lines) == 3
  assert all(line.count('|') == 8 for line in published.markdown().splitlines())


def test_readme_shows_the_table():
  text = (ROOT / 'README.md').read_text()
  shown = text.split('<!-- weights -->\n')[1].split('<!-- /weights -->')[0]
  assert shown == published.markdown(), (
    'replace what stands between the marks in README.md by the output of '
    '`python -m vidscenic.tools.weights list --markdown`'
  )


def test_importers_that_do_not_exist_yet_are_told():
  assert published.has_importer(entry())
  for module in ('projects.rvm.nothing', 'projects.nothing.importer'):
    missing = entry(importer=f'{module}:load', notes='good')
    assert not published.has_importer(missing)
    assert '| no importer yet; good |' in published.markdown([missing])
  # Outside the repository nothing is known about its projects.
  assert published.has_importer(entry(importer='no_such_package.a:load'))
