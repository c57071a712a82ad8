r"""Top-1 and top-5 of published weights on ImageNet's validation set.

  python main.py --workdir=runs/perceiver_fourier --mode=evaluate \
    --weights=perceiver_imagenet_fourier \
    --config=projects/perceiver/configs/eval_imagenet.py \
    --config.evals.val.kwargs.data.source_kwargs.root=/data/imagenet

and the same with perceiver_imagenet_learned and perceiver_imagenet_conv and

  --config=projects/perceiver/configs/eval_imagenet.py:model=imagenet_learned
  --config=projects/perceiver/configs/eval_imagenet.py:model=imagenet_conv

and for ImageNet as TFDS prepares it, in the array_record format,

  --config=projects/perceiver/configs/eval_imagenet.py:reader=tfds
  --config.evals.val.kwargs.data.source_kwargs.path=/data/imagenet2012/5.1.0

Published top-1: 79.0, 72.7, 82.1. One crop of 7/8 of the short side, as in the
released code; its images are resized by TensorFlow's bicubic filter, ours by
Pillow's. Not run: neither weights nor images were at hand.
"""

import ml_collections as mlc

from vidscenic import config as vc

# reader: (source, its arguments)
_SOURCES = {
  'folder': (
    'vidscenic.data.datasets.imagenet:ImageNet',
    {'root': '', 'split': 'val'},
  ),
  'tfds': (
    'vidscenic.data.array_records:ArrayRecords',
    {
      'path': '',
      'split': 'validation',
      'fields': {'video': 'image', 'label': 'label'},
    },
  ),
}


def get_config(arg=''):
  """Arguments: model, a name of `configurations`; reader, folder or tfds."""
  arg = vc.parse_arg(arg, model='imagenet_fourier', reader='folder')
  if arg.reader not in _SOURCES:
    raise ValueError(
      f'config argument reader={arg.reader!r}: want one of {tuple(_SOURCES)}'
    )
  source, kwargs = _SOURCES[arg.reader]
  config = vc.base_config()
  config.task.factory = 'projects.perceiver.classification_task:Classification'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': (1, 224, 224),
      'normalize': 'imagenet',
      'dtype': 'float32',
      'model': {'name': arg.model, 'encoder': {'scan': True}},
    }
  )
  config.predict.factory = 'projects.perceiver.predict:classify'
  config.evals.val = vc.eval_spec(
    factory='vidscenic.evaluation.classification:TopK',
    kwargs={
      'data': vc.data_spec(
        source=source,
        source_kwargs=kwargs,
        transform='projects.perceiver.data.images:ImageTransform',
        transform_kwargs={'size': (224, 224), 'train': False},
      ),
      'batch_size': 64,
      'k': (1, 5),
    },
  )
  return vc.finalize(config)
