"""setup.py, constraints.txt and Makefile agree, and imports stay light."""

import ast
import importlib.metadata
import os
import pathlib
import runpy
import subprocess
import sys
import textwrap

import pytest
import setuptools
from packaging import requirements, utils

import vidscenic
from tests import fake_packages

_ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def setup_arguments(monkeypatch):
  got = {}
  monkeypatch.setattr(setuptools, 'setup', lambda **kwargs: got.update(kwargs))
  monkeypatch.chdir(_ROOT)
  runpy.run_path(str(_ROOT / 'setup.py'))
  return got


def _pins(python: str) -> dict[str, str]:
  environment = {'python_version': python, 'python_full_version': f'{python}.1'}
  pins = {}
  for line in (_ROOT / 'constraints.txt').read_text().splitlines():
    line = line.split('#')[0].strip()
    if not line:
      continue
    pin = requirements.Requirement(line)
    if pin.marker is None or pin.marker.evaluate(environment):
      (specifier,) = pin.specifier
      assert specifier.operator == '==', line
      name = utils.canonicalize_name(pin.name)
      assert name not in pins, f'{name} is pinned twice for Python {python}'
      pins[name] = specifier.version
  return pins


def test_setup_describes_the_package(setup_arguments):
  assert setup_arguments['name'] == 'vidscenic'
  assert setup_arguments['version'] == vidscenic.__version__
  assert setup_arguments['license'] == 'Apache-2.0'
  assert setup_arguments['license_files'] == ['LICENSE']
  assert setup_arguments['python_requires'] == '>=3.11'
  extras = {'gpu', 'tpu', 'gcs', 'k8s', 'tf', 'waymo', 'demo', 'dev'}
  assert set(setup_arguments['extras_require']) == extras


def test_installed_packages_are_ours_and_complete(setup_arguments):
  packages = set(setup_arguments['packages'])
  tops = {name.partition('.')[0] for name in packages}
  assert (
    {'vidscenic', 'projects'}
    <= tops
    <= {
      'vidscenic',
      'projects',
      'configs',
    }
  )
  assert not any('__pycache__' in name for name in packages)
  folders = {
    '.'.join(path.parent.relative_to(_ROOT).parts)
    for top in ('vidscenic', 'projects')
    for path in (_ROOT / top).rglob('*.py')
  }
  assert folders <= packages


@pytest.mark.parametrize('python', ['3.11', '3.12', '3.13'])
def test_constraints_pin_every_dependency_within_its_bounds(
  setup_arguments, python
):
  pins = _pins(python)
  for line in [
    *setup_arguments['install_requires'],
    *setup_arguments['extras_require']['dev'],
    *setup_arguments['extras_require']['tf'],
  ]:
    need = requirements.Requirement(line)
    version = pins[utils.canonicalize_name(need.name)]
    assert version in need.specifier, f'{line}, pinned to {version}'


def test_third_party_imports_are_declared(setup_arguments):
  """An import that only works because of someone else's dependency breaks."""
  declared = {
    utils.canonicalize_name(requirements.Requirement(line).name)
    for line in setup_arguments['install_requires']
  }
  # Imported only where an extra is needed.
  declared |= {'tensorflow', 'tensorflow-cpu', 'matplotlib', 'pyarrow'}
  distributions = importlib.metadata.packages_distributions()
  known = {*sys.stdlib_module_names, 'vidscenic', 'projects', 'configs'}
  missing = []
  files = [_ROOT / 'main.py']
  for top in ('vidscenic', 'projects', 'configs'):
    files += (_ROOT / top).rglob('*.py')
  for path in files:
    if not path.exists():
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom) and not node.level:
        names = [node.module]
      for name in names:
        top = name.partition('.')[0]
        owners = distributions.get(top, [top])
        owners = {utils.canonicalize_name(owner) for owner in owners}
        if top not in known and not owners & declared:
          missing.append(f'{path.relative_to(_ROOT)}: {name}')
  assert not missing


def test_licence_is_the_whole_apache_text():
  text = (_ROOT / 'LICENSE').read_text()
  assert text.split()[:5] == ['Apache', 'License', 'Version', '2.0,', 'January']
  for section in range(1, 10):
    assert f'\n   {section}. ' in text
  assert 'END OF TERMS AND CONDITIONS' in text
  assert text.rstrip().endswith('limitations under the License.')


