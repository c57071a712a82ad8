"""MooG: tokens that move with the scene, not with the grid (arXiv 2411.05927).

A set of tokens is predicted forward in time, corrected by the next frame, and
read out by a decoder that is trained to predict that frame. The same weights
serve any number of tokens and frames.

The released code holds two models, which share all layers: that of the
published weights ('checkpoint') and that of the training configuration
('config'). Both compute, with a LayerNorm LN on the state (epsilon 1e-4),

  s' = LN(s);  p = s' + predictor(s');  c = p + corrector(p, frame's tokens)

The first passes c on and normalises it in the next step; the second passes
LN(c) on. `VARIANTS` names what else differs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from projects.moog import encoder as encoder_lib
from vidscenic.layers import norms, pixel_decoder, recurrent, transformer
from vidscenic.ops import masking

# Fields of `Moog` in which the two released models differ.
VARIANTS = {
  'checkpoint': {
    'strides': (2, 1, 1, 2, 1, 1),
    'position': 'concat',
    'normalize_state': 'before',
    'features': 'corrected',
  },
  'config': {
    'strides': (1, 1, 1, 2, 1, 2),
    'position': 'add',
    'normalize_state': 'after',
    'features': 'predicted_and_corrected',
  },
}
FEATURES = ('corrected', 'predicted_and_corrected')
INITIAL_STATES = ('random', 'learned', 'encoder')
_STATE_EPS = 1e-4


def variant(name: str) -> dict[str, Any]:
  """Fields of one of the released models.

  Raises:
    ValueError: unknown name.
  """
  if name not in VARIANTS:
    raise ValueError(
      f'variant={name!r}: want one of {(*VARIANTS,)}; the published weights '
      "are those of 'checkpoint'"
    )
  return dict(VARIANTS[name])


class Output(NamedTuple):
  """What the model makes of a clip.

  Attributes:
    features: float32[B, T, N or 2N, D], for readouts.
    entered: float32[B, T, N, D], the state that each step was given.
    predicted: float32[B, T, N, D], p.
    corrected: float32[B, T, N, D], c, or LN(c) if that is the state.
    state: float32[B, N, D], to go on with.
  """

  features: jax.Array
  entered: jax.Array
  predicted: jax.Array
  corrected: jax.Array
  state: jax.Array


class Inputs(NamedTuple):
  """What one step reads; leaves have a time axis outside.

  Attributes:
    tokens: [B, S, C], of the frame.
    stop: bool[B], where no gradient may flow into the past; None: nowhere.
    targets: [B, h, w, 3], for the loss gradient; None without it.
    rows, columns: int[B, h] and int[B, w], where the targets are.
  """

  tokens: jax.Array
  stop: jax.Array | None = None
  targets: jax.Array | None = None
  rows: jax.Array | None = None
  columns: jax.Array | None = None


class Step(nn.Module):
  """One frame: predict, then correct.

  Parameters: predictor, corrector, state_norm, with a decoder, whose loss is
  differentiated, also gradient.
  """

  predictor: Mapping[str, Any]  # fields of `ProjectedTransformer`
  corrector: Mapping[str, Any]
  token_size: int
  normalize_state: str  # 'before' or 'after'
  decoder: nn.Module | None = None

  def setup(self):
    stack = transformer.ProjectedTransformer
    self.predict = stack(**self.predictor, name='predictor')
    self.correct = stack(**self.corrector, name='corrector')
    self.norm = norms.layer_norm('state_norm', eps=_STATE_EPS, use_bias=False)
    if self.decoder is not None:
      self.project = nn.Dense(self.token_size, name='gradient')

  def __call__(self, state, inputs, *, size=None):
    """(state [B, N, D], `Inputs`) -> state, (entered, p, c)."""
    entered = state
    if inputs.stop is not None:
      stopped = inputs.stop[:, None, None]
      state = jnp.where(stopped, jax.lax.stop_gradient(state), state)
    if self.normalize_state == 'before':
      state = self.norm(state)
      self.sow('intermediates', 'normalized', state)
    change = self.predict(state)
    self.sow('intermediates', 'predictor_out', change)
    predicted = queries = state + change
    if self.decoder is not None:
      slope = self._loss_gradient(predicted, inputs, size)
      queries = self.project(jnp.concatenate([predicted, slope], axis=-1))
      self.sow('intermediates', 'gradient_out', queries)
    change = self.correct(queries, inputs.tokens)
    self.sow('intermediates', 'corrector_out', change)
    corrected = predicted + change
    if self.normalize_state == 'after':
      corrected = self.norm(corrected)
    return corrected, (entered, predicted, corrected)

  def normalize(self, state):
    """LN(state): what a drawn state goes through if steps end with LN."""
    return self.norm(state)

  def _loss_gradient(self, predicted, inputs, size):
    """Of the decoder's loss on this frame: how the prediction was wrong."""

    def loss(decoder, tokens):
      out = decoder(tokens, inputs.rows, inputs.columns, size=size)
      return jnp.sum(jnp.mean(jnp.square(out - inputs.targets), (1, 2, 3)))

    predicted = jax.lax.stop_gradient(predicted)
    value, pull = nn.vjp(loss, self.decoder, predicted, vjp_variables=False)
    _, slope = pull(jnp.ones_like(value))
    return jax.lax.stop_gradient(slope)


