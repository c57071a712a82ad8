r"""Autoencoding of Kinetics-700-2020, Perceiver IO (arXiv 2107.14795).

  python main.py --workdir=runs/perceiver_kinetics \
    --config=projects/perceiver/configs/kinetics_autoencoding.py \
    --config.data.train.source_kwargs.root=/data/kinetics700 \
    --config.evals.val.kwargs.data.source_kwargs.root=/data/kinetics700

UCF101, which has 101 classes, in its place:

  --config=projects/perceiver/configs/kinetics_autoencoding.py:dataset=ucf101

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

_DATASETS = ('kinetics700', 'ucf101')


def get_config(arg=''):
  """Argument: dataset, kinetics700 or ucf101."""
  arg = vc.parse_arg(arg, dataset='kinetics700')
  if arg.dataset not in _DATASETS:
    raise ValueError(
      f'config argument dataset={arg.dataset!r}: want one of {_DATASETS}'
    )
  ucf = arg.dataset == 'ucf101'
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
        'num_classes': 101 if ucf else 700,
        'encoder': {'scan': True, 'remat': 'none'},
      },
    }
  )
  config.predict.factory = 'projects.perceiver.predict:reconstruct'
  config.data.train = _clips(ucf, train=True)
  config.optim.lr = 1e-3
  config.optim.clip_norm = 10.0
  config.optim.schedule = vc.schedule_spec(name='cosine', warmup_steps=5000)
  config.log.every_steps = 100
  config.checkpoint.every_steps = 1000
  config.evals.val = vc.eval_spec(
    factory='vidscenic.evaluation.evaluator:MeanLoss',
    every_steps=10_000,
    kwargs={'data': _clips(ucf, train=False), 'batch_size': 32, 'limit': 2048},
  )
  return vc.finalize(config)


def _clips(ucf, *, train):
  if ucf:
    source = 'vidscenic.data.datasets.ucf_hmdb:UCF101'
    kwargs = {'root': '', 'split': 'train' if train else 'test'}
  else:
    source = 'vidscenic.data.datasets.kinetics:Kinetics'
    kwargs = {
      'root': '',
      'split': 'train' if train else 'val',
      'version': '700-2020',
    }
  return vc.data_spec(
    source=source,
    source_kwargs=kwargs,
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
