"""Label propagation with the features of a stream of frames, and its controls.

The protocol is that of `vidscenic.evaluation.propagation`. Videos differ in
length and size, so they are taken one by one, whole; every process of a run
goes through all of them.

Controls, printed beside every figure:
  _copied: the labels of the first frame in all frames, without any model;
  _random: a freshly initialised model;
  _reset: the same weights, with the state forgotten every `chunk` frames, as
    many as the model is trained on. What the recurrence gains over long videos
    is the difference.
"""

import abc
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from projects.rvm import streaming
from vidscenic import config as vc
from vidscenic import task as task_lib
from vidscenic.data import records
from vidscenic.evaluation import evaluator, keypoints, masks, propagation
from vidscenic.train import sharding

CONTROLS = ('copied', 'random', 'reset')


class _Propagation(evaluator.Evaluator, abc.ABC):
  """Runs the protocol with the model's features and with each control.

  Attributes:
    size: (H, W) at which features are taken.
    settings: constants of the protocol.
  """

  benchmark = ''  # what is printed beside the published figures

  def __init__(
    self,
    task: task_lib.Task,
    mesh: Mesh,
    *,
    size: Sequence[int],
    context: int = 20,
    radius: float = 20.0,
    top_k: int = 7,
    temperature: float = 0.7,
    chunk: int = 4,
    reset_every: int = 4,
    controls: Sequence[str] = CONTROLS,
    published: Sequence[tuple[str, float]] = (),
    **kwargs,
  ):
    """Takes the arguments of `Evaluator`, and more.

    Args:
      task: `task.MaskedVideo`.
      mesh: all devices.
      size: (H, W) that frames are resized to.
      context, radius, top_k, temperature: see `propagation.Settings`; radius
        inf searches recent frames as a whole.
      chunk: frames that the encoder takes at once.
      reset_every: frames that the control '_reset' remembers.
      controls: which of `CONTROLS` to run; each but 'copied' takes as long as
        the model itself.
      published: (name, figure in percent) pairs to print beside the result.
      **kwargs: of `Evaluator`; only source and source_kwargs of data are used.

    Raises:
      ValueError: an argument that cannot be used.
    """
    super().__init__(task, mesh, **kwargs)
    self.size = tuple(size)
    streaming.grid(task.model, self.size)  # refuses sizes that do not fit
    self.settings = propagation.Settings(context, radius, top_k, temperature)
    unknown = sorted(set(controls) - set(CONTROLS))
    if unknown or chunk < 1 or reset_every < 1:
      raise ValueError(
        f'controls={tuple(controls)}, {chunk=}, {reset_every=}: want some of '
        f'{CONTROLS}, and 1 or more'
      )
    self._chunk, self._reset_every = chunk, reset_every
    self._controls = tuple(controls)
    self._published = tuple(published)

  def measures(self) -> str:
    settings = ', '.join(f'{k} {v}' for k, v in self._describe().items())
    return f'{self.benchmark} by label propagation, {settings}'

  def _describe(self):
    size = 'x'.join(map(str, self.size))
    return {'features at': size, **self.settings._asdict()}

  def run(self, state: Any, step: int) -> evaluator.Figures:
    source = vc.build(self.data['source'], **self.data['source_kwargs'])
    figures = {}
    for control in ('', *self._controls):
      features = self._features(state, control)
      scores = self.score(self._predictions(source, features))
      end = f'_{control}' if control else ''
      figures |= {f'{name}{end}': value for name, value in scores.items()}
    if self._published:
      others = ', '.join(f'{name} {value}' for name, value in self._published)
      logging.info(
        '%s: %s, published, in percent: %s', self.name, self.benchmark, others
      )
    return figures, {}

  @abc.abstractmethod
  def predict(
    self,
    video: np.ndarray,
    record: Any,
    features: propagation.FeatureFn | None,
  ) -> Any:
    """What `score` wants to know of one video; without features a copy."""

  @abc.abstractmethod
  def score(self, predictions: Iterable[Any]) -> dict[str, float]:
    """Figures of the data set from what `predict` gave for each video."""

  def _segment(self, video, first, features):
    """Masks of all frames from that of the first."""
    if features is None:
      return np.broadcast_to(first, (len(video), *first.shape))
    carried = propagation.segment(
      video, first, features, size=self.size, settings=self.settings
    )
    return np.stack(list(carried))

  def _predictions(self, source, features):
    count = min(self.limit or len(source), len(source))
    for i in range(count):
      record = source[i]
      stored = records.open_video(record)
      video = stored.read(np.arange(stored.length))
      yield self.predict(video, record, features)
      logging.log_every_n_seconds(
        logging.INFO, '%s: %d of %d videos', 10, self.name, i + 1, count
      )

  def _features(self, state, control):
    """uint8[T, H, W, 3] -> T feature maps, or None to copy labels."""
    if control == 'copied':
      return None
    params = self._fresh() if control == 'random' else state.params
    return functools.partial(self._maps, params, reset=control == 'reset')

  def _maps(self, params, video, *, reset):
    """Yields the feature map of every frame, float32[h, w, D]."""
    model, everywhere = self.task.model, sharding.replicated(self.mesh)
    chunk = self._reset_every if reset else self._chunk
    first = state = jax.device_put(
      streaming.init_state(model, batch=1, size=self.size), everywhere
    )
    for start in range(0, len(video), chunk):
      frames = video[start : start + chunk]
      count = len(frames)
      if count < chunk:  # the end, filled up so that one program serves all
        frames = np.concatenate([frames, frames[-1:].repeat(chunk - count, 0)])
      features, state = streaming.encode_video(
        model, params, frames[None], first if reset else state
      )
      features = jax.device_put(features, everywhere)
      maps = streaming.feature_map(model, features[0], self.size)
      yield from np.asarray(maps)[:count]

  def _fresh(self):
    def init():
      batch = jax.tree.map(
        lambda s: jnp.zeros((1, *s.shape), s.dtype), self.task.batch_spec()
      )
      return self.task.init(jax.random.key(0), batch)[0]

    shardings = sharding.replicated(self.mesh)
    return jax.jit(init, out_shardings=shardings)()


