"""The report of a whole run, in folders and buckets, and the meters."""

import contextlib
import errno
import json
import math
import pathlib
import resource

import numpy as np
import pytest
from PIL import Image

from tests.train import written
from vidscenic.train import report, writers


def test_report_writes_everything_once(tmp_path):
  video = written.video()
  with report.Report(tmp_path, is_writer=True) as r:
    r.scalars(2, 'train', {'loss': 0.25})
    r.scalars(2, 'davis', {'jaccard': 0.5})
    r.media(2, 'davis', {'first/frame': video[0]})
    r.media(2, 'davis', {'clip': video}, fps=8)
    r.media(3, '', {'one': video[0], 'all': video})
    r.text(2, 'run', {'config': 'x'})
    r.mirror()  # nothing to do for a local folder
  assert written.rows(tmp_path / 'metrics.jsonl') == [
    {'step': 2, 'train/loss': 0.25},
    {'step': 2, 'davis/jaccard': 0.5},
  ]
  assert sorted(p.name for p in (tmp_path / 'media').iterdir()) == [
    'all_00000003.gif',
    'davis_clip_00000002.gif',
    'davis_first_frame_00000002.png',
    'one_00000003.png',
  ]
  frame = Image.open(tmp_path / 'media' / 'davis_first_frame_00000002.png')
  np.testing.assert_array_equal(np.asarray(frame), video[0])
  tags = [v.tag for e in written.events(tmp_path) for v in e.summary.value]
  assert tags == [
    'train/loss',
    'davis/jaccard',
    'davis/first/frame',
    'davis/clip',
    'one',
    'all',
    'run/config',
  ]


def test_other_processes_write_nothing(tmp_path):
  with report.Report(tmp_path / 'run', is_writer=False) as r:
    r.scalars(1, 'train', {'loss': 0.25})
    r.media(1, 'eval', {'clip': written.video()})
    r.rewind(0)
    r.mirror()
  assert not (tmp_path / 'run').exists()


def test_report_without_tensorboard_has_no_event_files(tmp_path):
  with report.Report(tmp_path, is_writer=True, tensorboard=False) as r:
    r.scalars(1, 'train', {'loss': 1.0})
    r.text(1, 'run', {'config': 'x'})
    r.media(1, 'eval', {'frame': written.video()[0]})
  assert not written.events(tmp_path)
  assert len(written.rows(tmp_path / 'metrics.jsonl')) == 1


def test_resumed_report_equals_an_uninterrupted_one(tmp_path):
  def train(folder, start, stop):
    with report.Report(folder, is_writer=True) as r:
      r.rewind(start)
      for step in range(start + 1, stop + 1):
        r.scalars(step, 'train', {'loss': 1 / step})

  train(tmp_path / 'whole', 0, 9)
  train(tmp_path / 'parts', 0, 7)
  train(tmp_path / 'parts', 4, 9)
  whole, parts = (
    (tmp_path / name / 'metrics.jsonl').read_bytes()
    for name in ('whole', 'parts')
  )
  assert whole == parts
  assert written.shown(tmp_path / 'whole', 'train/loss') == written.shown(
    tmp_path / 'parts', 'train/loss'
  )


def test_rollback_rewinds_a_running_report(tmp_path):
  with report.Report(tmp_path, is_writer=True) as r:
    for step in (1, 2, 3, 4):
      r.scalars(step, 'train', {'loss': step})
    r.rewind(2)
    r.scalars(3, 'train', {'loss': 30})
  rows = written.rows(tmp_path / 'metrics.jsonl')
  assert [row['train/loss'] for row in rows] == [1, 2, 30]
  want = [(1, 1.0), (2, 2.0), (3, 30.0)]
  assert written.shown(tmp_path, 'train/loss') == want


def test_evaluating_a_checkpoint_drops_nothing(tmp_path):
  with report.Report(tmp_path, is_writer=True) as r:
    for step in (1, 2, 3):
      r.scalars(step, 'train', {'loss': step})
  with report.Report(tmp_path, is_writer=True) as r:
    r.scalars(1, 'davis', {'jaccard': 0.5})
  assert [r['step'] for r in written.rows(tmp_path / 'metrics.jsonl')] == [
    1,
    2,
    3,
    1,
  ]
  assert [s for s, _ in written.shown(tmp_path, 'train/loss')] == [1, 2, 3]


def test_wrong_pictures_and_closed_reports_are_named(tmp_path):
  r = report.Report(tmp_path, is_writer=True)
  with pytest.raises(ValueError, match="'eval/x': expected uint8.*float32"):
    r.media(1, 'eval', {'x': np.zeros((4, 4, 3), np.float32)})
  with pytest.raises(ValueError, match="'eval/x': expected 3 or 4 axes"):
    r.media(1, 'eval', {'x': written.video()[0, 0]})
  with pytest.raises(ValueError, match="'eval/x': fps must be positive"):
    r.media(1, 'eval', {'x': written.video()}, fps=0)
  r.close()
  r.close()
  with pytest.raises(ValueError, match='closed'):
    r.scalars(1, 'train', {'loss': 1.0})


def test_scalars_are_logged_unless_the_progress_display_has_them(tmp_path):
  lines = []
  console = writers.ConsoleWriter(skip=('train',))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(writers.logging, 'info', lambda f, *a: lines.append(f % a))
    console.scalars(20, 'train', {'loss': 1.0})
    console.scalars(20, 'davis', {'jaccard': 0.51234, 'points': 1200})
  assert lines == ['step 20  davis  jaccard 0.5123  points 1200']


