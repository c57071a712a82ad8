r"""A published fine-tuned ViViT as a classifier, to evaluate or to train on.

  python main.py --config=projects/vivit/configs/finetuned.py:heldout=VIDEOS \
    --weights=model.safetensors --workdir=runs/vivit --mode=evaluate

The file is one of transformers' `VivitForVideoClassification`, for example
google/vivit-b-16x2-kinetics400. VIDEOS is a folder, list or manifest, see
`vidscenic.data.sources.VideoFolder`, with classes in the order of the file. Its
accuracy was not measured here.
"""

import ml_collections as mlc

from vidscenic import config as vc


def get_config(arg=''):
  """Arguments: classes, heldout (finetuned.py:classes=400,heldout=VIDEOS)."""
  arg = vc.parse_arg(arg, classes=400, heldout='')
  config = vc.base_config()
  config.steps = 10_000
  config.batch_size = 64
  config.task.factory = 'vidscenic.tasks.classification:Classification'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': (32, 224, 224),
      'num_classes': arg.classes,
      'normalize': 'signed',
      'backbone_kwargs': {
        'size': 'B',
        'patch': (2, 16, 16),
        'class_token': True,
        'positions': 'learned',
      },
      'head': {'pool': 'token'},
    }
  )
  config.init_from.factory = 'projects.vivit.importer:load'
  config.data.train = _videos('')
  config.optim.name = 'sgd'
  config.optim.lr = 0.05
  config.optim.schedule = vc.schedule_spec(name='cosine', warmup_steps=500)
  if arg.heldout:
    config.evals.heldout = vc.eval_spec(
      factory='vidscenic.evaluation.classification:TopK',
      every_steps=1_000,
      kwargs={
        'data': _videos(arg.heldout, train=False, num_views=4, crop='three'),
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
      'num_frames': 32,
      'stride': 2,
      'size': (224, 224),
      **transform,
    },
  )
