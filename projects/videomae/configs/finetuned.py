r"""A published fine-tuned VideoMAE as a classifier, to evaluate or to train on.

  python main.py --mode=evaluate --weights=model.safetensors \
    --workdir=runs/vmae \
    --config=projects/videomae/configs/finetuned.py:size=B,heldout=VIDEOS

  python main.py --config=projects/videomae/configs/finetuned.py:classes=174 \
    --config.init_from.path=model.safetensors --workdir=runs/videomae_ssv2 \
    --config.init_from.kwargs.features_only=True \
    --config.data.train.source_kwargs.path=VIDEOS

The file is one of transformers' `VideoMAEForVideoClassification`, for example
MCG-NJU/videomae-base-finetuned-kinetics with 400 classes. `features_only` gives
it a new head, for other classes. VIDEOS is a folder, list or manifest, see
`vidscenic.data.sources.VideoFolder`, with classes in the order of the file. Its
accuracy on Kinetics-400 was not measured here; published 81.5 for B, of five
clips with three crops each.
"""

import ml_collections as mlc

from vidscenic import config as vc


def get_config(arg=''):
  """Arguments: size, classes, heldout (finetuned.py:size=L,classes=174)."""
  arg = vc.parse_arg(arg, size='B', classes=400, heldout='')
  config = vc.base_config()
  config.steps = 10_000
  config.batch_size = 64
  config.task.factory = 'vidscenic.tasks.classification:Classification'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': (16, 224, 224),
      'num_classes': arg.classes,
      'normalize': 'imagenet',
      'backbone_kwargs': {
        'size': arg.size,
        'positions': 'sincos_flat',
        'final_norm': False,
        'block': {
          'use_bias': ('query', 'value'),
          'norm_eps': 1e-12,  # of the files; the original code has 1e-6
          'activation': 'gelu_erf',
        },
        'drop_path': 0.1,
      },
      'head': {'pool': 'mean', 'norm': True, 'norm_eps': 1e-5},
    }
  )
  config.init_from.factory = 'projects.videomae.importer:load'
  config.init_from.kwargs = mlc.ConfigDict({'features_only': False})
  config.data.train = _videos('')
  config.optim.lr = 2.5e-4  # 1e-3 for a batch of 256
  config.optim.weight_decay = 0.05
  config.optim.layer_decay = 0.75
  config.optim.schedule = vc.schedule_spec(name='cosine', warmup_steps=500)
  if arg.heldout:
    config.evals.heldout = vc.eval_spec(
      factory='vidscenic.evaluation.classification:TopK',
      every_steps=1_000,
      kwargs={
        'data': _videos(arg.heldout, train=False, num_views=5, crop='three'),
        'batch_size': 16,
        'k': (1, 5),
        'average': 'probabilities',
      },
    )
  return vc.finalize(config)


def _videos(path, **transform):
  return vc.data_spec(
    source='vidscenic.data.sources:VideoFolder',
    source_kwargs={'path': path, 'split': ''},
    transform_kwargs={
      'num_frames': 16,
      'stride': 4,
      'size': (224, 224),
      **transform,
    },
  )
