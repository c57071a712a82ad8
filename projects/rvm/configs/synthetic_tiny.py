r"""RVM on synthetic clips of 48x48 pixels, which need no files.

  python main.py --config=projects/rvm/configs/synthetic_tiny.py \
    --workdir=runs/rvm_tiny

Three minutes on 2 cores. On held-out clips the evaluator `heldout` prints
`loss`, 0.0171 at the end, beside `mse_copy_last` 0.0246 and `mse_mean_sources`
0.0188, the last source frame and the mean of the sources in place of the
target, and `mse_other_sources` 0.0205, the model's error with the sources of
another clip. `tracking` carries the masks of first frames through larger clips,
beside its controls. All sizes are ours.
"""

import ml_collections as mlc

from vidscenic import config as vc


def get_config(arg=''):
  """Argument: steps, the length of the run (synthetic_tiny.py:steps=100)."""
  arg = vc.parse_arg(arg, steps=400)
  config = vc.base_config()
  config.steps = arg.steps
  config.batch_size = 16
  config.task.factory = 'projects.rvm.task:MaskedVideo'
  config.task.kwargs = mlc.ConfigDict(
    {
      'size': (48, 48),
      'num_sources': 4,
      'num_targets': 2,
      'mask_ratio': 0.95,  # 1 of 36 patches is visible
      'loss': 'all',
      'delta_origin': 'first',
      'model': {
        'width': 64,
        'depth': 3,
        'num_heads': 4,
        'mlp_features': 256,
        'core_depth': 1,
        'core_heads': 4,
        'core_mlp_features': 256,
        'decoder_width': 64,
        'decoder_depth': 2,
        'decoder_heads': 4,
        'decoder_mlp_features': 256,
        'patch': (8, 8),
        'base_grid': (6, 6),
        'scan': False,
        'remat': 'none',
        'dtype': 'float32',
      },
    }
  )
  config.predict.factory = 'projects.rvm.predict:describe'
  # 12 x 12 patches of a square video; gaps as in training.
  config.predict.kwargs = mlc.ConfigDict({'short_side': 96, 'gaps': (2, 6)})
  config.data.train = _clips('train')
  config.optim.lr = 2e-3
  config.optim.b2 = 0.95
  config.optim.weight_decay = 0.05
  config.optim.clip_norm = 1.0
  config.optim.schedule = vc.schedule_spec(
    name='cosine', warmup_steps=arg.steps // 12
  )
  config.log.every_steps = 50
  config.checkpoint.every_steps = 200
  config.evals.heldout = vc.eval_spec(
    factory='vidscenic.evaluation.evaluator:MeanLoss',
    every_steps=200,
    kwargs={'data': _clips('validation'), 'batch_size': 32, 'limit': 128},
  )
  config.evals.pictures = vc.eval_spec(
    factory='vidscenic.evaluation.videos:Clips',
    every_steps=arg.steps,
    kwargs={
      'data': _clips('validation'),
      'fields': ('copy_last', 'visible', 'reconstructed', 'truth'),
      'count': 4,
      'value_range': 'unit',
    },
  )
  config.evals.tracking = vc.eval_spec(
    factory='projects.rvm.evaluation:Objects',
    every_steps=arg.steps,
    kwargs={
      'data': vc.data_spec(
        source='vidscenic.data.synthetic:SyntheticVideos',
        source_kwargs={
          'split': 'validation',
          'num_frames': 16,
          'height': 96,
          'width': 96,
          'difficulty': 'easy',
          'segmentations': True,
        },
      ),
      'size': (96, 96),
      # The grid is 12 x 12: everything is nearer than the published 20.
      'radius': 5.0,
      'limit': 4,
    },
  )
  return vc.finalize(config)


def _clips(split):
  return vc.data_spec(
    source='vidscenic.data.synthetic:SyntheticVideos',
    source_kwargs={
      'split': split,
      'num_frames': 12,
      'height': 48,
      'width': 48,
      'difficulty': 'hard',
    },
    transform='projects.rvm.data:SourcesAndTargets',
    transform_kwargs={
      'num_sources': 4,
      'num_targets': 2,
      'gaps': (2, 6),
      'size': (48, 48),
      'crop': 'none',
      'train': split == 'train',  # random flips
    },
    # A clip is drawn once for two examples: masks and flips differ.
    repeats=2 if split == 'train' else 1,
  )
