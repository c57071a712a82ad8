"""Tasks with weights: of a run, of a file, of a published name."""

import contextlib
import dataclasses
import http.server
import json
import threading

import jax
import numpy as np
import pytest

from tests.train import tiny_config
from vidscenic import config as vc
from vidscenic.importers import formats, published, tree
from vidscenic.tools import load as load_lib
from vidscenic.train import checkpoints, evaluate, loop, paths
from vidscenic.train import run as run_lib
from vidscenic.train import workdir as workdir_lib

MODEL = dict(
  patch=(2, 8, 8),
  width=16,
  depth=2,
  num_heads=2,
  decoder_width=8,
  decoder_depth=1,
)
ENTRY = published.Weights(
  name='fake',
  project='_template',
  paper='2205.09113',
  licence='none',
  url='https://example.org/fake.npz',
  file='fake_weights.npz',
  size=None,
  parameters=None,
  importer=f'{__name__}:import_template',
  task='projects._template.task:MaskedVideo',
  task_kwargs={'clip': (4, 16, 24), 'mask_ratio': 0.5, 'model': MODEL},
  importer_options={'scale': 2.0},
  notes='',
)


def import_template(path, target, scale=1.0):
  """Reads what `write_template` writes."""
  source = {k: scale * v for k, v in formats.read(path).items()}
  params, _ = tree.convert(source, target, (('params/(.*)', r'\1'),))
  return params


def write_template(path):
  """Random weights of the template's model in a file; returns them."""
  task = vc.build(ENTRY.task, **ENTRY.task_kwargs)
  batch = {'video': np.zeros((1, 4, 16, 24, 3), np.uint8)}
  shapes, _ = jax.eval_shape(task.init, jax.random.key(0), batch)
  rng = np.random.default_rng(0)
  flat = {
    f'params/{name}': rng.normal(size=leaf.shape).astype(np.float32)
    for name, leaf in paths.named_leaves(shapes).items()
  }
  np.savez(path, **flat)
  return flat


def assert_equal(params, flat, scale=1.0):
  got = paths.named_leaves(params)
  assert {f'params/{name}' for name in got} == set(flat)
  for name, leaf in got.items():
    np.testing.assert_array_equal(leaf, scale * flat[f'params/{name}'])


@pytest.fixture
def fake(monkeypatch):
  monkeypatch.setattr(published, 'WEIGHTS', (ENTRY,))


