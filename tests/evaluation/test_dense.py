"""Depth, flow and segmentation over a data set, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation import examples
from vidscenic import task
from vidscenic.evaluation import dense, masks
from vidscenic.train import sharding

MESH = {'data': -1, 'fsdp': 1, 'model': 1}
T, H, W = 3, 4, 5
CLASSES = 4
SIZE = 7


class Scenes:
  """Example i is a function of i; the video is what the task predicts from."""

  def __init__(self, without='', unknown=False):
    self._without, self._unknown = without, unknown

  def __len__(self):
    return SIZE

  def __getitem__(self, index):
    rng = np.random.default_rng([3, index])
    example = {
      'video': rng.integers(0, 256, (T, H, W, 3)).astype(np.uint8),
      'depth': rng.uniform(0.5, 3, (T, H, W, 1)).astype(np.float32),
      'depth_mask': rng.random((T, H, W, 1)) < 0.7,
      'forward_flow': rng.normal(size=(T, H, W, 2)).astype(np.float32) * 4,
      'flow_mask': rng.random((T, H, W)) < 0.7,
      'flow_known': rng.random((T, H, W)) < 0.9,
      # Class 4 is none of the task's, class 3 never occurs.
      'segmentations': rng.choice([0, 1, 2, 4], (T, H, W, 1)).astype(np.uint8),
    }
    if self._unknown:
      example['depth_mask'][:] = False
    example.pop(self._without, None)
    return example


def predictions(video):
  """What the task says, for NumPy and JAX: [..., H, W, 3] in [0, 1]."""
  return {
    'depth': 1 + video[..., :1],
    'flow': 8 * video[..., :2] - 4,
    'segmentation': video[..., [0, 1, 2, 0]],
  }


class Pixels(task.Task):
  """Predictions are made of the pixels; `cut` frames are missing."""

  def __init__(self, cut=0, names=('depth', 'flow', 'segmentation')):
    self._cut, self._names = cut, names

  def batch_spec(self):
    return {'video': jax.ShapeDtypeStruct((T, H, W, 3), jnp.uint8)}

  def init(self, rng, batch):
    raise NotImplementedError

  def loss(self, params, model_state, batch, ctx):
    raise NotImplementedError

  def predict(self, params, model_state, batch, ctx, carry=None):
    video = batch['video'][:, : T - self._cut].astype(jnp.float32) / 255
    outputs = predictions(video)
    return {name: outputs[name] for name in self._names}, carry


def make(kind, task=None, devices=1, source_kwargs=None, **kwargs):
  mesh = sharding.make_mesh(MESH, jax.devices()[:devices])
  data = examples.spec()
  data.source = 'tests.evaluation.test_dense:Scenes'
  data.source_kwargs = source_kwargs or {}
  return kind(task or Pixels(), mesh, data=data, **kwargs)


def run(evaluator):
  with jax.set_mesh(evaluator.mesh):
    figures, media = evaluator.run(examples.state({}), 5)
  assert media == {}
  return figures


def scenes():
  """All examples at once, and what the task says about them."""
  rows = [Scenes()[i] for i in range(SIZE)]
  truth = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
  return truth, predictions(truth['video'].astype(np.float64) / 255)


@pytest.mark.parametrize(('batch_size', 'devices'), [(7, 1), (3, 1), (8, 4)])
def test_depth_over_all_known_pixels(batch_size, devices):
  got = run(make(dense.Depth, batch_size=batch_size, devices=devices))
  truth, said = scenes()
  p, t = (x['depth'][truth['depth_mask']] for x in (said, truth))
  ratio = np.maximum(p / t, t / p)
  assert got == pytest.approx(
    {
      'abs_rel': np.mean(np.abs(p - t) / t),
      'rmse': np.sqrt(np.mean((p - t) ** 2)),
      'delta1': np.mean(ratio < 1.25),
      'delta2': np.mean(ratio < 1.25**2),
      'delta3': np.mean(ratio < 1.25**3),
      'pixels': len(t),
    },
    rel=1e-5,
  )


@pytest.mark.parametrize('mask', ['flow_mask', 'flow_known'])
@pytest.mark.parametrize('cut', [0, 1])
def test_flow_over_the_pixels_of_a_mask(mask, cut):
  got = run(make(dense.Flow, Pixels(cut), mask=mask, batch_size=3))
  truth, said = scenes()
  frames = slice(0, T - cut)
  known = truth[mask][:, frames]
  p, t = (x[:, frames][known] for x in (said['flow'], truth['forward_flow']))
  error, length = np.linalg.norm(p - t, axis=-1), np.linalg.norm(t, axis=-1)
  assert got == pytest.approx(
    {
      'epe': np.mean(error),
      **{f'above_{n}px': np.mean(error > n) for n in (1, 3, 5)},
      'fl_all': np.mean((error > 3) & (error > 0.05 * length)),
      'pixels': len(error),
    },
    rel=1e-5,
  )


def test_segmentation_from_one_confusion_matrix():
  got = run(make(dense.Segmentation, batch_size=3))
  truth, said = scenes()
  target = truth['segmentations'][..., 0]
  guess = said['segmentation'].argmax(-1)
  matrix = masks.confusion(guess, target, CLASSES)
  known = target < CLASSES
  assert got == pytest.approx(
    {
      'miou': masks.mean_iou(matrix)[0],
      'accuracy': np.mean(guess[known] == target[known]),
      'majority': np.bincount(target[known]).max() / known.sum(),
      'pixels': known.sum(),
    }
  )


def test_protocols_say_what_is_measured():
  text = make(dense.Flow, mask='flow_known').protocol()
  assert 'the pixels of flow_known; all examples of Scenes()' in text
  assert make(dense.Depth).protocol().startswith('AbsRel, RMSE and delta')


@pytest.mark.parametrize(
  ('kind', 'kwargs', 'words'),
  [
    (
      dense.Depth,
      {'task': Pixels(names=('flow',))},
      r"Pixels predicts no 'depth'; there are \['flow'\]",
    ),
    (dense.Depth, {'task': Pixels(cut=1)}, "predicts 'depth' of shape"),
    (dense.Flow, {'task': Pixels(cut=2)}, "predicts 'flow' of shape"),
    (
      dense.Flow,
      {'source_kwargs': {'without': 'flow_mask'}},
      r"Flow needs \['flow_mask'\]",
    ),
    (dense.Depth, {'source_kwargs': {'unknown': True}}, 'no pixel is known'),
  ],
)
def test_what_does_not_fit_is_named(kind, kwargs, words):
  with pytest.raises(ValueError, match=words):
    run(make(kind, **kwargs))