@pytest.mark.parametrize(
  'name', ['setup.py', 'constraints.txt', 'Makefile', '.ci/run']
)
def test_installation_names_no_hosts_or_machine_paths(name):
  text = (_ROOT / name).read_text()
  for word in ('://', 'index-url', 'find-links', '/work', '/root', '/home'):
    assert word not in text


def test_ci_script_is_executable():
  assert os.access(_ROOT / '.ci' / 'run', os.X_OK)


@pytest.fixture
def copied(tmp_path):
  """What `make setup` reads, and a Python that claims to be 3.9."""
  for name in ('Makefile', 'setup.py', 'constraints.txt'):
    (tmp_path / name).write_text((_ROOT / name).read_text())
  old = tmp_path / 'oldpython'
  old.write_text(
    '#!/bin/sh\n'
    f'exec {sys.executable} -c '
    '"import sys; sys.version_info = (3, 9, 7); exec(sys.argv[1])" "$2"\n'
  )
  old.chmod(0o755)
  return tmp_path


def _make(folder, *arguments):
  # A surrounding `make test` would hand down its own flags.
  environment = {k: v for k, v in os.environ.items() if 'MAKE' not in k}
  return subprocess.run(
    ['make', '-C', str(folder), *arguments],
    capture_output=True,
    text=True,
    timeout=20,
    env=environment,
    check=False,
  )


def test_setup_refuses_an_old_python(copied):
  got = _make(copied, 'setup', 'PYTHON=./oldpython')
  assert got.returncode != 0
  assert 'needs Python 3.11 or newer, ./oldpython is 3.9' in got.stderr
  assert not (copied / '.venv').exists()


def test_setup_runs_again_only_when_its_inputs_change(copied):
  assert 'pip install' in _make(copied, '-n', 'setup').stdout
  (copied / '.venv').mkdir()
  stamp = copied / '.venv' / '.installed-dev'
  stamp.touch()
  assert 'pip install' not in _make(copied, '-n', 'setup').stdout
  changed = stamp.stat().st_mtime + 10
  os.utime(copied / 'constraints.txt', (changed, changed))
  assert 'pip install' in _make(copied, '-n', 'setup').stdout


def test_reporting_imports_neither_tensorflow_nor_jax(tmp_path):
  program = textwrap.dedent("""
    import sys
    import numpy as np
    import vidscenic
    from vidscenic.train import progress, report
    from vidscenic.viz import images
    video = np.zeros((3, 8, 8, 3), np.uint8)
    with report.Report(sys.argv[1], is_writer=True) as r:
      r.scalars(4, 'train', {'loss': 0.5})
      r.text(4, 'run', {'config': 'x = 1'})
      r.media(4, 'eval', {'image': images.strip(video), 'video': video})
      r.mirror()
    found = {m.partition('.')[0] for m in sys.modules}
    print(sorted(found & {'tensorflow', 'tensorflow_datasets', 'jax'}))
  """)
  names = 'tensorflow', 'tensorflow_datasets', 'jax'
  run = str(tmp_path / 'run')
  assert fake_packages.run_without(names, tmp_path, program, run) == '[]\n'


def test_the_package_and_the_help_are_light(tmp_path):
  """jax alone takes seconds to import: `main.py --help` must not wait."""
  program = textwrap.dedent("""
    import runpy, sys
    import vidscenic
    first = {m.partition('.')[0] for m in sys.modules}
    sys.argv = ['main.py', '--help']
    try:
      runpy.run_path('main.py', run_name='__main__')
    except SystemExit:
      pass
    found = {m.partition('.')[0] for m in sys.modules}
    heavy = {'jax', 'flax', 'grain', 'orbax', 'tensorflow', 'av', 'numpy'}
    print(sorted(first & heavy), sorted(found & heavy), 'absl' in found)
  """)
  names = 'jax', 'tensorflow', 'tensorflow_datasets'
  shown = fake_packages.run_without(names, tmp_path, program)
  assert shown.splitlines()[-1] == '[] [] True'
  assert '--workdir:' in shown
