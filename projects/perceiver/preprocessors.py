"""Preprocessors: raw images, videos, sound, labels and bytes to arrays.

Those of the released code of Perceiver IO (arXiv 2107.14795) under its names.
Each returns the array that the encoder reads, the number of elements of each
modality, and the features without their position codes.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from projects.perceiver import attend, patches, positions
from vidscenic.layers import norms

PREP_TYPES = ('pixels', 'patches', 'conv', 'conv1x1')
PADDINGS = ('same', 'torch')


class Preprocessed(NamedTuple):
  """What the encoder reads.

  Attributes:
    array: [B, M, C], features and positions.
    features: [B, M, C'], features alone; of several modalities {modality:
      its features}.
    sizes: {modality: number of its elements}, in their order; {} of one.
  """

  array: jax.Array
  features: jax.Array | Mapping[str, jax.Array]
  sizes: Mapping[str, int] = {}  # noqa: RUF012, never mutated


class ImagePreprocessor(nn.Module):
  """Images [B, H, W, C] or videos [B, T, H, W, C].

  prep_type:
    'pixels'   every spatial_downsample-th pixel of every temporal_downsample-th
               frame;
    'patches'  blocks of pixels as vectors (time, row, column, channel, channel
               fastest); a time axis that becomes 1 is dropped;
    'conv'     log4(spatial_downsample) times a 7x7 convolution of stride 2,
               batch norm, ReLU and 3x3 max pooling of stride 2; each frame by
               itself;
    'conv1x1'  a linear map of every spatial_downsample-th pixel.

  Parameters: position_encoding; patches_linear if conv_after_patching; conv_0,
  norm_0, ... of 'conv'; conv1x1.
  """

  prep_type: str = 'conv'
  spatial_downsample: int = 4
  temporal_downsample: int = 1
  num_channels: int = 64  # of 'conv', 'conv1x1' and patches_linear
  conv_after_patching: bool = False
  conv2d_use_batchnorm: bool = True
  position_encoding_type: str = 'fourier'
  fourier_position_encoding_kwargs: Mapping[str, Any] | None = None
  trainable_position_encoding_kwargs: Mapping[str, Any] | None = None
  concat_or_add_pos: str = 'concat'
  n_extra_pos_mlp: int = 0
  project_pos_dim: int = -1
  # 'same', or 'torch': three pixels on both sides of the convolution and none
  # for the pooling, as the Hugging Face port has it.
  conv_padding: str = 'same'
  dtype: Any = jnp.float32  # compute

  @nn.compact
  def __call__(self, images, *, train: bool = False):
    """float[B, (T,) H, W, C] -> Preprocessed, M row-major places.

    Raises:
      ValueError: an unknown option, or a size that cannot be divided.
    """
    self._check(images)
    x = getattr(self, f'_{self.prep_type}')(images.astype(self.dtype), train)
    index_dims = x.shape[1:-1]
    x = x.reshape(len(x), -1, x.shape[-1])
    code = positions.PositionEncoding(
      index_dims,
      kind=self.position_encoding_type,
      fourier=self.fourier_position_encoding_kwargs,
      trainable=self.trainable_position_encoding_kwargs,
      project_pos_dim=self.project_pos_dim,
      num_extra=self.n_extra_pos_mlp,
      name='position_encoding',
    )().astype(self.dtype)
    return Preprocessed(_with_code(x, code, self.concat_or_add_pos), x)

  def _check(self, images):
    for name, value, known in (
      ('prep_type', self.prep_type, PREP_TYPES),
      ('concat_or_add_pos', self.concat_or_add_pos, ('concat', 'add')),
      ('conv_padding', self.conv_padding, PADDINGS),
    ):
      if value not in known:
        raise ValueError(f'{name}={value!r}: want one of {known}')
    if images.ndim not in (4, 5):
      raise ValueError(
        f'images must be [B, H, W, C] or [B, T, H, W, C], got {images.shape}'
      )
    if self.prep_type.startswith('conv') and self.temporal_downsample != 1:
      raise ValueError(
        f'temporal_downsample={self.temporal_downsample} with prep_type='
        f"{self.prep_type!r}: want 1, or prep_type='patches'"
      )

  def _check_patches(self, shape):
    """Refuses [B, T, H, W, C] or [B, H, W, C] that patches leave a rest of."""
    names = ('temporal_downsample',) + 2 * ('spatial_downsample',)
    sides = shape[1:-1]
    for name, side in zip(names[-len(sides) :], sides, strict=True):
      block = getattr(self, name)
      if side % block:
        raise ValueError(
          f'{name}={block} does not divide inputs of {tuple(sides)}: make the '
          f'side of {side} {side - side % block or block}, or change {name}'
        )

  def _pixels(self, x, train):
    del train
    s = self.spatial_downsample
    x = x[..., ::s, ::s, :]
    return x[:, :: self.temporal_downsample] if x.ndim == 5 else x

  def _patches(self, x, train):
    del train
    self._check_patches(x.shape)
    x = patches.space_to_depth(
      x,
      temporal_block_size=self.temporal_downsample,
      spatial_block_size=self.spatial_downsample,
    )
    x = x[:, 0] if x.ndim == 5 and x.shape[1] == 1 else x
    if self.conv_after_patching:
      x = attend.linear(
        self.num_channels, dtype=self.dtype, name='patches_linear'
      )(x)
    return x

  def _conv(self, x, train):
    layers = round(math.log(self.spatial_downsample, 4))
    if 4**layers != self.spatial_downsample or not layers:
      raise ValueError(
        f'spatial_downsample={self.spatial_downsample} with '
        "prep_type='conv': want a power of 4, such as 4 or 16"
      )
    lead, same = x.shape[:-3], self.conv_padding == 'same'
    x = x.reshape(-1, *x.shape[-3:])
    for i in range(layers):
      x = nn.Conv(
        self.num_channels,
        (7, 7),
        strides=2,
        # The odd pixel goes behind: 2 and 3 on even sizes.
        padding='SAME' if same else ((3, 3), (3, 3)),
        use_bias=False,
        kernel_init=attend.PLAIN_INIT,
        dtype=self.dtype,
        name=f'conv_{i}',
      )(x)
      if self.conv2d_use_batchnorm:
        x = norms.BatchNorm(
          decay=0.9, eps=1e-5, dtype=self.dtype, name=f'norm_{i}'
        )(x, train=train)
      x = nn.max_pool(
        nn.relu(x), (3, 3), strides=(2, 2), padding='SAME' if same else 'VALID'
      )
    return x.reshape(*lead, *x.shape[1:])

  def _conv1x1(self, x, train):
    del train
    s = self.spatial_downsample
    return attend.linear(self.num_channels, dtype=self.dtype, name='conv1x1')(
      x[..., ::s, ::s, :]
    )


class AudioPreprocessor(nn.Module):
  """Sound float[B, S, 1] or [B, S] in patches of samples.

  The max_resolution of the published model counts samples, not patches.

  Parameters: position_encoding, if that has any.
  """

  samples_per_patch: int = 96
  position_encoding_type: str = 'fourier'
  fourier_position_encoding_kwargs: Mapping[str, Any] | None = None
  trainable_position_encoding_kwargs: Mapping[str, Any] | None = None
  concat_or_add_pos: str = 'concat'
  n_extra_pos_mlp: int = 0
  project_pos_dim: int = -1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, audio, *, train: bool = False):
    """-> Preprocessed with M = S / samples_per_patch.

    Raises:
      ValueError: several channels, or a length that cannot be divided.
    """
    del train
    if audio.ndim not in (2, 3) or (audio.ndim == 3 and audio.shape[-1] != 1):
      raise ValueError(
        f'audio must be [B, S] or [B, S, 1], got {audio.shape}; average the '
        'channels first'
      )
    length = audio.shape[1]
    if length % self.samples_per_patch:
      raise ValueError(
        f'{length} samples are not whole patches of samples_per_patch='
        f'{self.samples_per_patch}: cut the sound or change the patch'
      )
    x = audio.reshape(len(audio), -1, self.samples_per_patch)
    x = x.astype(self.dtype)
    code = positions.PositionEncoding(
      x.shape[1:2],
      kind=self.position_encoding_type,
      fourier=self.fourier_position_encoding_kwargs,
      trainable=self.trainable_position_encoding_kwargs,
      project_pos_dim=self.project_pos_dim,
      num_extra=self.n_extra_pos_mlp,
      name='position_encoding',
    )().astype(self.dtype)
    return Preprocessed(_with_code(x, code, self.concat_or_add_pos), x)


class OneHotPreprocessor(nn.Module):
  """Label vectors float[B, classes] as one element without a position."""

  dtype: Any = jnp.float32

  def __call__(self, labels, *, train: bool = False):
    """-> Preprocessed with M = 1."""
    del train
    x = labels[:, None].astype(self.dtype)
    return Preprocessed(x, x)


class PointPreprocessor(nn.Module):
  """Point clouds float[B, P, 3] in [-1, 1]: Fourier features of the points.

  The frequencies of every axis go up to max_resolution / 2; the features of a
  point are its coordinates, sines and cosines, with nothing besides.
  """

  num_bands: int = 64
  max_resolution: float = 2240.0
  dtype: Any = jnp.float32

  def __call__(self, points, *, train: bool = False):
    """-> Preprocessed with M = P."""
    del train
    x = positions.fourier.bands(
      points, self.num_bands, (self.max_resolution,) * points.shape[-1]
    ).astype(self.dtype)
    return Preprocessed(x, x[..., :0])


class EmbeddingPreprocessor(nn.Module):
  """Bytes int[B, M]: embedding plus learned position.

  Parameters: embedding [vocab_size, channels], positions [max_seq_len,
  channels].
  """

  vocab_size: int = 262
  max_seq_len: int = 2048
  num_channels: int = 768
  init_scale: float = positions.INIT_SCALE
  dtype: Any = jnp.float32

  def setup(self):
    init = positions.table_init(self.init_scale)
    self.embedding = self.param(
      'embedding', init, (self.vocab_size, self.num_channels), jnp.float32
    )
    self.positions = self.param(
      'positions', init, (self.max_seq_len, self.num_channels), jnp.float32
    )

  def __call__(self, ids, *, train: bool = False):
    """-> Preprocessed; features are the embeddings.

    Raises:
      ValueError: more bytes than there are positions.
    """
    del train
    if ids.shape[1] > self.max_seq_len:
      raise ValueError(
        f'{ids.shape[1]} tokens, max_seq_len={self.max_seq_len}: cut the text'
      )
    x = jnp.take(self.embedding, ids, axis=0).astype(self.dtype)
    code = self.positions[: ids.shape[1]].astype(self.dtype)
    return Preprocessed(x + code, x)


def _with_code(x, code, how):
  if how == 'add':
    return x + code
  code = jnp.broadcast_to(code, (len(x), *code.shape))
  return jnp.concatenate([x, code], axis=-1)
