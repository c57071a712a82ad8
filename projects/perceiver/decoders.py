"""Decoders: queries read the latents, one output per query.

Those of the released code of Perceiver IO (arXiv 2107.14795) under its names.
All but `ProjectionDecoder`, which is that of the original Perceiver
(2103.03206), are one cross-attention. Each returns float[B, O, channels] and
the numbers of outputs of each modality.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from projects.perceiver import attend, positions
from vidscenic.ops import masking


class Decoded(NamedTuple):
  """Outputs.

  Attributes:
    array: [B, O, channels] or what the decoder makes of it.
    sizes: {modality: number of outputs}, in their order; {} of one.
  """

  array: jax.Array
  sizes: Mapping[str, int] = {}  # noqa: RUF012, never mutated


class BasicDecoder(nn.Module):
  """Queries made of positions, and of inputs if asked for.

  Parameters: positions, if learned; cross_attend; output, unless final_project
  is off.
  """

  output_num_channels: int
  index_dims: Sequence[int] = (1,)  # the grid of outputs
  position_encoding_type: str = 'trainable'  # 'fourier', 'none'
  fourier_position_encoding_kwargs: Mapping[str, Any] | None = None
  trainable_position_encoding_kwargs: Mapping[str, Any] | None = None
  # [features of the inputs, position]; 'none' asks for a query from outside
  concat_preprocessed_input: bool = False
  qk_channels: int | None = None
  v_channels: int | None = None
  num_heads: int = 1
  widening_factor: int = 1
  use_query_residual: bool = False
  final_project: bool = True
  zero_output: bool = False  # the last layer starts at zero
  activation: str = 'gelu_tanh'
  query_chunk: int = 0  # see `attend.CrossAttend`
  dtype: Any = jnp.float32  # compute

  def setup(self):
    if self.position_encoding_type != 'none':
      self.positions = positions.PositionEncoding(
        self.index_dims,
        kind=self.position_encoding_type,
        fourier=self.fourier_position_encoding_kwargs,
        trainable=self.trainable_position_encoding_kwargs,
      )

  def decoder_query(self, preprocessed, points=None):
    """Queries of all outputs or of some.

    Args:
      preprocessed: what the encoder read; says how many examples there are.
      points: int[O] or, others for every example, int[B, O] row-major numbers
        of outputs; None: all.

    Returns:
      [B, O, E].

    Raises:
      ValueError: inputs are to be part of queries that are not theirs, or are
        not there.
    """
    code = self.positions(points).astype(self.dtype)
    if code.ndim == 2:
      code = jnp.broadcast_to(code, (len(preprocessed.array), *code.shape))
    if not self.concat_preprocessed_input:
      return code
    features = preprocessed.features
    if features is None:
      raise ValueError(
        'concat_preprocessed_input: the modality is none of the inputs'
      )
    if points is not None:
      features = masking.take_tokens(features, points)
    if features.shape[1] != code.shape[1]:
      raise ValueError(
        f'concat_preprocessed_input: {features.shape[1]} inputs for '
        f'{code.shape[1]} outputs; the grids must be equal'
      )
    return jnp.concatenate([features.astype(self.dtype), code], axis=-1)

  def __call__(self, query, latents, *, query_mask=None):
    """Decodes queries [B, O, E] -> Decoded [B, O, channels]."""
    return Decoded(self.read(query, latents, query_mask))

  @nn.compact
  def read(self, query, latents, query_mask=None):
    """The array of `__call__`."""
    cross_attend = attend.CrossAttend(
      query.shape[-1],
      latents.shape[-1],
      num_heads=self.num_heads,
      widening_factor=self.widening_factor,
      qk_channels=self.qk_channels,
      v_channels=self.v_channels,
      use_query_residual=self.use_query_residual,
      activation=self.activation,
      query_chunk=self.query_chunk,
      dtype=self.dtype,
      name='cross_attend',
    )
    if not self.final_project:
      return cross_attend(query, latents, query_mask=query_mask)
    options = dict(dtype=self.dtype, zeros=self.zero_output)
    output = attend.linear(self.output_num_channels, name='output', **options)
    in_chunks = 0 < self.query_chunk < query.shape[1]
    if self.is_initializing() or not in_chunks:
      return output(cross_attend(query, latents, query_mask=query_mask))
    # On its own, since the loop over chunks cannot use a part of this module.
    alone = attend.linear(self.output_num_channels, parent=None, **options)
    variables = {'params': self.variables['params']['output']}
    return cross_attend(
      query,
      latents,
      query_mask=query_mask,
      then=lambda x: alone.apply(variables, x),
    )


class ClassificationDecoder(BasicDecoder):
  """One learned query: [B, output_num_channels]. Query masks are ignored."""

  def __call__(self, query, latents, *, query_mask=None):
    """Query [B, 1, E] -> Decoded [B, classes]."""
    del query_mask
    return Decoded(self.read(query, latents)[:, 0])


class FlowDecoder(BasicDecoder):
  """The queries are all that the encoder read, image features and positions.

  The result is divided by rescale_factor and has the shape of the images.
  """

  output_num_channels: int = 2
  position_encoding_type: str = 'none'
  zero_output: bool = True
  output_image_shape: Sequence[int] = (368, 496)
  rescale_factor: float = 100.0

  def decoder_query(self, preprocessed, points=None):
    """The array that the encoder read, or some of it.

    Raises:
      ValueError: it has another size than output_image_shape.
    """
    if points is not None:
      raise ValueError(
        'FlowDecoder decodes all pixels at once: leave out points'
      )
    height, width = self.output_image_shape
    if preprocessed.array.shape[1] != height * width:
      raise ValueError(
        f'{preprocessed.array.shape[1]} inputs are no image of '
        f'output_image_shape={height}x{width}'
      )
    return preprocessed.array

  def __call__(self, query, latents, *, query_mask=None):
    """Queries -> Decoded float32[B, H, W, 2], (dx, dy) before scaling."""
    x = self.read(query, latents, query_mask).astype(jnp.float32)
    x = x / self.rescale_factor
    return Decoded(x.reshape(len(x), *self.output_image_shape, -1))


class BasicVideoAutoencodingDecoder(BasicDecoder):
  """`BasicDecoder` whose grid are the pixels of a video (T, H, W).

  All of them have the shape of the video, some of them are a list.
  """

  def __call__(self, query, latents, *, query_mask=None):
    """Queries -> Decoded [B, T, H, W, channels] or [B, O, channels]."""
    x = self.read(query, latents, query_mask)
    if x.shape[1] == math.prod(self.index_dims):
      x = x.reshape(len(x), *self.index_dims, -1)
    return Decoded(x)


class ProjectionDecoder(nn.Module):
  """Mean over the latents and a linear layer: float[B, num_classes].

  Parameters: logits, which start at zero.
  """

  num_classes: int
  dtype: Any = jnp.float32

  def decoder_query(self, preprocessed, points=None):
    """Nothing: there are no queries."""
    del preprocessed, points

  @nn.compact
  def __call__(self, query, latents, *, query_mask=None):
    """-> Decoded [B, num_classes]."""
    del query, query_mask
    x = jnp.mean(latents, axis=1, dtype=jnp.float32).astype(self.dtype)
    return Decoded(
      attend.linear(
        self.num_classes, dtype=self.dtype, zeros=True, name='logits'
      )(x)
    )
