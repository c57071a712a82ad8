r"""Optical flow with Perceiver IO (arXiv 2107.14795) on AutoFlow.

  python main.py --workdir=runs/perceiver_autoflow \
    --config=projects/perceiver/configs/autoflow.py \
    --config.data.train.source_kwargs.root=/data/autoflow \
    --config.evals.sintel.kwargs.data.source_kwargs.root=/data/sintel

From the paper: 480 epochs of 400,000 pairs in batches of 512, LAMB, cosine from
4e-4. Not stated there, and ours: the loss (mean end-point error), weight decay,
clipping, LAMB's eps, and all of the augmentation but its kind; the paper
follows a curriculum that begins without augmentation, with inverted pairs. The
published set has 40,000 pairs; the length of the run is that of the paper.

Expected: end-point error 1.81 on Sintel clean, 2.42 on final. Not run.
"""

import ml_collections as mlc

from vidscenic import config as vc

_SIZE = (368, 496)


def get_config(arg=''):
  """Argument: render, the pass of Sintel to evaluate on, clean or final."""
  arg = vc.parse_arg(arg, render='final')
  config = vc.base_config()
  config.batch_size = 512
  config.steps = 480 * 400_000 // 512
  config.task.factory = 'projects.perceiver.flow_task:OpticalFlow'
  config.task.kwargs = mlc.ConfigDict(
    {
      'dtype': 'bfloat16',
      'model': {
        'name': 'optical_flow',
        'encoder': {'scan': True, 'remat': 'full'},
      },
    }
  )
  config.predict.factory = 'projects.perceiver.predict:optical_flow'
  config.data.train = vc.data_spec(
    source='projects.perceiver.data.flow_folders:FlowFolders',
    source_kwargs={'root': ''},
    transform_kwargs={
      'num_frames': 2,
      'size': _SIZE,
      'crop': 'random_resized',
      'area': (0.4, 1.0),
      'aspect': (0.8, 1.25),
      'train': True,
      'keep': ('video', 'forward_flow', 'flow_mask'),
    },
  )
  config.optim.name = 'lamb'
  config.optim.lr = 4e-4
  config.optim.eps = 1e-6
  config.optim.weight_decay = 0.1
  config.optim.decay_exclude = (r'(^|/)bias$', r'_norm/')
  config.optim.clip_norm = 10.0
  config.optim.schedule = vc.schedule_spec(name='cosine')
  config.log.every_steps = 100
  config.checkpoint.every_steps = 2500
  config.evals.sintel = vc.eval_spec(
    factory='projects.perceiver.flow_evaluation:TiledFlow',
    every_steps=25_000,
    kwargs={
      'data': vc.data_spec(
        source='vidscenic.data.datasets.flow:Sintel',
        source_kwargs={'root': '', 'render': arg.render},
        transform_kwargs={
          'num_frames': 2,
          'size': (),
          'crop': 'none',
          'train': False,
          'keep': ('video', 'forward_flow', 'flow_mask', 'flow_known'),
        },
      ),
      'mask': 'flow_known',
      'batch_size': 8,
    },
  )
  return vc.finalize(config)
