"""SimpleMAE: a video transformer whose last blocks are the decoder.

The backbone of 4DS (arXiv 2412.15212) and LayerLock (2509.10156): a plain
pre-norm ViT on space-time patches without final norm. For masked pretraining
only the visible patches enter it; before its last blocks learned decode tokens
join them, and a linear layer per target reads those. There is no other decoder.

Not published and chosen here: one decode token may stand for a box of patches
(`decode_grid`); it then predicts the mean of the box, of pixels or features.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vidscenic.layers import norms, position, transformer, vit

POSITIONS = ('rope3d', 'learned', 'both')
DECODE_TOKENS = ('per_position', 'shared')
SITES = {'post_norm': 'norm', 'qk': 'qk'}
PIXELS, LATENT = 'pixel_head', 'latent_head'


def readout_blocks(depth: int, relative_depth: float = 0.95) -> int:
  """Blocks that run before features are read out.

  The released list of features begins with the tokens, twice, and lacks what
  the last block returns: its entry int((L + 1) r) - 1 is the stream after one
  block less. 10 of 12 blocks for B, 52 of 56 for e.

  Args:
    depth: L.
    relative_depth: r, in (0, 1].
  """
  return max(int((depth + 1) * relative_depth) - 2, 0)


class SimpleMAE(nn.Module):
  """Backbone, decode tokens and one linear head per target.

  Videos are float[B, T, H, W, 3] in [0, 1], without further normalisation.

  Parameters: backbone/... (`vit.VisionTransformer`); with `heads` also
  decode_tokens [Nd, D] or [1, D], decoder_norm if asked for, and pixel_head,
  latent_head, ... as named.
  """

  width: int = 768  # D
  depth: int = 12  # blocks, decoder included
  num_heads: int = 12
  mlp_features: int = 3072
  patch: Sequence[int] = (2, 16, 16)  # (frames, rows, columns)
  grid: Sequence[int] = (8, 14, 14)  # (t, h, w) tokens of a training clip
  posenc: str = 'rope3d'  # one of POSITIONS; 'learned' is that of 4DS
  # Of 'rope3d': parts of the channels that turn with (t, h, w).
  rope_fractions: Sequence[float] = (0.1, 0.25, 0.25)
  rope_base: float = 10000.0
  rope_pairing: str = 'half'
  # 'post_norm' turns what enters attention, so values too; 'qk' only queries
  # and keys, and the parts are those of a head.
  rope_site: str = 'post_norm'
  heads: Sequence[str] = (PIXELS,)  # (): features only
  num_decoder_layers: int = 4
  decode_grid: Sequence[int] | None = None  # divides grid; None: grid
  decode_token: str = 'per_position'  # or 'shared'
  decoder_norm: bool = False  # LayerNorm in front of the heads
  implementation: str = 'xla'  # of attention, or 'cudnn'
  query_chunk: int = 0
  scan: bool = False
  remat: str = 'none'  # of blocks that train
  dtype: Any = jnp.float32  # compute; the residual stream is float32

  def setup(self):
    self.check()
    rotary = None
    if self.posenc != 'learned':
      rotary = {
        'fractions': tuple(self.rope_fractions),
        'base': self.rope_base,
        'pairing': self.rope_pairing,
      }
    self.backbone = vit.VisionTransformer(
      width=self.width,
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_features=self.mlp_features,
      patch=self.patch,
      positions='none' if self.posenc == 'rope3d' else 'learned',
      grid=self.grid,
      rotary=rotary,
      block=dict(
        rotary_site=SITES[self.rope_site],
        implementation=self.implementation,
        query_chunk=self.query_chunk,
      ),
      final_norm=False,
      scan=self.scan,
      remat=self.remat,
      dtype=self.dtype,
    )
    if not self.heads:
      return
    count = 1
    if self.decode_token == 'per_position':
      count = math.prod(self.decode_grid or self.grid)
    self.decode_tokens = self.param(
      'decode_tokens', nn.initializers.normal(0.02), (count, self.width)
    )
    if self.decoder_norm:
      self.norm = norms.layer_norm('decoder_norm', dtype=self.dtype)
    self.linear = {
      name: nn.Dense(self.num_outputs(name), dtype=self.dtype, name=name)
      for name in self.heads
    }

  def check(self, where: str = ''):
    """Checks the fields.

    Args:
      where: what stands in front of their names in messages.

    Raises:
      ValueError: an unusable field, named.
    """
    for name, known in (
      ('posenc', POSITIONS),
      ('rope_site', tuple(SITES)),
      ('rope_pairing', position.PAIRINGS),
      ('decode_token', DECODE_TOKENS),
      ('remat', transformer.REMAT),
    ):
      if getattr(self, name) not in known:
        raise ValueError(
          f'{where}{name}={getattr(self, name)!r}: want one of {known}'
        )
    if self.width % self.num_heads:
      raise ValueError(
        f'{where}num_heads={self.num_heads} does not divide width={self.width}'
      )
    fractions = tuple(self.rope_fractions)
    if len(fractions) != 3 or min(fractions) < 0 or sum(fractions) > 1 + 1e-6:
      raise ValueError(
        f'{where}rope_fractions={fractions}: want shares of (t, h, w) that sum '
        'to 1 or less'
      )
    if self.heads and not 0 < self.num_decoder_layers < self.depth:
      raise ValueError(
        f'{where}num_decoder_layers={self.num_decoder_layers}: want 1 to '
        f'{self.depth - 1} of the {self.depth} blocks'
      )
    decode = tuple(self.decode_grid or self.grid)
    if len(decode) != 3 or any(
      n < 1 or full % n for n, full in zip(decode, self.grid, strict=True)
    ):
      raise ValueError(
        f'{where}decode_grid={decode} does not divide the grid of patches '
        f'{tuple(self.grid)}'
      )

  @property
  def encoder_depth(self) -> int:
    """Blocks in front of the decoder."""
    return self.depth - self.num_decoder_layers

  @property
  def cell(self) -> tuple[int, int, int]:
    """Patches per decode token, (t, h, w)."""
    decode = self.decode_grid or self.grid
    return tuple(n // m for n, m in zip(self.grid, decode, strict=True))

  def num_outputs(self, head: str) -> int:
    """Channels of a head: values of a patch, or D."""
    return 3 * math.prod(self.patch) if head == PIXELS else self.width

  def __call__(self, video, ids, *, heads=None, num_frozen=0, given=None):
    """Predicts from the visible patches.

    Args:
      video: float[B, T, H, W, 3].
      ids: int[B, K], row-major numbers of the visible patches.
      heads: names of the heads that are needed; None: all.
      num_frozen: k; blocks 1, ..., k and what is before them get no gradient,
        and their backward pass is not compiled.
      given: block whose output is returned too, at most the encoder's depth.

    Returns:
      ({head: float32[B, Nd, C]}, float32[B, K, D] after block `given`, or None)
    """
    embedded = self.backbone.embed(video, ids=ids)
    grid, x, kept = embedded['grid'], embedded['tokens'], None
    blocks = dict(num_frozen=num_frozen)
    split = given or 0
    x = self.backbone.transformer(
      x, rotary=embedded['rotary'], stop=split, **blocks
    )
    kept = x if given else None
    x = self.backbone.transformer(
      x,
      rotary=embedded['rotary'],
      start=split,
      stop=self.encoder_depth,
      **blocks,
    )
    num_visible = x.shape[-2]
    tokens, code = self._decode_tokens(grid)
    lead = x.shape[:-2]
    x = jnp.concatenate(
      [x, jnp.broadcast_to(tokens, (*lead, *tokens.shape))], axis=-2
    )
    if code is not None:
      code = _join(embedded['rotary'], code, lead)
    x = self.backbone.transformer(
      x, rotary=code, start=self.encoder_depth, **blocks
    )
    x = x[..., num_visible:, :]
    if self.decoder_norm:
      x = self.norm(x)
    names = self.heads if heads is None else heads
    out = {name: self.linear[name](x).astype(jnp.float32) for name in names}
    return out, kept

  def streams(self, video, blocks: Sequence[int], *, ids=None):
    """Residual streams of the clip without decode tokens.

    Args:
      video: float[B, T, H, W, 3]; other sizes than in training are allowed.
      blocks: ascending numbers of blocks that ran.
      ids: int[B, K], tokens that enter; None: all.

    Returns:
      [float32[B, K or N, D]], one per number.
    """
    return self.backbone.streams(video, blocks, ids=ids)

  def features(self, video, *, blocks: int | None = None):
    """Features for readouts, on the grid: float32[B, t, h, w, D].

    Args:
      video: float[B, T, H, W, 3].
      blocks: how many run; None: `readout_blocks`.
    """
    embedded = self.backbone.embed(video)
    stop = readout_blocks(self.depth) if blocks is None else blocks
    x = self.backbone.transformer(
      embedded['tokens'], rotary=embedded['rotary'], stop=stop
    )
    return x.reshape(*x.shape[:-2], *embedded['grid'], x.shape[-1])

  def _decode_tokens(self, grid):
    """(tokens [Nd, D], their rotary code or None)."""
    decode = [n // c for n, c in zip(grid, self.cell, strict=True)]
    count = math.prod(decode)
    tokens = self.decode_tokens.astype(jnp.float32)
    if self.decode_token == 'shared':
      tokens = jnp.broadcast_to(tokens, (count, self.width))
      table = self.backbone.position_table(decode)
      if table is not None:
        tokens += table.reshape(count, -1)
    cell = np.array(self.cell)
    middles = position.grid_indices(decode) * cell + (cell - 1) / 2
    return tokens, self.backbone.rotary_code(grid, middles)


class Features(nn.Module):
  """The backbone as `vidscenic.tasks.readout` wants it.

  Parameters: backbone/..., those of a `SimpleMAE` without its decoder.
  """

  model: Mapping[str, Any]  # fields of `SimpleMAE`
  relative_depth: float = 0.95  # of the blocks that run
  dtype: Any = jnp.float32  # compute

  @nn.compact
  def __call__(self, video):
    """float[B, T, H, W, 3] in [0, 1] -> {tokens [B, N, D], grid (t, h, w)}."""
    fields = {k: tuple(v) if isinstance(v, list) else v
              for k, v in self.model.items()}  # fmt: skip
    trunk = SimpleMAE(
      **fields | {'heads': (), 'dtype': self.dtype}, name='trunk'
    )
    nn.share_scope(self, trunk)
    blocks = readout_blocks(trunk.depth, self.relative_depth)
    maps = trunk.features(video, blocks=blocks)
    tokens = maps.reshape(maps.shape[0], -1, maps.shape[-1])
    return {'tokens': tokens, 'grid': maps.shape[1:4]}


def features_of_size(size: str, grid: Sequence[int], **options) -> Features:
  """`Features` of a standard size.

  Args:
    size: one of `vit.SIZES`.
    grid: (t, h, w) of the learned positions.
    **options: other fields of `SimpleMAE`.
  """
  fields = vit.vit_config(size) | {'posenc': 'learned', 'grid': tuple(grid)}
  return Features(nn.FrozenDict(fields | options))


def _join(first, second, lead):
  """One rotary code for the tokens of two."""

  def cat(a, b):
    b = jnp.broadcast_to(b, (*lead, *b.shape))
    return jnp.concatenate([jnp.broadcast_to(a, (*lead, *a.shape[-2:])), b], -2)

  return first.replace(
    cos=cat(first.cos, second.cos), sin=cat(first.sin, second.sin)
  )