# A workdir that cannot be appended to.


class _Bucket:
  """The part of epath.Path that buckets have: whole objects, no renames."""

  def __init__(self, path):
    self._path = pathlib.Path(path)

  def __fspath__(self):
    return f'gs:/{self._path}'

  def __truediv__(self, name):
    return _Bucket(self._path / name)

  @property
  def parent(self):
    return _Bucket(self._path.parent)

  def mkdir(self, parents, exist_ok):
    self._path.mkdir(parents=parents, exist_ok=exist_ok)

  def exists(self):
    return self._path.exists()

  def read_bytes(self):
    return self._path.read_bytes()

  def write_bytes(self, data):
    assert self._path.suffix == '.jsonl' or not self._path.exists()
    return self._path.write_bytes(data)


def test_bucket_gets_everything_at_mirror_and_close(tmp_path, monkeypatch):
  bucket, local = tmp_path / 'bucket', tmp_path / 'local'
  local.mkdir()
  monkeypatch.setattr(report.epath, 'Path', _Bucket)
  monkeypatch.setattr(report.tempfile, 'tempdir', str(local))
  r = report.Report(str(bucket), is_writer=True)
  r.scalars(1, 'train', {'loss': 1.0})
  r.media(1, 'eval', {'frame': written.video()[0]})
  assert not list(bucket.rglob('*'))
  r.mirror()
  assert written.rows(bucket / 'metrics.jsonl') == [
    {'step': 1, 'train/loss': 1.0}
  ]
  assert (bucket / 'media' / 'eval_frame_00000001.png').exists()
  assert [s for s, _ in written.shown(bucket, 'train/loss')] == [1]
  # Uploaded files are gone here; what was written since is not there yet.
  assert [p.name for p in local.rglob('*') if p.is_file()] == ['metrics.jsonl']
  r.scalars(2, 'train', {'loss': 2.0})
  assert len(written.rows(bucket / 'metrics.jsonl')) == 1
  r.close()
  assert len(written.rows(bucket / 'metrics.jsonl')) == 2
  assert not list(local.iterdir())

  # A run restored at step 1 continues from the rows in the bucket.
  with report.Report(str(bucket), is_writer=True) as r:
    r.rewind(1)
    r.scalars(2, 'train', {'loss': 20.0})
  rows = written.rows(bucket / 'metrics.jsonl')
  assert [row['train/loss'] for row in rows] == [1.0, 20.0]
  assert written.shown(bucket, 'train/loss') == [(1, 1.0), (2, 20.0)]


def test_local_folder_can_be_treated_as_a_bucket(tmp_path):
  workdir = tmp_path / 'run'
  with report.Report(workdir, is_writer=True, remote=True) as r:
    r.scalars(1, 'train', {'loss': 1.0})
    assert not list(workdir.iterdir())
  assert len(written.rows(workdir / 'metrics.jsonl')) == 1


# Disks.


def test_workdir_below_a_file_is_explained(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(OSError, match=r'file/run/metrics.jsonl.*--workdir'):
    report.Report(tmp_path / 'file' / 'run', is_writer=True)


def test_forbidden_workdir_stays_a_permission_error(tmp_path, monkeypatch):
  def refuse(*unused, **unused_options):
    raise PermissionError(errno.EACCES, 'Permission denied')

  monkeypatch.setattr(pathlib.Path, 'mkdir', refuse)
  with pytest.raises(PermissionError, match='may write to'):
    report.Report(tmp_path, is_writer=True)


@contextlib.contextmanager
def _file_size_limit(size):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_event_file_that_cannot_grow_is_explained(tmp_path):
  with pytest.raises(OSError, match='tfevents.*File too large') as error:
    with report.Report(tmp_path, is_writer=True) as r:
      with _file_size_limit(20_000):
        for step in range(1, 1000):
          r.text(step, 'run', {'config': 'x' * 1000})
          r.flush()
  assert error.value.errno == errno.EFBIG
  # What fitted is still readable.
  assert len(written.events(tmp_path)) > 10


# Meters.


def test_meter_divides_once_over_the_interval():
  meter = report.Meter()
  meter.add({'mse': (6.0, 3), 'top1': (np.int32(1), np.int32(4))})
  meter.add({'mse': (np.float32(4.0), 1), 'new': (0.0, 0.0)})
  assert meter.means() == {'mse': 2.5, 'top1': 0.25}
  meter.reset()
  assert meter.means() == {}


def test_meter_shows_divergence_but_not_missing_targets():
  meter = report.Meter()
  meter.add({'nothing': (0.0, 0.0), 'nan': (math.nan, 0.0), 'inf': (1.0, 0.0)})
  means = meter.means()
  assert list(means) == ['nan', 'inf']
  assert math.isnan(means['nan']) and means['inf'] == math.inf


def test_meter_survives_a_kill_bit_for_bit():
  rng = np.random.default_rng(0)
  steps = [
    {'a': (np.float32(x), 7), 'b': (y, np.float32(y))}
    for x, y in rng.lognormal(0, 20, (50, 2))
  ]
  steps[30]['c'] = (math.nan, math.inf)
  whole = report.Meter()
  for step in steps:
    whole.add(step)
  resumed = report.Meter()
  for step in steps:
    resumed.add(step)
    text = json.dumps(resumed.state(), allow_nan=False)
    resumed = report.Meter()
    resumed.restore(json.loads(text))
  assert whole.state() == resumed.state()
  np.testing.assert_equal(whole.means(), resumed.means())
