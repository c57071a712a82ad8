r"""J&F on DAVIS-2017 val by label propagation, 30 videos.

  python main.py --mode=evaluate --weights=rvm_large --workdir=runs/rvm_l \
    --config=projects/rvm/configs/eval_davis.py:size=L \
    --config.evals.davis.kwargs.data.source_kwargs.root=/data/DAVIS

In place of the name does a file of the same layout; without --weights the
workdir is that of a run of kinetics_large.py. For a first look:
--config.evals.davis.kwargs.limit=2.
Published, in percent: RVM-L 66.0, RVM-H 65.6; printed beside the result.
Not run: neither weights nor data were at hand.
"""

import ml_collections as mlc

from vidscenic import config as vc


def get_config(arg=''):
  """Argument: size of the model, S, B, L or H (eval_davis.py:size=L)."""
  arg = vc.parse_arg(arg, size='S')
  config = vc.base_config()
  config.task.factory = 'projects.rvm.task:MaskedVideo'
  config.task.kwargs = mlc.ConfigDict(
    {'model': {'size': arg.size, 'scan': True, 'dtype': 'float32'}}
  )
  config.init_from.factory = 'projects.rvm.importer:load'
  config.evals.davis = vc.eval_spec(
    factory='projects.rvm.evaluation:Objects',
    kwargs={
      'data': vc.data_spec(
        source='vidscenic.data.datasets.dense:Davis',
        source_kwargs={'root': '', 'split': 'val'},
      ),
      'size': (480, 880),
      'context': 20,
      'radius': 20.0,
      'top_k': 7,
      'temperature': 0.7,
      'chunk': 4,  # frames that the encoder takes at once
      'reset_every': 4,  # of the control 'reset'
      'controls': ('copied', 'random', 'reset'),
      'limit': 0,  # the first so many videos; 0: all
      'published': (
        ('RVM-L', 66.0),
        ('RVM-H', 65.6),
        ('DINOv2-L', 61.7),
        ('VideoMAE-L', 54.3),
        ('V-JEPA2-L', 47.5),
      ),
    },
  )
  return vc.finalize(config)
