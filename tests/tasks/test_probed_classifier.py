"""A run of a classifier whose features are looked at while it trains."""

import jax
import numpy as np

from tests.multiprocess import processes
from vidscenic import config as vc
from vidscenic.data import synthetic
from vidscenic.evaluation import probes
from vidscenic.train import loop

CLIP = (2, 16, 16)
TRAIN, HELDOUT = 40, 24


def clips(split, size):
  return vc.data_spec(
    source='vidscenic.data.synthetic:SyntheticVideos',
    source_kwargs={
      'split': split,
      'size': size,
      **dict(zip(('num_frames', 'height', 'width'), CLIP, strict=True)),
    },
    transform='tests.evaluation.examples:AsIs',
  )


def make_config():
  config = vc.base_config()
  config.steps, config.batch_size = 2, 8
  config.task.factory = 'vidscenic.tasks.classification:Classification'
  config.task.kwargs = {
    'clip': CLIP,
    'num_classes': len(synthetic.ACTIONS),
    # Without parameters: a token per frame, its mean colour.
    'backbone': 'tests.tasks.test_classification:Means',
    'normalize': 'unit',
  }
  config.data.train = clips('train', TRAIN)
  data = {'data': clips('validation', HELDOUT), 'batch_size': 16}
  factory = 'vidscenic.evaluation.representation'
  config.evals.probe = vc.eval_spec(
    factory=f'{factory}:Probe',
    kwargs={
      **data,
      'train_data': clips('train', TRAIN),
      'k': (5,),
      'l2': (1e-2,),
    },
  )
  config.evals.health = vc.eval_spec(
    factory=f'{factory}:FeatureHealth', kwargs=data
  )
  return vc.finalize(config)


def mean_colours(split, size):
  """(features float[N, 3], labels) in NumPy."""
  kwargs = clips(split, size).source_kwargs
  source = synthetic.SyntheticVideos(**kwargs)
  rows = [source[i] for i in range(size)]
  features = [row['video'].mean((0, 1, 2)) / 255 for row in rows]
  return np.float32(features), np.array([row['label'] for row in rows])


def test_features_of_a_classifier_are_probed_while_it_trains(tmp_path):
  assert loop.train(make_config(), tmp_path)
  (figures,) = processes.rows(tmp_path, 'probe/').values()
  known, known_labels = mean_colours('train', TRAIN)
  features, labels = mean_colours('validation', HELDOUT)
  (scores,) = probes.knn_scores(
    known,
    known_labels,
    features,
    k=(5,),
    num_classes=int(max(known_labels.max(), labels.max())) + 1,
    temperature=0.07,
  )
  hits = np.mean(jax.device_get(scores).argmax(-1) == labels)
  np.testing.assert_allclose(figures['probe/knn5'], hits, atol=1e-6)
  assert figures['probe/examples'] == HELDOUT
  assert figures['probe/train_examples'] == TRAIN
  assert 0 <= figures['probe/linear'] <= 1
  (health,) = processes.rows(tmp_path, 'health/').values()
  assert health['health/tokens'] == HELDOUT  # a vector per clip
  assert 1 <= health['health/effective_rank'] <= 3  # colours
