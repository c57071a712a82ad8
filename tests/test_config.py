"""The config: complete and commented, and wrong ones are refused by name."""

import ast
import io
import json
import pathlib
import re
import runpy
import tokenize

import ml_collections as mlc
import pytest
from absl import flags
from ml_collections import config_flags

from vidscenic import config as vc
from vidscenic import config_checks

ROOT = pathlib.Path(__file__).resolve().parents[1]
SPECS = ('base_config', 'data_spec', 'schedule_spec', 'eval_spec')
SOURCE = (ROOT / 'vidscenic' / 'config.py').read_text()
CONFIGS = [
  *sorted((ROOT / 'configs').glob('*.py')),
  *sorted((ROOT / 'projects').glob('*/configs/*.py')),
]


def changed(**changes):
  """base_config with 'a__b' fields set, whatever their type."""
  config = vc.base_config()
  with config.ignore_type():
    for field, value in changes.items():
      *parents, name = field.split('__')
      node = config
      for parent in parents:
        node = node[parent]
      node[name] = value
  return config


def leaves(config, prefix=''):
  for name, value in config.items():
    if isinstance(value, mlc.ConfigDict) and len(value):
      yield from leaves(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', value


@pytest.mark.parametrize('name', SPECS)
def test_every_field_has_a_comment(name):
  tokens = tokenize.generate_tokens(io.StringIO(SOURCE).readline)
  commented = {t.start[0] for t in tokens if t.type == tokenize.COMMENT}
  (function,) = [
    node
    for node in ast.parse(SOURCE).body
    if isinstance(node, ast.FunctionDef) and node.name == name
  ]
  fields = [
    node
    for node in function.body
    if isinstance(node, ast.Assign) and not is_group(node, getattr(vc, name)())
  ]
  bare = [ast.unparse(f) for f in fields if f.end_lineno not in commented]
  assert fields
  assert not bare, '\n'.join(bare)


def is_group(node, config):
  """Whether an assignment makes a subtree, whose fields speak for it."""
  owner, dot, field = ast.unparse(node.targets[0]).partition('.')
  if ast.unparse(node.value) != 'mlc.ConfigDict()':
    return False
  if not dot:
    return True
  return owner == 'config' and len(config_checks.get_field(config, field)) > 0


def test_every_field_is_read_somewhere():
  """A field that nothing reads would be a promise that nothing keeps."""
  words = set()
  for path in (ROOT / 'vidscenic').rglob('*.py'):
    if path.name not in ('config.py', 'config_checks.py'):
      words |= set(re.findall(r'\w+', path.read_text()))
  words |= set(re.findall(r'\w+', (ROOT / 'main.py').read_text()))
  unread = [
    field
    for field, _ in leaves(vc.base_config())
    if field.split('.')[-1] not in words
  ]
  assert not unread


def test_trainer_reads_no_field_that_the_config_lacks():
  config = vc.base_config()
  for path in (ROOT / 'vidscenic' / 'train').glob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Attribute):
        chain = re.fullmatch(
          r'(?:self\.)?config\.((?:\w+\.)*\w+)', ast.unparse(node)
        )
        if not chain or chain[1].split('.')[-1] in ('items', 'to_dict'):
          continue
        config_checks.get_field(config, chain[1])


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_configs_of_the_repository_finalize_and_stay_the_same(path):
  config = runpy.run_path(str(path))['get_config']()
  assert config.is_locked
  before = json.dumps(vc.plain(config), sort_keys=True)
  assert vc.finalize(config) is config
  assert json.dumps(vc.plain(config), sort_keys=True) == before
  assert config.is_locked and config.optim.is_locked


def test_sequences_are_tuples_which_flags_can_override(monkeypatch):
  values = [v for _, v in leaves(vc.base_config())]
  assert not any(isinstance(v, list) for v in values)
  assert sum(isinstance(v, tuple) for v in values) >= 8
  config = vc.finalize(vc.base_config())
  arguments = [
    'test',
    "--config.optim.frozen=('stem', 'head')",
    "--config.sharding=(('kernel', 'fsdp'), ('.*', 'replicate'))",
    '--config.optim.schedule.boundaries=(3,)',
  ]
  monkeypatch.setattr('sys.argv', arguments)  # where the overrides are found
  given = flags.FlagValues()
  config_flags.DEFINE_config_dict('config', config, flag_values=given)
  given(arguments)
  assert config.optim.frozen == ('stem', 'head')
  assert config.sharding == (('kernel', 'fsdp'), ('.*', 'replicate'))
  assert config.optim.schedule.boundaries == (3,)