def run_config():
  return tiny_config.changed(steps=2, ema__decay=0.5)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The workdir of two updates, with averages, trained on eight devices."""
  workdir = tmp_path_factory.mktemp('run')
  assert loop.train(run_config(), workdir)
  return workdir


@pytest.mark.parametrize(
  ('which', 'group'), [('params', 'params'), ('ema', 'ema_params')]
)
def test_newest_checkpoint_of_a_run(run, which, group):
  task, params = load_lib.load(run, params=which)
  assert type(task).__name__ == 'Regression'
  with contextlib.closing(checkpoints.Checkpoints(run)) as reader:
    want, _ = reader.restore(run_lib.Run(run_config()).state_shapes)
  want = paths.named_leaves(getattr(want, group))
  got = paths.named_leaves(params)
  assert set(got) == set(want)
  for name, leaf in got.items():
    np.testing.assert_array_equal(leaf, want[name])
    assert leaf.sharding.device_set == {jax.local_devices()[0]}


def test_options_replace_arguments_of_the_task(run):
  task, _ = load_lib.load(run, threshold=0.25)
  assert task.threshold == 0.25
  with pytest.raises(
    ValueError, match=r'has shape \(16, 1\), this config wants'
  ):
    load_lib.load(run, width=8)
  with pytest.raises(ValueError, match="'widht' is unknown; did you mean"):
    load_lib.load(run, widht=8)


def test_sequences_of_a_stored_config_are_tuples_again(run, tmp_path):
  config = json.loads((run / 'config.json').read_text())
  config['optim']['lr_mult'] = [['layer0', 0.5]]
  del config['predict']  # as if the run were older than this field
  (tmp_path / 'config.json').write_text(json.dumps(config))
  (tmp_path / checkpoints.FOLDER).symlink_to(run / checkpoints.FOLDER)
  _, params = load_lib.load(tmp_path)
  assert set(params) == {'layer0', 'layer1', 'head'}


def test_averages_of_a_run_without_any_are_refused(run, tmp_path):
  config = json.loads((run / 'config.json').read_text())
  config['ema']['decay'] = 0.0
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match='was trained without ema.decay'):
    load_lib.load(tmp_path, params='ema')


def test_file_with_a_published_name_needs_nothing_else(fake, tmp_path):
  flat = write_template(tmp_path / ENTRY.file)
  task, params = load_lib.load(tmp_path / ENTRY.file)
  assert task.clip == (4, 16, 24)
  assert_equal(params, flat, scale=2.0)  # the entry's importer_options


def test_file_of_another_name_needs_task_and_importer(fake, tmp_path):
  path = tmp_path / 'mine.npz'
  flat = write_template(path)
  with pytest.raises(ValueError, match="config='file.py' must say which task"):
    load_lib.load(path, importer=ENTRY.importer)
  config = vc.base_config()
  config.task.factory = ENTRY.task
  config.task.kwargs = ENTRY.task_kwargs
  with pytest.raises(ValueError, match="importer='package.module:load'"):
    load_lib.load(path, config=config)
  _, params = load_lib.load(path, config=config, importer=ENTRY.importer)
  assert_equal(params, flat)
  config.init_from.factory = ENTRY.importer
  config.init_from.kwargs = {'scale': 3.0}
  _, params = load_lib.load(path, config=config)
  assert_equal(params, flat, scale=3.0)


def test_config_may_be_a_file_with_an_argument(fake, tmp_path):
  write_template(tmp_path / ENTRY.file)
  file = tmp_path / 'mine.py'
  file.write_text(
    'from vidscenic import config as vc\n'
    'def get_config(arg=""):\n'
    '  config = vc.base_config()\n'
    f'  config.task.factory = {ENTRY.task!r}\n'
    f'  config.task.kwargs = {ENTRY.task_kwargs!r}\n'
    '  config.task.kwargs.mask_ratio = float(arg or 0.5)\n'
    '  return config\n'
  )
  for text, keep in ((file, 6), (f'{file}:0.75', 3)):  # of 12 patches
    task, _ = load_lib.load(tmp_path / ENTRY.file, config=str(text))
    assert task.num_keep == keep
  with pytest.raises(FileNotFoundError, match="'no.py': no such file"):
    load_lib.load(tmp_path / ENTRY.file, config='no.py')


def test_config_that_disagrees_with_the_weights_is_refused(fake, tmp_path):
  write_template(tmp_path / ENTRY.file)
  config = vc.base_config()
  config.task.factory = ENTRY.task
  config.task.kwargs = {'mask_ratio': 0.7, 'model': {**MODEL, 'num_heads': 4}}
  message = 'task.kwargs.model.num_heads=4 in the config, but fake needs 2'
  with pytest.raises(ValueError, match=message):
    load_lib.load(tmp_path / ENTRY.file, config=config)
  config.task.kwargs = {'mask_ratio': 0.7}  # the rest comes from the table
  task, _ = load_lib.load(tmp_path / ENTRY.file, config=config)
  assert task.clip == (4, 16, 24)


@pytest.mark.parametrize(
  'entry',
  [entry for entry in published.WEIGHTS if entry.predict],
  ids=lambda entry: entry.name,
)
def test_published_weights_agree_with_their_config_of_predictions(entry):
  config = load_lib.find_config('', entry.name)
  assert config.predict.factory
  assert config.task.factory == entry.task
  load_lib.agreed(entry, config.task.kwargs)  # or a ValueError


def test_nested_options_are_merged(fake, tmp_path):
  write_template(tmp_path / ENTRY.file)
  task, _ = load_lib.load(tmp_path / ENTRY.file, model={'remat': 'full'})
  assert task.model == dataclasses.replace(task.model, remat='full')
  assert task.model.width == 16


def test_published_name_is_downloaded_once(fake, monkeypatch, tmp_path):
  served, cache = tmp_path / 'served', tmp_path / 'cache'
  served.mkdir()
  flat = write_template(served / 'fake.npz')
  requests = []

  class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and counts."""

    def __init__(self, *args):
      super().__init__(*args, directory=served)

    def log_message(self, *unused):
      requests.append(self.path)

  monkeypatch.setenv('VIDSCENIC_CACHE', str(cache))
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    url = f'http://127.0.0.1:{server.server_port}/fake.npz'
    monkeypatch.setattr(published, 'WEIGHTS', (ENTRY._replace(url=url),))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    for _ in range(2):
      _, params = load_lib.load('fake')
      assert_equal(params, flat, scale=2.0)
    server.shutdown()
    thread.join()
  assert requests == ['/fake.npz']


