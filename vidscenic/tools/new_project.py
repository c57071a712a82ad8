"""Starts a project as a copy of another one.

  python -m vidscenic.tools.new_project --from=_template --name=mine

The copy runs at once: what names the source as a Python package, folder or
workdir (projects.x, projects/x, runs/x) names the new project afterwards, in
code, configs and texts alike. Everything else stays, so names of classes and
references to the source's tests still are the source's.
"""

import argparse
import keyword
import pathlib
import re
import shutil
from collections.abc import Sequence

from vidscenic import config_checks

_PROJECTS = pathlib.Path(__file__).parents[2] / 'projects'
_IGNORED = shutil.ignore_patterns('__pycache__', '.*')


def copy_project(
  source: str, name: str, projects_dir: pathlib.Path = _PROJECTS
) -> pathlib.Path:
  """Copies `projects_dir/source` to `projects_dir/name`.

  Args:
    source: an existing project.
    name: of the new one.
    projects_dir: the folder that is imported as `projects`.

  Returns:
    The new folder.

  Raises:
    ValueError: no such project, or a name that cannot be used.
  """
  if projects_dir.name != 'projects' or not projects_dir.is_dir():
    raise ValueError(
      f"--projects_dir={projects_dir}: want an existing folder 'projects'"
    )
  known = sorted(p.parent.name for p in projects_dir.glob('*/task.py'))
  if source not in known:
    raise ValueError(config_checks.unknown(f'--from={source}', source, known))
  if not name.isidentifier() or keyword.iskeyword(name):
    raise ValueError(
      f'--name={name}: want a Python name: letters, digits and underscores, '
      'no digit first'
    )
  target = projects_dir / name
  if target.exists():
    raise ValueError(f'--name={name}: {target} exists already')
  # Complete or not there at all: an interrupted copy keeps its hidden name.
  part = projects_dir / f'.{name}.part'
  shutil.rmtree(part, ignore_errors=True)
  shutil.copytree(projects_dir / source, part, ignore=_IGNORED)
  for path in part.rglob('*'):
    if path.is_file():
      _rename(path, source, name)
  part.rename(target)
  return target


def _rename(path, source, name):
  """Rewrites one file; what is not text stays as it is."""
  try:
    text = path.read_bytes().decode('utf-8')
  except UnicodeDecodeError:
    return
  old = rf'(?<!tests[./])(?<!\w)(projects[./]|runs/){re.escape(source)}(?!\w)'
  path.write_bytes(re.sub(old, rf'\g<1>{name}', text).encode('utf-8'))


def next_commands(target: pathlib.Path) -> str:
  """What to type now, as text."""
  folder = f'projects/{target.name}'
  configs = sorted(p.name for p in (target / 'configs').glob('*.py'))
  lines = [f'{folder} is ready; its model.py and task.py are yours to change.']
  if configs:
    command = f'  python main.py --config={folder}/configs/{configs[0]}'
    workdir = f'--workdir=runs/{target.name}'
    lines += [
      'Next, from the root of the repository:',
      f'{command} --mode=dry_run',
      f'{command} {workdir}',
      f'{command} {workdir} --mode=evaluate',
    ]
  if configs[1:]:
    lines.append(f'Further configs in {folder}/configs: {configs[1:]}')
  return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(
    prog='python -m vidscenic.tools.new_project',
    description='Starts a project as a copy of another one.',
  )
  parser.add_argument(
    '--from',
    dest='source',
    default='_template',
    metavar='PROJECT',
    help='folder under projects/ to copy (default: _template)',
  )
  parser.add_argument(
    '--name', required=True, help='of the new project, a Python name'
  )
  parser.add_argument(
    '--projects_dir',
    type=pathlib.Path,
    default=_PROJECTS,
    metavar='DIR',
    help='where projects live (default: the folder beside vidscenic)',
  )
  args = parser.parse_args(argv)
  try:
    target = copy_project(args.source, args.name, args.projects_dir)
  except ValueError as e:
    parser.error(str(e))
  print(next_commands(target))


if __name__ == '__main__':
  main()