def test_lists_and_whole_numbers_take_the_type_of_the_field():
  config = changed(optim__frozen=['stem'], optim__lr=1)
  vc.finalize(config)
  assert config.optim.frozen == ('stem',)
  assert type(config.optim.lr) is float


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'step': 3}, "'step' is unknown; did you mean 'steps'"),
    ({'optim__lrr': 1.0}, "'optim.lrr' is unknown|optim.lrr.*'lr'"),
    ({'optim__schedule__warmup': 3}, "optim.schedule.warmup.*'warmup_"),
    ({'checkpoint__keep': 3}, "checkpoint.keep is.*'keep_"),
    ({'mesh__tensor': 2}, 'mesh.tensor is unknown; valid: data, fsdp, model'),
    ({'evals__a': {'evry_steps': 3}}, "evals.a.evry_steps.*'every_steps'"),
    ({'schedules__m': {'vlaue': 3.0}}, "schedules.m.vlaue.*'value'"),
    ({'data__train__sorce': 'a:b'}, "data.train.sorce.*'source'"),
    ({'data__train__mixture__a': {'wight': 1.0}}, "mixture.a.wight.*'weight'"),
    ({'data__train__streams__a': {'bs': 1}}, 'streams.a.bs is unknown'),
    (
      {'evals__a': {'kwargs': {'data': {'shuffel': True}}}},
      "evals.a.kwargs.data.shuffel.*'shuffle'",
    ),
  ],
)
def test_unknown_field_is_refused_with_the_nearest_name(changes, message):
  with pytest.raises(ValueError, match=message):
    vc.finalize(changed(**changes))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'steps': 1.5}, 'steps=1.5 is a float, want int'),
    ({'steps': True}, 'steps=True is a bool, want int'),
    ({'optim__lr': '1e-3'}, "optim.lr='1e-3' is a str, want float"),
    ({'optim__lr': None}, 'optim.lr=None is a NoneType, want float'),
    ({'optim__frozen': 'stem'}, "optim.frozen='stem' is a str, want tuple"),
    ({'log__tensorboard': 1}, 'log.tensorboard=1 is a int, want bool'),
    ({'task__factory': None}, 'task.factory=None.*want str'),
    ({'task': 3}, 'task must be a ConfigDict, got 3'),
    ({'task__kwargs': 3}, 'task.kwargs must be a ConfigDict, got 3'),
    ({'evals': 3}, 'evals must be a ConfigDict, got 3'),
    ({'optim__schedule': 'cosine'}, 'optim.schedule must be a ConfigDict'),
    ({'evals__a': {'every_steps': 0.5}}, 'evals.a.every_steps=0.5 is a float'),
    ({'data__train__shuffle': 'no'}, "data.train.shuffle='no' is a str"),
  ],
)
def test_wrong_type_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    vc.finalize(changed(**changes))


