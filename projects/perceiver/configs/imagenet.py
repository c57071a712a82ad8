r"""ImageNet classification with Perceiver IO at its published sizes.

  python main.py --workdir=runs/perceiver_imagenet \
    --config=projects/perceiver/configs/imagenet.py:model=imagenet_fourier \
    --config.data.train.source_kwargs.root=/data/imagenet \
    --config.evals.val.kwargs.data.source_kwargs.root=/data/imagenet

Models: imagenet_fourier, imagenet_learned, imagenet_conv (arXiv 2107.14795) and
imagenet_original (2103.03206), the Perceiver with eight cross-attentions:

  --config=projects/perceiver/configs/imagenet.py:model=imagenet_original

ImageNet as TFDS prepares it (imagenet2012), in the array_record format:

  python main.py --workdir=runs/perceiver_imagenet \
    --config=projects/perceiver/configs/imagenet.py:reader=tfds \
    --config.data.train.source_kwargs.path=/data/imagenet2012/5.1.0 \
    --config.evals.val.kwargs.data.source_kwargs.path=/data/imagenet2012/5.1.0

The recipe of the released code: 110 epochs of 1,281,167 images in batches of
1024, LAMB at 0.002, constant for the first half and cosine after it, no
warm-up, with which training failed; Inception crops, RandAugment, mixup or
CutMix, label smoothing. imagenet_original has its own paper's schedule, 120
epochs at 0.004 with three drops by ten, and no mixing. Not stated there, and
ours: batches of 1024, and the weight decay, clipping and eps of the later
recipe. Hardware of the paper: 64 TPUv3, 5 steps a second.

Expected top-1: 79.0, 72.7, 82.1, and 78.0 of imagenet_original. Not run here.
"""

import ml_collections as mlc

from vidscenic import config as vc

_TRAIN_IMAGES = 1_281_167
# reader: (source, its arguments but split, splits)
_SOURCES = {
  'folder': (
    'vidscenic.data.datasets.imagenet:ImageNet',
    {'root': ''},
    ('train', 'val'),
  ),
  'tfds': (
    'vidscenic.data.array_records:ArrayRecords',
    {'path': '', 'fields': {'video': 'image', 'label': 'label'}},
    ('train', 'validation'),
  ),
}


def get_config(arg=''):
  """Arguments: model, a name of `configurations`; reader, folder or tfds."""
  arg = vc.parse_arg(arg, model='imagenet_fourier', reader='folder')
  if arg.reader not in _SOURCES:
    raise ValueError(
      f'config argument reader={arg.reader!r}: want one of {tuple(_SOURCES)}'
    )
  original = arg.model == 'imagenet_original'
  config = vc.base_config()
  config.batch_size = 1024
  config.steps = (120 if original else 110) * _TRAIN_IMAGES // 1024
  config.task.factory = 'projects.perceiver.classification_task:Classification'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': (1, 224, 224),
      'normalize': 'imagenet',
      'label_smoothing': 0.0 if original else 0.1,
      'mixing': {
        'mixup': 0.0 if original else 0.2,
        'cutmix': 0.0 if original else 1.0,
        'cutmix_share': 0.5,
        'per': 'row',
      },
      'dtype': 'bfloat16',
      'model': {
        'name': arg.model,
        'encoder': {'scan': True, 'remat': 'none'},
      },
    }
  )
  config.predict.factory = 'projects.perceiver.predict:classify'
  config.data.train = _images(arg.reader, train=True)
  config.optim.name = 'lamb'
  config.optim.lr = 0.004 if original else 0.002
  config.optim.eps = 1e-6
  config.optim.weight_decay = 0.1
  # Learned positions and latents are decayed, as released.
  config.optim.decay_exclude = (r'(^|/)bias$', r'_norm/|/norm_\d+/')
  config.optim.clip_norm = 10.0
  if original:
    epoch = config.steps // 120
    config.optim.schedule = vc.schedule_spec(
      name='piecewise',
      boundaries=(84 * epoch, 102 * epoch, 114 * epoch),
      values=(1.0, 0.1, 0.01, 0.001),
    )
  else:
    config.optim.schedule = vc.schedule_spec(
      name='cosine', hold_steps=config.steps // 2
    )
  config.sharding = ((r'.*', 'replicate'),)
  config.log.every_steps = 100
  config.checkpoint.every_steps = 2500
  config.evals.val = vc.eval_spec(
    factory='vidscenic.evaluation.classification:TopK',
    every_steps=10_000,
    kwargs={
      'data': _images(arg.reader, train=False),
      'batch_size': 256,
      'k': (1, 5),
    },
  )
  return vc.finalize(config)


def _images(reader, *, train):
  source, kwargs, splits = _SOURCES[reader]
  return vc.data_spec(
    source=source,
    source_kwargs={**kwargs, 'split': splits[0 if train else 1]},
    transform='projects.perceiver.data.images:ImageTransform',
    transform_kwargs={'size': (224, 224), 'train': train},
  )
