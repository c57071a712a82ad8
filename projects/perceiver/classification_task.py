"""Classification of images, clips and point clouds with a Perceiver.

Perceiver (arXiv 2103.03206) and Perceiver IO (2107.14795). The released recipe
loads twice the images and mixes one half by mixup and one by CutMix; here each
row draws one of the two and its partner is another row of the same batch
(`vidscenic.tasks.classification.Mixing`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from projects.perceiver import configurations, encoder
from vidscenic import task
from vidscenic.ops import losses, metrics
from vidscenic.tasks import classification


class Classification(classification.Classification):
  """One label per image or clip.

  Batches, figures and augmentation are those of the class that this one
  extends: video uint8[B, T, H, W, 3], with T = 1 for images, and label.
  """

  def __init__(
    self,
    *,
    model: Mapping[str, Any],
    clip: Sequence[int] = (1, 224, 224),
    normalize: str = 'imagenet',
    dtype: str = 'float32',
    **options,
  ):
    """See the arguments.

    Args:
      model: see `configurations.build`.
      clip: (T, H, W) of the training data; (1, H, W) for images.
      normalize: see `ops.video.normalize`.
      dtype: of the model's arithmetic, 'float32' or 'bfloat16'.
      **options: augment, mixing and label_smoothing of the base class.
    """
    self.model, fields = configurations.build(
      model, 'image_classifier', dtype=dtype
    )
    super().__init__(
      clip=clip,
      num_classes=fields['num_classes'],
      normalize=normalize,
      **options,
    )

  def make_model(self, *unused):
    """The Perceiver that the constructor has built."""
    return self.model

  def check_batch(self, batch):
    """As in the base class; another field sets the number of classes."""
    classification.check_labels(
      batch['label'], self.num_classes, 'task.kwargs.model.num_classes'
    )


class PointClassification(task.Task):
  """One label per point cloud.

  Batches: points float32[B, P, 3] in [-1, 1] and label int32[B]. Figures: top1.
  """

  def __init__(
    self,
    *,
    model: Mapping[str, Any],
    num_points: int = 2048,
    dtype: str = 'float32',
  ):
    """See the arguments.

    Args:
      model: see `configurations.build`.
      num_points: P of the training data.
      dtype: of the model's arithmetic, 'float32' or 'bfloat16'.
    """
    self.model, fields = configurations.build(
      model, 'point_classifier', dtype=dtype
    )
    self.num_classes = fields['num_classes']
    self.num_points = num_points

  def batch_spec(self):
    return {
      'points': jax.ShapeDtypeStruct((self.num_points, 3), jnp.float32),
      'label': jax.ShapeDtypeStruct((), jnp.int32),
    }

  def check_batch(self, batch):
    classification.check_labels(
      batch['label'], self.num_classes, 'task.kwargs.model.num_classes'
    )

  def init(self, rng, batch):
    return self.model.init(rng, batch['points'][:1])['params'], {}

  def loss(self, params, model_state, batch, ctx):
    logits = self._logits(params, batch, **encoder.training_options(ctx))
    label, mask = batch['label'], batch['mask']
    loss = losses.softmax_cross_entropy(logits, label, weight=mask)
    figures = {'top1': metrics.topk_accuracy(logits, label, mask=mask)}
    return task.LossOut({'cross_entropy': (*loss, 1.0)}, figures, model_state)

  def predict(self, params, model_state, batch, ctx, carry=None):
    """-> {'logits', 'probabilities': float32[B, num_classes]}, carry."""
    del model_state, ctx
    logits = self._logits(params, batch)
    outputs = {'logits': logits, 'probabilities': jax.nn.softmax(logits)}
    return outputs, carry

  def _logits(self, params, batch, **options):
    logits = self.model.apply({'params': params}, batch['points'], **options)
    return logits.astype(jnp.float32)
