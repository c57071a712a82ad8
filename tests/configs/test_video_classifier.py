"""The classifier's config: it trains, and starts from a pretrained encoder."""

import jax
import numpy as np
import pytest

from configs import smoke, video_classifier
from tests.multiprocess import processes
from vidscenic import config as vc
from vidscenic.data import writer
from vidscenic.train import checkpoints, loop
from vidscenic.train import run as run_lib

TINY = {'width': 32, 'depth': 1, 'num_heads': 2}


def make_config(arg='synthetic,frames=4,resolution=16,batch=8,steps=2'):
  config = video_classifier.get_config(arg)
  with config.unlocked():
    config.log.every_steps = 1
    for spec in config.evals.values():
      spec.kwargs.limit = 5
      spec.kwargs.batch_size = 4
    if 'synthetic' in arg:
      config.task.kwargs.backbone_kwargs.update(TINY)
      config.task.kwargs.backbone_kwargs.mlp_features = 128
  return vc.finalize(config)


def fresh_state(config):
  run = run_lib.Run(vc.finalize(config), devices=jax.devices()[:1])
  return run.fresh_state()


def test_synthetic_motion_trains_and_is_evaluated(tmp_path):
  assert loop.train(make_config(), tmp_path)
  figures = processes.rows(tmp_path, 'heldout/')
  assert sorted(figures) == [1, 2]
  assert figures[2]['heldout/examples'] == 5
  assert figures[2]['heldout/chance'] == pytest.approx(1 / 12)


def test_encoder_of_a_pretraining_run_is_taken_over(tmp_path):
  pretraining = smoke.get_config()
  with pretraining.unlocked():
    pretraining.task.kwargs.clip = (4, 16, 16)
    pretraining.task.kwargs.model.update(TINY, patch=(4, 8, 8), decoder_depth=1)
  pretrained = fresh_state(pretraining)
  saver = checkpoints.Checkpoints(tmp_path, asynchronous=False)
  saver.save(pretrained, {})
  saver.close()

  # The default recipe, of the size of that encoder.
  config = make_config('frames=4,resolution=16,batch=8,steps=2,size=Ti')
  with config.unlocked():
    config.init_from.path = str(tmp_path)
    config.seed = 1
    config.task.kwargs.backbone_kwargs.update(
      TINY, mlp_features=128, patch=(4, 8, 8)
    )
  state = fresh_state(config)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)),
    dict(state.params['backbone']),
    dict(pretrained.params['encoder']),
  )
  assert not np.any(state.params['head']['classifier']['kernel'])


def test_folders_of_videos_train_and_are_evaluated_with_several_views(
  tmp_path,
):
  rng = np.random.default_rng(0)
  for split, count in (('train', 3), ('val', 2)):
    for name in ('bright', 'dark'):
      for i in range(count):
        frames = rng.integers(0, 100, (12, 24, 40, 3)).astype(np.uint8)
        path = tmp_path / split / name / f'{i}.mp4'
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.write_video(
          path, frames + (100 if name == 'bright' else 0), fps=8
        )
  config = make_config(
    f'classes=2,heldout={tmp_path}/val,size=Ti,frames=4,stride=2,'
    'resolution=16,batch=8,steps=1'
  )
  with config.unlocked():
    config.data.train.source_kwargs.path = str(tmp_path / 'train')
    config.task.kwargs.augment = {}
    config.task.kwargs.mixing.mixup = 1.0  # compiles faster
    config.task.kwargs.backbone_kwargs.update(
      TINY, mlp_features=64, patch=(2, 8, 8)
    )
  assert loop.train(vc.finalize(config), tmp_path / 'run')
  for name in ('heldout', 'multiview'):
    figures = processes.rows(tmp_path / 'run', f'{name}/')[1]
    assert figures[f'{name}/examples'] == 4
    assert figures[f'{name}/majority'] == 0.5
    assert 0 <= figures[f'{name}/top1'] <= 1
