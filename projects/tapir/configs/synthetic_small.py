r"""A small causal TAPIR on synthetic clips of 128x128 pixels, for one GPU.

  python main.py --config=projects/tapir/configs/synthetic_small.py \
    --workdir=runs/tapir_small
  python -m projects.tapir.ship runs/tapir_small tapir_small.npz

About 20 minutes on one H100 or H200 is the aim; that was not run where this was
written, for want of a GPU. Nothing is downloaded. Figures as in
`synthetic_tiny`. All numbers are ours; the recipe is that of TAPIR (arXiv
2306.08637) made small: 3.0 million parameters, one file for whole clips and for
live video.
"""

import ml_collections as mlc

from projects.tapir.configs import synthetic_tiny
from vidscenic import config as vc

FRAMES, SIDE, POINTS = 24, 128, 128


def get_config(arg=''):
  """Argument: steps, the length of the run (synthetic_small.py:steps=20000)."""
  arg = vc.parse_arg(arg, steps=10_000)
  config = vc.base_config()
  config.steps = arg.steps
  config.batch_size = 16
  config.task.factory = 'projects.tapir.task:PointTracking'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': (FRAMES, SIDE, SIDE),
      'num_queries': POINTS,
      'query_chunk_size': 64,
      'grad_chunks': 1,
      'colors': {'probability': 0.8, 'gray_probability': 0.2},
      'model': {
        'use_causal_conv': True,
        'softmax_temperature': 20.0,
        'pyramid_level': 1,
        'stem_channels': 32,
        'channels_per_group': (32, 64, 96, 128),
        'mixer_hidden_dim': 192,
        'num_mixer_blocks': 6,
        'initial_resolution': (256, 256),
        'feature_extractor_chunk_size': 8,
      },
    }
  )
  config.data.train = clips('train')
  config.data.train.num_workers = 8
  config.optim.lr = 1e-3
  config.optim.b2 = 0.95
  config.optim.weight_decay = 0.01
  # Biases and the norms of layers; the backbone's norms do decay, as published.
  config.optim.decay_exclude = (
    r'^(?!backbone/).*/bias$',
    r'^(mixer|extra_convs)/.*norm/',
  )
  config.optim.clip_norm = 1.0
  config.optim.schedule = vc.schedule_spec(
    name='cosine', warmup_steps=arg.steps // 20
  )
  config.checkpoint.every_steps = max(arg.steps // 10, 1)
  config.evals.heldout = vc.eval_spec(
    factory='vidscenic.evaluation.evaluator:MeanLoss',
    every_steps=max(arg.steps // 10, 1),
    kwargs={'data': clips('validation'), 'batch_size': 8, 'limit': 64},
  )
  config.evals.baselines = vc.eval_spec(
    factory='projects.tapir.evaluation:Baselines',
    every_steps=arg.steps,
    kwargs={'data': clips('validation'), 'batch_size': 8, 'limit': 64},
  )
  config.predict.factory = 'projects.tapir.predict:track'
  return vc.finalize(config)


def clips(split):
  """Those of `synthetic_tiny`, longer, larger and with more points."""
  return synthetic_tiny.clips(split, FRAMES, SIDE, POINTS)
