"""A run's model meets one's own videos; mistakes are told in one line."""

import collections
import functools
import itertools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.data import make_odd_videos
from tests.multiprocess import processes
from tests.tools import predictions
from tests.train import tiny_config
from vidscenic import config as vc
from vidscenic.data import decode, stream, writer
from vidscenic.tools import load, loaded, predict, progress
from vidscenic.train import loop

HERE = 'tests.tools.predictions'


def make_config(function='means', **kwargs):
  config = tiny_config.changed(
    steps=4, checkpoint__every_steps=2, ema__decay=0.9, mesh__fsdp=2
  )
  with config.unlocked():
    config.predict.factory = f'{HERE}:{function}'
    config.predict.kwargs.update(kwargs)
    config.schedules.ratio = vc.schedule_spec(
      name='piecewise', boundaries=(3,), values=(0.25, 0.75)
    )
  return vc.finalize(config)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A run on 8 devices, with checkpoints of steps 2 and 4."""
  path = tmp_path_factory.mktemp('run') / 'workdir'
  assert loop.train(make_config(), path)
  return str(path)


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
  """Folder with one.mp4 (10 frames) and two.mp4 (7 frames)."""
  folder = tmp_path_factory.mktemp('videos')
  for name, count in (('one', 10), ('two', 7)):
    frames = [make_odd_videos.draw(i) for i in range(count)]
    writer.write_video(folder / f'{name}.mp4', frames, 10)
  return folder


def results(folder):
  with np.load(folder / 'results.npz') as arrays:
    return dict(arrays)


def test_a_second_video_of_the_same_size_compiles_nothing(
  workdir, videos, tmp_path, request
):
  # In tests nothing compiles for a whole second, and the run above, in this
  # process, set a folder of its own.
  for field, value in (
    ('jax_persistent_cache_min_compile_time_secs', 0),
    ('jax_compilation_cache_dir', None),
  ):
    before = getattr(jax.config, field)
    request.addfinalizer(functools.partial(jax.config.update, field, before))
    jax.config.update(field, value)
  counts = collections.Counter()
  listener = lambda event, **_: counts.update([event])
  jax.monitoring.register_event_listener(listener)
  request.addfinalizer(
    lambda: jax.monitoring.unregister_event_listener(listener)
  )
  predict.predict(
    make_config('brightest'), workdir, f'{videos}/*.mp4', str(tmp_path)
  )
  assert counts['/jax/compilation_cache/cache_hits'] == 1
  assert jax.config.jax_compilation_cache_dir is None


def test_options_go_over_those_of_the_config(workdir, videos, tmp_path):
  run = functools.partial(
    predict.predict, make_config(every=1), workdir, f'{videos}/one.mp4'
  )
  run(str(tmp_path / 'all'))
  run(str(tmp_path / 'some'), options={'every': 2})
  counts = [
    len(results(tmp_path / name / 'one')['means']) for name in ('all', 'some')
  ]
  assert counts == [10, 6]  # chunks of 4 frames, every second one
  with pytest.raises(predict.UsageError, match="did you mean 'every'"):
    run(str(tmp_path / 'none'), options={'evry': 2})


def test_options_are_literals_or_text():
  texts = ['n=3', 'points=((1.0,2.0),)', 'flag=True', 'file=a=b.png', 'empty=']
  assert predict.parse_options(texts) == {
    'n': 3,
    'points': ((1.0, 2.0),),
    'flag': True,
    'file': 'a=b.png',
    'empty': '',
  }
  for wrong in ('n', '=3', 'a.b=3'):
    with pytest.raises(predict.UsageError, match='want NAME=VALUE'):
      predict.parse_options([wrong])


def test_each_video_gets_a_folder_of_results(workdir, videos, tmp_path):
  written = predict.predict(
    make_config(length=3), workdir, f'{videos}/*.mp4', str(tmp_path / 'out')
  )
  assert written == [
    tmp_path / 'out' / name / file
    for name in ('one', 'two')
    for file in ('copy.mp4', 'results.npz')
  ]
  for name, count in (('one', 10), ('two', 7)):
    path = videos / f'{name}.mp4'
    frames = decode.read_frames(path, range(count))
    got = results(tmp_path / 'out' / name)
    np.testing.assert_allclose(got['means'], frames.mean((1, 2, 3)))
    copy = tmp_path / 'out' / name / 'copy.mp4'
    copied = decode.read_frames(copy, range(count))
    codes = [make_odd_videos.read_code(frame) for frame in copied]
    assert codes == list(range(count))
    np.testing.assert_allclose(
      decode.index_video(copy).times, decode.index_video(path).times
    )


def test_a_run_brings_its_own_config(workdir, videos, tmp_path):
  predict.predict(None, workdir, str(videos / 'two.mp4'), str(tmp_path))
  assert results(tmp_path / 'two')['means'].shape == (7,)


def test_weights_without_a_known_config_ask_for_one(videos, tmp_path):
  with pytest.raises(predict.UsageError, match='--config is missing'):
    predict.predict(
      None, '', str(videos / 'two.mp4'), str(tmp_path), weights='own.npz'
    )


def test_results_do_not_depend_on_the_chunk_length(workdir, videos, tmp_path):
  model = loaded.from_workdir(make_config(), workdir)
  for length in (1, 4, 64):
    predict.predict_video(
      lambda *args, length=length: predictions.means(*args, length=length),
      model,
      stream.VideoStream(videos / 'one.mp4'),
      tmp_path / str(length),
    )
  first = results(tmp_path / '1')
  for length in (4, 64):
    np.testing.assert_array_equal(
      results(tmp_path / str(length))['means'], first['means']
    )


def test_a_function_may_read_the_video_twice(workdir, videos, tmp_path):
  predict.predict(
    make_config('twice'), workdir, str(videos / 'two.mp4'), str(tmp_path)
  )
  got = results(tmp_path / 'two')['difference']
  assert got.shape == (7,)
  assert got.mean() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(('step', 'ratio'), [(None, 0.75), (2, 0.25)])
def test_checkpoint_is_the_newest_or_the_one_asked_for(
  workdir, videos, tmp_path, step, ratio
):
  predict.predict(
    make_config(), workdir, str(videos / 'two.mp4'), str(tmp_path), step=step
  )
  got = results(tmp_path / 'two')
  assert got['step'] == (step or 4)
  assert got['rows'].tolist() == [3, 4]
  assert got['ratio'] == ratio


def test_averaged_weights_are_used_when_asked_for(workdir):
  config = make_config()
  plain = loaded.from_workdir(config, workdir)
  config.predict.params = 'ema'
  average = loaded.from_workdir(config, workdir)
  _, want = load.load(workdir, params='ema')
  assert jax.tree.all(jax.tree.map(np.array_equal, average.params, want))
  assert not jax.tree.all(
    jax.tree.map(np.array_equal, average.params, plain.params)
  )
  # On one device, whatever mesh the run had.
  assert len(jax.devices()) == 8
  for leaf in jax.tree.leaves((plain.params, average.params)):
    assert len(leaf.devices()) == 1


def test_weights_stand_in_for_a_workdir(workdir, videos, tmp_path, monkeypatch):
  model = loaded.from_workdir(make_config(), workdir)._replace(step=0)
  calls = []

  def load_with_state(name, *, config):
    calls.append((name, config.task.factory))
    return model

  monkeypatch.setattr(load, 'load_with_state', load_with_state)
  predict.predict(
    make_config(), '', str(videos / 'two.mp4'), str(tmp_path), weights='tiny'
  )
  assert calls == [('tiny', 'tests.train.tiny:Regression')]
  assert results(tmp_path / 'two')['step'] == 0


def test_a_folder_of_pictures_is_one_video(workdir, videos, tmp_path):
  from PIL import Image

  folder = tmp_path / 'a, b'  # the comma is part of the name
  folder.mkdir()
  for i, frame in enumerate(decode.read_frames(videos / 'two.mp4', range(7))):
    Image.fromarray(frame).save(folder / f'{i}.png')
  predict.predict(
    make_config(), workdir, str(folder), str(tmp_path / 'out'), fps=5
  )
  index = decode.index_video(tmp_path / 'out' / 'a, b' / 'copy.mp4')
  assert (index.num_frames, index.fps) == (7, 5)


def test_failure_keeps_results_of_videos_before(workdir, videos, tmp_path):
  last = tmp_path / 'last.mp4'
  last.write_bytes((videos / 'two.mp4').read_bytes())
  with pytest.raises(ZeroDivisionError, match='in the project'):
    predict.predict(
      make_config('fail_at_last'),
      workdir,
      f'{videos}/one.mp4,{last}',
      str(tmp_path / 'out'),
    )
  assert (tmp_path / 'out' / 'one' / 'results.npz').exists()
  assert not (tmp_path / 'out' / 'last').exists()


def test_damage_is_told_at_the_end(workdir, videos, tmp_path, caplog):
  path = tmp_path / 'cut.ts'
  make_odd_videos.encode(
    str(path), **make_odd_videos.odd_files()['open_gop.ts']
  )
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with caplog.at_level('INFO', logger='absl'):
    predict.predict(make_config(), workdir, str(path), str(tmp_path / 'out'))
  count = len(results(tmp_path / 'out' / 'cut')['means'])
  assert 20 < count < 60
  assert f'cut.ts: {count} frames in ' in caplog.messages[-1]


def test_a_function_that_writes_nothing_is_noticed(
  workdir, videos, tmp_path, caplog
):
  with caplog.at_level('WARNING', logger='absl'):
    written = predict.predict(
      make_config('nothing'), workdir, f'{videos}/one.mp4', str(tmp_path)
    )
  assert not written
  assert f'{videos}/one.mp4: nothing was written' in caplog.messages


# --- refusals ---


@pytest.fixture
def no_loading(monkeypatch):
  """Fails the test if a model is loaded."""
  monkeypatch.delattr(loaded, 'from_workdir')


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (dict(workdir=''), 'pass either --workdir=FOLDER of a run or --weights='),
    (dict(weights='x'), 'pass either --workdir'),
    (dict(workdir='', weights='x', step=3), '--step chooses a checkpoint'),
    (dict(inputs=''), '--input is missing, such as --input=clip.mp4'),
    (dict(output=''), '--output is missing, such as --output=predictions'),
    (dict(fps=0.0), '--fps=0.0: want 0.00001 or more'),
    (dict(inputs='no.mp4'), '--input=no.mp4: no such file or folder'),
    (dict(inputs='{0}/one.mp4,*.mp5'), r'--input=\*.mp5: no such file'),
    (dict(inputs='{1}/notes.md'), '--input: .*notes.md: .*; want a video file'),
    (dict(inputs='{1}'), "--input: .*write '{1}/[*].mp4'"),
    (dict(inputs='{0}/*.mp4,{1}/one.mp4'), 'would both go to .*/out/one; '),
    (dict(config=tiny_config.get_config()), 'config.predict.factory is empty'),
    (
      dict(config=make_config('mean')),
      "'mean' is unknown; did you mean 'means'",
    ),
    (dict(config=make_config(lenght=3)), "did you mean 'length'"),
  ],
)
def test_wrong_arguments_are_refused_at_once(
  videos, tmp_path, no_loading, changes, message
):
  (tmp_path / 'notes.md').write_text('# no video\n')
  (tmp_path / 'one.mp4').write_bytes((videos / 'one.mp4').read_bytes())
  arguments = dict(
    config=make_config(),
    workdir='run',
    inputs=f'{videos}/one.mp4',
    output=str(tmp_path / 'out'),
  )
  arguments |= changes
  arguments['inputs'] = arguments['inputs'].format(videos, tmp_path)
  with pytest.raises(predict.UsageError, match=message.format('', tmp_path)):
    predict.predict(**arguments)
  assert not (tmp_path / 'out').exists()


def test_existing_results_are_refused_at_once(videos, tmp_path, no_loading):
  (tmp_path / 'two').mkdir()
  (tmp_path / 'two' / 'results.npz').touch()
  with pytest.raises(FileExistsError, match='two holds results.npz already'):
    predict.predict(make_config(), 'run', f'{videos}/*.mp4', str(tmp_path))
  assert os.listdir(tmp_path) == ['two']


def test_a_workdir_without_the_checkpoint(workdir, videos, tmp_path):
  arguments = f'{videos}/one.mp4', str(tmp_path / 'out')
  with pytest.raises(OSError, match=r'no checkpoint of step 3, .*\[2, 4\]'):
    predict.predict(make_config(), workdir, *arguments, step=3)
  with pytest.raises(OSError, match='config.json is missing: want the workdir'):
    predict.predict(make_config(), str(tmp_path), *arguments)
  (tmp_path / 'config.json').write_text('{"task": {}}')
  with pytest.raises(OSError, match='holds no checkpoint yet'):
    predict.predict(make_config(), str(tmp_path), *arguments)
  other = make_config()
  other.task.kwargs.width = 17
  with pytest.raises(predict.UsageError, match=r'has shape \(16, 1\)'):
    predict.predict(other, workdir, *arguments)


# --- progress and command line ---


def watch(videos, tmp_path):
  """Goes through one.mp4, 10 frames, and then through half of it."""

  def function(unused_model, video, unused_out):
    list(video.chunks(2))
    list(video.chunks(5, stop=5))

  video = stream.VideoStream(videos / 'one.mp4')
  predict.predict_video(function, None, video, tmp_path)


def test_progress_is_lines_for_each_pass_without_a_terminal(
  videos, tmp_path, capsys, monkeypatch
):
  clock = itertools.count(0, 6).__next__
  display = functools.partial(progress.Progress, clock=clock)
  monkeypatch.setattr(predict.progress, 'Progress', display)
  watch(videos, tmp_path)
  assert capsys.readouterr().err.splitlines() == [
    'one: 4/10 frames, 0.33/s, 0 min left',
    'one: 8/10 frames, 0.33/s, 0 min left',
    'one: 10/10 frames, 36 s',
    'one: 5/5 frames, 12 s',
  ]


def test_progress_is_a_bar_for_each_pass_on_a_terminal(
  videos, tmp_path, capsys, monkeypatch
):
  display = functools.partial(progress.Progress, is_tty=True)
  monkeypatch.setattr(predict.progress, 'Progress', display)
  watch(videos, tmp_path)
  bars = capsys.readouterr().err
  assert 'one: 100%' in bars
  assert '10/10' in bars and '5/5' in bars


def test_command_line_prints_what_it_wrote(workdir, videos, tmp_path):
  file = tmp_path / 'config.py'
  file.write_text(
    'from tests.tools import test_predict\n'
    'def get_config():\n'
    '  return test_predict.make_config(length=4)\n'
  )

  def run(*arguments):
    return subprocess.run(
      [sys.executable, 'main.py', f'--config={file}', '--mode=predict']
      + [f'--workdir={workdir}', f'--output={tmp_path}/out', *arguments],
      cwd=processes.ROOT,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''},
      capture_output=True,
      text=True,
      timeout=processes.TIMEOUT,
      check=False,
    )

  done = run(f'--input={videos}/*.mp4', '--config.predict.kwargs.length=2')
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == [
    f'{tmp_path}/out/{name}/{file}'
    for name in ('one', 'two')
    for file in ('copy.mp4', 'results.npz')
  ]
  assert 'one: 10/10 frames' in done.stderr
  again = run(f'--input={videos}/one.mp4')
  assert again.returncode == 1
  assert again.stderr.splitlines() == [
    f'{tmp_path}/out/one holds copy.mp4 already: choose another --output, or '
    'pass --overwrite to replace files'
  ]