def stream(size):
  return {'source': 'a:b', 'batch_size': size}


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'steps': 0}, 'steps=0: want 1 or more'),
    ({'batch_size': 0}, 'batch_size=0: want 1 or more'),
    ({'log__every_steps': 0}, 'log.every_steps=0: want 1 or more'),
    ({'checkpoint__keep_last': 0}, 'checkpoint.keep_last=0: want 1'),
    ({'seed': -1}, 'seed=-1: want 0 or more'),
    ({'optim__lr': -1.0}, 'optim.lr=-1.0: want 0 or more'),
    ({'optim__b2': 1.0}, r'optim.b2=1.0: want a number in \[0, 1\)'),
    ({'ema__decay': 1.5}, r'ema.decay=1.5: want a number in \[0, 1\]'),
    ({'optim__layer_decay': 0.0}, 'optim.layer_decay=0.0'),
    ({'optim__name': 'adam'}, "optim.name='adam' is.*'adamw'"),
    (
      {'checkpoint__best_mode': 'maximum'},
      "checkpoint.best_mode='maximum'.*'max'",
    ),
    ({'init_from__params': 'emma'}, "init_from.params='emma'.*'ema'"),
    ({'accum_steps': 3}, 'batch_size=8 is not a multiple of accum_steps=3'),
    ({'mesh__fsdp': -1}, 'mesh=.*one -1'),
    ({'mesh__fsdp': 0}, 'mesh=.*sizes >= 1'),
    ({'mesh__model': 2}, 'mesh.model is reserved'),
    ({'evals__a': {'every_steps': 0}}, 'evals.a.every_steps=0'),
    ({'evals__a': {'params': 'mean'}}, "evals.a.params='mean'"),
    ({'predict__params': 'mea'}, "predict.params='mea'.*did you mean 'ema'"),
    ({'predict__params': 'ema'}, "predict.params='ema' but ema.decay=0"),
    ({'evals__a': {'params': 'ema'}}, "evals.a.params='ema' but ema.decay=0"),
    ({'checkpoint__keep_best': 1}, 'keep_best=1 go together'),
    ({'checkpoint__best_metric': 'a/x'}, "best_metric='a/x' and.*together"),
    (
      {
        'checkpoint__best_metric': 'heldot/psnr',
        'checkpoint__keep_best': 1,
        'evals__heldout': {},
      },
      "evaluator 'heldot' is unknown; did you mean 'heldout'",
    ),
    ({'data__train__repeats': 0}, 'data.train.repeats=0: want 1'),
    ({'data__train__weight': 0.0}, 'data.train.weight=0.0: want more'),
    ({'data__train__num_workers': -1}, 'data.train.num_workers=-1'),
    (
      {'data__train__source': 'a:b', 'data__train__mixture__a': {}},
      r"data.train: set only one.*source='a:b', mixture=\['a'\]",
    ),
    (
      {'data__train__mixture__a': {'batch_size': 2}},
      'data.train.mixture.a.batch_size=2: only streams have one',
    ),
    (
      {'data__train__mixture__a': {'streams': {'b': stream(2)}}},
      'data.train.mixture.a: a part of a mixture has no streams',
    ),
    (
      {'data__train__mixture__a': {'repeats': 2}},
      'data.train.mixture.a.repeats=2 but data.train.repeats=1',
    ),
    ({'data__train__streams__a': {}}, 'streams.a: want batch_size >= 1'),
    ({'data__train__batch_size': 4}, 'data.train.batch_size=4: only streams'),
    ({'data__trian': {}}, "'data.trian' is unknown.*'train'"),
    ({'data__train__streams__a': stream(3)}, 'batch_size=8 but.*add up to 3'),
    (
      {'evals__a': {'kwargs': {'data': {'repeats': 0}}}},
      'evals.a.kwargs.data.repeats=0',
    ),
    ({'optim__schedule__name': 'cosin'}, "optim.schedule.name.*'cosine'"),
    ({'optim__schedule__warmup_steps': -1}, 'optim.schedule.warmup_steps=-1'),
    (
      {'optim__schedule__warmup_steps': 2000},
      'optim.schedule.warmup_steps=2000: longer than the run of 1000',
    ),
    (
      {'optim__weight_decay_schedule__name': 'wsd'},
      'optim.weight_decay_schedule.decay_steps=0: .*needs the length',
    ),
    (
      {'ema__schedule__name': 'cosine', 'ema__schedule__hold_steps': 1000},
      'ema.schedule.hold_steps=1000.*nothing is left of the 1000',
    ),
    (
      {'schedules__m': {'name': 'piecewise', 'boundaries': (3,)}},
      'schedules.m.values=.*need 2 values, got 0',
    ),
    ({'schedules__m': {'timescale': 0}}, 'schedules.m.timescale=0'),
  ],
)
def test_contradiction_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    vc.finalize(changed(**changes))


def test_named_specs_get_their_defaults():
  config = changed(
    evals__a={'factory': 'a:b', 'kwargs': {'data': {'source': 'c:d'}}},
    schedules__m={'value': 0.5},
    data__train__mixture__a={'source': 'e:f'},
  )
  vc.finalize(config)
  assert config.evals.a.every_steps == 1000
  assert config.evals.a.kwargs.data.repeats == 1
  assert config.schedules.m.name == 'constant'
  assert config.data.train.mixture.a.weight == 1.0


def test_finalized_config_refuses_new_fields():
  config = vc.finalize(changed(evals__a={'factory': 'a:b'}))
  for node in (config, config.optim, config.evals.a, config.data.train):
    with pytest.raises((AttributeError, KeyError)):
      node.new_field = 1


