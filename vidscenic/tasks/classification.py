"""Classification of clips: a backbone, a pooled linear head, cross-entropy.

The training recipe is the usual one for vision transformers: mixup (arXiv
1710.09412) or CutMix (1905.04899), one of the two per batch (DeiT, 2012.12877;
VideoMAE's fine-tuning, 2203.12602), label smoothing (1512.00567), dropout and
stochastic depth (1603.09382). CutMix pastes one box into all frames of a clip.

Augmentation is drawn per row from the row's global number, so it does not
depend on sharding or accumulation. Mixing joins rows of a microbatch and
dropout draws for all of them at once: with these two, as with batch statistics,
accumulation is another (equally good) draw and not the same number.
"""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidscenic import config as vc
from vidscenic import task
from vidscenic.layers import heads, vit
from vidscenic.ops import augment as augment_ops
from vidscenic.ops import losses, masking, metrics
from vidscenic.ops import video as video_ops

POOLS = (*heads.POOLS, 'attention')
# Folded into the step's key, so that its uses draw different numbers.
_COLOR, _NOISE, _MIXING, _DROPOUT = range(4)


@dataclasses.dataclass(frozen=True)
class Augment:
  """Photometric augmentation of training clips, the same for all frames.

  Noise is the exception: it is new in every pixel of every frame. The ranges
  are those of `ops.augment.color_augment`.
  """

  color: float = 0.0  # probability of brightness, saturation, contrast, hue
  gray: float = 0.0  # probability of grey
  noise: float = 0.0  # probability of normal noise
  noise_std: float = 0.05  # of pixels in [0, 1]
  brightness: float = 32 / 255
  saturation: Sequence[float] = (0.6, 1.4)
  contrast: Sequence[float] = (0.6, 1.4)
  hue: float = 0.2

  def __post_init__(self):
    _check_probabilities(self, 'augment', ('color', 'gray', 'noise'))

  def __call__(self, rng, rows, video):
    """float32[B, T, H, W, 3] in [0, 1] -> the same; rows int32[B]."""
    if self.color or self.gray:
      video = augment_ops.color_augment(
        masking.row_keys(jax.random.fold_in(rng, _COLOR), rows),
        video,
        probability=self.color,
        brightness=self.brightness,
        saturation=self.saturation,
        contrast=self.contrast,
        hue=self.hue,
        gray_probability=self.gray,
      )
    if self.noise:
      keys = masking.row_keys(jax.random.fold_in(rng, _NOISE), rows)
      keys = masking.split_keys(keys, 2)
      noisy = jax.vmap(lambda k: jax.random.bernoulli(k, self.noise))(
        keys[:, 0]
      )
      video = augment_ops.gaussian_noise(
        keys[:, 1], video, std=jnp.where(noisy, self.noise_std, 0.0)
      )
    return video


