"""Several labels per clip with sound: AudioSet with Perceiver IO.

Perceiver IO (arXiv 2107.14795) and Perceiver (2103.03206): raw sound and pixels
go through the latents together, every label is asked for by itself. In training
the pictures of some examples are left black, so that sounds are learned from
sound too.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from projects.perceiver import configurations, encoder
from vidscenic import task
from vidscenic.ops import losses, masking
from vidscenic.ops import video as video_ops

_BLACK = 0  # folded into the key of a step


class AudioVideoTagging(task.Task):
  """Binary cross-entropy of every label.

  Batches: video uint8[B, T, H, W, 3], audio float32[B, S, 1] in [-1, 1],
  audio_mask bool[B], False where a video has no sound, and label
  float32[B, num_classes] of 0 and 1. A video without sound is a silent one; the
  figure `without_sound` is their share.

  Figures: `hit`, how often the most likely label is one of the example's.
  """

  def __init__(
    self,
    *,
    model: Mapping[str, Any],
    video_dropout: float = 0.3,
    dtype: str = 'float32',
  ):
    """See the arguments.

    Args:
      model: see `configurations.build`.
      video_dropout: share of the training examples whose pictures are black.
      dtype: of the model's arithmetic, 'float32' or 'bfloat16'.

    Raises:
      ValueError: an unusable argument, named.
    """
    self.model, fields = configurations.build(
      model, 'audio_video_classifier', dtype=dtype
    )
    self.clip = (fields['num_frames'], *fields['image_size'])
    self.num_samples = fields['num_samples']
    self.num_classes = fields['num_classes']
    if not 0 <= video_dropout <= 1:
      raise ValueError(
        f'task.kwargs.video_dropout={video_dropout}: want a number in [0, 1]'
      )
    self._video_dropout = video_dropout

  def batch_spec(self):
    return {
      'video': jax.ShapeDtypeStruct((*self.clip, 3), jnp.uint8),
      'audio': jax.ShapeDtypeStruct((self.num_samples, 1), jnp.float32),
      'audio_mask': jax.ShapeDtypeStruct((), jnp.bool_),
      'label': jax.ShapeDtypeStruct((self.num_classes,), jnp.float32),
    }

  def check_batch(self, batch):
    labels = batch['label']
    if ((labels != 0) & (labels != 1)).any():
      raise ValueError('label of the data must be 0 or 1 for every class')

  def init(self, rng, batch):
    first = jax.tree.map(lambda x: x[:1], dict(batch))
    return self.model.init(rng, self._inputs(first))['params'], {}

  def loss(self, params, model_state, batch, ctx):
    inputs = self._inputs(batch)
    if ctx.train and self._video_dropout:
      keys = masking.row_keys(jax.random.fold_in(ctx.rng, _BLACK), ctx.rows)
      black = jax.vmap(
        lambda key: jax.random.bernoulli(key, self._video_dropout)
      )(keys)
      shown = losses.align(~black, inputs['image'])
      inputs['image'] = inputs['image'] * shown
    logits = self._logits(params, inputs, **encoder.training_options(ctx))
    label, mask = batch['label'], batch['mask']
    loss = losses.sigmoid_binary_cross_entropy(
      logits, label, weight=losses.align(mask, logits)
    )
    best = jnp.take_along_axis(
      label, jnp.argmax(logits, axis=-1)[:, None], axis=-1
    )[:, 0]
    figures = {
      'hit': losses.weighted_sum(best, weight=mask),
      'without_sound': losses.weighted_sum(~batch['audio_mask'], weight=mask),
    }
    return task.LossOut({'cross_entropy': (*loss, 1.0)}, figures, model_state)

  def predict(self, params, model_state, batch, ctx, carry=None):
    """Probabilities of all labels.

    Args:
      params: of the model.
      model_state: not used.
      batch: video uint8[B, T, H, W, 3], audio float32[B, S, 1], or one of them.
      ctx: not used.
      carry: returned as it is.

    Returns:
      {'logits', 'probabilities': float32[B, num_classes], every class for
      itself}, carry.
    """
    del model_state, ctx
    logits = self._logits(params, self._inputs(batch))
    outputs = {'logits': logits, 'probabilities': jax.nn.sigmoid(logits)}
    return outputs, carry

  def _inputs(self, batch):
    inputs = {}
    if 'video' in batch:
      inputs['image'] = video_ops.normalize(batch['video'], 'unit')
    if 'audio' in batch:
      inputs['audio'] = batch['audio']
    return inputs

  def _logits(self, params, inputs, **options):
    logits = self.model.apply({'params': params}, inputs, **options)
    return logits.astype(jnp.float32)
