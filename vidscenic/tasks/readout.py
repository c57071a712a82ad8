"""Readouts: heads that tell what the features of a backbone hold.

One task for every backbone and every head. A backbone is any Linen module that
is called as backbone(video, train=...) and gives, per clip,

  an object with .features [B, T, N, D] (and .state), as MooG does;
  {'features': [B, T, N, D], 'grid': (h, w), 'state': ...}, the last two
    optional;
  {'tokens': [B, t * h * w, D], 'grid': (t, h, w)}, as a ViT does: features are
    resized in time to T frames (cubic, as in 4DS, arXiv 2412.15212);
  or an array [B, T, N, D] or [B, T, h, w, D].

If its __call__ takes `keys` (one per row) or `state` (what an earlier call
returned), it is given them. A `Head` holds the layers, reads its own fields of
the batch and has its own losses, so any set of heads trains at once; to add one
is to write a `Head`. With `finetune` the backbone is trained too, else it has
neither gradient nor optimizer state.
"""

import abc
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from vidscenic import config as vc
from vidscenic import task
from vidscenic.ops import augment as augment_ops
from vidscenic.ops import masking
from vidscenic.ops import video as video_ops

_COLORS = 1  # folded into the step's key
_HEADS = 2


@flax.struct.dataclass
class Features:
  """What a backbone says of a clip.

  Attributes:
    tokens: [B, T, N, D], N tokens per frame.
    size: (H, W) of the frames in pixels.
    grid: (h, w) if the tokens lie on a grid, row by row; else None.
    state: for the next call on the frames that follow, None if there is none.
  """

  tokens: jax.Array
  size: tuple[int, int] = flax.struct.field(pytree_node=False)
  grid: tuple[int, int] | None = flax.struct.field(
    pytree_node=False, default=None
  )
  state: Any = None


