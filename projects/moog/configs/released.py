r"""The released training recipe: 1M updates of 128 clips of 8 frames.

  python main.py --workdir=runs/moog_movi \
    --config=projects/moog/configs/released.py:data=movi,root=ROOT
  python main.py --workdir=runs/moog_videos \
    --config=projects/moog/configs/released.py:data=videos,root=DIR

ROOT is a MOVi folder such as .../movi_e/256x256/1.0.0 (see
vidscenic/data/datasets/kubric.py), with point, box and depth readouts trained
beside the model; DIR a folder, list or manifest of videos, without them.
With --mode=evaluate, :sweep=1 evaluates a MOVi run with several seeds of the
first state and numbers of tokens.

From the released configuration: AdamW, peak 1e-4, 1000 steps of warm-up from
0, cosine to 1e-7, b1 0.9, b2 0.95, decay 1e-4 of every parameter, gradients
clipped to a norm of 1, seeds 6, 8 and 223. Ours: colours are not augmented, the
readouts' losses, and for videos the frame rate. What it reaches is not
known: it was never run, here or by the released code, which trains on dummy
data. On one device use --config.accum_steps=8 or more.
"""

import ml_collections as mlc

from vidscenic import config as vc

NUM_FRAMES = 8
NUM_POINTS, NUM_BOXES = 64, 25


def get_config(arg=''):
  """Arguments: data, 'movi' or 'videos'; root; size in pixels; steps; sweep."""
  arg = vc.parse_arg(
    arg, data='movi', root='', size=128, steps=1_000_000, sweep=False
  )
  if arg.data not in ('movi', 'videos'):
    raise ValueError(f"data={arg.data!r}: want 'movi' or 'videos'")
  config = vc.base_config()
  config.seed = 6
  config.steps = arg.steps
  config.batch_size = 128
  config.task.factory = 'projects.moog.task:NextFrame'
  clip = (NUM_FRAMES, arg.size, arg.size)
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': clip,
      'variant': 'config',
      'model': {'num_tokens': 1024, 'remat': True},
      'heads': {},
      'dtype': 'bfloat16',
    }
  )
  if arg.data == 'movi':
    config.task.kwargs.heads = mlc.ConfigDict(heads())
  config.data.train = _data(arg, train=True)
  config.optim.lr = 1e-4
  config.optim.b2 = 0.95
  config.optim.weight_decay = 1e-4
  config.optim.decay_exclude = ()
  config.optim.clip_norm = 1.0
  config.optim.schedule = vc.schedule_spec(
    name='cosine', warmup_steps=min(1000, arg.steps // 10), end=1e-3
  )
  config.log.every_steps = 100
  config.checkpoint.every_steps = 5000
  if arg.data == 'movi':
    heldout = {'data': _data(arg, train=False), 'batch_size': 8, 'limit': 256}
    config.evals.heldout = vc.eval_spec(
      factory='vidscenic.evaluation.evaluator:MeanLoss',
      every_steps=10_000,
      kwargs=heldout,
    )
    if arg.sweep:
      config.evals.seeds = vc.eval_spec(
        factory='projects.moog.evaluation:Seeds',
        every_steps=arg.steps,
        kwargs={**heldout, 'num_tokens': (256, 512, 1024)},
      )
  config.predict.factory = 'projects.moog.predict:show'
  return vc.finalize(config)


def heads():
  """Recurrent points and boxes and dense depth, as large as released."""
  return {
    'points': {
      'factory': 'vidscenic.tasks.track_heads:Points',
      'num_points': NUM_POINTS,
    },
    'boxes': {
      'factory': 'vidscenic.tasks.track_heads:Boxes',
      'num_boxes': NUM_BOXES,
    },
    'depth': {
      'factory': 'vidscenic.tasks.depth_head:Depth',
      'limits': (1.0, 100.0),
      'masked': False,
    },
  }


def _data(arg, *, train):
  if arg.data == 'movi':
    return vc.data_spec(
      source='vidscenic.data.datasets.kubric:scenes',
      source_kwargs={
        'root': arg.root,
        'split': 'train' if train else 'validation',
        'labels': ('depth', 'boxes'),
      },
      transform='vidscenic.data.datasets.point_tracks:KubricTracks',
      transform_kwargs={
        'num_frames': NUM_FRAMES,
        'size': (arg.size, arg.size),
        'num_tracks': NUM_POINTS,
        'train': train,
        'queries': 'first',
        'labels': ('depth', 'boxes'),
        'max_boxes': NUM_BOXES,
      },
    )
  return vc.data_spec(
    source='vidscenic.data.sources:VideoFolder',
    source_kwargs={'path': arg.root, 'split': '', 'labels': 'none'},
    transform_kwargs={
      'num_frames': NUM_FRAMES,
      'stride': 2,
      'size': (arg.size, arg.size),
      'train': train,
    },
  )
