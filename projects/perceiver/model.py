"""Perceiver IO (arXiv 2107.14795) and Perceiver (2103.03206), put together.

A preprocessor makes an array of any input, a few hundred latents read it and
are processed, queries read the latents, a postprocessor gives the result its
form. `Perceiver` joins four such parts; the functions below build the models of
the papers, `configurations` has their published sizes.

Parameters: input_preprocessor, encoder, decoder, output_postprocessor.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from projects.perceiver import (
  decoders,
  postprocessors,
  preprocessors,
)
from projects.perceiver import encoder as encoder_lib
from vidscenic import config_checks

Options = Mapping[str, Any]


class Perceiver(nn.Module):
  """Preprocessor, encoder, decoder and postprocessor."""

  input_preprocessor: nn.Module
  encoder: nn.Module
  decoder: nn.Module
  output_postprocessor: nn.Module | None = None

  def __call__(
    self,
    inputs,
    *,
    points=None,
    input_mask=None,
    query_mask=None,
    train: bool = False,
    **masking,
  ):
    """Encodes and decodes.

    Args:
      inputs: what the preprocessor takes.
      points: which outputs, see `decoder_query` of the decoder; None: all.
      input_mask: bool[B, M], inputs that may be read.
      query_mask: bool[B, O], queries that may read.
      train: batch statistics of these inputs, dropout.
      **masking: mask_keys and mask_probs of `MultimodalPreprocessor`.

    Returns:
      What the postprocessor makes of the outputs, else the outputs.
    """
    latents, preprocessed = self.encode(
      inputs, input_mask=input_mask, train=train, **masking
    )
    return self.decode(
      latents, preprocessed, points=points, query_mask=query_mask
    )

  def encode(self, inputs, *, input_mask=None, train: bool = False, **masking):
    """-> (latents [B, N, D], `preprocessors.Preprocessed`)."""
    preprocessed = self.input_preprocessor(inputs, train=train, **masking)
    latents = self.encoder(
      preprocessed.array, input_mask=input_mask, train=train
    )
    return latents, preprocessed

  def decode(self, latents, preprocessed, *, points=None, query_mask=None):
    """Outputs of latents that `encode` made; any number of times."""
    query = self.decoder.decoder_query(
      preprocessed, **({} if points is None else {'points': points})
    )
    out = self.decoder(query, latents, query_mask=query_mask)
    last = self.output_postprocessor
    if last is None:
      return out.array
    if isinstance(last, postprocessors.EmbeddingDecoder):
      return last(out.array, self.input_preprocessor.embedding)
    if isinstance(last, postprocessors.MultimodalPostprocessor):
      return last(out.array, out.sizes)
    return last(out.array)


class ImageClassifier(Perceiver):
  """Images [B, H, W, 3], or clips [B, T, H, W, 3], to logits.

  A clip of one frame is an image: its positions have no time.
  """

  def __call__(self, video, *, train: bool = False):
    """-> float[B, num_classes]."""
    if video.ndim == 5 and video.shape[1] == 1:
      video = video[:, 0]
    return super().__call__(video, train=train)


def image_classifier(
  *,
  num_classes: int,
  input_preprocessor: Options,
  encoder: Options,
  decoder: Options,
  dtype: Any = jnp.float32,
) -> Perceiver:
  """[B, H, W, 3] -> logits [B, num_classes].

  Args:
    num_classes: of the output.
    input_preprocessor: fields of `ImagePreprocessor`.
    encoder: fields of `PerceiverEncoder`.
    decoder: fields of `ClassificationDecoder`, or {'kind': 'projection'} for
      the mean over the latents of the original Perceiver.
    dtype: of the arithmetic.
  """
  return ImageClassifier(
    _make(
      preprocessors.ImagePreprocessor,
      input_preprocessor,
      'input_preprocessor',
      dtype,
    ),
    _make_encoder(encoder, dtype),
    _classifier(num_classes, decoder, dtype),
  )


def point_classifier(
  *,
  num_classes: int,
  input_preprocessor: Options,
  encoder: Options,
  decoder: Options,
  dtype: Any = jnp.float32,
) -> Perceiver:
  """Point clouds [B, P, 3] -> logits [B, num_classes].

  Args:
    num_classes, encoder, decoder, dtype: as in `image_classifier`.
    input_preprocessor: fields of `PointPreprocessor`.
  """
  return Perceiver(
    _make(
      preprocessors.PointPreprocessor,
      input_preprocessor,
      'input_preprocessor',
      dtype,
    ),
    _make_encoder(encoder, dtype),
    _classifier(num_classes, decoder, dtype),
  )


def optical_flow(
  *,
  image_size: Sequence[int],
  num_channels: int = 64,
  num_bands: int = 64,
  max_resolution: Sequence[int] | None = None,
  rescale_factor: float = 100.0,
  encoder: Options,
  decoder: Options | None = None,
  dtype: Any = jnp.float32,
) -> Perceiver:
  """Patches of two frames [B, 2, H, W, 27] -> flow [B, H, W, 2].

  Args:
    image_size: (H, W), which the model is bound to.
    num_channels: width of the linear layer on the 54 values of a pixel.
    num_bands, max_resolution: of the positions; None: image_size.
    rescale_factor: what the output is divided by.
    encoder, dtype: as in `image_classifier`.
    decoder: fields of `FlowDecoder`.
  """
  bands = {
    'num_bands': num_bands,
    'max_resolution': tuple(max_resolution or image_size),
  }
  return Perceiver(
    preprocessors.ImagePreprocessor(
      prep_type='patches',
      spatial_downsample=1,
      temporal_downsample=2,
      conv_after_patching=True,
      num_channels=num_channels,
      fourier_position_encoding_kwargs=bands,
      dtype=dtype,
    ),
    _make_encoder(encoder, dtype),
    _make(
      decoders.FlowDecoder,
      {
        'output_image_shape': tuple(image_size),
        'rescale_factor': rescale_factor,
        **(decoder or {}),
      },
      'decoder',
      dtype,
    ),
  )


def audio_video_autoencoder(
  *,
  num_frames: int,
  image_size: Sequence[int],
  num_samples: int,
  num_classes: int,
  samples_per_patch: int = 16,
  spatial_downsample: int = 4,
  video_bands: int = 32,
  video_max_resolution: Sequence[int],
  audio_bands: int = 192,
  audio_max_resolution: int,
  label_channels: int = 1024,
  output_channels: int = 512,
  input_padding: int = 4,
  query_padding: int = 2,
  mask_probs: Mapping[str, float] | None = None,
  encoder: Options,
  decoder: Options | None = None,
  dtype: Any = jnp.float32,
) -> Perceiver:
  """Video with sound and label through the latents and back.

  Inputs: image float[B, T, H, W, 3] in [0, 1], audio float[B, S, 1] in [-1, 1],
  label float[B, num_classes]. Outputs: image [B, pixels, 3], audio [B,
  samples], label logits [B, num_classes]; `points` says which pixels and which
  patches of sound.

  Args:
    num_frames, image_size: (T), (H, W) of the video.
    num_samples: S.
    num_classes: of the label.
    samples_per_patch: of the sound, in and out.
    spatial_downsample: side of the patches that are read.
    video_bands, video_max_resolution, audio_bands, audio_max_resolution: of the
      positions; those of sound count samples.
    label_channels: width of the label's query.
    output_channels: of the decoder, before the postprocessors.
    input_padding, query_padding: least number of learned channels that tell a
      modality.
    mask_probs: see `MultimodalPreprocessor`; the label is hidden by default.
    encoder, dtype: as in `image_classifier`.
    decoder: fields of `BasicDecoder`.
  """
  height, width = image_size
  _check_patches(
    num_frames=num_frames,
    image_size=image_size,
    num_samples=num_samples,
    spatial_downsample=spatial_downsample,
    samples_per_patch=samples_per_patch,
  )
  video = {
    'num_bands': video_bands,
    'max_resolution': tuple(video_max_resolution),
  }
  audio = {'num_bands': audio_bands, 'max_resolution': (audio_max_resolution,)}
  common = {'output_num_channels': output_channels, 'dtype': dtype}
  queries = {
    'audio': decoders.BasicDecoder(
      index_dims=(num_samples // samples_per_patch,),
      position_encoding_type='fourier',
      fourier_position_encoding_kwargs=audio,
      **common,
    ),
    'image': decoders.BasicVideoAutoencodingDecoder(
      index_dims=(num_frames, height, width),
      position_encoding_type='fourier',
      fourier_position_encoding_kwargs=video,
      **common,
    ),
    'label': decoders.ClassificationDecoder(
      trainable_position_encoding_kwargs={'num_channels': label_channels},
      **common,
    ),
  }
  probs = {'audio': 0.0, 'image': 0.0, 'label': 1.0}
  for name in mask_probs or {}:
    if name not in probs:
      raise ValueError(
        config_checks.unknown(
          f'task.kwargs.model.mask_probs.{name}', name, probs
        )
      )
  return Perceiver(
    preprocessors.MultimodalPreprocessor(
      {
        'audio': preprocessors.AudioPreprocessor(
          samples_per_patch=samples_per_patch,
          fourier_position_encoding_kwargs=audio,
          dtype=dtype,
        ),
        'image': preprocessors.ImagePreprocessor(
          prep_type='patches',
          spatial_downsample=spatial_downsample,
          fourier_position_encoding_kwargs=video,
          dtype=dtype,
        ),
        'label': preprocessors.OneHotPreprocessor(dtype=dtype),
      },
      min_padding_size=input_padding,
      mask_probs=probs | dict(mask_probs or {}),
      dtype=dtype,
    ),
    _make_encoder(encoder, dtype),
    decoders.MultimodalDecoder(
      queries,
      _make(
        decoders.BasicDecoder,
        {
          'position_encoding_type': 'none',
          'output_num_channels': output_channels,
          **(decoder or {}),
        },
        'decoder',
        dtype,
      ),
      min_padding_size=query_padding,
    ),
    postprocessors.MultimodalPostprocessor(
      {
        'audio': postprocessors.AudioPostprocessor(
          samples_per_patch=samples_per_patch, dtype=dtype
        ),
        'image': postprocessors.ProjectionPostprocessor(3, dtype=dtype),
        'label': postprocessors.ClassificationPostprocessor(
          num_classes, dtype=dtype
        ),
      }
    ),
  )


def masked_bytes(
  *,
  vocab_size: int = 262,
  max_seq_len: int = 2048,
  num_channels: int = 768,
  encoder: Options,
  decoder: Options,
  dtype: Any = jnp.float32,
) -> Perceiver:
  """Bytes int[B, M] -> logits [B, max_seq_len, vocab_size].

  Args:
    vocab_size: 256 bytes and the special tokens.
    max_seq_len: number of positions, in and out.
    num_channels: width of the embedding and of the queries.
    encoder, dtype: as in `image_classifier`.
    decoder: fields of `BasicDecoder`.
  """
  return Perceiver(
    preprocessors.EmbeddingPreprocessor(
      vocab_size, max_seq_len, num_channels, dtype=dtype
    ),
    _make_encoder(encoder, dtype),
    _make(
      decoders.BasicDecoder,
      {
        'output_num_channels': num_channels,
        'index_dims': (max_seq_len,),
        'trainable_position_encoding_kwargs': {'num_channels': num_channels},
        'final_project': False,
        **decoder,
      },
      'decoder',
      dtype,
    ),
    postprocessors.EmbeddingDecoder(),
  )


def _make_encoder(options, dtype):
  return _make(encoder_lib.PerceiverEncoder, options, 'encoder', dtype)


def _classifier(num_classes, options, dtype):
  options = dict(options)
  kind = options.pop('kind', 'classification')
  if kind == 'projection':
    options['num_classes'] = num_classes
    return _make(decoders.ProjectionDecoder, options, 'decoder', dtype)
  if kind != 'classification':
    raise ValueError(
      f"task.kwargs.model.decoder.kind={kind!r}: want 'classification' or "
      "'projection'"
    )
  options['output_num_channels'] = num_classes
  return _make(decoders.ClassificationDecoder, options, 'decoder', dtype)


def _make(cls, options, part, dtype):
  """A module from a config's fields; unknown ones are named."""
  known = cls.__dataclass_fields__.keys() - {'parent', 'name', 'dtype'}
  for name in options:
    if name not in known:
      raise ValueError(
        config_checks.unknown(f'task.kwargs.model.{part}.{name}', name, known)
      )
  return cls(**_hashable(dict(options)), dtype=dtype)


def _hashable(value):
  """A module is hashed; lists are not."""
  if isinstance(value, Mapping):
    return {name: _hashable(item) for name, item in value.items()}
  return tuple(value) if isinstance(value, list) else value


def _check_patches(
  *, num_frames, image_size, num_samples, spatial_downsample, samples_per_patch
):
  if any(side % spatial_downsample for side in image_size):
    raise ValueError(
      f'task.kwargs.model.image_size={tuple(image_size)} is no multiple of '
      f'spatial_downsample={spatial_downsample}: change one of them'
    )
  if num_frames < 1:
    raise ValueError(
      f'task.kwargs.model.num_frames={num_frames}: want 1 or more'
    )
  if num_samples % samples_per_patch:
    raise ValueError(
      f'task.kwargs.model.num_samples={num_samples} is no multiple of '
      f'samples_per_patch={samples_per_patch}: change one of them'
    )
