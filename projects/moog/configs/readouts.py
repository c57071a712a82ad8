r"""Readouts on frozen features: MooG's tokens, or a grid baseline.

  python main.py --config=projects/moog/configs/readouts.py \
    --config.init_from.path=runs/moog --workdir=runs/moog_readouts
  python main.py --config=projects/moog/configs/readouts.py:backbone=vit \
    --workdir=runs/vit_readouts

Points, boxes and depth are read by the same recurrent and dense heads from the
features of a backbone that does not change: a MooG trained by
configs/synthetic.py, whose weights `init_from` brings, or a random ViT of about
its size, to see what the heads do by themselves. Own losses ("project recipe").
"""

import ml_collections as mlc

from projects.moog.configs import synthetic
from vidscenic import config as vc


def get_config(arg=''):
  """Arguments: backbone, 'moog' or 'vit'; finetune; steps."""
  arg = vc.parse_arg(arg, backbone='moog', finetune=False, steps=1000)
  config = synthetic.get_config(f'steps={arg.steps},readouts=1')
  config.unlock()
  options = config.task.kwargs
  kwargs = {
    'clip': options.clip,
    'heads': options.heads,
    'finetune': arg.finetune,
  }
  del config.evals['pictures']
  if arg.backbone == 'moog':
    kwargs['backbone'] = 'projects.moog.task:make_model'
    kwargs['backbone_kwargs'] = {
      'variant': options.variant,
      **options.model.to_dict(),
    }
    # The heads are trained anew.
    config.init_from.rules = ((r'(backbone/.*)', r'\1'),)
    config.init_from.ignore = (r'heads/.*',)
  elif arg.backbone == 'vit':
    kwargs['backbone'] = 'vidscenic.layers.vit:VisionTransformer'
    kwargs['backbone_kwargs'] = {
      'width': 64,
      'depth': 4,
      'num_heads': 2,
      'mlp_features': 128,
      'patch': (1, 4, 4),
      'positions': 'sincos_3d',
    }
  else:
    raise ValueError(f"backbone={arg.backbone!r}: want 'moog' or 'vit'")
  config.task.factory = 'vidscenic.tasks.readout:Readout'
  config.task.kwargs = mlc.ConfigDict(kwargs)
  if arg.backbone == 'vit':
    config.predict.factory = ''
  return vc.finalize(config)
