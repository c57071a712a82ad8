"""Sizes of the published Perceivers, by name.

Perceiver IO (arXiv 2107.14795): the six models with released weights, whose
parameter counts are given; the original Perceiver (2103.03206) for images and
point clouds, of which no weights were released. In its text the first block of
self-attention has weights of its own, but only one block that all passes share
gives the 44.9M parameters that it reports.
"""

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from projects.perceiver import model, perceiver
from vidscenic import config as vc
from vidscenic import config_checks

_VISION_ENCODER = {
  'num_self_attends_per_block': 6,
  'num_blocks': 8,
  'z_index_dim': 512,
  'num_z_channels': 1024,
  'num_cross_attend_heads': 1,
  'num_self_attend_heads': 8,
}


def _class_query(use_query_residual):
  return {
    'trainable_position_encoding_kwargs': {'num_channels': 1024},
    'use_query_residual': use_query_residual,
  }


def _bands(num_bands, *max_resolution):
  return {'num_bands': num_bands, 'max_resolution': max_resolution}


_IMAGENET_PIXELS = {
  'prep_type': 'pixels',
  'spatial_downsample': 1,
  'fourier_position_encoding_kwargs': _bands(64, 224, 224),
}

# name: (function of `model`, its arguments)
CONFIGURATIONS = {
  # 48,440,627 parameters, ImageNet top-1 79.0
  'imagenet_fourier': (
    'image_classifier',
    {
      'num_classes': 1000,
      'input_preprocessor': _IMAGENET_PIXELS,
      'encoder': _VISION_ENCODER,
      'decoder': _class_query(True),
    },
  ),
  # 62,255,848 parameters, 72.7
  'imagenet_learned': (
    'image_classifier',
    {
      'num_classes': 1000,
      'input_preprocessor': {
        'prep_type': 'conv1x1',
        'spatial_downsample': 1,
        'num_channels': 256,
        'position_encoding_type': 'trainable',
        'trainable_position_encoding_kwargs': {'num_channels': 256},
        'project_pos_dim': 256,
      },
      'encoder': _VISION_ENCODER,
      # Off in this one, on in the other two.
      'decoder': _class_query(False),
    },
  ),
  # 48,646,522 parameters, 82.1
  'imagenet_conv': (
    'image_classifier',
    {
      'num_classes': 1000,
      'input_preprocessor': {
        'prep_type': 'conv',
        'spatial_downsample': 4,
        'num_channels': 64,
        'fourier_position_encoding_kwargs': _bands(64, 56, 56),
      },
      'encoder': _VISION_ENCODER,
      'decoder': _class_query(True),
    },
  ),
  # 41,057,134 parameters; the paper says 27.9M
  'optical_flow': (
    'optical_flow',
    {
      'image_size': (368, 496),
      'num_channels': 64,
      'num_bands': 64,
      'encoder': {
        'num_self_attends_per_block': 24,
        'num_blocks': 1,
        'z_index_dim': 2048,
        'num_z_channels': 512,
        'num_cross_attend_heads': 1,
        'num_self_attend_heads': 16,
        'key_chunk': 2048,
        'query_chunk': 512,
      },
      'decoder': {'query_chunk': 2048},
    },
  ),
  # 19,858,855 parameters
  'video_autoencoding': (
    'audio_video_autoencoder',
    {
      'num_frames': 16,
      'image_size': (224, 224),
      'num_samples': 30_720,  # 1920 for every frame: 48 kHz at 25 frames
      'num_classes': 700,
      'samples_per_patch': 16,
      'spatial_downsample': 4,
      'video_bands': 32,
      'video_max_resolution': (16, 56, 56),
      'audio_bands': 192,
      'audio_max_resolution': 30_720,
      'label_channels': 1024,
      'output_channels': 512,
      'encoder': {
        'num_self_attends_per_block': 8,
        'num_blocks': 1,
        'z_index_dim': 784,
        'num_z_channels': 512,
        'num_cross_attend_heads': 1,
        'num_self_attend_heads': 8,
      },
    },
  ),
  # AudioSet: sizes of the paper, but for the bands of sound, which are ours.
  'audioset': (
    'audio_video_classifier',
    {
      'num_frames': 32,
      'image_size': (224, 224),
      'num_samples': 61_440,  # 480 patches: 48 kHz at 25 frames
      'num_classes': 527,
      'samples_per_patch': 128,
      'spatial_downsample': 8,
      'temporal_downsample': 2,
      'video_bands': 16,
      'video_max_resolution': (16, 28, 28),
      'audio_bands': 64,
      'audio_max_resolution': 61_440,
      'encoder': {
        'num_self_attends_per_block': 12,
        'num_blocks': 1,
        'z_index_dim': 512,
        'num_z_channels': 1024,
        'num_cross_attend_heads': 1,
        'num_self_attend_heads': 8,
      },
      'decoder': _class_query(True),
    },
  ),
  # 201,108,230 parameters
  'language': (
    'masked_bytes',
    {
      'vocab_size': 262,
      'max_seq_len': 2048,
      'num_channels': 768,
      'encoder': {
        'num_self_attends_per_block': 26,
        'num_blocks': 1,
        'z_index_dim': 256,
        'num_z_channels': 1280,
        'num_cross_attend_heads': 8,
        'num_self_attend_heads': 8,
        'qk_channels': 256,
        'v_channels': 1280,
      },
      'decoder': {'qk_channels': 256, 'v_channels': 768, 'num_heads': 8},
    },
  ),
  # The original Perceiver: eight cross-attentions; 44.9M parameters, 78.0.
  'imagenet_original': (
    'image_classifier',
    {
      'num_classes': 1000,
      'input_preprocessor': _IMAGENET_PIXELS,
      'encoder': {**_VISION_ENCODER, 'num_reads': 8},
      'decoder': {'kind': 'projection'},
    },
  ),
  # The original Perceiver on about 2000 points; frequencies up to 1120.
  'modelnet40': (
    'point_classifier',
    {
      'num_classes': 40,
      'input_preprocessor': {'num_bands': 64, 'max_resolution': 2240.0},
      'encoder': {**_VISION_ENCODER, 'num_blocks': 2, 'num_reads': 2},
      'decoder': {'kind': 'projection'},
    },
  ),
}


