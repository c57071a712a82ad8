"""Examples and a model that a few lines of NumPy can follow."""

import jax
import jax.numpy as jnp
import numpy as np

from vidscenic import config as vc
from vidscenic import task
from vidscenic.train import state as state_lib

CLIP = (2, 3, 4)
CLASSES = 6
PIXELS = int(np.prod(CLIP)) * 3


class Labelled:
  """Clips of noise with labels, example i a function of i; class 4 is rare."""

  def __init__(self, size=13, views=0, images=False, classes=CLASSES):
    self._size, self._classes = size, classes
    self._shape = (*([views] if views else []), *CLIP[images:], 3)

  def __len__(self):
    return self._size

  def __getitem__(self, index):
    rng = np.random.default_rng([7, index])
    video = rng.integers(0, 256, self._shape).astype(np.uint8)
    label = min(int(rng.integers(0, self._classes + 3)), self._classes - 1)
    return {
      'video': video,
      'label': np.int32(label),
      'extra': np.int32(index),
      'unused': np.zeros(5, np.float32),
    }


class Unlabelled(Labelled):
  def __getitem__(self, index):
    return {'video': super().__getitem__(index)['video']}


class AsIs:
  """The transform that does nothing."""

  def sample(self, record, rng):
    return dict(record)

  def augment(self, clip, rng):
    return dict(clip)


class Linear(task.Task):
  """Scores of the pixels; `extra` of an example is added to its class 0."""

  def __init__(self, extra=False):
    self._extra = extra

  def batch_spec(self):
    spec = {'video': jax.ShapeDtypeStruct((*CLIP, 3), jnp.uint8)}
    if self._extra:
      spec['extra'] = jax.ShapeDtypeStruct((), jnp.int32)
    return spec

  def init(self, rng, batch):
    return {'kernel': jax.random.normal(rng, (PIXELS, CLASSES))}, {}

  def loss(self, params, model_state, batch, ctx):
    raise NotImplementedError

  def predict(self, params, model_state, batch, ctx, carry=None):
    assert not ctx.train
    video = batch['video'].astype(jnp.float32) / 255
    logits = video.reshape(len(video), -1) @ params['kernel'][: video[0].size]
    if self._extra:
      logits = logits.at[:, 0].add(batch['extra'])
    return {'logits': logits, 'probabilities': jax.nn.softmax(logits)}, carry


def state(params=None, **kwargs):
  """A TrainState after 5 updates; the kernel is that of `Linear`."""
  if params is None:
    params, _ = Linear().init(jax.random.key(1), None)
  zero = jnp.zeros((), jnp.int32)
  fields = dict(
    step=zero + 5,
    skipped=zero,
    params=params,
    opt_state=(),
    model_state={},
    ema_params=None,
    bad_steps=zero,
  )
  return state_lib.TrainState(**(fields | kwargs))


def spec(source='Labelled', **source_kwargs):
  """A data spec of the sources above."""
  return vc.data_spec(
    source=f'tests.evaluation.examples:{source}',
    source_kwargs=source_kwargs,
    transform='tests.evaluation.examples:AsIs',
  )
