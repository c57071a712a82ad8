"""Vision transformer for images and clips, with the standard sizes.

Covers the encoders of RVM (arXiv 2512.13684), 4DS (2412.15212), LayerLock
(2509.10156), VideoMAE (2203.12602), MAE-ST (2205.09113), ViViT (2103.15691) and
V-JEPA 2 (2506.09985).
Masked encoders pass the ids of the visible tokens: their patches are gathered
before they are embedded.

Checkpoints that give the class token a position of its own (ViViT, MAE-ST) are
imported with the two vectors added.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vidscenic.layers import patches, position, transformer
from vidscenic.ops import masking
from vidscenic.ops import video as video_ops

# width, depth, num_heads, mlp_features. G and e are those of 4DS; g is V-JEPA
# 2's, whose 22 heads differ from other models of that name.
SIZES = {
  'Ti': (192, 12, 3, 768),
  'S': (384, 12, 6, 1536),
  'B': (768, 12, 12, 3072),
  'L': (1024, 24, 16, 4096),
  'H': (1280, 32, 16, 5120),
  'g': (1408, 40, 22, 6144),
  'G': (1664, 48, 16, 8192),
  'e': (1792, 56, 16, 15360),
}
POSITIONS = (
  'none',
  'learned',
  'learned_separable',
  'sincos_flat',
  'sincos_2d',
  'sincos_3d',
)


def vit_config(name: str) -> dict[str, int]:
  """Width, depth, num_heads and mlp_features of a standard size.

  Args:
    name: one of SIZES, e.g. 'B'.

  Returns:
    Fields of `VisionTransformer`.

  Raises:
    ValueError: unknown name.
  """
  if name not in SIZES:
    raise ValueError(f'unknown ViT size {name!r}, known are {tuple(SIZES)}')
  fields = ('width', 'depth', 'num_heads', 'mlp_features')
  return dict(zip(fields, SIZES[name], strict=True))


class VisionTransformer(nn.Module):
  """Patch embedding, positions, blocks.

  Parameters: embedding/projection/{kernel, bias}, class_token [1, D],
  position/... if learned, transformer/... The residual stream is float32
  whatever `dtype` is.
  """

  width: int = 768
  depth: int = 12
  num_heads: int = 12
  mlp_features: int = 3072
  patch: Sequence[int] = (2, 16, 16)  # (frames, rows, columns)
  positions: str = 'learned'  # added to the tokens; one of POSITIONS
  # (t, h, w) for which the table of positions is made; inputs with another
  # grid get it resized. None: a fixed table is made for the grid at hand.
  grid: Sequence[int] | None = None
  # Options of `position.rotary` with `fractions` of the head dim, or of the
  # width if block['rotary_site'] is 'norm', for (t, h, w).
  rotary: Mapping[str, Any] | None = None
  class_token: bool = False  # token 0; has no position
  block: Mapping[str, Any] = nn.FrozenDict()  # further fields of Block
  final_norm: bool = True
  drop_path: float = 0.0
  residual_init_scale: float | str = 1.0  # see `Transformer`
  scan: bool = False
  remat: str = 'none'
  dtype: Any = jnp.float32  # compute
  param_dtype: Any = jnp.float32

  def setup(self):
    if self.positions not in POSITIONS:
      raise ValueError(
        f'positions must be one of {POSITIONS}, got {self.positions!r}'
      )
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    self.embedding = patches.PatchEmbedding(self.width, self.patch, **dtypes)
    if self.positions.startswith('learned'):
      if self.grid is None:
        raise ValueError(f'positions={self.positions!r} needs grid, got None')
      self.position = position.LearnedPositions(
        self.grid,
        self.width,
        separable=self.positions == 'learned_separable',
        param_dtype=self.param_dtype,
      )
    if self.class_token:
      self.first_token = self.param(
        'class_token',
        nn.initializers.normal(0.02),
        (1, self.width),
        self.param_dtype,
      )
    self.transformer = transformer.Transformer(
      self.depth,
      block=dict(
        self.block, num_heads=self.num_heads, mlp_features=self.mlp_features
      ),
      final_norm=self.final_norm,
      drop_path=self.drop_path,
      residual_init_scale=self.residual_init_scale,
      scan=self.scan,
      remat=self.remat,
      **dtypes,
    )

  def __call__(
    self,
    video,
    *,
    ids=None,
    mask=None,
    num_frozen: int = 0,
    stop: int | None = None,
    return_intermediates: bool = False,
    train: bool = False,
  ):
    """Encodes clips; attention joins all tokens of a clip.

    Args:
      video: [..., T, H, W, C]. For images, and for frames that are to be
        encoded one by one, T = 1.
      ids: int[..., K], row-major numbers of the visible tokens; leading axes
        broadcast. None: all N = t*h*w.
      mask: bool, broadcastable to [..., heads, tokens, tokens]; True = may
        attend; the class token counts.
      num_frozen, stop, return_intermediates, train: see `Transformer`; a
        frozen first block freezes the embedding and the positions too.

    Returns:
      dict with
        tokens: [..., K or N, D], one more with class token;
        grid: (t, h, w);
        intermediates: [blocks, ..., K or N, D] if asked for.

    Raises:
      ValueError: sizes that the patch does not divide.
    """
    embedded = self.embed(video, ids=ids)
    result = self.transformer(
      embedded['tokens'],
      mask=mask,
      rotary=embedded['rotary'],
      num_frozen=num_frozen,
      stop=stop,
      return_intermediates=return_intermediates,
      train=train,
    )
    if return_intermediates:
      tokens, intermediates = result
      extra = {'intermediates': intermediates}
    else:
      tokens, extra = result, {}
    return {'tokens': tokens, 'grid': embedded['grid'], **extra}

  def embed(self, video, *, ids=None):
    """Everything before the first block; arguments as in `__call__`.

    Returns:
      dict with tokens [..., K or N, D], grid (t, h, w) and rotary, the
      `position.Rotary` of these tokens or None.
    """
    vectors = video_ops.patchify(video, self.patch)
    grid = vectors.shape[-4:-1]
    vectors = vectors.reshape(*vectors.shape[:-4], -1, vectors.shape[-1])
    if ids is not None:
      vectors = masking.take_tokens(vectors, ids)
    tokens = self.embedding.embed_patches(vectors).astype(jnp.float32)
    table = self.position_table(grid)
    if table is not None:
      table = table.reshape(-1, self.width)
      tokens += table if ids is None else masking.take_tokens(table, ids)
    code = self.rotary_code(grid)
    if code is not None and ids is not None:
      code = code.take(ids)
    if self.class_token:
      first = jnp.broadcast_to(
        self.first_token, (*tokens.shape[:-2], 1, self.width)
      )
      tokens = jnp.concatenate([first.astype(tokens.dtype), tokens], axis=-2)
      code = None if code is None else code.prepend(1)
    return {'tokens': tokens, 'grid': grid, 'rotary': code}

  def streams(self, video, blocks: Sequence[int], *, ids=None):
    """The residual stream after several numbers of blocks.

    Args:
      video, ids: as in `__call__`.
      blocks: ascending numbers of blocks; 0 is the stream before the first.

    Returns:
      [float32[..., K or N, D]], one per number, without the final norm.
    """
    embedded = self.embed(video, ids=ids)
    x, done, found = embedded['tokens'], 0, []
    for stop in blocks:
      x = self.transformer(x, rotary=embedded['rotary'], start=done, stop=stop)
      done = stop
      found.append(x)
    return found

  def position_table(self, grid: Sequence[int]):
    """What is added to the tokens of a grid: float32[t, h, w, D] or None."""
    if self.positions == 'none':
      return None
    if self.positions.startswith('learned'):
      return self.position(grid)
    base = tuple(grid if self.grid is None else self.grid)
    if self.positions == 'sincos_2d':
      table = position.sincos_2d(base[1:], self.width, resized=grid[1:])
      return jnp.broadcast_to(table, (grid[0], *table.shape))
    if self.positions == 'sincos_3d':
      return position.sincos_3d(base, self.width, resized=grid)
    table = position.sincos_flat(base, self.width)
    return jnp.asarray(position.resize_table(table, grid))

  def rotary_code(self, grid: Sequence[int], positions=None):
    """The `position.Rotary` of all tokens of a grid, or None.

    Args:
      grid: (t, h, w).
      positions: float[N, 3], other places in the unit of the grid, constants.
    """
    if self.rotary is None:
      return None
    options = dict(self.rotary)
    width = self.width
    if self.block.get('rotary_site', 'qk') == 'qk':
      width = self.block.get('qkv_features', width) // self.num_heads
    sizes = position.rotary_sizes(width, options.pop('fractions'))
    if positions is None:
      positions = position.grid_indices(grid)
    return position.rotary(positions, sizes, **options)