class Head(abc.ABC):
  """A readout: layers, batch fields, losses, predictions.

  Args of the constructor come from the config, but for `clip`, (T, H, W).
  """

  @abc.abstractmethod
  def fields(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Fields of a batch that `loss` reads, without the batch axis."""

  @abc.abstractmethod
  def init(self, rng: jax.Array, features: Features) -> task.Params:
    """Fresh parameters for features of these shapes."""

  @abc.abstractmethod
  def loss(
    self,
    params: task.Params,
    features: Features,
    batch: task.PyTree,
    ctx: task.StepContext,
  ) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """(terms, metrics) as in `task.LossOut`; ctx.rng is this head's own."""

  @abc.abstractmethod
  def predict(
    self,
    params: task.Params,
    features: Features,
    batch: task.PyTree,
    state: task.PyTree = None,
  ) -> tuple[dict[str, jax.Array], task.PyTree]:
    """({name: array}, state to go on with); see the head for its fields."""

  def check(self, batch: task.PyTree) -> None:  # noqa: B027, optional
    """As `Task.check_batch`."""


def build_heads(
  specs: Mapping[str, Mapping[str, Any]], clip: Sequence[int]
) -> dict[str, Head]:
  """Heads by name, of {'name': {'factory': 'package.module:Head', ...}}.

  Raises:
    ValueError: an unknown factory or argument, named.
  """
  heads = {}
  for name, spec in specs.items():
    field = f'task.kwargs.heads.{name}'
    if 'factory' not in spec:
      raise ValueError(f"{field}.factory: want 'package.module:Head'")
    options = {k: v for k, v in spec.items() if k != 'factory'}
    heads[name] = vc.build(
      spec['factory'], field=field, clip=tuple(clip), **options
    )
  return heads


def head_losses(heads, params, features, batch, ctx):
  """(terms, metrics) of all heads, with their names in front."""
  terms, figures = {}, {}
  for i, (name, head) in enumerate(heads.items()):
    key = jax.random.fold_in(jax.random.fold_in(ctx.rng, _HEADS), i)
    parts = head.loss(params[name], features, batch, ctx._replace(rng=key))
    for total, found in zip((terms, figures), parts, strict=True):
      total.update({f'{name}_{key}': value for key, value in found.items()})
  return terms, figures


class Readout(task.Task):
  """Heads on the features of a backbone.

  Parameters: backbone/..., heads/NAME/...

  Args:
    clip: (T, H, W) of a training clip.
    backbone: factory string of a Linen module, see the module.
    backbone_kwargs: its fields.
    heads: {name: {'factory': ..., and arguments}}.
    finetune: train the backbone too.
    normalize: mode of `ops.video.normalize`.
    colors: arguments of `augment.color_augment` in training; None: none.
    dtype: 'float32' or 'bfloat16', of the backbone, if it has the field.

  Raises:
    ValueError: an unknown or unusable argument, named.
  """

  def __init__(
    self,
    *,
    clip: Sequence[int],
    backbone: str,
    backbone_kwargs: Mapping[str, Any] | None = None,
    heads: Mapping[str, Mapping[str, Any]] | None = None,
    finetune: bool = False,
    normalize: str = 'unit',
    colors: Mapping[str, Any] | None = None,
    dtype: str = 'float32',
  ):
    self.clip = tuple(clip)
    if len(self.clip) != 3 or any(size < 1 for size in self.clip):
      raise ValueError(f'task.kwargs.clip={clip}: want (T, H, W)')
    if normalize not in video_ops.RANGES:
      raise ValueError(
        f'task.kwargs.normalize={normalize!r}: want one of {video_ops.RANGES}'
      )
    if dtype not in ('float32', 'bfloat16'):
      raise ValueError(
        f"task.kwargs.dtype={dtype!r}: want 'float32' or 'bfloat16'"
      )
    fields = dict(backbone_kwargs or {})
    target = vc.resolve(backbone, 'task.kwargs.backbone')
    if 'dtype' in inspect.signature(target).parameters:
      fields['dtype'] = jnp.dtype(dtype)
    elif dtype != 'float32':
      raise ValueError(
        f'task.kwargs.dtype={dtype!r}, but {backbone} has no field dtype'
      )
    self.backbone: nn.Module = vc.build(
      backbone, field='task.kwargs.backbone', **fields
    )
    self.heads = build_heads(heads or {}, self.clip)
    self.finetune, self.normalize = finetune, normalize
    self.colors = dict(colors or {})
    taken = inspect.signature(type(self.backbone).__call__).parameters
    self._takes = {n for n in ('keys', 'state', 'train') if n in taken}

  def batch_spec(self):
    spec = {'video': jax.ShapeDtypeStruct((*self.clip, 3), jnp.uint8)}
    for head in self.heads.values():
      spec |= head.fields()
    return spec

  def check_batch(self, batch):
    for head in self.heads.values():
      head.check(batch)

  def init(self, rng, batch):
    keys = jax.random.split(rng, 1 + len(self.heads))
    video = self.inputs(batch)[:1]
    options = {'keys': keys[:1]} if 'keys' in self._takes else {}
    variables = dict(self.backbone.init(keys[0], video, **options))
    params = {'backbone': variables.pop('params')}
    if self.heads:
      features = self.features(params, variables, video, keys=keys[:1])
      params['heads'] = {
        name: head.init(key, features)
        for key, (name, head) in zip(keys[1:], self.heads.items(), strict=True)
      }
    return params, variables

  def never_trained(self):
    return () if self.finetune else (r'^backbone/',)

  def loss(self, params, model_state, batch, ctx):
    features = self.features(
      params, model_state, self.inputs(batch, ctx), ctx=ctx
    )
    if not self.finetune:
      features = jax.lax.stop_gradient(features)
    terms, figures = head_losses(
      self.heads, params['heads'], features, batch, ctx
    )
    return task.LossOut(terms, figures, model_state)

  def predict(self, params, model_state, batch, ctx, carry=None):
    """What all heads say of a clip.

    Args:
      params, model_state: of the task.
      batch: video uint8[B, T, H, W, 3] and the queries of the heads.
      ctx: `StepContext`.
      carry: of a call on the frames before.

    Returns:
      {name: array} of all heads, carry.
    """
    state, states = carry or (None, {})
    features = self.features(
      params, model_state, self.inputs(batch), ctx=ctx, state=state
    )
    outputs, kept = {}, {}
    for name, head in self.heads.items():
      found, kept[name] = head.predict(
        params['heads'][name], features, batch, states.get(name)
      )
      outputs |= found
    return outputs, (features.state, kept)

  def inputs(self, batch, ctx: task.StepContext | None = None):
    """float32 video as the backbone wants it; with ctx.train also augmented."""
    video = batch['video']
    if ctx is not None and ctx.train and self.colors:
      keys = masking.row_keys(jax.random.fold_in(ctx.rng, _COLORS), ctx.rows)
      video = augment_ops.color_augment(
        keys, video_ops.normalize(video, 'unit'), **self.colors
      )
    return video_ops.normalize(video, self.normalize)

  def features(
    self, params, model_state, video, *, ctx=None, keys=None, state=None
  ) -> Features:
    """Runs the backbone.

    Args:
      params, model_state: of the task.
      video: [B, T, H, W, 3] of `inputs`.
      ctx: gives the rows their keys.
      keys: keys[B] instead.
      state: of a call on the frames before; needs a backbone that takes it.

    Raises:
      ValueError: features of another shape than the module says.
    """
    if keys is None:
      keys = masking.row_keys(ctx.rng, ctx.rows)
    given = {'keys': keys, 'state': state, 'train': False}
    given = {name: given[name] for name in self._takes}
    if state is not None and 'state' not in given:
      raise ValueError(
        f'{type(self.backbone).__name__} does not go on from a state: give '
        'whole clips'
      )
    variables = {'params': params['backbone'], **model_state}
    return as_features(
      self.backbone.apply(variables, video, **given), video.shape
    )


def as_features(result: Any, shape: Sequence[int]) -> Features:
  """Brings what a backbone returns into one form.

  Args:
    result: see the module.
    shape: (B, T, H, W, 3) of the video.

  Raises:
    ValueError: neither of the forms.
  """
  num_frames, size = shape[1], tuple(shape[2:4])
  grid = state = None
  if hasattr(result, 'features'):
    tokens, state = result.features, getattr(result, 'state', None)
  elif isinstance(result, Mapping) and 'features' in result:
    tokens, state = result['features'], result.get('state')
    grid = result.get('grid')
  elif isinstance(result, Mapping) and 'tokens' in result:
    time, *grid = result['grid']
    tokens = result['tokens']
    first = tokens.shape[-2] - time * grid[0] * grid[1]  # class tokens
    tokens = tokens[..., first:, :]
    tokens = tokens.reshape(shape[0], time, -1, tokens.shape[-1])
    if time != num_frames:
      wanted = (shape[0], num_frames, *tokens.shape[2:])
      tokens = jax.image.resize(tokens, wanted, 'cubic')
  else:
    tokens = jnp.asarray(result)
  if tokens.ndim == 5:
    grid = tokens.shape[2:4]
    tokens = tokens.reshape(*tokens.shape[:2], -1, tokens.shape[-1])
  if tokens.ndim != 4 or tokens.shape[:2] != tuple(shape[:2]):
    raise ValueError(
      f'the backbone gives features {tokens.shape} for a video {tuple(shape)}: '
      'want [B, T, N, D]'
    )
  return Features(tokens, size, grid and tuple(grid), state)
