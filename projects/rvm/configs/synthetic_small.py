r"""RVM-S on synthetic clips of 128x128 pixels: ten minutes on one GPU.

  python main.py --config=projects/rvm/configs/synthetic_small.py \
    --workdir=runs/rvm_synthetic_small

Not run yet: made for a machine with a GPU and 16 cores, which draw the clips.
Figures as in synthetic_tiny.py, and label propagation on clips of 256x256.
"""

import ml_collections as mlc

from vidscenic import config as vc


def get_config(arg=''):
  """Argument: steps, the length of the run (synthetic_small.py:steps=100)."""
  arg = vc.parse_arg(arg, steps=1500)
  config = vc.base_config()
  config.steps = arg.steps
  config.batch_size = 64
  config.task.factory = 'projects.rvm.task:MaskedVideo'
  config.task.kwargs = mlc.ConfigDict(
    {
      'size': (128, 128),
      'num_sources': 4,
      'num_targets': 4,
      'mask_ratio': 0.95,  # 3 of 64 patches are visible
      'loss': 'all',
      'delta_origin': 'first',
      'model': {
        'size': 'S',
        'scan': False,
        'remat': 'none',
        'implementation': 'xla',
        'dtype': 'bfloat16',
      },
    }
  )
  config.predict.factory = 'projects.rvm.predict:describe'
  config.predict.kwargs = mlc.ConfigDict({'gaps': (4, 12)})
  config.data.train = _clips('train')
  config.optim.lr = 3e-4
  config.optim.b2 = 0.95
  config.optim.weight_decay = 0.05
  config.optim.clip_norm = 1.0
  config.optim.schedule = vc.schedule_spec(
    name='cosine', warmup_steps=arg.steps // 12
  )
  config.log.every_steps = 50
  config.checkpoint.every_steps = 500
  config.evals.heldout = vc.eval_spec(
    factory='vidscenic.evaluation.evaluator:MeanLoss',
    every_steps=250,
    kwargs={'data': _clips('validation'), 'batch_size': 64, 'limit': 256},
  )
  config.evals.pictures = vc.eval_spec(
    factory='vidscenic.evaluation.videos:Clips',
    every_steps=500,
    kwargs={
      'data': _clips('validation'),
      'fields': ('copy_last', 'visible', 'reconstructed', 'truth'),
      'count': 4,
      'value_range': 'unit',
    },
  )
  config.evals.tracking = vc.eval_spec(
    factory='projects.rvm.evaluation:Objects',
    every_steps=500,
    kwargs={
      'data': vc.data_spec(
        source='vidscenic.data.synthetic:SyntheticVideos',
        source_kwargs={
          'split': 'validation',
          'num_frames': 24,
          'height': 256,
          'width': 256,
          'segmentations': True,
        },
      ),
      'size': (256, 256),
      'radius': 8.0,  # of 16 x 16 cells
      'limit': 8,
    },
  )
  return vc.finalize(config)


def _clips(split):
  return vc.data_spec(
    source='vidscenic.data.synthetic:SyntheticVideos',
    source_kwargs={
      'split': split,
      'num_frames': 16,
      'height': 128,
      'width': 128,
    },
    transform='projects.rvm.data:SourcesAndTargets',
    transform_kwargs={
      'num_sources': 4,
      'num_targets': 4,
      'gaps': (4, 12),
      'size': (128, 128),
      'crop': 'none',
      'train': split == 'train',  # random flips
    },
  )
