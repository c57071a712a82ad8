"""Postprocessors: decoded arrays to sound, pixels, classes and bytes.

Those of the released code of Perceiver IO (arXiv 2107.14795) under its names,
among them the upsamplers that no released model uses.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from projects.perceiver import attend


class AudioPostprocessor(nn.Module):
  """[B, O, C] -> samples [B, O * samples_per_patch]. Parameters: linear."""

  samples_per_patch: int = 96
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    x = attend.linear(self.samples_per_patch, dtype=self.dtype, name='linear')(
      x
    )
    return x.reshape(len(x), -1)


class ProjectionPostprocessor(nn.Module):
  """[B, O, C] -> [B, O, num_outputs]. Parameters: linear."""

  num_outputs: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    return attend.linear(self.num_outputs, dtype=self.dtype, name='linear')(x)


class ClassificationPostprocessor(nn.Module):
  """[B, O, C] -> classes of the first element [B, num_classes].

  Parameters: linear.
  """

  num_classes: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    x = attend.linear(self.num_classes, dtype=self.dtype, name='linear')(x)
    return x[:, 0]


class EmbeddingDecoder(nn.Module):
  """[B, O, C] -> logits [B, O, vocab_size] by the matrix of the embedding.

  Parameters: bias [vocab_size].
  """

  @nn.compact
  def __call__(self, x, embedding):
    bias = self.param(
      'bias', nn.initializers.zeros, embedding.shape[:1], jnp.float32
    )
    return x @ embedding.T.astype(x.dtype) + bias.astype(x.dtype)


class Conv2DUpsample(nn.Module):
  """[B, h, w, C] -> [B, 4h, 4w, n_outputs] by two transposed convolutions.

  4x4, stride 2, ReLU between them; the first has 2 * n_outputs channels.
  Parameters: conv_0, conv_1.
  """

  n_outputs: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    for i, channels in enumerate((2 * self.n_outputs, self.n_outputs)):
      x = nn.relu(x) if i else x
      x = _upsample(channels, (4, 4), (2, 2), self.dtype, f'conv_{i}')(x)
    return x


class Conv3DUpsample(nn.Module):
  """Videos [B, t, h, w, C] upsampled in time and space.

  max(n_time_upsamples, n_space_upsamples) transposed convolutions 4x4x4 with a
  ReLU between them; stride 2 in time for the first n_time_upsamples and in
  space for the first n_space_upsamples. Channels are halved from 2^(n - 1) *
  n_outputs on. Parameters: conv_0, ...
  """

  n_outputs: int
  n_time_upsamples: int = 2
  n_space_upsamples: int = 4
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    count = max(self.n_time_upsamples, self.n_space_upsamples)
    for i in range(count):
      time = 2 if i < self.n_time_upsamples else 1
      space = 2 if i < self.n_space_upsamples else 1
      channels = self.n_outputs * 2 ** (count - 1 - i)
      x = nn.relu(x) if i else x
      x = _upsample(
        channels, (4, 4, 4), (time, space, space), self.dtype, f'conv_{i}'
      )(x)
    return x


def _upsample(channels, kernel, strides, dtype, name):
  return nn.ConvTranspose(
    channels,
    kernel,
    strides=strides,
    padding='SAME',
    kernel_init=attend.PLAIN_INIT,
    dtype=dtype,
    name=name,
  )
