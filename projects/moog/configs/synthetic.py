r"""Next-frame prediction on synthetic clips, which need no files.

  python main.py --config=projects/moog/configs/synthetic.py \
    --workdir=runs/moog

Under four minutes on 2 cores. A small MooG of the 'config' variant on 32x32
clips of 6 frames, so far apart that copying the frame before scores less than
20 dB. Evaluation prints, from frame 2 on, `psnr` beside `psnr_copy`, the frame
before, and `psnr_mean`, the mean of the frames before. Unlike the paper's, the
first state comes from tokens of the first frame: with random states of a seed
(:initial=random) training of this length does not get far.

:readouts=1 trains point, box and depth readouts beside the model, without a
word in its loss. :sweep=1 with --mode=evaluate evaluates a run with several
seeds of the first state and numbers of tokens.
"""

import ml_collections as mlc

from vidscenic import config as vc

CLIP = (6, 32, 32)
NUM_POINTS = 16
STACK = {'num_heads': 2, 'qkv_features': 64, 'mlp_features': 128}


def get_config(arg=''):
  """Arguments: steps; readouts; initial, the kind of initial state; sweep."""
  arg = vc.parse_arg(
    arg, steps=1000, readouts=False, initial='encoder', sweep=False
  )
  config = vc.base_config()
  config.steps = arg.steps
  config.batch_size = 8
  config.task.factory = 'projects.moog.task:NextFrame'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': CLIP,
      'variant': 'config',
      'model': {
        'num_tokens': 64,
        'token_size': 64,
        'conv_features': (16, 24, 32, 64),
        'strides': (2, 1, 2, 1),
        'encoder_bases': 6,
        'encoder': {'hidden_features': 64},
        'predictor': {'depth': 1, **STACK},
        'corrector': {'depth': 1, **STACK},
        'decoder': {'depth': 2, **STACK},
        'decoder_bases': 6,
        'initial_state': arg.initial,
        'remat': False,
        'scan': False,
      },
      'heads': {},
      'factor': 4,
      'eval_factor': 2,
    }
  )
  if arg.readouts:
    config.task.kwargs.heads = mlc.ConfigDict(_heads())
  config.data.train = _clips('train', arg.readouts)
  config.optim.lr = 3e-3
  config.optim.b2 = 0.95
  config.optim.weight_decay = 1e-4
  config.optim.decay_exclude = ()  # as released: every parameter
  config.optim.clip_norm = 1.0
  config.optim.schedule = vc.schedule_spec(
    name='cosine', warmup_steps=arg.steps // 20, end=1e-3
  )
  config.log.every_steps = 20
  config.checkpoint.every_steps = max(arg.steps // 2, 1)
  heldout = {
    'data': _clips('validation', arg.readouts),
    'batch_size': 16,
    'limit': 64,
  }
  config.evals.heldout = vc.eval_spec(
    factory='vidscenic.evaluation.evaluator:MeanLoss',
    every_steps=max(arg.steps // 3, 1),
    kwargs=heldout,
  )
  if arg.sweep:
    config.evals.seeds = vc.eval_spec(
      factory='projects.moog.evaluation:Seeds',
      kwargs={**heldout, 'num_tokens': (16, 32, 64)},
    )
  config.evals.pictures = vc.eval_spec(
    factory='vidscenic.evaluation.videos:Clips',
    every_steps=max(arg.steps // 2, 1),
    kwargs={
      'data': _clips('validation', arg.readouts),
      'fields': ('predicted', 'truth'),
      'value_range': 'unit',
      'count': 4,
    },
  )
  config.predict.factory = 'projects.moog.predict:show'
  return vc.finalize(config)


def _heads():
  stack = {'features': 64, 'depth': 1, 'num_bases': 6, **STACK}
  return {
    'points': {
      'factory': 'vidscenic.tasks.track_heads:Points',
      'num_points': NUM_POINTS,
      'expected_dist_thresh': 24.0,
      'layers': stack,
    },
    'boxes': {
      'factory': 'vidscenic.tasks.track_heads:Boxes',
      'num_boxes': 9,
      'layers': stack,
    },
    'depth': {
      'factory': 'vidscenic.tasks.depth_head:Depth',
      'limits': (2.0, 13.0),
      'factor': 4,
      'eval_factor': 4,
      'layers': {'depth': 1, 'num_bases': 6, **STACK},
    },
  }


def _clips(split, readouts):
  time, height, width = CLIP
  labels = {}
  if readouts:
    labels = {'num_tracks': NUM_POINTS, 'boxes': True, 'depth': True}
  return vc.data_spec(
    source='vidscenic.data.synthetic:SyntheticVideos',
    source_kwargs={
      'split': split,
      'num_frames': time,
      'height': height,
      'width': width,
      'queries': 'first',
      **labels,
    },
    transform_kwargs={
      'num_frames': time,
      'size': (height, width),
      'crop': 'none',
      'train': split == 'train',
      'flip': 0.5,
    },
  )
