r"""Masked video modelling on a folder of one's own videos.

  python main.py --config=projects/_template/configs/video_folder.py \
    --config.data.train.source_kwargs.path=VIDEOS --workdir=runs/videos

VIDEOS is a folder, a list of files or a manifest; see `VideoFolder`. To watch
the figures on videos that are not trained on, name them too:

  --config=projects/_template/configs/video_folder.py:heldout=OTHER_VIDEOS

Nothing is known about what the loss should be: that depends on the videos.
"""

import ml_collections as mlc

from vidscenic import config as vc


def get_config(arg=''):
  """Arguments: heldout, a path like VIDEOS; steps, the length of the run."""
  arg = vc.parse_arg(arg, heldout='', steps=5000)
  config = vc.base_config()
  config.steps = arg.steps
  config.batch_size = 16
  config.task.factory = 'projects._template.task:MaskedVideo'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': (8, 64, 64),
      'mask_ratio': 0.75,
      'model': {
        'patch': (2, 8, 8),
        'width': 128,
        'depth': 4,
        'num_heads': 4,
        'scan': False,
        'remat': 'none',
        'dtype': 'float32',
      },
    }
  )
  config.predict.factory = 'projects._template.predict:reconstruct'
  config.data.train = _clips('', train=True)
  config.optim.lr = 2e-3
  config.optim.b2 = 0.95
  config.optim.weight_decay = 0.05
  config.optim.clip_norm = 1.0
  config.optim.schedule = vc.schedule_spec(
    name='cosine', warmup_steps=arg.steps // 12
  )
  config.log.every_steps = 20
  config.checkpoint.every_steps = 500
  if arg.heldout:
    config.evals.heldout = vc.eval_spec(
      factory='vidscenic.evaluation.evaluator:MeanLoss',
      every_steps=500,
      kwargs={'data': _clips(arg.heldout, train=False), 'batch_size': 16},
    )
    config.evals.pictures = vc.eval_spec(
      factory='vidscenic.evaluation.videos:Clips',
      every_steps=500,
      kwargs={
        'data': _clips(arg.heldout, train=False),
        'fields': ('visible', 'predicted', 'truth'),
        'count': 4,
      },
    )
  return vc.finalize(config)


def _clips(path, *, train):
  return vc.data_spec(
    source='vidscenic.data.sources:VideoFolder',
    source_kwargs={'path': path, 'split': '', 'labels': 'none'},
    transform_kwargs={
      'num_frames': 8,
      'stride': 2,
      'size': (64, 64),
      'train': train,  # random place, size and flip; else the middle
    },
  )
