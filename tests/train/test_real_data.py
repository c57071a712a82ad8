"""Training through the loop on video files, and on several streams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train import tiny, trained
from vidscenic import config as vc
from vidscenic import task
from vidscenic.data import writer
from vidscenic.train import guard, loop


class Colour(task.Task):
  """Learns the mean colour of clips: the smallest task on pixels."""

  def batch_spec(self):
    return {'video': jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.uint8)}

  def init(self, rng, batch):
    return {'colour': jnp.zeros(3)}, {}

  def loss(self, params, model_state, batch, ctx):
    mean = batch['video'].astype(jnp.float32).mean((1, 2, 3)) / 255
    error = jnp.sum((mean - params['colour']) ** 2, -1)
    weight = batch['mask'].astype(jnp.float32)
    pair = jnp.sum(error * weight), weight.sum()
    return task.LossOut({'mse': (*pair, 1.0)}, {}, model_state)


class TwoStreams(tiny.Regression):
  """One loss term per stream; the second is weighted by a schedule."""

  def batch_spec(self):
    spec = super().batch_spec()
    return {'labelled': spec, 'other': spec}

  def init(self, rng, batch):
    return super().init(rng, batch['labelled'])

  def loss(self, params, model_state, batch, ctx):
    parts = {}
    for name in ('labelled', 'other'):
      rows = ctx._replace(rows=ctx.rows[name])
      out = super().loss(params, model_state, batch[name], rows)
      parts[name] = out.terms['mse'][:2]
    ratio = ctx.scheduled['ratio']
    terms = {
      'labelled': (*parts['labelled'], 1.0),
      'other': (*parts['other'], ratio),
    }
    count = {'ratio': (ratio, jnp.ones(()))}
    return task.LossOut(terms, count, model_state)


def folder(path, count=6, broken=0):
  """Small grey videos, file i of brightness 40 i; the last ones broken."""
  for i in range(count):
    frames = np.full((8, 16, 16, 3), 40 * i, np.uint8)
    writer.write_video(path / f'{i}.mp4', frames, fps=8)
  for i in range(broken):
    (path / f'broken{i}.mp4').write_bytes(b'not a video')


def colour_config(path, **changes):
  config = trained.make_config(
    steps=30, optim__lr=0.1, optim__momentum=0.0, **changes
  )
  config.unlock()
  config.task.factory = f'{__name__}:Colour'
  config.task.kwargs = {}
  config.data.train = vc.data_spec(
    source='vidscenic.data.sources:VideoFolder',
    source_kwargs={'path': str(path)},
    transform_kwargs={'num_frames': 4, 'size': (16, 16), 'crop': 'none'},
  )
  return vc.finalize(config)


def test_training_on_a_folder_of_videos(tmp_path):
  (tmp_path / 'videos').mkdir()
  folder(tmp_path / 'videos')
  loop.train(colour_config(tmp_path / 'videos'), tmp_path / 'run')
  rows = trained.rows(tmp_path / 'run')
  first, last = rows[min(rows)], rows[max(rows)]
  assert last['train/replaced'] == 0
  # What is left is the variance of the files' brightness: 0.072 per channel.
  assert first['train/loss'] > 0.3 > last['train/loss'] > 0.1


def test_broken_files_are_replaced_counted_and_named(tmp_path, caplog):
  (tmp_path / 'videos').mkdir()
  folder(tmp_path / 'videos', broken=1)
  config = colour_config(tmp_path / 'videos', guard__max_replaced=1.0)
  loop.train(config, tmp_path / 'run')
  replaced = [
    r['train/replaced'] for r in trained.rows(tmp_path / 'run').values()
  ]
  assert np.mean(replaced) == pytest.approx(1 / 7, abs=0.03)
  assert 'broken0.mp4' in caplog.text


def test_too_many_broken_files_stop_the_run(tmp_path):
  (tmp_path / 'videos').mkdir()
  folder(tmp_path / 'videos', broken=1)
  config = colour_config(tmp_path / 'videos')
  with pytest.raises(guard.TrainingFailed, match='guard.max_replaced=1.00%'):
    loop.train(config, tmp_path / 'run')


def test_streams_and_scheduled_values_reach_the_loss(tmp_path):
  part = {
    'source': 'tests.train.tiny:Numbers',
    'transform': 'tests.train.tiny:Jitter',
  }
  config = trained.make_config(steps=8, log__every_steps=1)
  config.unlock()
  config.task.factory = f'{__name__}:TwoStreams'
  config.batch_size = 24
  config.data.train = vc.data_spec(
    streams={
      'labelled': {**part, 'batch_size': 8},
      'other': {**part, 'batch_size': 16},
    }
  )
  config.schedules.ratio = vc.schedule_spec(name='linear', value=1.0, end=0.0)
  config = vc.finalize(config)
  loop.train(config, tmp_path)
  rows = trained.rows(tmp_path)
  for step, row in rows.items():
    ratio = 1 - (step - 1) / 8
    assert row['train/ratio'] == pytest.approx(ratio, abs=1e-6)
    want = row['train/loss_labelled'] + ratio * row['train/loss_other']
    assert row['train/loss'] == pytest.approx(want, rel=1e-5)


def test_streams_that_the_task_does_not_know_are_refused(tmp_path):
  part = {
    'source': 'tests.train.tiny:Numbers',
    'transform': 'tests.train.tiny:Jitter',
    'batch_size': 16,
  }
  config = trained.make_config()
  config.unlock()
  config.task.factory = f'{__name__}:TwoStreams'
  config.data.train = vc.data_spec(streams={'labeled': part})
  with pytest.raises(ValueError, match="'labeled'.*'labelled'"):
    loop.train(vc.finalize(config), tmp_path)
