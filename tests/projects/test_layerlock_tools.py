"""Stored clips, branches of the convergence probe, presets."""

import json
import pathlib
import re
import subprocess

import jax
import numpy as np
import pytest

from configs import readout
from projects.layerlock import convergence_probe, data, experiment
from projects.layerlock.configs import (
  eval_scannet_4ds,
  pretrain,
  synthetic_tiny,
  vjepa,
)
from projects.rvm.configs import synthetic_tiny as rvm_tiny
from vidscenic import config as vc
from vidscenic.data import synthetic
from vidscenic.train import paths


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


def test_experiment_trains_every_arm_with_its_arguments(
  tmp_path, monkeypatch, capsys
):
  seen = []

  def run(command, **unused):
    _, _, config, workdir, override = command
    assert override == '--config.optim.lr=1e-4'
    config = synthetic_tiny.get_config(config.partition(':')[2])
    seen.append((config.seed, config.task.kwargs.layerlock.freeze))
    path = pathlib.Path(workdir.partition('=')[2])
    path.mkdir(parents=True)
    (path / 'metrics.jsonl').write_text('{"actions/linear": 0.5}')
    task = vc.build(config.task.factory, **config.task.kwargs)
    assert task.targets.num_decode == task.num_tokens / 4
    return subprocess.CompletedProcess(command, 0)

  monkeypatch.setattr(experiment.subprocess, 'run', run)
  experiment.main(
    f'--clips={tmp_path} --runs={tmp_path} --arms mae freeze --seeds=2 '
    '--decode=quarter --overrides config.optim.lr=1e-4'.split()
  )
  assert seen == [(0, False), (0, True), (1, False), (1, True)]
  assert '| actions/linear | 0.5 ± 0 | 0.5 ± 0 |' in capsys.readouterr().out


@pytest.mark.parametrize('preset', pretrain.PRESETS)
def test_presets_build(preset):
  config = pretrain.get_config(f'preset={preset},heldout=VIDEOS')
  assert set(config.evals) == {'heldout', 'health'}
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
    config = vjepa.get_config(f'freeze={freeze},heldout=VIDEOS')
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


def shapes(config):
  """{path: shape} of the parameters, without readouts' heads."""
  kwargs = vc.plain(config.task.kwargs)
  if 'heads' in kwargs:
    kwargs['heads'] = {}
  task = vc.build(config.task.factory, **kwargs)
  spec = {
    name: jax.ShapeDtypeStruct((1, *field.shape), field.dtype)
    for name, field in task.batch_spec().items()
  }
  params, _ = jax.eval_shape(task.init, jax.random.key(0), spec)
  return {k: v.shape for k, v in paths.named_leaves(params).items()}


@pytest.mark.parametrize(
  ('backbone', 'run'), [('layerlock', synthetic_tiny), ('rvm', rvm_tiny)]
)
def test_readouts_take_the_backbone_of_a_run_and_say_what_is_left(
  backbone, run
):
  config = readout.get_config(f'backbone={backbone},weights=runs/some')
  given = shapes(run.get_config())
  taken = {
    name.removeprefix('backbone/'): shape
    for name, shape in shapes(config).items()
    if name.startswith('backbone/')
  }
  assert taken.items() <= given.items()
  left = [re.compile(regex) for regex in config.init_from.ignore]
  for name in given.keys() - taken.keys():
    assert any(regex.search(name) for regex in left), name


@pytest.mark.parametrize(
  'arg', ['backbone=rvm', 'backbone=random,weights=runs/some']
)
def test_readouts_of_a_run_need_it_and_random_ones_do_not(arg):
  with pytest.raises(ValueError, match='want the workdir of a run'):
    readout.get_config(arg)
