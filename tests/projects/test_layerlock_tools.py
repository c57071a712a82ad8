"""Stored clips, branches of the convergence probe, presets."""

import json
import pathlib

import numpy as np
import pytest

from projects.layerlock import convergence_probe, data
from projects.layerlock.configs import (
  eval_scannet_4ds,
  pretrain,
  synthetic_tiny,
  vjepa,
)
from vidscenic import config as vc
from vidscenic.data import synthetic


def test_stored_clips_are_the_drawn_ones(tmp_path):
  (tmp_path / 'validation').mkdir()  # left alone
  (tmp_path / 'test').mkdir()
  data.write(tmp_path, num_train=2, num_frames=2, size=16)
  stored = data.StoredClips(str(tmp_path))
  assert len(stored) == 2
  want = synthetic.SyntheticVideos(
    'train', num_frames=2, height=16, width=16, difficulty='easy'
  )[1]
  for name in data.FIELDS:
    np.testing.assert_array_equal(stored[1][name], want[name])
  with pytest.raises(FileNotFoundError, match='projects.layerlock.data'):
    data.StoredClips(str(tmp_path), 'test')


def test_loss_of_a_run_is_the_mean_of_its_end(tmp_path):
  rows = [{'step': s, 'heldout/loss': float(s)} for s in range(1, 201)]
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  assert convergence_probe.final_loss(tmp_path) == 199  # 198, 199, 200
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}')
  with pytest.raises(ValueError, match='heldout'):
    convergence_probe.final_loss(tmp_path)


def test_branch_starts_from_one_checkpoint_alone(tmp_path):
  run = tmp_path / 'run'
  for step in (10, 20):
    (run / 'checkpoints' / str(step)).mkdir(parents=True)
  (run / 'config.json').write_text('{}')
  convergence_probe.start_branch(run, 10, tmp_path / 'branch')
  kept = [p.name for p in (tmp_path / 'branch' / 'checkpoints').iterdir()]
  assert kept == ['10']
  with pytest.raises(FileNotFoundError, match=r'steps \[10, 20\], not of 15'):
    convergence_probe.start_branch(run, 15, tmp_path / 'other')


@pytest.mark.parametrize('preset', pretrain.PRESETS)
def test_presets_build(preset):
  config = pretrain.get_config(f'preset={preset}')
  task = vc.build(config.task.factory, **config.task.kwargs)
  freeze, latent = pretrain.PRESETS[preset]
  assert (task.schedule is not None) == (freeze or latent)
  last = task.phase(config.steps - 1)
  if task.schedule is not None:
    assert last == task.schedule.max_frozen
    assert (
      task._heads(last)
      == {
        (True, True): ('latent_head',),
        (True, False): ('pixel_head',),
        (False, True): ('pixel_head', 'latent_head'),
      }[freeze, latent]
    )


def test_other_configs_build():
  for freeze in ('true', 'false'):
    config = vjepa.get_config(f'freeze={freeze}')
    task = vc.build(config.task.factory, **config.task.kwargs)
    assert task.phase(config.steps - 1) == 16 * (freeze == 'true')
  for arm in synthetic_tiny.ARMS:
    config = synthetic_tiny.get_config(f'arm={arm}')
    task = vc.build(config.task.factory, **config.task.kwargs)
    stages = sorted({task.phase(step) for step in range(config.steps)})
    assert stages == ([0] if arm == 'mae' else [0, 2, 4])
  config = eval_scannet_4ds.get_config()
  vc.build(config.task.factory, **config.task.kwargs)
  assert not pathlib.Path(config.data.train.source_kwargs.root).name