@dataclasses.dataclass(frozen=True)
class Mixing:
  """Mixes every row of a training batch with its mirror image in the batch."""

  mixup: float = 0.0  # alpha of Beta(alpha, alpha); 0: no mixup
  cutmix: float = 0.0  # alpha; 0: no CutMix
  probability: float = 1.0  # of mixing at all
  cutmix_share: float = 0.5  # probability of CutMix where both are on
  per: str = 'batch'  # one draw per 'batch' or per 'row'

  def __post_init__(self):
    _check_probabilities(self, 'mixing', ('probability', 'cutmix_share'))
    for name in ('mixup', 'cutmix'):
      if getattr(self, name) < 0:
        raise ValueError(
          f'mixing.{name}={getattr(self, name)}: want 0 (off) or more'
        )
    if self.per not in ('batch', 'row'):
      raise ValueError(f"mixing.per={self.per!r}: want 'batch' or 'row'")

  @property
  def active(self) -> bool:
    """Whether anything is ever mixed."""
    return bool(self.probability and (self.mixup or self.cutmix))

  def __call__(self, rng, rows, mask, video, labels):
    """Mixes inputs and labels.

    Args:
      rng: key of the batch.
      rows: int32[B], global row numbers.
      mask: bool[B]; a padded row is given to no other row.
      video: float32[B, T, H, W, 3].
      labels: float32[B, C], one-hot.

    Returns:
      (video, labels) of the same shapes; a row's label is the mean of the two
      rows' labels, weighted with the part of its pixels that each gave.
    """
    own = self._own_part(rng, rows, video.shape[2:4])
    own = jnp.where(mask[::-1, None, None], own, 1.0)
    labels = augment_ops.mix(labels, labels[::-1], jnp.mean(own, axis=(1, 2)))
    own = own[:, None, :, :, None]
    return own * video + (1 - own) * video[::-1], labels

  def _own_part(self, rng, rows, size):
    """float32[B or 1, H, W]: how much of each pixel a row keeps."""
    rng = jax.random.fold_in(rng, _MIXING)
    keys = masking.row_keys(rng, rows if self.per == 'row' else rows[:1] * 0)
    keys = masking.split_keys(keys, 4)
    draw = lambda i, p: jax.vmap(lambda k: jax.random.bernoulli(k, p))(
      keys[:, i]
    )
    if self.mixup:
      ratio = augment_ops.beta_ratios(keys[:, 0], alpha=self.mixup)
      own = jnp.broadcast_to(ratio[:, None, None], (len(ratio), *size))
    if self.cutmix:
      boxes, _ = augment_ops.cutmix_boxes(
        keys[:, 1], size=size, alpha=self.cutmix
      )
      outside = 1.0 - boxes.astype(jnp.float32)
      if self.mixup:
        own = jnp.where(draw(2, self.cutmix_share)[:, None, None], outside, own)
      else:
        own = outside
    return jnp.where(draw(3, self.probability)[:, None, None], own, 1.0)


class Classifier(nn.Module):
  """Backbone, pool, linear layer: [B, T, H, W, 3] -> float32[B, num_classes].

  The backbone is called as backbone(video, train=...) and returns
    {'tokens': [B, N, D]}, as `vit.VisionTransformer`;
    a tuple of feature maps, of which the last one counts, as `resnet.ResNet`;
    or one array [B, ..., D].

  What the head reads, float32[B, D], is sown as 'features'.

  Parameters: backbone, head, and with pool='attention' also attention_pool.
  """

  backbone: nn.Module
  num_classes: int
  pool: str = 'mean'  # one of POOLS: over all tokens, token 0, a MAP head
  norm: bool = False  # LayerNorm behind the pool
  norm_eps: float = 1e-6
  dropout: float = 0.0  # before the linear layer
  pool_heads: int = 8  # of the MAP head

  @nn.compact
  def __call__(self, video, *, train: bool = False):
    """Normalized clips -> logits; dropout and batch statistics if `train`."""
    if self.pool not in POOLS:
      raise ValueError(f'head.pool must be one of {POOLS}, got {self.pool!r}')
    tokens = _tokens(self.backbone(video, train=train)).astype(jnp.float32)
    if self.pool == 'attention':
      pooled = heads.AttentionPool(
        self.pool_heads, 4 * tokens.shape[-1], name='attention_pool'
      )(tokens)
    elif self.pool == 'token':
      pooled = tokens[:, :1]
    else:
      pooled = tokens.mean(1, keepdims=True)
    self.sow('intermediates', 'features', pooled[:, 0])
    # One token is its own mean. The head stays float32: it costs nothing.
    return heads.ClassificationHead(
      self.num_classes,
      norm=self.norm,
      norm_eps=self.norm_eps,
      dropout=self.dropout,
      name='head',
    )(pooled, train=train)


def _tokens(features):
  if isinstance(features, Mapping):
    features = features['tokens']
  elif isinstance(features, (tuple, list)):
    features = features[-1]
  return features.reshape(features.shape[0], -1, features.shape[-1])


def check_labels(labels: np.ndarray, num_classes: int, field: str) -> None:
  """Refuses labels outside [0, num_classes).

  Args:
    labels: int[B].
    num_classes: of the model.
    field: of the config that sets num_classes.

  Raises:
    ValueError: such a label.
  """
  wrong = labels[(labels < 0) | (labels >= num_classes)]
  if wrong.size:
    raise ValueError(
      f'label {wrong[0]} of the data is outside [0, {num_classes}): set '
      f'{field} to the number of classes, or mend the labels'
    )


