r"""PCK on JHMDB, test videos of split 1, by label propagation.

  python -m vidscenic.tools.weights import rvm_large --workdir=runs/rvm_l \
    --config=projects/rvm/configs/eval_jhmdb.py:size=L && \
  python main.py --config=projects/rvm/configs/eval_jhmdb.py:size=L \
    --workdir=runs/rvm_l --mode=evaluate \
    --config.evals.jhmdb.kwargs.data.source_kwargs.root=/data/JHMDB

The workdir may as well be that of a run of kinetics_large.py.
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
      'controls': ('copied', 'random', 'reset'),
      'published': (('RVM-L PCK@0.1', 48.4),),
    },
  )
  return vc.finalize(config)
