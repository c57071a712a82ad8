r"""A small causal TAPIR on synthetic clips of 64x64 pixels, on a CPU.

  python main.py --config=projects/tapir/configs/synthetic_tiny.py \
    --workdir=runs/tapir_tiny

Nothing is downloaded: clips of moving, textured objects with exact tracks are
drawn on the fly. All numbers here are ours; the recipe is that of TAPIR
(arXiv 2306.08637) made small. Figures are AJ, position and occlusion accuracy
on held-out clips with positions scaled to 256x256 and queries in the first
frame; `baselines` are trackers without learning on the same clips, points at
rest (AJ 5.2) and the best match of 7x7 pixels (23.5). The 200 updates of the
default take about 3 minutes on 2 idle cores and end at AJ 13.0, 300 at 15.4;
how the weights that come with the project were made is in its README.
"""

import ml_collections as mlc

from vidscenic import config as vc

FRAMES, SIDE, POINTS = 8, 64, 32


def get_config(arg=''):
  """Argument: steps, the length of the run (synthetic_tiny.py:steps=5000)."""
  arg = vc.parse_arg(arg, steps=200)
  config = vc.base_config()
  config.steps = arg.steps
  config.batch_size = 4
  config.task.factory = 'projects.tapir.task:PointTracking'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': (FRAMES, SIDE, SIDE),
      'num_queries': POINTS,
      'query_chunk_size': 32,
      'grad_chunks': 1,
      'expected_dist_thresh': 24.0,
      'model': {
        'use_causal_conv': True,
        'softmax_temperature': 20.0,
        'pyramid_level': 1,
        'num_pips_iter': 2,
        'stem_channels': 8,
        'channels_per_group': (8, 24, 32, 64),
        'blocks_per_group': (1, 1, 1, 1),
        'mixer_hidden_dim': 96,
        'num_mixer_blocks': 2,
        # Twice that of the clips: cells of 4 pixels.
        'initial_resolution': (2 * SIDE, 2 * SIDE),
      },
    }
  )
  config.data.train = clips('train')
  config.optim.lr = 3e-3
  config.optim.b2 = 0.95
  config.optim.weight_decay = 0.01
  # Biases and the norms of layers; the backbone's norms do decay, as published.
  config.optim.decay_exclude = (
    r'^(?!backbone/).*/bias$',
    r'^(mixer|extra_convs)/.*norm/',
  )
  config.optim.clip_norm = 1.0
  config.optim.schedule = vc.schedule_spec(
    name='cosine', warmup_steps=arg.steps // 12
  )
  config.log.every_steps = 20
  config.checkpoint.every_steps = max(arg.steps // 4, 1)
  config.evals.heldout = vc.eval_spec(
    factory='vidscenic.evaluation.evaluator:MeanLoss',
    every_steps=max(arg.steps // 2, 1),
    kwargs={'data': clips('validation'), 'batch_size': 8, 'limit': 64},
  )
  config.evals.baselines = vc.eval_spec(
    factory='projects.tapir.evaluation:Baselines',
    every_steps=arg.steps,
    kwargs={'data': clips('validation'), 'batch_size': 8, 'limit': 64},
  )
  config.predict.factory = 'projects.tapir.predict:track'
  return vc.finalize(config)


def clips(split, frames=FRAMES, side=SIDE, points=POINTS):
  """Synthetic clips with tracks; held-out queries are in the first frame."""
  return vc.data_spec(
    source='vidscenic.data.synthetic:SyntheticVideos',
    source_kwargs={
      'split': split,
      'num_frames': frames,
      'height': side,
      'width': side,
      'difficulty': 'medium',
      'num_tracks': points,
      'queries': 'any' if split == 'train' else 'first',
    },
    transform_kwargs={
      'num_frames': frames,
      'size': (side, side),
      'crop': 'none',
      'train': split == 'train',  # random flips
      'keep': ('video', 'query_points', 'target_points', 'occluded'),
    },
  )