class Classification(task.Task):
  """One label per clip.

  Batches: video uint8[B, T, H, W, 3], label int32[B] in [0, num_classes). A
  label outside is refused on the host, and would give a loss of NaN.

  Metrics besides the loss: top1, and top5 with more than five classes; under
  mixing, of the class with the larger part. Augmentation, mixing, smoothing and
  dropout belong to training: with `ctx.train` False the loss is the plain
  cross-entropy.
  """

  def __init__(
    self,
    *,
    clip: Sequence[int],
    num_classes: int,
    backbone: str = 'vidscenic.layers.vit:VisionTransformer',
    backbone_kwargs: Mapping[str, Any] | None = None,
    head: Mapping[str, Any] | None = None,
    normalize: str = 'signed',
    augment: Mapping[str, Any] | None = None,
    mixing: Mapping[str, Any] | None = None,
    label_smoothing: float = 0.0,
    dtype: str = 'float32',
  ):
    """See the arguments.

    Args:
      clip: (T, H, W) of a training clip; (1, H, W) for images.
      num_classes: C.
      backbone: factory string of a Linen module, see `Classifier`.
      backbone_kwargs: its fields. For a `VisionTransformer` also `size`, one
        of `vit.SIZES` ('S', 'B', ...), whose fields are then filled in; learned
        positions get the grid of `clip`. Stochastic depth is `drop_path`.
      head: pool, norm, norm_eps, dropout and pool_heads of `Classifier`.
      normalize: mode of `ops.video.normalize`: 'signed', 'unit', 'imagenet'.
      augment: fields of `Augment`.
      mixing: fields of `Mixing`.
      label_smoothing: s in [0, 1); see `losses.softmax_cross_entropy`.
      dtype: 'float32' or 'bfloat16', of the backbone's arithmetic; parameters,
        head and loss are float32.

    Raises:
      ValueError: an unknown or unusable argument, named.
    """
    self.clip = tuple(clip)
    if len(self.clip) != 3 or any(size < 1 for size in self.clip):
      raise ValueError(f'task.kwargs.clip={clip}: want (T, H, W)')
    if num_classes < 2:
      raise ValueError(f'task.kwargs.num_classes={num_classes}: want 2 or more')
    if normalize not in video_ops.RANGES:
      raise ValueError(
        f'task.kwargs.normalize={normalize!r}: want one of {video_ops.RANGES}'
      )
    if not 0 <= label_smoothing < 1:
      raise ValueError(
        f'task.kwargs.label_smoothing={label_smoothing}: want [0, 1)'
      )
    self.num_classes = num_classes
    self.model = self.make_model(
      backbone, dict(backbone_kwargs or {}), dict(head or {}), dtype
    )
    self._normalize = normalize
    self._augment = vc.build(
      f'{__name__}:Augment', field='task.kwargs.augment', **(augment or {})
    )
    self._mixing = vc.build(
      f'{__name__}:Mixing', field='task.kwargs.mixing', **(mixing or {})
    )
    self._smoothing = label_smoothing

  def make_model(
    self,
    backbone: str,
    backbone_kwargs: dict[str, Any],
    head: dict[str, Any],
    dtype: str,
  ) -> nn.Module:
    """The classifier, model(video, train=...); subclasses may have another.

    Args:
      backbone, backbone_kwargs, head, dtype: as in the class.
    """
    return vc.build(
      f'{__name__}:Classifier',
      field='task.kwargs.head',
      backbone=_build_backbone(backbone, backbone_kwargs, self.clip, dtype),
      num_classes=self.num_classes,
      **head,
    )

  def batch_spec(self):
    """Clips as uint8, to be small on their way to the device, and labels."""
    return {
      'video': jax.ShapeDtypeStruct((*self.clip, 3), jnp.uint8),
      'label': jax.ShapeDtypeStruct((), jnp.int32),
    }

  def check_batch(self, batch):
    """Refuses labels outside [0, num_classes)."""
    check_labels(batch['label'], self.num_classes, 'task.kwargs.num_classes')

  def init(self, rng, batch):
    """Parameters, and batch statistics if the backbone has any."""
    video = video_ops.normalize(batch['video'][:1], self._normalize)
    variables = dict(self.model.init(rng, video))
    return variables.pop('params'), variables

  def loss(self, params, model_state, batch, ctx):
    """Cross-entropy of augmented, mixed clips; plain if not `ctx.train`."""
    video, labels = batch['video'], batch['label']
    if ctx.train:
      video, labels = self._change(batch, ctx)
    video = video_ops.normalize(video, self._normalize)
    variables = {'params': params, **model_state}
    if ctx.train:
      # Microbatches share the key: with it alone they would drop the same.
      rng = jax.random.fold_in(ctx.rng, _DROPOUT)
      logits, model_state = self.model.apply(
        variables,
        video,
        train=True,
        rngs={'dropout': jax.random.fold_in(rng, ctx.rows[0])},
        mutable=list(model_state),
      )
    else:
      logits = self.model.apply(variables, video)
    mask = batch['mask']
    cross_entropy = losses.softmax_cross_entropy(
      logits,
      labels,
      label_smoothing=self._smoothing if ctx.train else 0.0,
      weight=mask,
    )
    figures = {
      f'top{k}': metrics.topk_accuracy(logits, labels, k=k, mask=mask)
      for k in (1, 5)
      if k < self.num_classes
    }
    return task.LossOut(
      {'cross_entropy': (*cross_entropy, 1.0)}, figures, model_state
    )

  def predict(self, params, model_state, batch, ctx, carry=None):
    """Classifies clips.

    Args:
      params: of the classifier.
      model_state: of the classifier.
      batch: video uint8[B, T, H, W, 3]; T, H and W may differ from training if
        the backbone allows it. Labels are not read.
      ctx: not used.
      carry: returned as it is.

    Returns:
      {'logits': float32[B, C], 'probabilities': their softmax, 'features':
      float32[B, D], what the head reads, if the model sows it}, carry.
    """
    del ctx
    video = video_ops.normalize(batch['video'], self._normalize)
    logits, sown = self.model.apply(
      {'params': params, **model_state}, video, mutable='intermediates'
    )
    outputs = {'logits': logits, 'probabilities': jax.nn.softmax(logits)}
    if 'features' in sown.get('intermediates', {}):
      (outputs['features'],) = sown['intermediates']['features']
    return outputs, carry

  def _change(self, batch, ctx):
    """Augmented and mixed (video, labels) of a training batch."""
    video = video_ops.normalize(batch['video'], 'unit')
    video = self._augment(ctx.rng, ctx.rows, video)
    labels = batch['label']
    if not self._mixing.active:
      return video, labels
    known = (labels >= 0) & (labels < self.num_classes)
    # A row of zeros, which one_hot gives otherwise, would hide a wrong label.
    labels = jnp.where(
      known[:, None], jax.nn.one_hot(labels, self.num_classes), jnp.nan
    )
    return self._mixing(ctx.rng, ctx.rows, batch['mask'], video, labels)


