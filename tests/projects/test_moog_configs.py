"""The experiments fit their tasks and data, and evaluate what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.moog import evaluation
from projects.moog.configs import (
  eval_davis8,
  eval_perception_test,
  readouts,
  released,
  synthetic,
)
from tests.data.datasets import kubric_room
from tests.projects import moog_small as small
from vidscenic import config as vc
from vidscenic.data import device
from vidscenic.data.synthetic import SyntheticVideos
from vidscenic.evaluation import evaluator
from vidscenic.train import sharding, state

MESH = sharding.make_mesh({'data': 1, 'fsdp': 1, 'model': 1}, jax.devices()[:1])


def build(config):
  return vc.build(config.task.factory, **config.task.kwargs)


def shapes(task):
  batch = {
    name: jnp.zeros((1, *spec.shape), spec.dtype)
    for name, spec in task.batch_spec().items()
  }
  return jax.eval_shape(task.init, jax.random.key(0), batch)[0]


def example_of(spec):
  source = vc.build(spec.source, **spec.source_kwargs)
  transform = vc.build(spec.transform, **spec.transform_kwargs)
  rng = np.random.default_rng(0)
  clip = transform.sample(source[0], rng)
  return transform.augment(clip, rng)


def batch_of(example):
  """A batch of one; names and numbers without shape stay out."""
  return {k: np.asarray(v)[None] for k, v in example.items()}


def test_synthetic_clips_fit_their_task():
  config = synthetic.get_config('readouts=1,sweep=1')
  task = build(config)
  batch = device.check(
    batch_of(example_of(config.data.train)), task.batch_spec(), where='data'
  )
  task.check_batch(batch | {'mask': np.ones(1, bool)})


def test_synthetic_clips_are_not_solved_by_copying():
  """At most 20 dB, so that only a prediction scores more."""
  spec = synthetic.get_config().evals.heldout.kwargs.data
  source = vc.build(spec.source, **spec.source_kwargs)
  error = []
  for i in range(16):
    video = source[i]['video'] / 255
    error += list(((video[2:] - video[1:-1]) ** 2).mean((1, 2, 3)))
  assert np.mean(-10 * np.log10(error)) < 20


def test_movi_records_fit_the_released_recipe():
  config = released.get_config('data=movi,root=X,size=32,sweep=1')
  spec = config.data.train
  transform = vc.build(spec.transform, **spec.transform_kwargs)
  rng = np.random.default_rng(0)
  example = transform.augment(transform.sample(kubric_room.record(), rng), rng)
  spec = build(config).batch_spec()
  batch = device.check(batch_of(example), spec, where='data')
  assert set(batch) == set(spec)


def test_released_recipe_is_that_of_the_released_code():
  config = released.get_config('data=videos,root=X')
  assert (config.steps, config.batch_size) == (1_000_000, 128)
  assert config.optim.b2 == 0.95 and config.optim.weight_decay == 1e-4
  assert config.optim.schedule.warmup_steps == 1000
  np.testing.assert_allclose(config.optim.lr * config.optim.schedule.end, 1e-7)
  count = sum(s.size for s in jax.tree.leaves(shapes(build(config))))
  assert 34.5e6 < count < 35e6


@pytest.mark.parametrize('backbone', ['moog', 'vit'])
def test_one_head_reads_tokens_and_grids(backbone):
  config = readouts.get_config(f'backbone={backbone}')
  task = build(config)
  assert task.never_trained() == (r'^backbone/',)
  found = shapes(task)
  assert set(found) == {'backbone', 'heads'}
  other = shapes(build(synthetic.get_config('readouts=1')))
  points = found['heads']['points']
  assert jax.tree.structure(points) == jax.tree.structure(
    other['heads']['points']
  )


class Videos:
  """Two synthetic videos with tracks, as benchmarks have them."""

  def __init__(self, count=2):
    self._videos = SyntheticVideos(
      'validation', num_frames=6, height=32, width=48, num_tracks=7,
      queries='first', size=count,
    )  # fmt: skip

  def __len__(self):
    return len(self._videos)

  def __getitem__(self, index):
    return self._videos[index] | {'path': str(index)}


def test_tracks_are_scored_for_every_seed_and_number_of_tokens():
  task = small.make_task(heads=small.HEADS)
  tracks = evaluation.Tracks(
    task,
    MESH,
    source=f'{__name__}:Videos',
    num_frames=4,
    num_tokens=(3,),
    seeds=(0, 1),
  )
  tracks.bind('evals.x', {})
  assert '2 seeds' in tracks.protocol()
  weights = state.TrainState(
    jnp.int32(0), jnp.int32(0), small.task_params(), (), {}, None, jnp.int32(0)
  )
  figures, _ = tracks.run(weights, 0)
  assert {'aj_3_tokens', 'aj_3_tokens_std', 'aj_still'} <= set(figures)
  # A point that stays is right in frames in which it has not moved far.
  assert 0 < figures['position_accuracy_still'] < 1
  assert all(np.isfinite(v) for v in figures.values())


def test_figures_are_means_over_first_states(monkeypatch):
  data = vc.data_spec(
    source='vidscenic.data.synthetic:SyntheticVideos',
    source_kwargs={
      'split': 'validation', 'num_frames': 3, 'height': 16, 'width': 24,
    },
    transform_kwargs={'num_frames': 3, 'size': (16, 24), 'train': False},
  )  # fmt: skip
  by_seed, mean_loss = [], evaluator.MeanLoss.run

  def run(self, state, step):
    by_seed.append(mean_loss(self, state, step)[0])
    return by_seed[-1], {}

  monkeypatch.setattr(evaluator.MeanLoss, 'run', run)
  seeds = evaluation.Seeds(
    small.make_task(clip=(3, 16, 24)),
    MESH,
    data=data,
    batch_size=2,
    limit=2,
    num_tokens=(3,),
    seeds=(0, 1),
  )
  weights = state.TrainState(
    jnp.int32(0), jnp.int32(0), small.task_params(), (), {}, None, jnp.int32(0)
  )
  figures, _ = seeds.run(weights, 0)
  psnr = [found['psnr'] for found in by_seed]
  assert len(psnr) == 2 and psnr[0] != psnr[1]
  np.testing.assert_allclose(figures['psnr_3_tokens'], np.mean(psnr))
  np.testing.assert_allclose(figures['psnr_3_tokens_std'], np.std(psnr))
  assert figures['psnr_copy_3_tokens_std'] == 0  # of the clips alone


def test_tokens_that_are_fixed_cannot_be_swept():
  task = small.make_task(model=small.MODEL | {'initial_state': 'learned'})
  with pytest.raises(ValueError, match='tokens of this Moog are fixed'):
    evaluation.Seeds(task, MESH, data={}, num_tokens=(3,))


def test_evaluations_of_published_figures_name_their_data():
  config = eval_davis8.get_config('root=X,sweep=1')
  assert config.evals.davis8.kwargs.num_tokens == (256, 512, 1024)
  config = eval_perception_test.get_config('root=X,published=1')
  assert build(config).heads['points'].kind == 'window'