def build(
  options: Mapping[str, Any],
  *functions: str,
  dtype: str = 'float32',
) -> tuple[perceiver.Perceiver, dict[str, Any]]:
  """A model from the `model` field of a config.

  Args:
    options: `name`, one of CONFIGURATIONS, and what differs from it, dicts
      merged; or all arguments of the function of `model`.
    *functions: functions of `model` that the task can use; without a name the
      first.
    dtype: 'float32' or 'bfloat16', of the arithmetic.

  Returns:
    (model, all arguments that made it, defaults too).

  Raises:
    ValueError: an unknown name or argument, or a model of another kind.
  """
  options = dict(options)
  name = options.pop('name', '')
  function, fields = functions[0], {}
  if name:
    if name not in CONFIGURATIONS:
      raise ValueError(
        config_checks.unknown(
          f'task.kwargs.model.name={name!r}', name, CONFIGURATIONS
        )
      )
    function, fields = CONFIGURATIONS[name]
  if function not in functions:
    raise ValueError(
      f'task.kwargs.model.name={name!r} is a model for another task: it is made'
      f' by {function}, this task takes {", ".join(functions)}'
    )
  if dtype not in ('float32', 'bfloat16'):
    raise ValueError(
      f"task.kwargs.dtype={dtype!r}: want 'float32' or 'bfloat16'"
    )
  fields = _merged(copy.deepcopy(dict(fields)), options)
  made = vc.build(
    f'{model.__name__}:{function}',
    field='task.kwargs.model',
    dtype=jnp.dtype(dtype),
    **fields,
  )
  defaults = {
    argument.name: argument.default
    for argument in inspect.signature(
      getattr(model, function)
    ).parameters.values()
  }
  return made, defaults | fields


def _merged(fields, options):
  for name, value in options.items():
    both = isinstance(value, Mapping) and isinstance(fields.get(name), Mapping)
    fields[name] = _merged(dict(fields[name]), value) if both else value
  return fields