def _build_backbone(factory, fields, clip, dtype):
  field = 'task.kwargs.backbone'
  if dtype not in ('float32', 'bfloat16'):
    raise ValueError(
      f"task.kwargs.dtype={dtype!r}: want 'float32' or 'bfloat16'"
    )
  target = vc.resolve(factory, field)
  if 'dtype' in fields:
    raise ValueError(f'{field}_kwargs.dtype: set task.kwargs.dtype')
  if 'dtype' in inspect.signature(target).parameters:
    fields['dtype'] = jnp.dtype(dtype)
  elif dtype != 'float32':
    raise ValueError(f'task.kwargs.dtype={dtype!r} but {factory} has no dtype')
  if isinstance(target, type) and issubclass(target, vit.VisionTransformer):
    if 'size' in fields:
      fields = vit.vit_config(fields.pop('size')) | fields
    learned = fields.get('positions', target.positions).startswith('learned')
    if learned and fields.get('grid') is None:
      patch = fields.get('patch', target.patch)
      fields['grid'] = tuple(
        size // part for size, part in zip(clip, patch, strict=True)
      )
  return vc.build(factory, field=field, **fields)


def _check_probabilities(owner, where, names):
  for name in names:
    value = getattr(owner, name)
    if not 0 <= value <= 1:
      raise ValueError(f'{where}.{name}={value}: want a number in [0, 1]')
