"""Masked video modelling on synthetic clips: the first run of a newcomer.

  python main.py --config=configs/smoke.py --workdir=runs/smoke

A small ViT sees a quarter of the patches of moving, textured objects and
predicts the rest. About two minutes on 2 cores. In the workdir: event files
for TensorBoard, metrics.jsonl, checkpoints, and media/ with pictures of held
out clips (visible patches, prediction, truth).

Expected on held-out clips: psnr_model above psnr_mean_colour, the control
that fills every hidden patch with the mean visible colour.
"""

import ml_collections as mlc

from vidscenic import config as vc


def get_config(arg=''):
  """Arguments: steps (length of the run)."""
  arg = vc.parse_arg(arg, steps=240)
  config = vc.base_config()
  config.steps = arg.steps
  config.batch_size = 16
  config.task.factory = 'projects._template.task:MaskedVideo'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': (8, 64, 64),
      'mask_ratio': 0.75,
      'model': {'width': 128, 'depth': 4, 'num_heads': 4},
    }
  )
  config.data.train = _synthetic('train')
  config.optim.lr = 2e-3
  config.optim.b2 = 0.95
  config.optim.weight_decay = 0.05
  config.optim.clip_norm = 1.0
  config.optim.schedule = vc.schedule_spec(name='cosine', warmup_steps=20)
  config.log.every_steps = 20
  config.checkpoint.every_steps = 120
  config.evals.heldout = vc.eval_spec(
    factory='vidscenic.evaluation.evaluator:MeanLoss',
    every_steps=120,
    kwargs={'data': _synthetic('validation'), 'batch_size': 16, 'limit': 64},
  )
  config.evals.pictures = vc.eval_spec(
    factory='vidscenic.evaluation.videos:Clips',
    every_steps=120,
    kwargs={
      'data': _synthetic('validation'),
      'fields': ('visible', 'predicted', 'truth'),
      'count': 4,
    },
  )
  return vc.finalize(config)


def _synthetic(split):
  return vc.data_spec(
    source='vidscenic.data.synthetic:SyntheticVideos',
    source_kwargs={'split': split, 'num_frames': 8, 'height': 64, 'width': 64},
    transform_kwargs={'num_frames': 8, 'size': (64, 64), 'crop': 'none'},
  )
