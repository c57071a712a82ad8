"""Masked pretraining with a separate narrow decoder: VideoMAE, MAE-ST.

One task for the family: which tokens are hidden, which of them are predicted,
what the target is and how it is compared. The defaults are VideoMAE's (arXiv
2203.12602); MAE-ST (2205.09113) masks at random and predicts every second
frame, normalised per patch; VideoMAE v2 (2303.16727) predicts a part of the
hidden tokens; MaskFeat's target (2112.09133) are oriented gradients, here with
an encoder that does not see the hidden tokens.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from projects.videomae import model as model_lib
from vidscenic import task
from vidscenic.ops import block_masking, losses, masking, targets
from vidscenic.ops import video as video_ops
from vidscenic.tasks import model_fields

MASKERS = ('tube', 'random', 'cube')
DECODE_RATIOS = (0.25, 0.5, 0.75, 1.0)
TARGETS = ('pixels', 'strided_pixels', 'hog')
NORMS = ('none', 'patch', 'patch_channel')
LOSSES = {
  'squared': losses.squared,
  'l1': losses.l1,
  'smooth_l1': losses.smooth_l1,
}
_CELL = 8  # pixels, of oriented gradients
# Folded into the key of a step, so that its uses draw different numbers.
_MASK, _PART = range(2)


class MaskedVideo(task.Task):
  """Error of what is predicted for hidden tokens.

  Batches: video uint8[B, T, H, W, 3].

  `ctx.phase` is not used. Figures besides the loss: none; `predict` shows what
  is filled in.
  """

  def __init__(
    self,
    *,
    clip: Sequence[int] = (16, 224, 224),
    masker: str = 'tube',
    mask_ratio: float = 0.9,
    decode_ratio: float = 1.0,
    target: str = 'pixels',
    target_norm: str = 'patch_channel',
    loss: str = 'squared',
    normalize: str = 'imagenet',
    model: Mapping[str, Any] | None = None,
  ):
    """See the arguments.

    Args:
      clip: (T, H, W) of a training clip.
      masker: 'tube', the same places in all slots; 'random'; 'cube', boxes.
      mask_ratio: share of the tokens that is hidden.
      decode_ratio: share of the hidden tokens that is predicted, by running
        cells: 0.25, 0.5, 0.75 or 1.
      target: 'pixels' of [0, 1]; 'strided_pixels', those of the first frame of
        every slot; 'hog', oriented gradients of that frame as the model sees
        it.
      target_norm: mode of `video.normalize_patches`, for pixels.
      loss: one of LOSSES.
      normalize: mode of `ops.video.normalize`, for the encoder.
      model: fields of `model.VideoAutoencoder`, and `variant` with `size`,
        whose fields are then filled in (`model.model_config`).

    Raises:
      ValueError: an unknown or unusable argument, named.
    """
    for name, value, known in (
      ('masker', masker, MASKERS),
      ('decode_ratio', decode_ratio, DECODE_RATIOS),
      ('target', target, TARGETS),
      ('target_norm', target_norm, NORMS),
      ('loss', loss, tuple(LOSSES)),
      ('normalize', normalize, video_ops.RANGES),
    ):
      if value not in known:
        raise ValueError(f'task.kwargs.{name}={value!r}: want one of {known}')
    if not 0 <= mask_ratio <= 1:
      raise ValueError(
        f'task.kwargs.mask_ratio={mask_ratio}: want it in [0, 1]'
      )
    self.clip = tuple(clip)
    self.model, self.grid = _build_model(dict(model or {}), self.clip, target)
    self.num_tokens = math.prod(self.grid)
    self._masker, self._target, self._norm = masker, target, target_norm
    self._loss, self._range = LOSSES[loss], normalize
    self._decode_ratio = decode_ratio
    self.num_keep = self._count_visible(mask_ratio)
    if not 0 < self.num_keep < self.num_tokens:
      raise ValueError(
        f'task.kwargs.mask_ratio={mask_ratio} leaves {self.num_keep} of '
        f'{self.num_tokens} tokens visible: want one or more, not all'
      )
    hidden = self.num_tokens - self.num_keep
    self.num_predict = max(1, int(hidden * decode_ratio))

  def _count_visible(self, ratio):
    slots, *frame = self.grid
    if self._masker == 'tube':
      places = math.prod(frame)
      return slots * (places - masking.num_hidden(places, ratio))
    if self._masker == 'cube':
      return self.num_tokens - round(ratio * self.num_tokens)
    return masking.num_visible(self.num_tokens, ratio)

  def batch_spec(self):
    return {'video': jax.ShapeDtypeStruct((*self.clip, 3), jnp.uint8)}

  def init(self, rng, batch):
    video = video_ops.normalize(batch['video'][:1], self._range)
    ids = jnp.zeros((1, 1), jnp.int32)
    return self.model.init(rng, video, ids, ids)['params'], {}

  def loss(self, params, model_state, batch, ctx):
    mask = self.mask(ctx)
    ids, weight = self._predicted(mask, ctx)
    video = video_ops.normalize(batch['video'], self._range)
    guess = self.model.apply({'params': params}, video, mask.keep_ids, ids)
    truth = masking.take_tokens(self._truth(batch['video']), ids)
    weight = weight * batch['mask'].astype(jnp.float32)[:, None]
    pair = self._loss(guess - truth, weight=weight[..., None])
    return task.LossOut({self._target: (*pair, 1.0)}, {}, model_state)

  def predict(self, params, model_state, batch, ctx, carry=None):
    """Features of the whole clip, and targets of hidden tokens.

    Args:
      params: of the model.
      model_state: not used.
      batch: as in training.
      ctx: its key and rows draw the masks.
      carry: returned as it is.

    Returns:
      ({features: float32[B, t, h, w, D]; predicted, truth: float32[B, N, C],
      the target of every token, with what is visible as it is}, carry).
    """
    video = video_ops.normalize(batch['video'], self._range)
    params = {'params': params}
    mask = self.mask(ctx)
    guess = self.model.apply(params, video, mask.keep_ids, mask.drop_ids)
    truth = self._truth(batch['video'])
    return {
      'features': self.model.apply(params, video, method='features'),
      'predicted': masking.scatter_tokens(
        guess, mask.drop_ids, num_tokens=self.num_tokens, fill=truth
      ),
      'truth': truth,
    }, carry

  def mask(self, ctx):
    """The mask of every row of a batch."""
    rng = jax.random.fold_in(masking.typed_key(ctx.rng), _MASK)
    keys = masking.row_keys(rng, ctx.rows)
    if self._masker == 'tube':
      return masking.tube_mask(
        keys, grid=self.grid, keep_per_frame=self.num_keep // self.grid[0]
      )
    if self._masker == 'cube':
      return block_masking.cube_mask(
        keys, grid=self.grid, num_hidden=self.num_tokens - self.num_keep
      )
    return masking.random_mask(
      keys, num_tokens=self.num_tokens, num_keep=self.num_keep
    )

  def _predicted(self, mask, ctx):
    """(int[B, Q], float32[B, Q]): tokens to predict and their weight."""
    if self._decode_ratio == 1:
      return mask.drop_ids, jnp.ones(mask.drop_ids.shape, jnp.float32)
    rng = jax.random.fold_in(masking.typed_key(ctx.rng), _PART)
    chosen = block_masking.running_cell_mask(
      masking.row_keys(rng, ctx.rows), grid=self.grid, ratio=self._decode_ratio
    )
    return block_masking.select_ids(chosen & mask.hidden, self.num_predict)

  def _truth(self, video):
    """float32[B, N, C], the target of every token."""
    slots, *patch = self.model.patch
    if self._target == 'hog':
      video = video_ops.normalize(video, self._range)
      return targets.hog(video, self.model.patch, cell=_CELL)
    video = video_ops.normalize(video, 'unit')
    if self._target == 'strided_pixels':
      ids = video_ops.strided_frame_ids(video.shape[1], slots)
      video, slots = video_ops.take_frames(video, ids), 1
    return targets.pixels(video, (slots, *patch), norm=self._norm)


def _build_model(fields, clip, target):
  """(VideoAutoencoder, grid)."""
  if 'size' in fields:
    variant = fields.pop('variant', 'videomae')
    fields = model_lib.model_config(variant, fields.pop('size')) | fields
  fields = model_fields.checked(
    model_lib.VideoAutoencoder,
    fields,
    fixed=('num_outputs', 'grid'),
    also=('size', 'variant'),
  )
  patch = fields.get('patch', model_lib.VideoAutoencoder.patch)
  grid = model_fields.token_grid(clip, patch)
  if target == 'hog' and any(n % _CELL for n in patch[1:]):
    raise ValueError(
      f"task.kwargs.target='hog' needs patches of whole cells of {_CELL} "
      f'pixels, got {patch}'
    )
  outputs = {
    'pixels': 3 * math.prod(patch),
    'strided_pixels': 3 * math.prod(patch[1:]),
    'hog': 27 * math.prod(n // _CELL for n in patch[1:]),
  }[target]
  model = model_lib.VideoAutoencoder(
    **(fields | {'grid': grid, 'num_outputs': outputs})
  )
  return model, grid
