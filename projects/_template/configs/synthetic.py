r"""Masked video modelling on synthetic clips, which need no files.

  python main.py --config=projects/_template/configs/synthetic.py \
    --workdir=runs/_template

A small ViT sees a quarter of the patches of moving, textured objects and
predicts the rest. The workdir gets event files for TensorBoard, metrics.jsonl,
checkpoints, and media/ with pictures of held-out clips (visible patches,
prediction, truth).

Expected on held-out clips: psnr_predicted above psnr_mean_colour, the control
that fills every hidden patch with the mean visible colour.
"""

import ml_collections as mlc

from vidscenic import config as vc


def get_config(arg=''):
  """Argument: steps, the length of the run (synthetic.py:steps=1000)."""
  arg = vc.parse_arg(arg, steps=240)
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
  config.data.train = _clips('train')
  config.optim.lr = 2e-3
  config.optim.b2 = 0.95
  config.optim.weight_decay = 0.05
  config.optim.clip_norm = 1.0
  config.optim.schedule = vc.schedule_spec(
    name='cosine', warmup_steps=arg.steps // 12
  )
  config.log.every_steps = 20
  config.checkpoint.every_steps = 120
  config.evals.heldout = vc.eval_spec(
    factory='vidscenic.evaluation.evaluator:MeanLoss',
    every_steps=120,
    kwargs={'data': _clips('validation'), 'batch_size': 16, 'limit': 64},
  )
  config.evals.pictures = vc.eval_spec(
    factory='vidscenic.evaluation.videos:Clips',
    every_steps=120,
    kwargs={
      'data': _clips('validation'),
      'fields': ('visible', 'predicted', 'truth'),
      'count': 4,
    },
  )
  return vc.finalize(config)


def _clips(split):
  return vc.data_spec(
    source='vidscenic.data.synthetic:SyntheticVideos',
    source_kwargs={'split': split, 'num_frames': 8, 'height': 64, 'width': 64},
    transform_kwargs={
      'num_frames': 8,
      'size': (64, 64),
      'crop': 'none',
      'train': split == 'train',  # random flips
    },
  )
