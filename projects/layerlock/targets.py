"""What is predicted: pixels, or features of frozen blocks, per decode token.

A decode token stands for a box of patches (`SimpleMAE.cell`); its target is the
mean over the box. What the pass that makes features sees is not published. Here
it sees the clip unmasked: the target of a hidden patch needs that patch.
"""

import math

import jax
import jax.numpy as jnp

from projects.layerlock import model as model_lib
from projects.layerlock import recipe as recipe_lib
from vidscenic.ops import masking, targets
from vidscenic.ops import video as video_ops


class ClipTargets:
  """Targets of whole clips.

  Attributes:
    num_decode: decode tokens, Nd.
    num_chosen: those whose features are predicted.
  """

  def __init__(
    self, model: model_lib.SimpleMAE, recipe: recipe_lib.Recipe, num_keep: int
  ):
    """Checks that there is something to predict.

    Args:
      model: with or without a decoder.
      recipe: what is predicted.
      num_keep: visible patches.

    Raises:
      ValueError: a subset of the decode tokens that cannot be, named.
    """
    self._model, self._recipe = model, recipe
    self._num_tokens = math.prod(model.grid)
    self.num_decode = self._num_tokens // math.prod(model.cell)
    latent = recipe.latent_target
    where = 'task.kwargs.layerlock.latent_target'
    self.num_chosen = int(latent.fraction * self.num_decode + 1e-6)
    if latent.subset == 'visible':
      self.num_chosen = num_keep
      if recipe.loss_tokens == 'masked':
        raise ValueError(
          f"{where}.subset='visible' and loss_tokens='masked' leave no token "
          'for the loss of features'
        )
      if self.num_decode != self._num_tokens:
        raise ValueError(
          f"{where}.subset='visible' needs one decode token per patch: leave "
          'out model.decode_grid'
        )
    if self.num_chosen < 1:
      raise ValueError(
        f'{where}.fraction={latent.fraction} leaves none of {self.num_decode} '
        'decode tokens'
      )

  def pixels(self, video):
    """float[B, T, H, W, 3] in [0, 1] -> float32[B, Nd, values of a patch]."""
    video = targets.shrink(video, self._model.cell)
    return targets.pixels(
      video, self._model.patch, norm=self._recipe.pixel_target.norm
    )

  def features(self, params, video, blocks, chosen=None):
    """Outputs of some blocks for the whole clip, one per decode token.

    Args:
      params: of the model.
      video: float[B, T, H, W, 3] in [0, 1].
      blocks: ascending, counted from 1.
      chosen: int[B, n] decode tokens, None: all.

    Returns:
      [float32[B, Nd or n, D]] without gradient, not normalised.
    """
    params = jax.lax.stop_gradient(params)
    ids = None
    forward = self._recipe.latent_target.mode == 'forward'
    if chosen is not None and forward:
      ids = self.patches_of(chosen)
    streams = self._model.apply(
      {'params': params}, video, blocks, ids=ids, method='streams'
    )
    return [self._pooled(x, chosen, ids is not None) for x in streams]

  def _pooled(self, x, chosen, only_chosen):
    """Means over the patches of a decode token."""
    x = x.astype(jnp.float32)
    cell = self._model.cell
    size = math.prod(cell)
    if only_chosen:
      return x.reshape(*x.shape[:-2], -1, size, x.shape[-1]).mean(axis=-2)
    if size > 1:
      x = x.reshape(*x.shape[:-2], *self._model.grid, x.shape[-1])
      x = targets.shrink(x, cell)
      x = x.reshape(*x.shape[:-4], -1, x.shape[-1])
    return x if chosen is None else masking.take_tokens(x, chosen)

  def normalized(self, features):
    """`features` as the recipe normalises them."""
    return targets.features(features, norm=self._recipe.latent_target.norm)

  def weights(self, mask: masking.Mask):
    """float32[B, Nd]: how much of a decode token's patches counts."""
    if self._recipe.loss_tokens == 'all':
      return jnp.ones((len(mask.hidden), self.num_decode), jnp.float32)
    hidden = mask.hidden.astype(jnp.float32)
    hidden = hidden.reshape(-1, *self._model.grid, 1)
    hidden = targets.shrink(hidden, self._model.cell)
    return hidden.reshape(-1, self.num_decode)

  def choose(self, rng, rows, mask: masking.Mask):
    """Decode tokens whose features are predicted.

    Args:
      rng: drawn from apart from the mask, or there were only copies to make.
      rows: int32[B], global row numbers.
      mask: of the rows.

    Returns:
      int[B, n], or None: all.
    """
    if self._recipe.latent_target.subset == 'visible':
      return mask.keep_ids
    if self.num_chosen == self.num_decode:
      return None
    return masking.random_mask(
      masking.row_keys(rng, rows),
      num_tokens=self.num_decode,
      num_keep=self.num_chosen,
    ).keep_ids

  def patches_of(self, chosen):
    """int[B, n * patches per decode token], those of a token side by side."""
    grid = jnp.arange(self._num_tokens).reshape(*self._model.grid, 1)
    table = video_ops.patchify(grid, self._model.cell)
    table = table.reshape(self.num_decode, -1)
    return table[chosen].reshape(*chosen.shape[:-1], -1)
