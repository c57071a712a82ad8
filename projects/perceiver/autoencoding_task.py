"""Autoencoding of video, sound and label with Perceiver IO (arXiv 2107.14795).

All go through the latents together. In training the label is hidden in half of
the examples, which makes a classifier of the model, and only some outputs,
others for every example, are decoded. In evaluation the label is always hidden
and all outputs are decoded, in chunks, from latents that are made once.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from projects.perceiver import configurations, encoder
from vidscenic import config_checks, task
from vidscenic.ops import losses, masking, metrics
from vidscenic.ops import video as video_ops
from vidscenic.tasks import classification

# Of the paper; with 0.03, 1 and 1 the classes are better and the pixels worse.
PUBLISHED_SCALES = {'image': 0.03, 'audio': 1.0, 'label': 0.0001}
# Outputs decoded for every example in training. The paper has 512 pixels and
# 512 samples of sound, which are 32 patches.
PUBLISHED_QUERIES = {'image': 512, 'audio': 32}
_HIDING, _IMAGE, _AUDIO = range(3)


class AudioVideo(task.Task):
  """Weighted L1 of pixels and samples, cross-entropy of the label.

  Batches: video uint8[B, T, H, W, 3], audio float32[B, S, 1] in [-1, 1],
  audio_mask bool[B], False where a video has no sound, and label int32[B]. The
  sound of such a video counts nothing, and its share is the figure
  `without_sound`.

  Figures of evaluation: `l1_image` and `l1_audio`, the mean absolute errors in
  units of the inputs, beside those of two constants, `l1_image_median`, the
  median colour of each clip, and `l1_audio_silence`; `psnr_image` and
  `psnr_audio` in dB; `top1`.
  """

  def __init__(
    self,
    *,
    model: Mapping[str, Any],
    queries: Mapping[str, int] | None = None,
    scales: Mapping[str, float] | None = None,
    label_mask_prob: float = 0.5,
    chunk: int = 8192,
    dtype: str = 'float32',
  ):
    """See the arguments.

    Args:
      model: see `configurations.build`.
      queries: {'image': pixels, 'audio': patches} decoded in training.
      scales: {'image', 'audio', 'label': factor} of the losses.
      label_mask_prob: of hiding the label in training.
      chunk: pixels decoded at once in evaluation; changes no figure.
      dtype: of the model's arithmetic, 'float32' or 'bfloat16'.

    Raises:
      ValueError: an unusable argument, named.
    """
    self.model, fields = configurations.build(
      model, 'audio_video_autoencoder', dtype=dtype
    )
    self.clip = (fields['num_frames'], *fields['image_size'])
    self.num_samples = fields['num_samples']
    self.num_classes = fields['num_classes']
    self.samples_per_patch = fields['samples_per_patch']
    self._queries = _known('queries', PUBLISHED_QUERIES, queries)
    self._scales = _known('scales', PUBLISHED_SCALES, scales)
    if not 0 <= label_mask_prob <= 1:
      raise ValueError(
        f'task.kwargs.label_mask_prob={label_mask_prob}: want a number in '
        '[0, 1]'
      )
    if chunk < 1:
      raise ValueError(f'task.kwargs.chunk={chunk}: want 1 or more')
    self._label_mask_prob = label_mask_prob
    self._chunk = chunk
    sizes = self.num_outputs()
    for name, count in self._queries.items():
      if not 1 <= count <= sizes[name]:
        raise ValueError(
          f'task.kwargs.queries.{name}={count}: want 1 to {sizes[name]}'
        )

  def num_outputs(self) -> dict[str, int]:
    """Pixels and patches of sound of a clip."""
    return {
      'image': math.prod(self.clip),
      'audio': self.num_samples // self.samples_per_patch,
    }

  def batch_spec(self):
    return {
      'video': jax.ShapeDtypeStruct((*self.clip, 3), jnp.uint8),
      'audio': jax.ShapeDtypeStruct((self.num_samples, 1), jnp.float32),
      'audio_mask': jax.ShapeDtypeStruct((), jnp.bool_),
      'label': jax.ShapeDtypeStruct((), jnp.int32),
    }

  def check_batch(self, batch):
    classification.check_labels(
      batch['label'], self.num_classes, 'task.kwargs.model.num_classes'
    )

  def init(self, rng, batch):
    first = jax.tree.map(lambda x: x[:1], dict(batch))
    points = {'image': jnp.zeros(1, int), 'audio': jnp.zeros(1, int)}
    inputs = self._inputs(first)
    points['label'] = None
    return self.model.init(rng, inputs, points=points)['params'], {}

  def loss(self, params, model_state, batch, ctx):
    if not ctx.train:
      return self._evaluate(params, model_state, batch)
    inputs = self._inputs(batch)
    points = self._draw_points(ctx)
    keys = masking.row_keys(jax.random.fold_in(ctx.rng, _HIDING), ctx.rows)
    results = self.model.apply(
      {'params': params},
      inputs,
      points=points,
      mask_keys=keys,
      mask_probs={'label': self._label_mask_prob},
      **encoder.training_options(ctx),
    )
    targets = autoencoding_targets(inputs, points, self.samples_per_patch)
    terms = autoencoding_terms(
      results,
      targets,
      scales=self._scales,
      mask=batch['mask'],
      audio_mask=batch['audio_mask'],
    )
    figures = {f'l1_{name}': terms[name][:2] for name in ('image', 'audio')}
    figures['without_sound'] = _without_sound(batch)
    return task.LossOut(terms, figures, model_state)

  def predict(self, params, model_state, batch, ctx, carry=None):
    """Reconstructions with the label hidden.

    Args:
      params: of the model.
      model_state: not used.
      batch: video uint8[B, T, H, W, 3] and, unless it is left out, audio
        float32[B, S, 1].
      ctx: not used.
      carry: returned as it is.

    Returns:
      ({'image': float32[B, T, H, W, 3] in [0, 1], 'audio': float32[B, S, 1] in
      [-1, 1], 'logits': float32[B, num_classes], 'probabilities': their
      softmax}, carry). Values are not clipped.
    """
    del model_state, ctx
    inputs = self._inputs(batch)
    results = self.decode_all(params, inputs)
    logits = results['label'].astype(jnp.float32)
    count = len(batch['video'])
    return {
      'image': results['image'].reshape(count, *self.clip, 3),
      'audio': results['audio'].reshape(count, self.num_samples, 1),
      'logits': logits,
      'probabilities': jax.nn.softmax(logits),
    }, carry

  def decode_all(self, params, inputs) -> dict[str, jax.Array]:
    """All outputs of inputs that are encoded once; the label is hidden.

    Args:
      params: of the model.
      inputs: those of the model, modalities may be missing.

    Returns:
      {'image': float32[B, pixels, 3], 'audio': float32[B, samples], 'label':
      float32[B, num_classes]}.
    """
    variables = {'params': params}
    latents, preprocessed = self.model.apply(
      variables, inputs, mask_probs={'label': 1.0}, method='encode'
    )

    def decode(points):
      return self.model.apply(
        variables, latents, preprocessed, points=points, method='decode'
      )

    results = decode({'label': None})
    for name, total in self.num_outputs().items():
      count = -(-total // self._chunk)
      size = -(-total // count)
      # The last chunk is filled up with the last output.
      points = np.minimum(np.arange(count * size), total - 1)
      parts = jax.lax.map(
        lambda points, name=name: decode({name: points})[name],
        jnp.asarray(points.reshape(count, size)),
      )
      length = total * parts.shape[2] // size  # a patch has several samples
      parts = jnp.moveaxis(parts, 0, 1).astype(jnp.float32)
      results[name] = parts.reshape(len(latents), -1, *parts.shape[3:])[
        :, :length
      ]
    return results

  def _inputs(self, batch):
    """Inputs of the model from those fields of a batch that are there."""
    inputs = {}
    if 'video' in batch:
      inputs['image'] = video_ops.normalize(batch['video'], 'unit')
    if 'audio' in batch:
      inputs['audio'] = batch['audio']
    count = len(next(iter(inputs.values())))
    # A hidden label may be anything.
    label = batch.get('label', jnp.zeros(count, jnp.int32))
    inputs['label'] = jax.nn.one_hot(label, self.num_classes)
    return inputs

  def _draw_points(self, ctx):
    """Other outputs for every example: {'image': int[B, O], ...}."""
    points = {'label': None}
    for number, name in ((_IMAGE, 'image'), (_AUDIO, 'audio')):
      keys = masking.row_keys(jax.random.fold_in(ctx.rng, number), ctx.rows)
      total, count = self.num_outputs()[name], self._queries[name]
      # Out of 800,000 pixels hardly one is drawn twice.
      draw = lambda key, total=total, count=count: jax.random.randint(
        key, (count,), 0, total
      )
      points[name] = jax.vmap(draw)(keys)
    return points

  def _evaluate(self, params, model_state, batch):
    inputs, mask = self._inputs(batch), batch['mask']
    results = self.decode_all(params, inputs)
    targets = autoencoding_targets(inputs, None, self.samples_per_patch)
    heard = mask & batch['audio_mask']
    terms = autoencoding_terms(
      results,
      targets,
      scales=self._scales,
      mask=mask,
      audio_mask=batch['audio_mask'],
    )
    image, audio = targets['image'], targets['audio']
    median = jnp.median(image, axis=1, keepdims=True)
    figures = {
      'l1_image': terms['image'][:2],
      'l1_image_median': losses.l1(
        median - image, weight=losses.align(mask, image)
      ),
      'l1_audio': terms['audio'][:2],
      'l1_audio_silence': losses.l1(audio, weight=losses.align(heard, audio)),
      'psnr_image': metrics.psnr(results['image'], image, mask=mask),
      'psnr_audio': metrics.psnr(
        results['audio'], audio, value_range=2.0, mask=heard
      ),
      'top1': metrics.topk_accuracy(
        results['label'], batch['label'], mask=mask
      ),
      'without_sound': _without_sound(batch),
    }
    return task.LossOut(terms, figures, model_state)


def autoencoding_targets(inputs, points, samples_per_patch: int):
  """What the outputs should be.

  Args:
    inputs: image float[B, T, H, W, 3], audio float[B, S, 1], label float[B, C].
    points: {'image': int[O] or int[B, O] pixels, 'audio': patches}; None: all.
    samples_per_patch: of the sound.

  Returns:
    {'image': [B, O, 3], 'audio': [B, O * samples_per_patch], 'label': [B, C]}.
  """
  count = len(inputs['label'])
  image = inputs['image'].reshape(count, -1, 3)
  audio = inputs['audio'].reshape(count, -1, samples_per_patch)
  if points is not None:
    image = masking.take_tokens(image, points['image'])
    audio = masking.take_tokens(audio, points['audio'])
  return {
    'image': image,
    'audio': audio.reshape(count, -1),
    'label': inputs['label'],
  }


def autoencoding_terms(
  results, targets, *, scales, mask=None, audio_mask=None
) -> dict[str, tuple[jax.Array, jax.Array, float]]:
  """The weighted losses; means are over all values.

  Args:
    results: {'image': [B, O, 3], 'audio': [B, O'], 'label': [B, C]}.
    targets: the same; label as probabilities.
    scales: factor of each.
    mask: bool[B], examples that count; None: all.
    audio_mask: bool[B], those with sound; None: all.

  Returns:
    {'image', 'audio', 'label': (sum, weight, scale)}.
  """
  mask = jnp.ones(len(targets['label']), bool) if mask is None else mask
  heard = mask if audio_mask is None else mask & audio_mask
  pairs = {}
  for name, rows in (('image', mask), ('audio', heard)):
    error = results[name].astype(jnp.float32) - targets[name]
    pairs[name] = losses.l1(error, weight=losses.align(rows, error))
  pairs['label'] = losses.softmax_cross_entropy(
    results['label'], targets['label'], weight=mask
  )
  return {name: (*pair, scales[name]) for name, pair in pairs.items()}


def _without_sound(batch):
  silent = ~batch['audio_mask']
  return losses.weighted_sum(silent, weight=batch['mask'])


def _known(field, defaults, given):
  for name in given or {}:
    if name not in defaults:
      raise ValueError(
        config_checks.unknown(f'task.kwargs.{field}.{name}', name, defaults)
      )
  return {**defaults, **(given or {})}
