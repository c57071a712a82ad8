"""A fork runs as it is; wrong names are refused with a remedy."""

import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys

import pytest

from vidscenic.tools import new_project

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / 'projects' / '_template'

# Trains the fork for 3 steps, continues to 6, evaluates. In one process, since
# imports and compilation take most of the time; tests/multiprocess kills runs.
PROGRAM = """
import json, sys
from projects.mine.configs import synthetic
from vidscenic import config as vc
from vidscenic.train import evaluate, loop

def small(steps):
  config = synthetic.get_config(f'steps={steps}')
  with config.unlocked():
    config.batch_size = 2
    config.log.every_steps = 1
    config.checkpoint.every_steps = 3
    config.optim.schedule.name = 'constant'  # one program for both lengths
    del config.evals.pictures
    config.task.kwargs.clip = (4, 16, 16)
    config.task.kwargs.model.update(
      patch=(2, 8, 8), width=16, depth=1, num_heads=2, decoder_width=8,
      decoder_depth=1)
    sizes = dict(num_frames=4, height=16, width=16)
    for data in (config.data.train,
                 *(e.kwargs.data for e in config.evals.values())):
      data.source_kwargs.update(sizes)
      data.transform_kwargs.update(num_frames=4, size=(16, 16))
    config.evals.heldout.kwargs.update(batch_size=2, limit=2)
  return vc.finalize(config)

assert synthetic.__file__.startswith(sys.argv[2])
for steps in (3, 6):
  assert loop.train(small(steps), sys.argv[1])
print(json.dumps(evaluate.evaluate(small(6), sys.argv[1])))
"""


@pytest.fixture
def projects(tmp_path):
  """A folder `projects` with the template and a project of another name."""
  folder = tmp_path / 'projects'
  for name in ('_template', 'rvm'):
    shutil.copytree(
      TEMPLATE, folder / name, ignore=shutil.ignore_patterns('__pycache__')
    )
  (folder / '__init__.py').touch()
  return folder


def test_fork_trains_resumes_and_evaluates(projects, tmp_path):
  new_project.copy_project('_template', 'mine', projects)
  shutil.rmtree(projects / '_template')  # the fork must not need it
  workdir = tmp_path / 'run'
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM, str(workdir), str(projects)],
    cwd=tmp_path,
    env={
      **os.environ,
      'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}',
      # One device, no time for optimisations, and nothing compiled twice.
      'XLA_FLAGS': '--xla_backend_optimization_level=0 '
      '--xla_llvm_disable_expensive_passes=true',
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    },
    capture_output=True,
    text=True,
    timeout=240,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-4000:]
  rows = (workdir / 'metrics.jsonl').read_text().splitlines()
  steps = [json.loads(r)['step'] for r in rows if 'train/loss' in r]
  assert steps == [1, 2, 3, 4, 5, 6]
  figures = json.loads(done.stdout.splitlines()[-1])
  assert figures['heldout/psnr_mean_colour'] > 0
  assert (workdir / 'DONE').read_text() == '6\n'


def test_every_mention_of_the_source_is_rewritten(projects):
  folder = projects / 'rvm'
  (folder / 'README.md').write_text(
    '# projects/rvm: RVM, after the paper "rvm"\n'
    'python main.py --config=projects/rvm/configs/a.py --workdir=runs/rvm\n'
    'See tests/projects/rvm, projects/rvm2 and projects.rvm.task:Task.\n'
  )
  (folder / 'weights.bin').write_bytes(b'\xff\xfeprojects/rvm')
  (folder / '__pycache__').mkdir()
  (folder / '.hidden').touch()
  target = new_project.copy_project('rvm', 'mine', projects)
  assert (target / 'README.md').read_text() == (
    '# projects/mine: RVM, after the paper "rvm"\n'
    'python main.py --config=projects/mine/configs/a.py --workdir=runs/mine\n'
    'See tests/projects/rvm, projects/rvm2 and projects.mine.task:Task.\n'
  )
  assert (target / 'weights.bin').read_bytes() == b'\xff\xfeprojects/rvm'
  names = {p.name for p in target.iterdir()}
  assert {'model.py', 'task.py', 'configs'} <= names
  assert not {'__pycache__', '.hidden'} & names


def test_fork_predicts_with_a_function_of_its_own(projects):
  target = new_project.copy_project('_template', 'mine', projects)
  assert 'def reconstruct(' in (target / 'predict.py').read_text()
  for name in ('synthetic.py', 'video_folder.py'):
    config = runpy.run_path(str(target / 'configs' / name))['get_config']()
    assert config.predict.factory == 'projects.mine.predict:reconstruct'


def test_fork_of_the_template_does_not_name_it(projects):
  target = new_project.copy_project('_template', 'mine', projects)
  for path in target.rglob('*.py'):
    assert '_template' not in path.read_text(), path


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], 'arguments are required: --name'),
    (['--name=my-project'], '--name=my-project: want a Python name'),
    (['--name=2d'], '--name=2d: want a Python name'),
    (['--name=../x'], '--name=../x: want a Python name'),
    (['--name='], '--name=: want a Python name'),
    (['--name=class'], '--name=class: want a Python name'),
    (['--name=rvm'], '/rvm exists already'),
    (['--name=a', '--from=rmv'], "did you mean 'rvm'?"),
    (['--name=a', '--from=zzz'], 'valid: _template, rvm'),
    (['--name=a', '--from=../x'], 'from=../x is unknown'),
  ],
)
def test_wrong_names_are_refused(projects, capsys, arguments, message):
  before = sorted(projects.rglob('*'))
  with pytest.raises(SystemExit, match='2'):
    new_project.main([*arguments, f'--projects_dir={projects}'])
  assert message in capsys.readouterr().err
  assert sorted(projects.rglob('*')) == before


def test_folder_of_projects_must_be_one(tmp_path):
  with pytest.raises(ValueError, match="want an existing folder 'projects'"):
    new_project.copy_project('_template', 'mine', tmp_path)


def test_next_commands_are_printed(projects, capsys):
  new_project.main(['--name=mine', f'--projects_dir={projects}'])
  printed = capsys.readouterr().out
  command = 'python main.py --config=projects/mine/configs/synthetic.py'
  assert f'{command} --workdir=runs/mine\n' in printed
  assert f'{command} --mode=dry_run\n' in printed


def test_interrupted_copy_leaves_no_project(projects, monkeypatch):
  def fail(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(new_project, '_rename', fail)
  with pytest.raises(KeyboardInterrupt):
    new_project.copy_project('rvm', 'mine', projects)
  assert not (projects / 'mine').exists()
  monkeypatch.undo()
  assert new_project.copy_project('rvm', 'mine', projects).is_dir()
