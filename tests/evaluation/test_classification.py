"""Top-k accuracy: views, padding, controls, protocol."""

import jax
import numpy as np
import pytest

from tests.evaluation import examples
from vidscenic.evaluation import classification
from vidscenic.train import sharding

MESH = {'data': -1, 'fsdp': 1, 'model': 1}


def make(task=None, devices=1, data=None, **kwargs):
  mesh = sharding.make_mesh(MESH, jax.devices()[:devices])
  return classification.TopK(
    task or examples.Linear(),
    mesh,
    data=data or examples.spec(),
    **kwargs,
  )


def run(evaluator, state=None):
  with jax.set_mesh(evaluator.mesh):
    figures, media = evaluator.run(state or examples.state(), 5)
  assert media == {}
  return figures


def reference(source, average='probabilities', extra=False):
  """(mean score [N, C], label [N]) in NumPy, example by example."""
  kernel = np.asarray(examples.state().params['kernel'], np.float64)
  scores, labels = [], []
  for example in (source[i] for i in range(len(source))):
    views = example['video'].reshape(-1, examples.PIXELS) / 255
    logits = views @ kernel
    if extra:
      logits[:, 0] += example['extra']
    if average == 'probabilities':
      logits = np.exp(logits - logits.max(-1, keepdims=True))
      logits /= logits.sum(-1, keepdims=True)
    scores.append(logits.mean(0))
    labels.append(example['label'])
  return np.array(scores), np.array(labels)


def accuracy(scores, labels, k):
  ranked = np.argsort(-scores, axis=-1)[:, :k]
  return (ranked == labels[:, None]).any(-1).mean()


@pytest.mark.parametrize('average', classification.AVERAGES)
@pytest.mark.parametrize('views', [0, 6])
def test_accuracy_is_that_of_the_mean_score(views, average):
  source = examples.Labelled(size=50, views=views)
  figures = run(
    make(
      data=examples.spec(size=50, views=views),
      k=(1, 2, 5),
      average=average,
      views=(2, 3) if views else (),
      batch_size=16,
    )
  )
  scores, labels = reference(source, average)
  for k in (1, 2, 5):
    assert figures[f'top{k}'] == pytest.approx(accuracy(scores, labels, k))
  assert figures['examples'] == 50


def test_averages_of_probabilities_and_of_logits_differ():
  source = examples.Labelled(size=50, views=6)
  ranks = [
    np.argmax(reference(source, average)[0], -1)
    for average in classification.AVERAGES
  ]
  assert np.any(ranks[0] != ranks[1])


@pytest.mark.parametrize(
  ('batch_size', 'views_per_pass', 'devices'),
  [(13, 6, 1), (4, 1, 1), (5, 4, 1), (1, 3, 1), (16, 2, 8), (8, 6, 4)],
)
def test_figures_do_not_depend_on_batches_padding_or_devices(
  batch_size, views_per_pass, devices
):
  changes = dict(
    data=examples.spec(views=6), views=(6, 1), k=(1, 3), per_class=True
  )
  figures = run(
    make(
      batch_size=batch_size,
      views_per_pass=views_per_pass,
      devices=devices,
      **changes,
    )
  )
  assert figures == run(make(batch_size=32, views_per_pass=6, **changes))


def test_controls_and_mean_over_classes():
  figures = run(make(k=(1, 2), per_class=True))
  scores, labels = reference(examples.Labelled())
  counts = np.bincount(labels, minlength=examples.CLASSES)
  assert 0 in counts, 'a class without examples is part of this test'
  assert figures['majority'] == counts.max() / 13
  assert figures['majority_top2'] == np.sort(counts)[-2:].sum() / 13
  assert figures['chance'] == 1 / 6
  assert figures['chance_top2'] == 2 / 6
  guesses = np.argmax(scores, -1)
  within = [np.mean(guesses[labels == c] == c) for c in range(6) if counts[c]]
  assert figures['mean_class_top1'] == pytest.approx(np.mean(within))
  assert 'mean_class_top1' not in run(make())


def test_only_the_first_examples_count():
  figures = run(make(limit=7, batch_size=4))
  scores, labels = reference(examples.Labelled(size=7))
  assert figures['examples'] == 7
  assert figures['top1'] == pytest.approx(accuracy(scores, labels, 1))


def test_images_become_clips_of_one_frame():
  kernel = examples.state().params['kernel']
  source = examples.Labelled(images=True)
  pixels = np.stack([source[i]['video'].reshape(-1) for i in range(13)]) / 255
  scores = pixels @ np.asarray(kernel[: pixels.shape[1]], np.float64)
  labels = np.array([source[i]['label'] for i in range(13)])
  figures = run(make(data=examples.spec(images=True)))
  assert figures['top1'] == pytest.approx(accuracy(scores, labels, 1))


def test_other_fields_of_the_task_go_with_every_view():
  figures = run(
    make(
      examples.Linear(extra=True),
      data=examples.spec(views=4),
      views=(4, 1),
      views_per_pass=2,
    )
  )
  scores, labels = reference(examples.Labelled(views=4), extra=True)
  assert figures['top1'] == pytest.approx(accuracy(scores, labels, 1))


def test_trivial_k_is_left_out():
  figures = run(make(k=(1, 6, 10)))
  assert {name for name in figures if 'top' in name} == {'top1'}
  with pytest.raises(ValueError, match='6 classes'):
    run(make(k=(6,)))


def test_protocol_says_what_is_measured():
  data = examples.spec()
  assert make(data=data).protocol() == (
    'top-1, top-5 accuracy, probabilities averaged over one view per example; '
    'all examples of Labelled(): 13 in all'
  )
  data.transform_kwargs = {'num_views': 4, 'crop': 'three'}
  text = make(
    data=data, limit=5, average='logits', k=(1,), per_class=True
  ).protocol()
  assert text == (
    'top-1, mean class accuracy, logits averaged over 4 x 3 views '
    '(time x crops) per example; the first 5 examples of Labelled(): 5 in all'
  )


def test_views_of_the_protocol_are_those_of_the_data():
  with pytest.raises(ValueError, match='the data give 6 views'):
    run(make(data=examples.spec(views=6), views=(4, 3)))
  with pytest.raises(ValueError, match='the data give 6 views'):
    run(make(data=examples.spec(views=6)))


@pytest.mark.parametrize(
  ('kwargs', 'words'),
  [
    ({'data': examples.spec('Unlabelled')}, "TopK needs 'label'"),
    ({'data': examples.spec(classes=9)}, r'labels are outside \[0, 6\)'),
  ],
)
def test_wrong_data_are_named(kwargs, words):
  with pytest.raises(ValueError, match=words):
    run(make(**kwargs))


@pytest.mark.parametrize(
  ('kwargs', 'words'),
  [
    ({'k': ()}, 'k='),
    ({'k': (0,)}, 'k='),
    ({'average': 'ranks'}, "average='ranks'"),
    ({'views': (4,)}, 'views='),
    ({'views_per_pass': 0}, 'views_per_pass=0'),
  ],
)
def test_unusable_arguments_are_named(kwargs, words):
  with pytest.raises(ValueError, match=words):
    make(**kwargs)
