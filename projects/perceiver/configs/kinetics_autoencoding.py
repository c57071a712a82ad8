r"""Autoencoding of Kinetics-700-2020, Perceiver IO (arXiv 2107.14795).

  python main.py --workdir=runs/perceiver_kinetics \
    --config=projects/perceiver/configs/kinetics_autoencoding.py \
    --config.data.train.source_kwargs.root=/data/kinetics700 \
    --config.evals.val.kwargs.data.source_kwargs.root=/data/kinetics700

UCF101, which has 101 classes, in its place:

  --config=projects/perceiver/configs/kinetics_autoencoding.py:dataset=ucf101

and UCF101 as TFDS prepares it, in the array_record format, with paths in
`source_kwargs.path`; it holds no sound, so that only pictures are learned:

  --config=projects/perceiver/configs/kinetics_autoencoding.py:dataset=ucf101_tfds

From the paper: batches of 1024, rate 1e-3, 512 pixels and 512 samples of sound
decoded per example, the label hidden in half of them, loss 0.03 L1 of pixels +
L1 of samples + 0.0001 cross-entropy. Not stated there, and ours: the optimizer
(Adam), its schedule (cosine after 5000 steps of warm-up), the number of steps,
clipping, and random places in time.

Expected, with 784 latents: PSNR 26.97 dB of sound, 24.37 dB of pixels, top-1
10.2. Not run.
"""

import ml_collections as mlc

from vidscenic import config as vc

# dataset: (number of classes, source, its arguments but split, splits)
_DATASETS = {
  'kinetics700': (
    700,
    'vidscenic.data.datasets.kinetics:Kinetics',
    {'root': '', 'version': '700-2020'},
    ('train', 'val'),
  ),
  'ucf101': (
    101,
    'vidscenic.data.datasets.ucf_hmdb:Ucf101',
    {'root': ''},
    ('train', 'test'),
  ),
  'ucf101_tfds': (
    101,
    'vidscenic.data.array_records:ArrayRecords',
    {
      'path': '',
      'fields': {'video': 'video', 'label': 'label'},
      'fps': 25.0,
    },
    ('train', 'test'),
  ),
}


def get_config(arg=''):
  """Argument: dataset, kinetics700, ucf101 or ucf101_tfds."""
  arg = vc.parse_arg(arg, dataset='kinetics700')
  if arg.dataset not in _DATASETS:
    raise ValueError(
      f'config argument dataset={arg.dataset!r}: want one of {tuple(_DATASETS)}'
    )
  num_classes, *_ = _DATASETS[arg.dataset]
  config = vc.base_config()
  config.batch_size = 1024
  config.steps = 100_000
  config.task.factory = 'projects.perceiver.autoencoding_task:AudioVideo'
  config.task.kwargs = mlc.ConfigDict(
    {
      'queries': {'image': 512, 'audio': 32},
      'scales': {'image': 0.03, 'audio': 1.0, 'label': 0.0001},
      'label_mask_prob': 0.5,
      'dtype': 'bfloat16',
      'model': {
        'name': 'video_autoencoding',
        'num_classes': num_classes,
        'encoder': {'scan': True, 'remat': 'none'},
      },
    }
  )
  config.predict.factory = 'projects.perceiver.predict:reconstruct'
  config.data.train = _clips(arg.dataset, train=True)
  config.optim.lr = 1e-3
  config.optim.clip_norm = 10.0
  config.optim.schedule = vc.schedule_spec(name='cosine', warmup_steps=5000)
  config.log.every_steps = 100
  config.checkpoint.every_steps = 1000
  config.evals.val = vc.eval_spec(
    factory='vidscenic.evaluation.evaluator:MeanLoss',
    every_steps=10_000,
    kwargs={
      'data': _clips(arg.dataset, train=False),
      'batch_size': 32,
      'limit': 2048,
    },
  )
  return vc.finalize(config)


def _clips(dataset, *, train):
  _, source, kwargs, splits = _DATASETS[dataset]
  return vc.data_spec(
    source=source,
    source_kwargs={**kwargs, 'split': splits[0 if train else 1]},
    transform='projects.perceiver.data.audio_video:AudioVideoClips',
    transform_kwargs={
      'num_frames': 16,
      'fps': 25.0,
      'audio_rate': 48_000,
      'size': (224, 224),
      'crop': 'center',
      'train': train,
      'flip': 0.0,
    },
  )