def test_arguments_of_a_config_file():
  defaults = dict(smoke=False, size=8, rate=0.5, name='')
  assert vc.parse_arg('', **defaults).to_dict() == defaults
  assert vc.parse_arg(None, **defaults).to_dict() == defaults
  got = vc.parse_arg('smoke, size=16,rate=2,name=a=b', **defaults).to_dict()
  assert got == dict(smoke=True, size=16, rate=2.0, name='a=b')
  assert not vc.parse_arg('smoke=False', **defaults).smoke


@pytest.mark.parametrize(
  ('arg', 'message'),
  [
    ('sise=3', "'sise' is unknown; did you mean 'size'"),
    ('size', "'size' needs a value"),
    ('size=big', "size='big': want int"),
    ('smoke=maybe', "smoke='maybe': want true or false"),
  ],
)
def test_wrong_argument_of_a_config_file_is_refused(arg, message):
  with pytest.raises(ValueError, match=message):
    vc.parse_arg(arg, smoke=False, size=8)


class Thing:
  """What the factory strings below build."""

  def __init__(self, core, width, *, depth=1):
    self.arguments = (core, width, depth)


class Wider(Thing):
  """Hands what it does not know to its base."""

  def __init__(self, core, *, height=1, **kwargs):
    super().__init__(core, **kwargs)
    self.height = height


def open_ended(**kwargs):
  return kwargs


HERE = __name__


def test_factory_gets_plain_arguments():
  options = mlc.ConfigDict({'a': {'b': 1}})
  got = vc.build(f'{HERE}:open_ended', options=options)
  assert type(got['options']['a']) is dict
  thing = vc.build(f'{HERE}:Thing', 'core', width=2)
  assert thing.arguments == ('core', 2, 1)
  wider = vc.build(f'{HERE}:Wider', 'core', height=3, width=2)
  assert (wider.height, wider.arguments) == (3, ('core', 2, 1))


@pytest.mark.parametrize(
  ('factory', 'kwargs', 'message'),
  [
    ('', {}, "task.factory='': want 'package.module:Name'"),
    ('vidscenic.task', {}, "want 'package.module:Name'"),
    (':Thing', {}, "want 'package.module:Name'"),
    ('vidscenic.taks:Task', {}, "no module 'vidscenic.taks'"),
    ('no_such_package.a:B', {}, "no module 'no_such_package'"),
    ('vidscenic.task:Taks', {}, "'Taks' is unknown; did you mean 'Task'"),
    (f'{HERE}:Thing', {'widht': 1}, "'widht' is unknown; did you mean 'width'"),
    (f'{HERE}:Thing', {'core': 1}, "'core' is unknown"),
    (f'{HERE}:Wider', {'widht': 1}, "'widht' is unknown; did you mean 'width'"),
    (f'{HERE}:Wider', {'core': 1}, "'core' is unknown"),
    (f'{HERE}:Thing', {}, r"\(task.factory\) needs arguments \['width'\]"),
  ],
)
def test_wrong_factory_is_refused(factory, kwargs, message):
  with pytest.raises(ValueError, match=message):
    vc.build(factory, 'core', field='task.factory', **kwargs)


def test_factory_may_be_called_later_than_it_is_checked():
  make = vc.prepare(f'{HERE}:Thing', 1, width=2)
  assert make('core').arguments == ('core', 2, 1)
  with pytest.raises(ValueError, match="did you mean 'width'"):
    vc.prepare(f'{HERE}:Thing', 1, widht=2)
  with pytest.raises(ValueError, match="needs arguments \\['core'\\]"):
    vc.prepare(f'{HERE}:Thing', 0, width=2)


def test_missing_import_of_a_factory_module_is_not_hidden(
  tmp_path, monkeypatch
):
  (tmp_path / 'needs_more.py').write_text('import no_such_dependency\n')
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ModuleNotFoundError, match='no_such_dependency'):
    vc.resolve('needs_more:Thing')


def test_difference_names_changed_added_and_removed_fields():
  old = {'a': 1, 'b': {'c': (1,), 'd': 2}, 'e': {'f': 1}}
  new = {'a': 1, 'b': {'c': (2,), 'd': 2}, 'g': 3}
  assert vc.difference(old, new) == {
    'b.c': ((1,), (2,)),
    'e.f': (1, None),
    'g': (None, 3),
  }
  assert not vc.difference(old, old)
