"""MooG's training: predict the next frame, read out what the tokens hold."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from projects.moog import model as model_lib
from vidscenic import task
from vidscenic.layers import pixel_decoder
from vidscenic.ops import losses, masking, metrics
from vidscenic.tasks import readout

DECODED = ('predicted', 'entered')
_OFFSETS = 3  # folded into the step's key
_MODEL = 'projects.moog.model:Moog'
_POINTS = 'vidscenic.tasks.track_heads:Points'
_BOXES = 'vidscenic.tasks.track_heads:Boxes'


def model_fields(variant: str, model: Mapping[str, Any] | None):
  """Fields of `model.Moog`: those of a variant, and what is given over them."""
  return model_lib.variant(variant) | dict(model or {})


class NextFrame(readout.Readout):
  """Mean squared error of frames predicted from the states before them.

  Frame 0 is predicted from the initial state and counts, as in the released
  code. `heads` train beside the model, on features without gradient unless
  `finetune_heads`. Figures: psnr_all, of frames 0, 1, ...; and from frame 2 on,
  where motion can be known, psnr beside two controls on the same pixels:
  psnr_copy, the frame before, and psnr_mean, the mean of all frames before.

  Parameters: backbone/..., heads/...

  Args:
    clip: (T, H, W) of a training clip.
    variant: 'config', what the released code trains, or 'checkpoint', what is
      published; see `model.VARIANTS`.
    model: further fields of `model.Moog`.
    heads: as of `readout.Readout`.
    heads_weight: of the heads' losses. Adam does not see it, but clipping does:
      the heads' gradients are larger than the model's, and clipping to a norm
      of all of them would scale the model's steps by the heads' noise.
    finetune_heads: let the heads' losses train the model too.
    factor: every factor-th pixel is predicted in training, at a random offset.
    eval_factor: in evaluation, at offset 0.
    decode: state that is decoded: 'predicted', or 'entered', the one before the
      prediction (see the README about the published weights).
    colors: arguments of `augment.color_augment` in training; None: none.
    dtype: 'float32' or 'bfloat16'.

  Raises:
    ValueError: an unknown or unusable argument, named.
  """

  def __init__(
    self,
    *,
    clip: Sequence[int] = (8, 128, 128),
    variant: str = 'config',
    model: Mapping[str, Any] | None = None,
    heads: Mapping[str, Mapping[str, Any]] | None = None,
    heads_weight: float = 0.01,
    finetune_heads: bool = False,
    factor: int = 8,
    eval_factor: int = 4,
    decode: str = 'predicted',
    colors: Mapping[str, Any] | None = None,
    dtype: str = 'float32',
  ):
    super().__init__(
      clip=clip,
      backbone=_MODEL,
      backbone_kwargs=model_fields(variant, model),
      heads=heads,
      finetune=True,
      normalize='unit',
      colors=colors,
      dtype=dtype,
    )
    if decode not in DECODED:
      raise ValueError(f'task.kwargs.decode={decode!r}: want one of {DECODED}')
    for size in self.clip[1:]:
      for number in (factor, eval_factor):
        pixel_decoder.lattice(size, number)
    if heads_weight <= 0:
      raise ValueError(
        f'task.kwargs.heads_weight={heads_weight}: want more than 0; without '
        'heads leave heads empty'
      )
    self.heads_weight = heads_weight
    self.finetune_heads, self.decode = finetune_heads, decode
    self.factor, self.eval_factor = factor, eval_factor

  def loss(self, params, model_state, batch, ctx):
    video = self.inputs(batch, ctx)
    factor = self.factor if ctx.train else self.eval_factor
    offsets = self._offsets(video.shape, ctx) if ctx.train else None
    out = self.run(params, video, ctx, factor=factor, offsets=offsets)
    rows, columns = self.backbone.lattices(video.shape, factor, offsets)
    said = self.pixels(params, out, rows, columns, video.shape[2:4])
    truth = pixel_decoder.take_lattice(video, rows, columns)
    mask = batch['mask']
    square = losses.squared(
      said - truth, weight=mask[:, None, None, None, None]
    )
    terms, figures = {'next_frame': (*square, 1.0)}, {}
    if self.heads:
      features = readout.as_features(out, video.shape)
      if not self.finetune_heads:
        features = jax.lax.stop_gradient(features)
      found, figures = readout.head_losses(
        self.heads, params['heads'], features, batch, ctx
      )
      terms |= {
        name: (total, weight, self.heads_weight * scale)
        for name, (total, weight, scale) in found.items()
      }
    figures['psnr_all'] = _psnr(said, truth, mask)
    figures |= _against_controls(said, truth, video, rows, columns, mask)
    return task.LossOut(terms, figures, model_state)

  def predict(self, params, model_state, batch, ctx, carry=None):
    """Predicts frames from the states before them, and what the heads say.

    Args:
      params, model_state: of the task.
      batch: video uint8[B, T, H, W, 3] and the queries of the heads.
      ctx: `StepContext`.
      carry: of a call on the frames before.

    Returns:
      {'predicted': float32[B, T, h, w, 3] in [0, 1], every eval_factor-th
      pixel, 'truth': the same pixels of the frames, and predictions of the
      heads}, carry.
    """
    state, states = carry or (None, {})
    video = self.inputs(batch)
    out = self.run(params, video, ctx, state=state, factor=self.eval_factor)
    rows, columns = self.backbone.lattices(video.shape, self.eval_factor)
    outputs = {
      'predicted': self.pixels(params, out, rows, columns, video.shape[2:4]),
      'truth': pixel_decoder.take_lattice(video, rows, columns),
    }
    kept = {}
    features = readout.as_features(out, video.shape)
    for name, head in self.heads.items():
      found, kept[name] = head.predict(
        params['heads'][name], features, batch, states.get(name)
      )
      outputs |= found
    return outputs, (out.state, kept)

  def run(self, params, video, ctx, **kwargs) -> model_lib.Output:
    """The model on float video in [0, 1], with the keys of the rows."""
    keys = masking.row_keys(ctx.rng, ctx.rows)
    return self._apply(params, video, keys=keys, **kwargs)

  def features(
    self, params, model_state, video, *, ctx=None, keys=None, state=None
  ):
    """As of `readout.Readout`; a loss gradient is that of evaluation."""
    if keys is None:
      keys = masking.row_keys(ctx.rng, ctx.rows)
    out = self._apply(
      params, video, state=state, keys=keys, factor=self.eval_factor
    )
    return readout.as_features(out, video.shape)

  def _apply(self, params, video, **kwargs):
    return self.backbone.apply({'params': params['backbone']}, video, **kwargs)

  def pixels(self, params, out, rows, columns, size):
    """Predicted pixels float32[B, T, h, w, 3] of a lattice."""
    tokens = out.predicted if self.decode == 'predicted' else out.entered
    return self.backbone.apply(
      {'params': params['backbone']},
      tokens,
      rows,
      columns,
      size=size,
      method='decode',
    )

  def _offsets(self, shape, ctx):
    """int32[B, T, 2]: a shift for every frame of every example."""
    rng = jax.random.fold_in(ctx.rng, _OFFSETS)
    draw = lambda key: jax.random.randint(  # noqa: E731
      key, (shape[1], 2), 0, max(self.factor, 1)
    )
    return jax.vmap(draw)(masking.row_keys(rng, ctx.rows))


def _psnr(said, truth, mask):
  """Mean over frames of the PSNR in dB; values in [0, 1]."""
  frames = jnp.repeat(mask, said.shape[1])
  merge = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
  return metrics.psnr(merge(said), merge(truth), mask=frames)


def _against_controls(said, truth, video, rows, columns, mask):
  """PSNR from frame 2 on, where the motion can be known, and of controls."""
  if video.shape[1] < 3:
    return {}
  before = jnp.arange(1, video.shape[1] - 1, dtype=jnp.float32) + 1
  mean = jnp.cumsum(video, axis=1)[:, 1:-1] / before[:, None, None, None]
  guesses = {'copy': video[:, 1:-1], 'mean': mean}
  rows, columns = rows[:, 2:], columns[:, 2:]
  figures = {'psnr': _psnr(said[:, 2:], truth[:, 2:], mask)}
  for name, guess in guesses.items():
    guess = pixel_decoder.take_lattice(guess, rows, columns)
    figures[f'psnr_{name}'] = _psnr(guess, truth[:, 2:], mask)
  return figures


class _Published(readout.Readout):
  """A head on MooG's features; defaults are those of the published weights."""

  name = ''
  factory = ''
  window: Mapping[str, Any] = {}  # noqa: RUF012, published layers

  def __init__(
    self,
    *,
    clip: Sequence[int] = (16, 128, 128),
    variant: str = 'checkpoint',
    model: Mapping[str, Any] | None = None,
    head: Mapping[str, Any] | None = None,
    finetune: bool = False,
    colors: Mapping[str, Any] | None = None,
    dtype: str = 'float32',
  ):
    head = {'kind': 'window', **(head or {})}
    if head['kind'] == 'window':
      head['layers'] = {**self.window, **(head.get('layers') or {})}
    super().__init__(
      clip=clip,
      backbone=_MODEL,
      backbone_kwargs=model_fields(variant, model),
      heads={self.name: {'factory': self.factory, **head}},
      finetune=finetune,
      normalize='unit',
      colors=colors,
      dtype=dtype,
    )


class PointReadout(_Published):
  """Point tracks from MooG's features; defaults are the published head.

  Args:
    clip, finetune, colors, dtype: as of `readout.Readout`.
    variant, model: as of `NextFrame`.
    head: arguments of `track_heads.Points`; kind defaults to 'window'.
  """

  name = 'points'
  factory = _POINTS


class BoxReadout(_Published):
  """Box tracks from MooG's features; defaults are the published head.

  Args:
    clip, finetune, colors, dtype: as of `readout.Readout`.
    variant, model: as of `NextFrame`.
    head: arguments of `track_heads.Boxes`; kind defaults to 'window'.
  """

  name = 'boxes'
  factory = _BOXES
  window = {'sigmoid': False, 'num_heads': 4, 'tiles': 1}  # noqa: RUF012


def make_model(variant: str = 'config', **fields) -> model_lib.Moog:
  """A `model.Moog` of a variant, for `readout.Readout` and the like."""
  return model_lib.Moog(**model_fields(variant, fields))
