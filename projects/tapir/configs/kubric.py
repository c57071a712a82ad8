r"""TAPIR on TAP-Vid-Kubric: MOVi-E clips of 24 frames at 256x256.

  python main.py --config=projects/tapir/configs/kubric.py \
    --config.data.train.source_kwargs.root=MOVI \
    --config.evals.heldout.kwargs.data.source_kwargs.root=MOVI \
    --workdir=runs/tapir

MOVI is movi_e/256x256/1.0.0 of TFDS as ArrayRecord files (docs/datasets.md says
how); tracks are made while reading. Variants, after a colon:

  (none)     the released configuration: 100,000 updates of 8 clips per device,
             decay 0.1; here with 64 clips
  paper      50,000 updates of 256 clips, decay 0.01 (arXiv 2306.08637; numbers
             from memory of the paper)
  small      one GPU or a CPU: `accum` microbatches give exactly the gradients
             of the whole batch, with the memory of a part of it
  causal     the online variant
  synthetic  share of clips that are drawn on the fly, such as synthetic=0.2;
             the field of the folder is then data.train.mixture.kubric....root

The panning MOVi-E, on which the published weights were trained, has the same
layout: name its folder as MOVI.

  --config=projects/tapir/configs/kubric.py:small,accum=64 (one clip at a time)

The publishers trained for about 3 days on 64 TPU-v3 with about 100,000 clips of
their own. Not run here: the data set is not available where this was written.
Expected of the published weights, DAVIS first: AJ 58.5 (panning), causal 56.2.
"""

import ml_collections as mlc

from vidscenic import config as vc

_KEPT = ('video', 'query_points', 'target_points', 'occluded')


def get_config(arg=''):
  """Arguments: paper, small, causal (flags), accum, synthetic, smoke."""
  arg = vc.parse_arg(
    arg,
    paper=False,
    small=False,
    causal=False,
    accum=8,
    synthetic=0.0,
    smoke=False,
  )
  config = vc.base_config()
  config.steps = 50_000 if arg.paper else 100_000
  config.batch_size = 256 if arg.paper else 64
  if arg.small:
    config.accum_steps = arg.accum
  if arg.smoke:  # a few steps of a small batch, to see that all is in place
    config.steps, config.batch_size, config.accum_steps = 4, 8, 1
  config.task.factory = 'projects.tapir.task:PointTracking'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': (24, 256, 256),
      'num_queries': 256,
      'query_chunk_size': 32,
      'grad_chunks': 1,
      'colors': {'probability': 0.8, 'gray_probability': 0.2},
      'model': {
        'pyramid_level': 1 if arg.causal else 0,
        'use_causal_conv': arg.causal,
        'softmax_temperature': 20.0,
        # Less memory, no other numbers.
        'feature_extractor_chunk_size': 8,
      },
    }
  )
  config.data.train = clips('train')
  if not 0 <= arg.synthetic < 1:
    raise ValueError(f'synthetic={arg.synthetic}: want a share from 0 to 1')
  if arg.synthetic:
    parts = {'kubric': clips('train'), 'synthetic': _drawn_clips()}
    parts['kubric'].weight = 1 - arg.synthetic
    parts['synthetic'].weight = arg.synthetic
    config.data.train = vc.data_spec(mixture=parts)
  config.optim.lr = 1e-3
  config.optim.b2 = 0.95
  config.optim.weight_decay = 0.01 if arg.paper else 0.1
  # Biases and the norms of layers; the backbone's norms do decay, as published.
  config.optim.decay_exclude = (
    r'^(?!backbone/).*/bias$',
    r'^(mixer|extra_convs)/.*norm/',
  )
  config.optim.schedule = vc.schedule_spec(
    name='cosine', warmup_steps=min(1000, config.steps // 4)
  )
  config.checkpoint.every_steps = 1000
  config.evals.heldout = vc.eval_spec(
    factory='vidscenic.evaluation.evaluator:MeanLoss',
    every_steps=5000,
    kwargs={'data': clips('validation'), 'batch_size': 8, 'limit': 64},
  )
  config.predict.factory = 'projects.tapir.predict:track'
  return vc.finalize(config)


def clips(split):
  """Clips with tracks; `root` is named on the command line."""
  return vc.data_spec(
    source='vidscenic.data.datasets.kubric:scenes',
    source_kwargs={'root': '', 'split': split},
    transform='vidscenic.data.datasets.point_tracks:KubricTracks',
    transform_kwargs={
      'num_frames': 24,
      'size': (256, 256),
      'num_tracks': 256,
      'train': split == 'train',
      'keep': _KEPT,
    },
  )


def _drawn_clips():
  """Synthetic clips of the same form."""
  return vc.data_spec(
    source='vidscenic.data.synthetic:SyntheticVideos',
    source_kwargs={
      'num_frames': 24,
      'height': 256,
      'width': 256,
      'num_tracks': 256,
    },
    transform_kwargs={
      'num_frames': 24,
      'size': (256, 256),
      'crop': 'none',
      'keep': _KEPT,
    },
  )
