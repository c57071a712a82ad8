r"""PCK on JHMDB, test videos of split 1, by label propagation.

  python main.py --mode=evaluate --weights=rvm_large --workdir=runs/rvm_l \
    --config=projects/rvm/configs/eval_jhmdb.py:size=L \
    --config.evals.jhmdb.kwargs.data.source_kwargs.root=/data/JHMDB

In place of the name does a file of the same layout; without --weights the
workdir is that of a run of kinetics_large.py. For a first look:
--config.evals.jhmdb.kwargs.limit=2.
Published, in percent: RVM-L 48.4 at threshold 0.1; printed beside the result.
Not run: neither weights nor data were at hand.
"""

import ml_collections as mlc

from vidscenic import config as vc


def get_config(arg=''):
  """Argument: size of the model, S, B, L or H (eval_jhmdb.py:size=L)."""
  arg = vc.parse_arg(arg, size='S')
  config = vc.base_config()
  config.task.factory = 'projects.rvm.task:MaskedVideo'
  config.task.kwargs = mlc.ConfigDict(
    {'model': {'size': arg.size, 'scan': True, 'dtype': 'float32'}}
  )
  config.init_from.factory = 'projects.rvm.importer:load'
  config.evals.jhmdb = vc.eval_spec(
    factory='projects.rvm.evaluation:Keypoints',
    kwargs={
      'data': vc.data_spec(
        source='vidscenic.data.datasets.jhmdb:Jhmdb',
        source_kwargs={'root': '', 'split': 1, 'subset': 'test'},
      ),
      'size': (320, 320),
      'context': 20,
      'radius': 20.0,
      'top_k': 7,
      'temperature': 0.7,
      'chunk': 4,  # frames that the encoder takes at once
      'reset_every': 4,  # of the control 'reset'
      'controls': ('copied', 'random', 'reset'),
      'limit': 0,  # the first so many videos; 0: all
      'published': (('RVM-L PCK@0.1', 48.4),),
    },
  )
  return vc.finalize(config)