def test_missing_project_is_found_before_the_download(monkeypatch, tmp_path):
  monkeypatch.setenv('VIDSCENIC_CACHE', str(tmp_path))
  entry = ENTRY._replace(importer='projects.nowhere.importer:load')
  monkeypatch.setattr(published, 'WEIGHTS', (entry,))
  message = "^'fake': there is no importer for projects/_template yet$"
  with pytest.raises(ValueError, match=message):
    load_lib.load('fake')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('given', 'error', 'message'),
  [
    (('fak',), ValueError, "'fak' is no file, no folder and no name.*: fake"),
    (('fake', 'best'), ValueError, "params='best': want 'params' or 'ema'"),
    (('fake', 'ema'), ValueError, "one set of weights: leave out params='ema'"),
  ],
)
def test_wrong_arguments_are_named(fake, given, error, message):
  with pytest.raises(error, match=message):
    load_lib.load(given[0], params=(*given, 'params')[1])


def test_folder_that_is_no_run_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='want the workdir of a run'):
    load_lib.load(tmp_path)


@pytest.mark.parametrize(
  ('names', 'shown'),
  [
    (['model.safetensors', 'pytorch_model.bin'], 'model.safetensors'),
    (['pytorch_model.bin'], 'pytorch_model.bin'),
    (
      [f'model-0000{i}-of-00002.safetensors' for i in (1, 2)],
      'model-00001-of-00002.safetensors',
    ),
    ([], '*.safetensors or *.bin'),
  ],
)
def test_folder_of_hugging_face_is_told_which_file_to_pass(
  tmp_path, names, shown
):
  config = {'model_type': 'vivit', 'architectures': ['VivitModel']}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  for name in (*names, 'training_args.bin'):
    (tmp_path / name).write_bytes(b'')
  with pytest.raises(ValueError) as error:
    load_lib.load(tmp_path)
  message = str(error.value)
  assert 'is a folder of Hugging Face and no run' in message
  assert f"load('{tmp_path}/{shown}', config=" in message
  assert '\n' not in message


def fill_tiny(path, target, value):
  """An importer whose file is not read: every weight is `value`."""
  return jax.tree.map(lambda s: np.full(s.shape, value, s.dtype), target)


def test_run_made_of_a_file_serves_wherever_a_run_does(tmp_path):
  file, workdir = tmp_path / 'w.npz', tmp_path / 'run'
  file.write_bytes(b'')
  config = tiny_config.changed(
    steps=2,
    init_from__factory=f'{__name__}:fill_tiny',
    init_from__kwargs={'value': 0.5},
  )
  said = load_lib.make_run(file, workdir, config=config)
  assert said == f'{workdir}: 433 parameters of {file}'
  assert workdir_lib.finished_steps(workdir) == 0
  _, params = load_lib.load(workdir)
  assert all((leaf == 0.5).all() for leaf in jax.tree.leaves(params))
  figures = evaluate.evaluate(config, workdir)
  # Another run may start from it ...
  other = tiny_config.changed(steps=2, init_from__path=str(workdir))
  fresh = run_lib.Run(other).fresh_state()
  assert (fresh.params['head']['kernel'] == 0.5).all()
  # ... and it trains on from these weights itself.
  assert loop.train(config, workdir)
  assert workdir_lib.finished_steps(workdir) == 2
  assert (
    figures['heldout/mse'] != evaluate.evaluate(config, workdir)['heldout/mse']
  )


def test_run_is_not_made_over_another(run, tmp_path):
  with pytest.raises(ValueError, match='is a run already; choose another'):
    load_lib.make_run(tmp_path / 'w.npz', run, config=tiny_config.get_config())


def test_run_is_made_once_and_only_of_one_file(tmp_path):
  config = tiny_config.changed(
    init_from__factory=f'{__name__}:fill_tiny', init_from__kwargs={'value': 0.5}
  )
  first, second, workdir = (tmp_path / n for n in ('a.npz', 'b.npz', 'run'))
  first.write_bytes(b'')
  second.write_bytes(b'')
  load_lib.ensure_run(str(first), workdir, config)
  stored = (workdir / 'config.json').stat().st_mtime_ns
  load_lib.ensure_run(str(first), workdir, config)
  assert (workdir / 'config.json').stat().st_mtime_ns == stored
  with pytest.raises(ValueError, match=r'is a run with .*a\.npz; choose anoth'):
    load_lib.ensure_run(str(second), workdir, config)


def test_run_that_was_trained_is_no_run_of_weights(run, tmp_path):
  with pytest.raises(ValueError, match='is a run with weights of its own'):
    load_lib.ensure_run(str(tmp_path / 'w.npz'), run, tiny_config.get_config())


def test_weights_that_do_not_fit_leave_no_run(fake, tmp_path):
  file, workdir = tmp_path / ENTRY.file, tmp_path / 'run'
  np.savez(file, **{'params/other': np.zeros(3, np.float32)})
  with pytest.raises(ValueError, match='the weights do not fit the model'):
    load_lib.make_run(file, workdir)
  assert not workdir.exists()
