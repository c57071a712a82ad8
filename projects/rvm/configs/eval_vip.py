r"""Mean IoU of body parts on VIP val by label propagation.

  python main.py --mode=evaluate --weights=rvm_large --workdir=runs/rvm_l \
    --config=projects/rvm/configs/eval_vip.py:size=L \
    --config.evals.vip.kwargs.data.source_kwargs.root=/data/VIP

In place of the name does a file of the same layout; without --weights the
workdir is that of a run of kinetics_large.py. For a first look:
--config.evals.vip.kwargs.limit=2.
Published, in percent: RVM-L 38.0, RVM-H 37.3; printed beside the result. The
published evaluation takes 10 votes here, elsewhere 7.
Not run: neither weights nor data were at hand.
"""

import ml_collections as mlc

from vidscenic import config as vc


def get_config(arg=''):
  """Argument: size of the model, S, B, L or H (eval_vip.py:size=L)."""
  arg = vc.parse_arg(arg, size='S')
  config = vc.base_config()
  config.task.factory = 'projects.rvm.task:MaskedVideo'
  config.task.kwargs = mlc.ConfigDict(
    {'model': {'size': arg.size, 'scan': True, 'dtype': 'float32'}}
  )
  config.init_from.factory = 'projects.rvm.importer:load'
  config.evals.vip = vc.eval_spec(
    factory='projects.rvm.evaluation:Parts',
    kwargs={
      'data': vc.data_spec(
        source='vidscenic.data.datasets.dense:Vip',
        source_kwargs={'root': '', 'split': 'val'},
      ),
      'size': (448, 880),
      'context': 20,
      'radius': 20.0,
      'top_k': 10,
      'temperature': 0.7,
      'chunk': 4,  # frames that the encoder takes at once
      'reset_every': 4,  # of the control 'reset'
      'controls': ('copied', 'random', 'reset'),
      'limit': 0,  # the first so many videos; 0: all
      'published': (
        ('RVM-L', 38.0),
        ('RVM-H', 37.3),
        ('DINOv2-L', 40.6),
        ('VideoMAE-L', 18.9),
        ('V-JEPA2-L', 17.2),
      ),
    },
  )
  return vc.finalize(config)
