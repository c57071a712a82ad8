"""Masked video pretraining: the smallest complete task."""

import math

import jax
import jax.numpy as jnp

from projects._template import model as model_lib
from vidscenic import task
from vidscenic.ops import losses, masking, metrics
from vidscenic.ops import video as video_ops


class MaskedVideo(task.Task):
  """Mean squared error on the patches that the encoder does not see.

  The model gets and predicts differences from the mean visible colour, so it
  starts as the trivial control that its evaluation prints beside it.

  Args:
    clip: (T, H, W) of a training clip.
    mask_ratio: fraction of patches hidden from the encoder, in (0, 1).
    model: fields of `MaskedAutoencoder`.
  """

  def __init__(self, clip=(8, 64, 64), mask_ratio=0.75, model=None):
    self.model = model_lib.MaskedAutoencoder(**(model or {}))
    self.clip, self.patch = tuple(clip), tuple(self.model.patch)
    self.grid = [n // p for n, p in zip(self.clip, self.patch, strict=True)]
    self.num_tokens = math.prod(self.grid)
    self.num_keep = masking.num_visible(self.num_tokens, mask_ratio)
    if not 0 < self.num_keep < self.num_tokens:
      raise ValueError(f'{mask_ratio=} leaves {self.num_keep} visible patches')

  def batch_spec(self):
    return {'video': jax.ShapeDtypeStruct((*self.clip, 3), jnp.uint8)}

  def init(self, rng, batch):
    ids = jnp.zeros((1, self.num_keep), jnp.int32)
    video = video_ops.normalize(batch['video'][:1])
    return self.model.init(rng, video, ids)['params'], {}

  def loss(self, params, model_state, batch, ctx):
    clips, hidden = self._forward(params, batch, ctx)
    error = clips['predicted'] - clips['truth']
    mse = losses.squared(error, weight=hidden * batch['mask'][:, None, None])
    figures = {
      f'psnr_{name}': metrics.psnr(
        clips[name], clips['truth'], value_range=2.0, mask=batch['mask']
      )
      for name in ('predicted', 'mean_colour')
    }
    return task.LossOut({'mse': (*mse, 1.0)}, figures, model_state)

  def predict(self, params, model_state, batch, ctx, carry=None):
    """Returns clips in [-1, 1]: visible, predicted, mean_colour, truth."""
    clips, _ = self._forward(params, batch, ctx)
    for name, x in clips.items():
      x = x.reshape(len(x), *self.grid, -1)
      clips[name] = video_ops.unpatchify(x, self.patch)
    return clips, carry

  def _forward(self, params, batch, ctx):
    video = video_ops.normalize(batch['video'])
    truth = video_ops.patchify(video, self.patch)
    truth = truth.reshape(len(truth), self.num_tokens, -1)
    keys = masking.row_keys(ctx.rng, ctx.rows)
    mask = masking.random_mask(
      keys, num_tokens=self.num_tokens, num_keep=self.num_keep
    )
    seen = masking.take_tokens(truth, mask.keep_ids)
    colour = seen.reshape(len(seen), -1, 3).mean(axis=1)
    control = jnp.tile(colour[:, None], truth.shape[-1] // 3)
    predicted = control + self.model.apply(
      {'params': params}, video - colour[:, None, None, None], mask.keep_ids
    )
    hidden = mask.hidden[..., None]
    guesses = {'visible': 0.0, 'predicted': predicted, 'mean_colour': control}
    clips = {k: jnp.where(hidden, v, truth) for k, v in guesses.items()}
    return {**clips, 'truth': truth}, hidden
