"""Who may import whom, read off the source.

Imports inside functions count as well. Of third-party packages only jax, flax,
TensorFlow and TFDS are looked at.
"""

import ast
import pathlib
import textwrap

import pytest

from tests import fake_packages

ROOT = pathlib.Path(__file__).resolve().parents[1]
HEAVY = ('jax', 'flax', 'tensorflow', 'tensorflow_datasets')
OURS = ('vidscenic', 'projects', 'configs', 'main', 'benchmarks', 'tests')
CONFIG = (
  'vidscenic.config',
  'vidscenic.config_checks',
  'vidscenic.config_fields',
)

# Path prefix of a file: prefixes of what it may import besides its own folder.
# The first match counts.
RULES = {
  'vidscenic/ops/': ('jax',),
  'vidscenic/layers/': ('vidscenic.ops', 'jax', 'flax'),
  'vidscenic/task.py': ('jax',),
  'vidscenic/config.py': (
    'vidscenic.config_checks',
    'vidscenic.config_fields',
  ),
  'vidscenic/config_checks.py': (),
  'vidscenic/config_fields.py': ('vidscenic.config_checks',),
  'vidscenic/tasks/': (
    'vidscenic.task',
    'vidscenic.layers',
    'vidscenic.ops',
    *CONFIG,
    'jax',
    'flax',
  ),
  'vidscenic/data/device.py': (*CONFIG, 'jax'),
  'vidscenic/data/builders/': (*CONFIG, 'tensorflow_datasets'),
  'vidscenic/data/': (
    *CONFIG,
    'vidscenic.importers.formats',
    'tensorflow_datasets',
  ),
  'vidscenic/train/': (
    'vidscenic.task',
    *CONFIG,
    'vidscenic.ops',
    'vidscenic.data',
    'jax',
  ),
  'vidscenic/evaluation/': (
    'vidscenic.task',
    'vidscenic.ops',
    'vidscenic.data',
    'vidscenic.viz',
    *CONFIG,
    'vidscenic.train.sharding',
    'vidscenic.train.checkpoints',
    'vidscenic.train.report',
    'jax',
  ),
  'vidscenic/importers/': (),
  'vidscenic/viz/': (),
  'vidscenic/tools/': ('vidscenic', *HEAVY),
  'vidscenic/__init__.py': (),
  'projects/': ('vidscenic', *HEAVY),
  'benchmarks/': ('vidscenic', *HEAVY),
  'configs/': (*CONFIG, 'projects'),
  'main.py': ('vidscenic',),
}
# Refused although something above allows it.
NEVER = {
  'projects/': (
    'vidscenic.train.loop',
    'vidscenic.train.evaluate',
    'vidscenic.train.run',
  ),
}


def imports(path, source):
  """(line, dotted name) of every import; `from a import b` gives a.b."""
  package = pathlib.PurePosixPath(path).parent.parts
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield node.lineno, alias.name
    elif isinstance(node, ast.ImportFrom):
      base = [node.module] if node.module else []
      if node.level:
        base = [*package[: len(package) - node.level + 1], *base]
      for alias in node.names:
        last = [] if alias.name == '*' else [alias.name]
        yield node.lineno, '.'.join([*base, *last])


def within(name, prefixes):
  return any(name == p or name.startswith(f'{p}.') for p in prefixes)


def own_folder(path):
  """What a file shares with its neighbours: vidscenic.ops, projects.x, ..."""
  parts = pathlib.PurePosixPath(path).with_suffix('').parts
  return '.'.join(
    parts[:2] if parts[0] in ('vidscenic', 'projects') else parts[:1]
  )


def wrong_imports(path, source):
  """Messages about imports that the rules do not allow."""
  rule = next(prefix for prefix in RULES if path.startswith(prefix))
  allowed = (own_folder(path), *RULES[rule])
  messages = []
  for line, name in imports(path, source):
    if not within(name, (*OURS, *HEAVY)) or name == 'vidscenic':
      continue
    if not within(name, allowed) or within(name, NEVER.get(rule, ())):
      messages.append(f'{path}:{line} imports {name}')
  return messages


