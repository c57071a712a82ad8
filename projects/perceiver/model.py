"""The models of Perceiver IO (arXiv 2107.14795) and Perceiver (2103.03206).

Each function joins parts to a `perceiver.Perceiver`; `configurations` has the
published sizes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from projects.perceiver import (
  decoders,
  multimodal,
  parts,
  perceiver,
  postprocessors,
  preprocessors,
)
from vidscenic import config_checks

Options = Mapping[str, Any]


def image_classifier(
  *,
  num_classes: int,
  input_preprocessor: Options,
  encoder: Options,
  decoder: Options,
  dtype: Any = jnp.float32,
) -> perceiver.Perceiver:
  """[B, H, W, 3] -> logits [B, num_classes].

  Args:
    num_classes: of the output.
    input_preprocessor: fields of `ImagePreprocessor`.
    encoder: fields of `PerceiverEncoder`.
    decoder: fields of `ClassificationDecoder`, or {'kind': 'projection'} for
      the mean over the latents of the original Perceiver.
    dtype: of the arithmetic.
  """
  return perceiver.ImageClassifier(
    parts.make(
      preprocessors.ImagePreprocessor,
      input_preprocessor,
      'input_preprocessor',
      dtype,
    ),
    parts.make_encoder(encoder, dtype),
    parts.make_classifier(num_classes, decoder, dtype),
  )


def point_classifier(
  *,
  num_classes: int,
  input_preprocessor: Options,
  encoder: Options,
  decoder: Options,
  dtype: Any = jnp.float32,
) -> perceiver.Perceiver:
  """Point clouds [B, P, 3] -> logits [B, num_classes].

  Args:
    num_classes, encoder, decoder, dtype: as in `image_classifier`.
    input_preprocessor: fields of `PointPreprocessor`.
  """
  return perceiver.Perceiver(
    parts.make(
      preprocessors.PointPreprocessor,
      input_preprocessor,
      'input_preprocessor',
      dtype,
    ),
    parts.make_encoder(encoder, dtype),
    parts.make_classifier(num_classes, decoder, dtype),
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
) -> perceiver.Perceiver:
  """Patches of two frames [B, 2, H, W, 27] -> flow [B, H, W, 2].

  Args:
    image_size: (H, W), which the model is bound to.
    num_channels: width of the linear layer on the 54 values of a pixel.
    num_bands, max_resolution: of the positions; None: image_size.
    rescale_factor: what the output is divided by.
    encoder, dtype: as in `image_classifier`.
    decoder: fields of `FlowDecoder`.
  """
  bands = _bands(num_bands, max_resolution or image_size)
  return perceiver.Perceiver(
    preprocessors.ImagePreprocessor(
      prep_type='patches',
      spatial_downsample=1,
      temporal_downsample=2,
      conv_after_patching=True,
      num_channels=num_channels,
      fourier_position_encoding_kwargs=bands,
      dtype=dtype,
    ),
    parts.make_encoder(encoder, dtype),
    parts.make(
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
) -> perceiver.Perceiver:
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
  video = _bands(video_bands, video_max_resolution)
  audio = _bands(audio_bands, [audio_max_resolution])
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
  return perceiver.Perceiver(
    multimodal.MultimodalPreprocessor(
      {
        **_audio_video(
          audio,
          video,
          samples_per_patch=samples_per_patch,
          spatial_downsample=spatial_downsample,
          dtype=dtype,
        ),
        'label': preprocessors.OneHotPreprocessor(dtype=dtype),
      },
      min_padding_size=input_padding,
      mask_probs=probs | dict(mask_probs or {}),
      dtype=dtype,
    ),
    parts.make_encoder(encoder, dtype),
    multimodal.MultimodalDecoder(
      queries,
      parts.make(
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
    multimodal.MultimodalPostprocessor(
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


def audio_video_classifier(
  *,
  num_frames: int,
  image_size: Sequence[int],
  num_samples: int,
  num_classes: int,
  samples_per_patch: int = 128,
  spatial_downsample: int = 8,
  temporal_downsample: int = 2,
  video_bands: int = 16,
  video_max_resolution: Sequence[int],
  audio_bands: int,
  audio_max_resolution: int,
  input_padding: int = 4,
  encoder: Options,
  decoder: Options,
  dtype: Any = jnp.float32,
) -> perceiver.Perceiver:
  """Video with sound to logits [B, num_classes].

  Inputs: image and audio, or one of them, as in `audio_video_autoencoder`.

  Args:
    num_frames, image_size, num_samples, samples_per_patch, spatial_downsample:
      as in `audio_video_autoencoder`.
    num_classes: of the output.
    temporal_downsample: frames of the patches that are read.
    video_bands, video_max_resolution, audio_bands, audio_max_resolution,
      input_padding: as in `audio_video_autoencoder`.
    encoder, decoder, dtype: as in `image_classifier`.
  """
  _check_patches(
    num_frames=num_frames,
    image_size=image_size,
    num_samples=num_samples,
    spatial_downsample=spatial_downsample,
    temporal_downsample=temporal_downsample,
    samples_per_patch=samples_per_patch,
  )
  return perceiver.Perceiver(
    multimodal.MultimodalPreprocessor(
      _audio_video(
        _bands(audio_bands, [audio_max_resolution]),
        _bands(video_bands, video_max_resolution),
        samples_per_patch=samples_per_patch,
        spatial_downsample=spatial_downsample,
        temporal_downsample=temporal_downsample,
        dtype=dtype,
      ),
      min_padding_size=input_padding,
      dtype=dtype,
    ),
    parts.make_encoder(encoder, dtype),
    parts.make_classifier(num_classes, decoder, dtype),
  )


def masked_bytes(
  *,
  vocab_size: int = 262,
  max_seq_len: int = 2048,
  num_channels: int = 768,
  encoder: Options,
  decoder: Options,
  dtype: Any = jnp.float32,
) -> perceiver.Perceiver:
  """Bytes int[B, M] -> logits [B, max_seq_len, vocab_size].

  Args:
    vocab_size: 256 bytes and the special tokens.
    max_seq_len: number of positions, in and out.
    num_channels: width of the embedding and of the queries.
    encoder, dtype: as in `image_classifier`.
    decoder: fields of `BasicDecoder`.
  """
  return perceiver.Perceiver(
    preprocessors.EmbeddingPreprocessor(
      vocab_size, max_seq_len, num_channels, dtype=dtype
    ),
    parts.make_encoder(encoder, dtype),
    parts.make(
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


def _bands(num_bands, max_resolution):
  return {'num_bands': num_bands, 'max_resolution': tuple(max_resolution)}


def _audio_video(
  audio, video, *, samples_per_patch, dtype, **downsample
) -> dict[str, Any]:
  """Preprocessors of both, whose positions have the bands `audio`, `video`."""
  return {
    'audio': preprocessors.AudioPreprocessor(
      samples_per_patch=samples_per_patch,
      fourier_position_encoding_kwargs=audio,
      dtype=dtype,
    ),
    'image': preprocessors.ImagePreprocessor(
      prep_type='patches',
      fourier_position_encoding_kwargs=video,
      dtype=dtype,
      **downsample,
    ),
  }


def _check_patches(
  *,
  num_frames,
  image_size,
  num_samples,
  spatial_downsample,
  samples_per_patch,
  temporal_downsample=1,
):
  # A single patch in time would lose its axis, and its position.
  for name, value, step, size, least in (
    ('image_size', image_size, 'spatial_downsample', spatial_downsample, 1),
    ('num_frames', num_frames, 'temporal_downsample', temporal_downsample, 2),
    ('num_samples', num_samples, 'samples_per_patch', samples_per_patch, 1),
  ):
    if np.any(np.mod(value, size)):
      raise ValueError(
        f'task.kwargs.model.{name}={value} is no multiple of {step}={size}: '
        'change one of them'
      )
    if np.min(value) < least * size:
      raise ValueError(
        f'task.kwargs.model.{name}={value}: want {least * size} or more'
      )
