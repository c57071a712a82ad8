r"""RVM-S on Kinetics with the published recipe, as far as it is known.

  python main.py --config=projects/rvm/configs/kinetics_small.py \
    --config.data.train.source_kwargs.root=/data/kinetics700 \
    --workdir=runs/rvm_small

Not run: the paper trains for 1M updates of 2,048 clips on 256 TPU v6. Fewer
devices want --config.accum_steps=8, or a smaller batch_size with a lower rate.

Known: 4 source frames in a row, 4 targets 4 to 48 frames behind them, 95 % of
the patches of a target hidden, the loss over all pixels, AdamW with a cosine
schedule, batch and updates, 256x256 pixels. Unknown, and our choice: learning
rate, warm-up, weight decay and betas, crops and flips, the frame that deltas
count from, bfloat16. The paper mixes HowTo100M, Kinetics-700,
Something-Something v2, YouTube-BB and YouTube-8M; add them as data.mixture.

Frozen features of the published weights: SSv2 59.7, Kinetics-700 49.6.
"""

import ml_collections as mlc

from vidscenic import config as vc


def get_config(arg=''):
  """Argument: steps, the length of the run (kinetics_small.py:steps=250000)."""
  return recipe('S', arg)


def recipe(size, arg, **model):
  """The recipe for a size, 'S', 'B', 'L' or 'H'; more fields of its model."""
  arg = vc.parse_arg(arg, steps=1_000_000)
  config = vc.base_config()
  config.steps = arg.steps
  config.batch_size = 2048
  config.task.factory = 'projects.rvm.task:MaskedVideo'
  config.task.kwargs = mlc.ConfigDict(
    {
      'size': (256, 256),
      'num_sources': 4,
      'num_targets': 4,
      'mask_ratio': 0.95,
      'loss': 'all',
      'delta_origin': 'first',
      'model': {
        'size': size,
        'scan': True,
        'remat': 'none',
        'implementation': 'xla',
        'dtype': 'bfloat16',
        **model,
      },
    }
  )
  config.predict.factory = 'projects.rvm.predict:describe'
  config.data.train = vc.data_spec(
    source='vidscenic.data.datasets.kinetics:Kinetics',
    source_kwargs={'root': '', 'split': 'train', 'version': '700'},
    transform='projects.rvm.data:SourcesAndTargets',
    transform_kwargs={
      'num_sources': 4,
      'num_targets': 4,
      'gaps': (4, 48),
      'size': (256, 256),
      'area': (0.5, 1.0),  # ours: one crop and flip for all frames
      'train': True,
    },
  )
  # Unknown in the paper; those of a public re-implementation.
  config.optim.lr = 1.5e-4
  config.optim.b1, config.optim.b2 = 0.9, 0.95
  config.optim.weight_decay = 0.05
  config.optim.schedule = vc.schedule_spec(name='cosine', warmup_steps=10_000)
  config.log.every_steps = 100
  config.checkpoint.every_steps = 5000
  return vc.finalize(config)
