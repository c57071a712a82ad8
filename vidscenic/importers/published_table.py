"""The table of published weight files, and how each is read and used.

Addresses and licences are those of the publishers' pages. Sizes are rounded as
they are published there; what is not known is None. Parameter counts include
everything in the file. No file could be opened when this table was written:
counts and key layouts follow from the public model code.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Weights(NamedTuple):
  """One file.

  Attributes:
    name: what users call it.
    project: folder under projects/ whose models it fits.
    paper: arXiv number.
    licence: of the weights.
    url: public address.
    file: name of the file on disk; no two entries share one.
    size: bytes, to the digits that are published, or None.
    parameters: number of values, or None.
    importer: 'package.module:load', see `train.run.Run`.
    task: 'package.module:Task', the task whose model it fills.
    task_kwargs: arguments of the task.
    importer_options: further arguments of the importer.
    notes: what to expect of it, what to know about it.
    predict: 'file.py:argument', the config that runs it on one's own video.
  """

  name: str
  project: str
  paper: str
  licence: str
  url: str
  file: str
  size: int | None
  parameters: int | None
  importer: str
  task: str
  task_kwargs: Mapping[str, Any]
  importer_options: Mapping[str, Any]
  notes: str
  predict: str = ''


_MB = 10**6
_CC_BY = 'CC-BY-4.0'
_APACHE = 'Apache-2.0'
# The repository's licence for software; weights are not named in it.
_TAPNET_LICENCE = 'Apache-2.0 (repository)'


def _tapir(
  name,
  file,
  parameters,
  notes,
  folder='',
  *,
  causal=False,
  boots=False,
  levels=1,
):
  return Weights(
    name=name,
    project='tapir',
    paper='2402.00847' if boots else '2306.08637',
    licence=_TAPNET_LICENCE,
    url=f'https://storage.googleapis.com/dm-tapnet/{folder}{file}',
    file=file,
    size=None,
    parameters=parameters,
    importer='projects.tapir.importer:load',
    task='projects.tapir.task:PointTracking',
    task_kwargs={
      'model': {
        'pyramid_level': levels,
        'use_causal_conv': causal,
        'extra_convs': boots,
        'softmax_temperature': 10.0 if boots else 20.0,
      }
    },
    importer_options={},
    notes=notes,
    predict=f'projects/tapir/configs/predict.py:weights={name}',
  )


def _tap_vid(davis_first, davis_strided, kinetics, robotap):
  return (
    f'AJ at 256x256: DAVIS first {davis_first}, strided {davis_strided}, '
    f'Kinetics first {kinetics}, RoboTAP first {robotap}'
  )


_PANNING = _tap_vid(58.5, 63.3, 50.0, 59.6)
_BOOTS = _tap_vid(62.4, 67.4, 55.8, 69.2)
_CAUSAL_BOOTS = _tap_vid(59.7, 61.2, 55.1, 69.1)

_TAPIR = (
  Weights(
    name='tapnet',
    project='tapir',
    paper='2211.03726',
    licence=_TAPNET_LICENCE,
    url='https://storage.googleapis.com/dm-tapnet/checkpoint.npy',
    file='checkpoint.npy',
    size=None,
    parameters=2_791_090,
    importer='projects.tapir.importer:load',
    task='projects.tapir.task:PointTracking',
    task_kwargs={'model': {'name': 'tapnet'}},
    importer_options={},
    notes=f'with batch statistics; {_tap_vid(33.0, 38.4, 38.5, 45.1)}',
  ),
  _tapir(
    'tapir', 'tapir_checkpoint_panning.npy', 31_072_327, _PANNING, levels=0
  ),
  _tapir(
    'tapir_pt', 'tapir_checkpoint_panning.pt', 31_072_327, _PANNING, levels=0
  ),
  _tapir(
    'causal_tapir',
    'causal_tapir_checkpoint.npy',
    31_097_415,
    _tap_vid(56.2, 58.3, 51.2, 59.1),
    causal=True,
  ),
  _tapir(
    'bootstapir',
    'bootstapir_checkpoint_v2.npy',
    54_699_335,
    _BOOTS,
    folder='bootstap/',
    boots=True,
  ),
  _tapir(
    'bootstapir_pt',
    'bootstapir_checkpoint_v2.pt',
    54_699_335,
    _BOOTS,
    folder='bootstap/',
    boots=True,
  ),
  _tapir(
    'causal_bootstapir',
    'causal_bootstapir_checkpoint.npy',
    54_699_335,
    _CAUSAL_BOOTS,
    folder='bootstap/',
    causal=True,
    boots=True,
  ),
  _tapir(
    'causal_bootstapir_pt',
    'causal_bootstapir_checkpoint.pt',
    54_699_335,
    _CAUSAL_BOOTS,
    folder='bootstap/',
    causal=True,
    boots=True,
  ),
)


def _trajan():
  file = 'track_autoencoder_ckpt.npz'
  return Weights(
    name='trajan',
    project='trajan',
    paper='2505.00209',
    licence=_TAPNET_LICENCE,
    url=f'https://storage.googleapis.com/dm-tapnet/trajan/{file}',
    file=file,
    size=273 * _MB,
    parameters=68_333_080,
    importer='projects.trajan.importer:load',
    task='projects.trajan.task:TrackAutoencoder',
    task_kwargs={},
    importer_options={},
    notes='150 frames; its input tracks come from bootstapir',
  )


def _representations4d(
  name, project, paper, file, size, parameters, task, task_kwargs, notes
):
  return Weights(
    name=name,
    project=project,
    paper=paper,
    licence=_CC_BY,
    url=f'https://storage.googleapis.com/representations4d/checkpoints/{file}',
    file=file,
    size=size,
    parameters=parameters,
    importer=f'projects.{project}.importer:load',
    task=f'projects.{project}.task:{task}',
    task_kwargs=task_kwargs,
    importer_options={},
    notes=notes,
  )


def _rvm(name, file, size, parameters, letter, notes):
  return _representations4d(
    name,
    'rvm',
    '2512.13684',
    file,
    size,
    parameters,
    'MaskedVideo',
    {'model': {'size': letter}},
    notes,
  )._replace(predict=f'projects/rvm/configs/predict.py:size={letter}')


_RVM = (
  _rvm(
    'rvm_small',
    'pretrain_rvm_small16_256_204031069.npz',
    270 * _MB,
    67_480_448,
    'S',
    'frozen: SSv2 59.7, Kinetics-700 49.6',
  ),
  _rvm(
    'rvm_base',
    'pretrain_rvm_base16_256_203916225.npz',
    641 * _MB,
    160_270_848,
    'B',
    'published as 117M, which does not fit its size',
  ),
  _rvm(
    'rvm_large',
    'pretrain_rvm_large16_256_202497301.npz',
    1636 * _MB,
    409_069_824,
    'L',
    'frozen: SSv2 66.7, Kinetics-700 57.3; DAVIS J&F 66.0, JHMDB PCK@0.1 48.4, '
    'VIP mIoU 38.0',
  ),
  _rvm(
    'rvm_huge',
    'pretrain_rvm_huge16_256_203854202.npz',
    3108 * _MB,
    776_895_488,
    'H',
    'frozen: SSv2 68.7; DAVIS J&F 65.6, VIP mIoU 37.3',
  ),
)


def _moog(name, part, size, parameters, task, notes, **task_kwargs):
  return _representations4d(
    name,
    'moog',
    '2411.05927',
    f'moog_ego4d_{part}_ckpt_164335139.npz',
    size,
    parameters,
    task,
    task_kwargs,
    notes,
  )


_HEAD = (
  'published as 35M and 140 MB, by its structure 11M and 45 MB; needs '
  'moog_backbone'
)
_MOOG = (
  _moog(
    'moog_backbone',
    'backbone',
    140 * _MB,
    35_193_811,
    'NextFrame',
    'the count includes the pixel decoder',
    variant='checkpoint',
  ),
  _moog(
    'moog_point_head',
    'point_track_head',
    None,
    11_338_760,
    'PointReadout',
    f'16 frames; {_HEAD}',
  ),
  _moog(
    'moog_box_head',
    'box_track_head',
    None,
    11_424_832,
    'BoxReadout',
    f'16 frames; {_HEAD}',
  ),
)


def _scaling4d(name, file, size, parameters, letter, notes):
  return _representations4d(
    name,
    'layerlock',
    '2412.15212',
    file,
    size,
    parameters,
    'MaskedVideo',
    {'model': {'size': letter, 'posenc': 'learned', 'decoder': False}},
    notes,
  )


_SCALING4D = (
  _scaling4d(
    'scaling4d_base',
    'scaling4d_dist_b.npz',
    350 * _MB,
    87_439_104,
    'B',
    'backbone distilled from scaling4d_e; published as 334 MB, which are MiB',
  ),
  _scaling4d(
    'scaling4d_e',
    'scaling4d_e.npz',
    15_240 * _MB,
    3_809_464_064,
    'e',
    'frozen: SSv2 64.6, Kinetics-700 54.4, ScanNet AbsRel 0.094; published as '
    '14 GB, which are GiB',
  ),
  _scaling4d(
    'scaling4d_base_depth',
    'scaling4d_dist_b_depth.npz',
    420 * _MB,
    105_026_944,
    'B',
    'backbone and ScanNet depth readout, 16 frames of 224x224',
  )._replace(
    task='vidscenic.tasks.readout:Readout',
    task_kwargs={
      'clip': (16, 224, 224),
      'backbone': 'projects.layerlock.model:features_of_size',
      'backbone_kwargs': {'size': 'B', 'grid': (8, 14, 14)},
      'heads': {
        'depth': {
          'factory': 'vidscenic.tasks.attentive_heads:DenseDepth',
          'scale': 'raw',
        }
      },
    },
  ),
)


def _perceiver(name, file, parameters, task, model, notes):
  return Weights(
    name=f'perceiver_{name}',
    project='perceiver',
    paper='2107.14795',
    licence=_CC_BY,
    url=f'https://storage.googleapis.com/perceiver_io/{file}',
    file=file,
    size=None,
    parameters=parameters,
    importer='projects.perceiver.importer:load',
    task=f'projects.perceiver.{task}',
    task_kwargs={'model': {'name': model}},
    importer_options={},
    notes=notes,
  )


def _hugging_face(original, repository, size):
  return original._replace(
    name=original.name.replace('perceiver_', 'perceiver_hf_'),
    licence=_APACHE,
    url=f'https://huggingface.co/{repository}/resolve/main/pytorch_model.bin',
    file=f'{repository.replace("/", "_")}.bin',
    size=size,
    notes=f'the values of {original.name} in the layout of transformers',
  )


_PERCEIVER = (
  _perceiver(
    'imagenet_fourier',
    'imagenet_fourier_position_encoding.pystate',
    48_440_627,
    'classification_task:Classification',
    'imagenet_fourier',
    'ImageNet top-1 79.0',
  ),
  _perceiver(
    'imagenet_learned',
    'imagenet_learned_position_encoding.pystate',
    62_255_848,
    'classification_task:Classification',
    'imagenet_learned',
    'ImageNet top-1 72.7; 224x224 only',
  ),
  _perceiver(
    'imagenet_conv',
    'imagenet_conv_preprocessing.pystate',
    48_646_522,
    'classification_task:Classification',
    'imagenet_conv',
    'ImageNet top-1 82.1; with batch statistics',
  ),
  _perceiver(
    'optical_flow',
    'optical_flow_checkpoint.pystate',
    41_057_134,
    'flow_task:OpticalFlow',
    'optical_flow',
    'end-point error: Sintel clean 1.81, final 2.42, KITTI 4.98',
  ),
  _perceiver(
    'video_autoencoding',
    'video_autoencoding_checkpoint.pystate',
    19_858_855,
    'autoencoding_task:AudioVideo',
    'video_autoencoding',
    'Kinetics-700, 784 latents: video PSNR 24.37, audio PSNR 26.97',
  ),
  _perceiver(
    'language',
    'language_perceiver_io_bytes.pickle',
    201_108_230,
    'bytes_task:MaskedBytes',
    'language',
    '2048 bytes; GLUE average 80.95 after fine-tuning',
  ),
)
_PERCEIVER_HF = tuple(
  _hugging_face(original, f'deepmind/{repository}', size)
  for original, repository, size in zip(
    _PERCEIVER,
    (
      'vision-perceiver-fourier',
      'vision-perceiver-learned',
      'vision-perceiver-conv',
      'optical-flow-perceiver',
      'multimodal-perceiver',
      'language-perceiver',
    ),
    (194 * _MB, 249 * _MB, 195 * _MB, 164 * _MB, 79_500_000, 805 * _MB),
    strict=True,
  )
)

WEIGHTS: tuple[Weights, ...] = (
  *_TAPIR,
  _trajan(),
  *_RVM,
  *_MOOG,
  *_SCALING4D,
  *_PERCEIVER,
  *_PERCEIVER_HF,
)
