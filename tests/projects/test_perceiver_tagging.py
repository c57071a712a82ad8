"""Several labels per clip: losses, hidden pictures, average precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.perceiver import mean_average_precision, tagging_task
from tests.evaluation import examples
from tests.parity import quick
from tests.projects import perceiver_small
from vidscenic import config as vc
from vidscenic import task as task_lib
from vidscenic.evaluation import average_precision
from vidscenic.train import sharding

CLASSES = 3
CLIP, SAMPLES = (4, 8, 8), 24


class Tagged:
  """Seven examples of two clips with sound each; a function of the index."""

  def __len__(self):
    return 7

  def __getitem__(self, index):
    rng = np.random.default_rng(index)
    return {
      'video': rng.integers(0, 256, (2, *CLIP, 3), np.uint8),
      'audio': rng.uniform(-1, 1, (2, SAMPLES, 1)).astype(np.float32),
      'audio_mask': np.ones(2, bool),
      'label': (rng.random(CLASSES) < 0.5).astype(np.float32),
    }


@functools.cache
def make(**options):
  """(task, random parameters)."""
  task = tagging_task.AudioVideoTagging(
    model={
      'num_frames': CLIP[0],
      'image_size': CLIP[1:],
      'num_samples': SAMPLES,
      'num_classes': CLASSES,
      'samples_per_patch': 8,
      'spatial_downsample': 4,
      'video_bands': 2,
      'video_max_resolution': (2, 2, 2),
      'audio_bands': 2,
      'audio_max_resolution': SAMPLES,
      'encoder': {
        'num_self_attends_per_block': 1,
        'num_blocks': 1,
        'z_index_dim': 4,
        'num_z_channels': 8,
        'num_self_attend_heads': 2,
      },
      'decoder': {'trainable_position_encoding_kwargs': {'num_channels': 8}},
    },
    **options,
  )
  rows = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct((1, *s.shape), s.dtype), task.batch_spec()
  )
  shapes, _ = jax.eval_shape(task.init, jax.random.key(0), rows)
  return task, perceiver_small.randomised(shapes)


def batch_of(rows=7):
  records = [Tagged()[i] for i in range(rows)]
  batch = {
    name: np.stack([record[name] for record in records]) for name in records[0]
  }
  views = ('video', 'audio', 'audio_mask')
  return batch | {name: batch[name][:, 0] for name in views}


def context(train, rows=7):
  return task_lib.StepContext(
    step=jnp.int32(0),
    rng=jax.random.key(1),
    rows=jnp.arange(rows, dtype=jnp.int32),
    train=train,
  )


def test_every_label_counts_by_itself_and_padding_nothing():
  task, params = make()
  batch = batch_of() | {'mask': np.arange(7) < 5}
  batch['audio_mask'] = np.arange(7) != 2

  @quick.jit
  def run(batch):
    out = task.loss(params, {}, batch, context(False))
    return (
      out.terms['cross_entropy'][:2],
      out.metrics,
      (task.predict(params, {}, batch, None)[0]),
    )

  (total, count), figures, outputs = run(batch)
  p = np.asarray(outputs['probabilities'], np.float64)[:5]
  label = batch['label'][:5]
  want = -np.log(np.where(label, p, 1 - p)).sum()
  np.testing.assert_allclose(total, want, rtol=1e-4)
  assert count == 5 * CLASSES
  hits = label[np.arange(5), p.argmax(1)].sum()
  np.testing.assert_array_equal(figures['hit'], [hits, 5])
  np.testing.assert_array_equal(figures['without_sound'], [1, 5])


def test_black_pictures_are_drawn_in_training_alone():
  dropping, params = make(video_dropout=1.0)
  plain, _ = make(video_dropout=0.0)
  batch = batch_of() | {'mask': np.ones(7, bool)}
  black = batch | {'video': np.zeros_like(batch['video'])}

  @quick.jit
  def losses():
    loss = lambda task, batch, train: task.loss(
      params, {}, batch, context(train)
    ).terms['cross_entropy'][0]
    return (
      loss(dropping, batch, True),
      loss(plain, black, True),
      loss(dropping, batch, False),
      loss(plain, batch, True),
    )

  hidden, want, evaluated, seen = losses()
  np.testing.assert_allclose(hidden, want, rtol=1e-6)
  np.testing.assert_allclose(evaluated, seen, rtol=1e-6)
  assert abs(hidden - seen) > 1e-3


def test_precision_is_that_of_the_mean_over_clips():
  task, params = make()
  evaluator = mean_average_precision.MeanAveragePrecision(
    task,
    sharding.make_mesh({'data': -1, 'fsdp': 1, 'model': 1}, jax.devices()[:1]),
    data=vc.data_spec(
      source=f'{__name__}:Tagged',
      transform='tests.evaluation.examples:AsIs',
      transform_kwargs={},
    ),
    batch_size=4,
  )
  evaluator.bind('evals.x', {})
  with jax.set_mesh(evaluator.mesh):
    figures, _ = evaluator.run(examples.state(params), 5)
  records = [Tagged()[i] for i in range(7)]
  clips = {
    name: np.concatenate([record[name] for record in records])
    for name in ('video', 'audio')
  }
  run = quick.jit(lambda clips: task.predict(params, {}, clips, None)[0])
  scores = np.asarray(run(clips)['probabilities']).reshape(7, 2, CLASSES)
  labels = np.stack([record['label'] for record in records])
  want, _ = average_precision.mean_average_precision(scores.mean(1), labels)
  assert figures['map'] == pytest.approx(want)
  assert figures['map_chance'] == pytest.approx(labels.mean())


def test_labels_are_zero_or_one():
  batch = batch_of()
  batch['label'][1, 2] = 0.5
  with pytest.raises(ValueError, match='must be 0 or 1'):
    make()[0].check_batch(batch)
  with pytest.raises(ValueError, match='video_dropout=2'):
    make(video_dropout=2)