def training_code(path, source):
  """Messages about training steps outside the core."""
  messages = []
  for node in ast.walk(ast.parse(source)):
    name = ''
    if isinstance(node, ast.Attribute):
      owner = getattr(node.value, 'attr', getattr(node.value, 'id', ''))
      name = f'{owner}.{node.attr}'
    elif isinstance(node, ast.ImportFrom) and node.module == 'optax':
      name = ' '.join(f'optax.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.keyword) and str(node.arg).startswith('donate_'):
      name = node.arg
    if name.startswith('donate_') or any(
      bad in name.split() for bad in ('optax.apply_updates', 'tx.update')
    ):
      messages.append(f'{path}:{node.lineno} uses {name}')
  return messages


def sources(*tops):
  """(path, text) of the files below the given tops."""
  for top in tops:
    found = (
      (ROOT / top).rglob('*.py') if (ROOT / top).is_dir() else [ROOT / top]
    )
    for path in sorted(found):
      name = path.relative_to(ROOT).as_posix()
      if '/.' not in name:
        yield name, path.read_text()


def test_every_file_keeps_the_import_rules():
  tops = ('vidscenic', 'projects', 'benchmarks', 'configs', 'main.py')
  messages = [m for file in sources(*tops) for m in wrong_imports(*file)]
  assert not messages, '\n'.join(messages)


def test_projects_leave_training_to_the_core():
  messages = [m for file in sources('projects') for m in training_code(*file)]
  assert not messages, '\n'.join(messages)


@pytest.mark.parametrize(
  ('path', 'source'),
  [
    ('vidscenic/ops/a.py', 'import flax.linen as nn'),
    ('vidscenic/ops/a.py', 'from vidscenic.layers import vit'),
    ('vidscenic/layers/a.py', 'from vidscenic.train import paths'),
    ('vidscenic/layers/a.py', 'from vidscenic import task'),
    ('vidscenic/task.py', 'from vidscenic.ops import losses'),
    ('vidscenic/task.py', 'import flax'),
    ('vidscenic/config.py', 'from vidscenic.train import schedules'),
    ('vidscenic/config.py', 'import jax'),
    ('vidscenic/tasks/a.py', 'from vidscenic.data import clips'),
    ('vidscenic/tasks/a.py', 'from vidscenic.train import checkpoints'),
    ('vidscenic/data/a.py', 'import jax'),
    ('vidscenic/data/a.py', 'from vidscenic.ops import video'),
    ('vidscenic/data/a.py', 'from vidscenic.importers import tree'),
    ('vidscenic/data/a.py', 'import tensorflow as tf'),
    ('vidscenic/data/a.py', 'import tensorflow as tf'),
    ('vidscenic/data/builders/a.py', 'import jax.numpy as jnp'),
    ('vidscenic/data/device.py', 'from vidscenic.train import sharding'),
    ('vidscenic/train/a.py', 'from vidscenic.evaluation import evaluator'),
    ('vidscenic/train/a.py', 'from vidscenic.layers import vit'),
    ('vidscenic/train/a.py', 'from flax import linen'),
    ('vidscenic/train/a.py', 'import projects._template.task'),
    ('vidscenic/evaluation/a.py', 'from vidscenic.train import loop'),
    ('vidscenic/evaluation/a.py', 'from vidscenic.train import *'),
    ('vidscenic/evaluation/a.py', 'from vidscenic.layers import vit'),
    ('vidscenic/importers/a.py', 'import jax'),
    ('vidscenic/importers/a.py', 'from vidscenic.layers import vit'),
    ('vidscenic/viz/a.py', 'from vidscenic.ops import video'),
    ('vidscenic/viz/a.py', 'import jax'),
    ('vidscenic/tools/a.py', 'from projects import _template'),
    ('vidscenic/tools/a.py', 'import configs.smoke'),
    ('vidscenic/tools/a.py', 'import main'),
    ('projects/x/a.py', 'from projects.y import model'),
    ('projects/x/a.py', 'from projects import y'),
    ('projects/x/a.py', 'from ..y import model'),
    ('projects/x/a.py', 'from vidscenic.train import loop'),
    ('projects/x/a.py', 'import vidscenic.train.loop as training'),
    ('benchmarks/a.py', 'from projects.x import task'),
    ('benchmarks/a.py', 'from configs import smoke'),
    ('configs/a.py', 'import jax'),
    ('configs/a.py', 'from vidscenic.train import loop'),
    ('main.py', 'from projects.x import task'),
    ('vidscenic/ops/a.py', 'def f():\n  from vidscenic.train import loop'),
    ('vidscenic/data/a.py', 'if 0:\n  class A:\n    import jax'),
    ('vidscenic/ops/a.py', 'from tests.train import tiny'),
  ],
)
def test_forbidden_import_is_found(path, source):
  assert len(wrong_imports(path, source)) == 1


@pytest.mark.parametrize(
  ('path', 'source'),
  [
    ('vidscenic/ops/a.py', 'import numpy\nimport jax\nfrom . import b'),
    ('vidscenic/layers/a.py', 'from vidscenic.ops import b\nimport flax'),
    ('vidscenic/tasks/a.py', 'from vidscenic import config, task'),
    ('vidscenic/data/a.py', 'import grain\nfrom vidscenic import config as vc'),
    ('vidscenic/data/a.py', 'from vidscenic.importers import formats'),
    ('vidscenic/data/device.py', 'import jax'),
    ('vidscenic/data/builders/a.py', 'import tensorflow_datasets as tfds'),
    ('vidscenic/train/a.py', 'import optax\nfrom vidscenic.data import device'),
    ('vidscenic/evaluation/a.py', 'from vidscenic.train import sharding'),
    ('vidscenic/evaluation/a.py', 'from vidscenic.viz import images'),
    ('vidscenic/tools/a.py', 'from vidscenic.train import loop'),
    ('projects/x/a.py', 'from projects.x import model\nimport flax, jax'),
    ('projects/x/a.py', 'from . import model\nfrom vidscenic import task'),
    ('configs/a.py', 'from projects.x.configs import b'),
    ('main.py', 'import vidscenic'),
  ],
)
def test_allowed_import_passes(path, source):
  assert not wrong_imports(path, source)


@pytest.mark.parametrize(
  'source',
  [
    'params = optax.apply_updates(params, updates)',
    'from optax import adam, apply_updates',
    'updates, state = self.optimizer.tx.update(grads, state)',
    'updates, state = tx.update(grads, state)',
    'step = jax.jit(step, donate_argnums=0)',
    '@functools.partial(jax.jit, donate_argnames=("state",))\ndef f(): pass',
  ],
)
def test_training_code_in_a_project_is_found(source):
  assert len(training_code('projects/x/task.py', source)) == 1


def test_other_updates_are_no_training_code():
  source = 'options.update(a=1)\nstep = jax.jit(f, static_argnums=0)'
  assert not training_code('projects/x/task.py', source)


def test_training_and_prediction_import_no_tensorflow(tmp_path):
  program = textwrap.dedent("""
    import importlib, pkgutil, sys
    from vidscenic import evaluation
    names = ['vidscenic.train.loop', 'vidscenic.train.evaluate',
             'vidscenic.data.sources', 'vidscenic.data.synthetic',
             'vidscenic.data.clips', 'vidscenic.tasks.classification',
             'vidscenic.tools.predict', 'vidscenic.tools.loaded',
             'projects._template.task', 'projects._template.predict']
    for info in pkgutil.iter_modules(evaluation.__path__):
      names.append(f'vidscenic.evaluation.{info.name}')
    for name in names:
      importlib.import_module(name)
    tops = {name.partition('.')[0] for name in sys.modules}
    print(sorted(tops & {'tensorflow', 'tensorflow_datasets'}), len(names))
  """)
  names = 'tensorflow', 'tensorflow_datasets'
  shown = fake_packages.run_without(names, tmp_path, program)
  found, count = shown.rsplit(maxsplit=1)
  assert found == '[]'
  assert int(count) >= 12