class Objects(_Propagation):
  """J, F and their mean of objects: DAVIS-2017, or any source of its kind.

  Records: segmentations uint8[T, H, W, 1], object numbers. Figures, fractions
  in [0, 1]: `jf`, `j`, `f`. DAVIS-2017 is taken at 480x880 pixels.
  """

  benchmark = 'J&F'

  def predict(self, video, record, features):
    target = _segmentations(self.name, record)
    return self._segment(video, target[0], features), target

  def score(self, predictions):
    means, _ = masks.davis(predictions)
    return {name: means[name] for name in ('jf', 'j', 'f')}


class Parts(_Propagation):
  """Mean IoU of classes over all frames: VIP, at 448x880 pixels, top_k 10.

  Records: segmentations uint8[T, H, W, 1], classes. Figure: `miou`, a fraction.
  """

  benchmark = 'mean IoU'

  def __init__(self, task, mesh, *, num_classes: int = 20, **kwargs):
    """Takes the arguments of `_Propagation`, and the number of classes."""
    super().__init__(task, mesh, **kwargs)
    self._num_classes = num_classes

  def predict(self, video, record, features):
    target = _segmentations(self.name, record)
    predicted = self._segment(video, target[0], features)
    return masks.confusion(predicted, target, num_classes=self._num_classes)

  def score(self, predictions):
    return {'miou': masks.mean_iou(sum(predictions))[0]}


class Keypoints(_Propagation):
  """PCK of joints: JHMDB, at 320x320 pixels.

  Records: target_points float32[J, T, 2], (x, y) in pixels of the video.
  Figures: `pck_0.1` to `pck_0.5`, in percent.
  """

  benchmark = 'PCK'

  def predict(self, video, record, features):
    if 'target_points' not in record:
      raise _missing(self.name, 'target_points', record)
    target = np.swapaxes(record['target_points'], 0, 1)
    if features is None:
      found = np.ones(target.shape[:2], bool)
      return np.broadcast_to(target[:1], target.shape), found, target
    points, found = zip(
      *propagation.follow(
        video, target[0], features, size=self.size, settings=self.settings
      ),
      strict=True,
    )
    return np.stack(points), np.stack(found), target

  def score(self, predictions):
    means, _ = keypoints.pck(predictions)
    return {f'pck_{threshold}': value for threshold, value in means.items()}


def _segmentations(name, record):
  if 'segmentations' not in record:
    raise _missing(name, 'segmentations', record)
  return record['segmentations'][..., 0]


def _missing(name, field, record):
  return ValueError(
    f'{name}.kwargs.data: records need {field!r}, the source gives '
    f'{sorted(record)}'
  )
