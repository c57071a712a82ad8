"""Evaluators of features: padding, padding rows, labels, protocol."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation import examples
from vidscenic.evaluation import feature_health, probes, representation
from vidscenic.train import sharding

MESH = {'data': -1, 'fsdp': 1, 'model': 1}


class Tokens(examples.Linear):
  """Features are the pixels, one token per frame, row and column."""

  def predict(self, params, model_state, batch, ctx, carry=None):
    video = batch['video'].astype(jnp.bfloat16) / 256
    return {'features': video * params['kernel'][0, 0]}, carry


def make(kind, task=None, devices=1, **kwargs):
  mesh = sharding.make_mesh(MESH, jax.devices()[:devices])
  kwargs = {'data': examples.spec(size=13), **kwargs}
  return kind(task or Tokens(), mesh, **kwargs)


def probe(**kwargs):
  train_data = examples.spec(size=24)
  kwargs = {'train_data': train_data, 'k': (1, 3), 'linear': False, **kwargs}
  return make(representation.Probe, **kwargs)


def run(evaluator):
  with jax.set_mesh(evaluator.mesh):
    figures, media = evaluator.run(examples.state(), 5)
  assert media == {}
  return figures


def features(size):
  """(features [size, N, 3], labels) in NumPy."""
  source = examples.Labelled(size=size)
  rows = [source[i] for i in range(size)]
  kernel = float(examples.state().params['kernel'][0, 0].astype(jnp.bfloat16))
  tokens = np.stack([row['video'].reshape(-1, 3) for row in rows])
  return tokens / 256 * kernel, np.array([row['label'] for row in rows])


def test_health_is_that_of_the_features():
  figures = run(make(representation.FeatureHealth, batch_size=4))
  tokens, _ = features(13)
  want = feature_health.health(tokens, tokens.mean(1))
  assert figures.pop('tokens') == 13 * 24
  assert figures == pytest.approx(want, rel=0.01, abs=1e-3)  # bfloat16


@pytest.mark.parametrize(('batch_size', 'devices'), [(13, 1), (1, 1), (16, 8)])
def test_health_does_not_depend_on_batches_padding_or_devices(
  batch_size, devices
):
  kwargs = dict(tokens_per_clip=5)
  want = run(make(representation.FeatureHealth, batch_size=5, **kwargs))
  got = run(
    make(
      representation.FeatureHealth,
      batch_size=batch_size,
      devices=devices,
      **kwargs,
    )
  )
  assert got == pytest.approx(want, rel=1e-5)
  assert got['tokens'] == 13 * 5


def test_tokens_are_spread_over_the_clip_and_the_means_see_all():
  figures = run(make(representation.FeatureHealth, tokens_per_clip=4))
  tokens, _ = features(13)
  want = feature_health.health(tokens[:, [3, 9, 15, 21]], tokens.mean(1))
  assert figures['std_median'] == pytest.approx(want['std_median'], rel=0.01)
  assert figures['mean_cosine'] == pytest.approx(want['mean_cosine'], rel=0.01)


@pytest.fixture(scope='module')
def probed():
  """Figures of both classifiers; compiled once for several tests."""
  return run(probe(batch_size=5, linear=True, l2=(1e-3, 1e-1)))


def test_neighbours_are_those_of_the_mean_feature(probed):
  known, known_labels = features(24)
  queries, labels = features(13)
  scores = probes.knn_scores(
    known.mean(1), known_labels, queries.mean(1), k=(1, 3), num_classes=6
  )
  for k, each in zip((1, 3), scores, strict=True):
    assert probed[f'knn{k}'] == np.mean(each.argmax(-1) == labels)
  # The scored clips are among those with known labels, and find themselves.
  assert probed['knn1'] == 1
  assert probed['majority'] == np.bincount(labels).max() / 13
  assert probed['examples'] == 13
  assert probed['train_examples'] == 24


def test_linear_probe_of_the_mean_feature(probed):
  known, known_labels = features(24)
  queries, labels = features(13)
  scores, l2 = probes.linear_scores(
    known.mean(1).astype(np.float32),
    known_labels,
    queries.mean(1).astype(np.float32),
    num_classes=6,
    l2=(1e-3, 1e-1),
  )
  assert probed['linear_l2'] == l2
  hits = np.mean(scores.argmax(-1) == labels)
  assert probed['linear'] == pytest.approx(hits, abs=1 / 13 + 1e-6)  # bfloat16
  assert probed['linear_top5'] >= probed['linear']


def test_figures_do_not_depend_on_batches_padding_or_devices(probed):
  figures = run(probe(batch_size=32, devices=2))
  assert figures == {name: probed[name] for name in figures}


def test_only_the_first_examples_count_and_k_beyond_them_is_left_out():
  figures = run(probe(limit=7, train_limit=11, k=(3, 100)))
  assert figures['examples'] == 7
  assert figures['train_examples'] == 11
  assert {name for name in figures if name.startswith('knn')} == {'knn3'}
  assert not any(name.startswith('linear') for name in figures)


def test_protocol_names_both_data_sets():
  text = probe(linear=True).protocol()
  assert text == (
    'top-1 of frozen features, 1, 3 nearest neighbours (cosine) and linear '
    'probe (L-BFGS), given all examples of Labelled(size=24); all examples of '
    'Labelled(size=13)'
  )
  text = make(representation.FeatureHealth).protocol()
  assert text.startswith('variance, effective rank and cosine of features')
  assert text.endswith('the first 64 examples of Labelled(size=13)')


def test_a_task_without_features_is_told_what_is_missing():
  with pytest.raises(ValueError, match="Linear.predict must give 'features'"):
    run(make(representation.FeatureHealth, examples.Linear()))


def test_data_without_labels_are_named():
  evaluator = probe(train_data=examples.spec('Unlabelled'))
  evaluator.bind('evals.knn', {})
  with pytest.raises(ValueError, match=r"\(train_data\): Probe needs 'label'"):
    run(evaluator)


@pytest.mark.parametrize(
  ('kwargs', 'words'),
  [
    ({'k': (0,)}, 'k='),
    ({'temperature': 0.0}, 'temperature=0.0'),
    ({'k': ()}, 'nothing to measure'),
    ({'linear': True, 'l2': ()}, 'l2='),
    ({'train_data': {'sources': ''}}, 'data.sources is unknown'),
  ],
)
def test_unusable_arguments_are_named(kwargs, words):
  with pytest.raises(ValueError, match=words):
    probe(**kwargs)
  with pytest.raises(ValueError, match='tokens_per_clip=0'):
    make(representation.FeatureHealth, tokens_per_clip=0)