class Moog(nn.Module):
  """The model: encoder, recurrent state, decoder.

  Defaults are those of the published configurations; dicts hold depth,
  num_heads, qkv_features and mlp_features of a stack, and `hidden_features` of
  one between linear maps.

  Parameters: encoder, step/{predictor, corrector, state_norm}, decoder; with
  use_loss_gradient step/gradient; initial_state or initial_projection if the
  state is not random.
  """

  num_tokens: int = 1024  # any number fits the weights, but for 'learned'
  token_size: int = 512
  conv_features: Sequence[int] = (64, 128, 128, 256, 256, 512)
  strides: Sequence[int] = (1, 1, 1, 2, 1, 2)
  position: str = 'add'  # of the encoder; one of encoder.POSITIONS
  encoder_bases: int = 20
  encoder: Mapping[str, Any] = nn.FrozenDict(hidden_features=512)
  predictor: Mapping[str, Any] = nn.FrozenDict(
    depth=3, num_heads=4, qkv_features=256, mlp_features=2048
  )
  corrector: Mapping[str, Any] = nn.FrozenDict(
    depth=2, num_heads=8, qkv_features=512, mlp_features=2048
  )
  decoder: Mapping[str, Any] = nn.FrozenDict(
    depth=6, num_heads=2, qkv_features=128, mlp_features=2048
  )
  decoder_bases: int = 16
  initial_state: str = 'random'  # one of INITIAL_STATES
  initial_scale: float = 1e-4  # of the random state
  normalize_state: str = 'after'  # a step, or 'before' it
  features: str = 'predicted_and_corrected'  # one of FEATURES
  use_loss_gradient: bool = False  # also give the corrector its gradient
  stop_gradient_prob: float = 0.0  # per example and step
  implementation: str = 'xla'  # of attention, or 'cudnn'
  remat: bool = True  # compute steps again in the backward pass
  scan: bool = True  # one compiled step for all frames; False: one for each
  dtype: Any = jnp.float32  # compute; state, softmax and norms stay float32

  def setup(self):
    for name, allowed in (
      ('position', encoder_lib.POSITIONS),
      ('features', FEATURES),
      ('initial_state', INITIAL_STATES),
      ('normalize_state', ('before', 'after')),
    ):
      if getattr(self, name) not in allowed:
        raise ValueError(
          f'{name}={getattr(self, name)!r}: want one of {allowed}'
        )
    self.image_encoder = encoder_lib.Encoder(
      features=self.conv_features,
      strides=self.strides,
      position=self.position,
      num_bases=self.encoder_bases,
      dtype=self.dtype,
      name='encoder',
      **self._split(self.encoder, ('hidden_features', 'depth')),
    )
    self.pixels = pixel_decoder.PixelDecoder(
      num_bases=self.decoder_bases,
      implementation=self.implementation,
      dtype=self.dtype,
      name='decoder',
      **self.decoder,
    )
    self.step = Step(
      self._stack(self.predictor, ('self', 'mlp')),
      self._stack(self.corrector, ('self+cross', 'mlp')),
      self.token_size,
      self.normalize_state,
      self.pixels if self.use_loss_gradient else None,
      name='step',
    )
    if self.initial_state == 'learned':
      self.learned = self.param(
        'initial_state',
        nn.initializers.normal(1.0),
        (self.num_tokens, self.token_size),
      )
    elif self.initial_state == 'encoder':
      self.projection = nn.Dense(self.token_size, name='initial_projection')

  def _split(self, options, names):
    """Options of a stack: fields of ours, and the block's."""
    own = {k: v for k, v in options.items() if k in names}
    block = {k: v for k, v in options.items() if k not in names}
    block['implementation'] = self.implementation
    return own | {'block': block}

  def _stack(self, options, order):
    names = ('depth', 'hidden_features', 'out_features')
    options = self._split(options, names)
    options['block'] |= pixel_decoder.BLOCK | {'order': order}
    return options | {'dtype': self.dtype}

  def __call__(
    self,
    video,
    state=None,
    *,
    initial=None,
    keys=None,
    factor: int = 0,
    offsets=None,
  ):
    """Runs over a clip.

    Args:
      video: float[B, T, H, W, 3] in [0, 1].
      state: what an earlier call returned; None starts anew.
      initial: float[B, N, D], the state to start with, as it is drawn: 1e-4
        times normal numbers.
      keys: keys[B], to draw it from, and where gradients stop; without keys
        and `initial` all start with the draw of key 0.
      factor, offsets: with use_loss_gradient, see `lattices`.

    Returns:
      `Output`.

    Raises:
      ValueError: sizes that do not fit, named.
    """
    if video.ndim != 5 or video.shape[-1] != 3:
      raise ValueError(f'video must be [B, T, H, W, 3], got {video.shape}')
    num_rows, num_frames, *size = video.shape[:4]
    if keys is None:
      keys = masking.row_keys(jax.random.key(0), jnp.zeros(num_rows, jnp.int32))
    tokens = self.image_encoder(video)
    self.sow('intermediates', 'tokens', tokens)
    if state is None:
      state = self._start(initial, keys, tokens)
    self.sow('intermediates', 'start', state)
    inputs = Inputs(tokens)
    if self.stop_gradient_prob:
      draws = masking.split_keys(masking.split_keys(keys, 2)[:, 1], num_frames)
      stop = jax.vmap(
        jax.vmap(lambda k: jax.random.bernoulli(k, self.stop_gradient_prob))
      )(draws)
      inputs = inputs._replace(stop=stop)
    if self.use_loss_gradient:
      rows, columns = self.lattices(video.shape, factor, offsets)
      inputs = inputs._replace(
        targets=pixel_decoder.take_lattice(video, rows, columns),
        rows=rows,
        columns=columns,
      )
    if self.is_initializing():
      # The decoder is not part of the recurrence.
      self.pixels(state, jnp.zeros(1, int), jnp.zeros(1, int), size=size)
    run = self._scan if self.scan else self._unroll
    state, (entered, predicted, corrected) = run(
      state.astype(jnp.float32), inputs, tuple(size)
    )
    features = corrected
    if self.features == 'predicted_and_corrected':
      features = jnp.concatenate([predicted, corrected], axis=2)
    return Output(features, entered, predicted, corrected, state)

  def _scan(self, state, inputs, size):
    return recurrent.scan_time(
      self.step, state, inputs, remat=self.remat, size=size
    )

  def _unroll(self, state, inputs, size):
    body = lambda step, state, inputs: step(state, inputs, size=size)  # noqa: E731
    if self.remat:
      body = nn.remat(body)
    outputs = []
    for t in range(inputs.tokens.shape[1]):
      now = jax.tree.map(lambda x, t=t: x[:, t], inputs)
      state, out = body(self.step, state, now)
      outputs.append(out)
    return state, jax.tree.map(lambda *x: jnp.stack(x, axis=1), *outputs)

  def _start(self, initial, keys, tokens):
    """The state before the first frame, as a step wants it."""
    num_rows = tokens.shape[0]
    if initial is not None:
      state = jnp.asarray(initial, jnp.float32)
    elif self.initial_state == 'learned':
      state = jnp.broadcast_to(self.learned, (num_rows, *self.learned.shape))
    elif self.initial_state == 'encoder':
      count = tokens.shape[2]
      if self.num_tokens > count:
        raise ValueError(
          f"num_tokens={self.num_tokens} but initial_state='encoder' has only "
          f"{count} tokens per frame; choose fewer, or 'random'"
        )
      chosen = np.arange(self.num_tokens) * count // self.num_tokens
      state = self.projection(tokens[:, 0, chosen])
    else:
      shape = (self.num_tokens, self.token_size)
      draw = lambda key: jax.random.normal(key, shape)
      state = self.initial_scale * jax.vmap(draw)(
        masking.split_keys(keys, 2)[:, 0]
      )
    if state.shape != (num_rows, state.shape[1], self.token_size):
      raise ValueError(
        f'initial {state.shape}: want ({num_rows}, tokens, {self.token_size})'
      )
    if self.normalize_state == 'after':
      state = self.step.normalize(state)
    return state

  def lattices(self, shape, factor: int, offsets=None):
    """Rows and columns of the pixels that training predicts.

    Args:
      shape: (B, T, H, W, ...) of the clip.
      factor: every `factor`-th; see `pixel_decoder.lattice`.
      offsets: int[B, T, 2] in [0, factor), (rows, columns); None: 0.

    Returns:
      int32[B, T, H / factor], int32[B, T, W / factor].
    """
    if offsets is None:
      offsets = jnp.zeros((*shape[:2], 2), jnp.int32)
    return tuple(
      pixel_decoder.lattice(shape[2 + axis], factor, offsets[..., axis])
      for axis in (0, 1)
    )

  def decode(self, tokens, rows, columns, *, size: Sequence[int]):
    """Pixels of frames from their tokens; see `PixelDecoder`."""
    return self.pixels(tokens, rows, columns, size=size)
