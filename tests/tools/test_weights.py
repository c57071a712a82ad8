"""The command line for published weights."""

import subprocess
import sys

import pytest

from tests.tools import test_load
from vidscenic.importers import published
from vidscenic.tools import download, weights
from vidscenic.train import workdir

fake = test_load.fake


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
  """Whatever a command does with --cache, the environment is restored."""
  monkeypatch.setenv('VIDSCENIC_CACHE', str(tmp_path / 'cache'))
  (tmp_path / 'cache').mkdir()
  return tmp_path / 'cache'


def test_list_has_a_line_per_file_and_says_what_is_here(cache, capsys):
  (cache / published.find('tapir').file).write_bytes(b'')
  weights.main(['list'])
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == [
    entry.name for entry in published.WEIGHTS
  ]
  here = [line.split()[0] for line in lines if line.endswith('downloaded')]
  assert here == ['tapir']
  shown = next(line for line in lines if line.startswith('rvm_large '))
  assert shown.split()[1:] == [
    *('rvm', '1.64', 'GB', '409.1M', 'arXiv', '2512.13684')
  ]


def test_list_in_markdown_is_the_table_of_the_readme(capsys):
  weights.main(['list', '--markdown'])
  assert capsys.readouterr().out == published.markdown()


def test_info_shows_how_to_get_and_use_a_file(cache, capsys):
  weights.main(['info', 'bootstapir'])
  shown = capsys.readouterr().out
  entry = published.find('bootstapir')
  for fact in (
    entry.url,
    'https://arxiv.org/abs/2402.00847',
    '54,699,335',
    f'not downloaded, would be {cache / entry.file}',
    "load('bootstapir')",
    "'softmax_temperature': 10.0",
    'DAVIS first 62.4',
  ):
    assert fact in shown


def test_files_that_nothing_reads_yet_are_marked(monkeypatch, capsys):
  entry = test_load.ENTRY._replace(importer='projects.nowhere.importer:load')
  monkeypatch.setattr(published, 'WEIGHTS', (entry,))
  weights.main(['list'])
  assert capsys.readouterr().out.endswith('  no importer yet\n')
  weights.main(['list', '--markdown'])
  assert '| no importer yet |' in capsys.readouterr().out
  weights.main(['info', 'fake'])
  shown = capsys.readouterr().out
  assert 'importer   no importer yet' in shown and 'load(' not in shown
  with pytest.raises(SystemExit, match='no importer for projects/_template'):
    weights.main(['import', 'fake'])


def test_download_checks_what_is_there_already(fake, cache, capsys):
  path = cache / test_load.ENTRY.file
  path.write_bytes(b'abc')
  weights.main(['download', 'fake'])
  assert 'nothing to compare it with' in capsys.readouterr().out
  recorded = path.with_name(f'{path.name}.sha256')
  recorded.write_text(f'{download.file_hash(path)}  {path.name}\n')
  weights.main(['download', 'fake'])
  assert 'unchanged (sha256 ba7816bf8f01cfea' in capsys.readouterr().out
  path.write_bytes(b'abd')
  with pytest.raises(SystemExit, match='changed since its download; remove it'):
    weights.main(['download', 'fake'])


def test_failed_download_ends_with_one_line(fake, monkeypatch, tmp_path):
  # Port 9 of this machine: nobody listens.
  entry = test_load.ENTRY._replace(url='http://127.0.0.1:9/w.npz')
  monkeypatch.setattr(published, 'WEIGHTS', (entry,))
  with pytest.raises(SystemExit) as error:
    weights.main(['download', 'fake', '--cache', str(tmp_path / 'other')])
  text = error.value.code
  assert text.startswith('cannot reach http://127.0.0.1:9/w.npz')
  assert text.endswith(f'put it at {tmp_path / "other" / entry.file}')
  assert '\n' not in text


def test_import_makes_a_run_of_a_published_file(fake, cache, tmp_path, capsys):
  test_load.write_template(cache / test_load.ENTRY.file)
  out = tmp_path / 'run'
  weights.main(['import', 'fake', '--workdir', str(out)])
  assert f'{out}: ' in capsys.readouterr().out
  assert workdir.finished_steps(out) == 0
  assert workdir.load_config(out)['task']['factory'] == test_load.ENTRY.task
  with pytest.raises(SystemExit, match='is a run already'):
    weights.main(['import', 'fake', '--workdir', str(out)])


def test_wrong_name_ends_with_the_nearest_ones():
  with pytest.raises(SystemExit, match="'rvm_larg' is no name.*rvm_large"):
    weights.main(['info', 'rvm_larg'])


def test_lists_need_no_jax():
  program = (
    'import sys; from vidscenic.tools import weights; weights.main(["list"]); '
    'sys.exit("jax was imported" if "jax" in sys.modules else 0)'
  )
  got = subprocess.run(
    [sys.executable, '-c', program],
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )
  assert got.returncode == 0, got.stderr
  assert 'rvm_large' in got.stdout
