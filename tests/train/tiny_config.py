"""A run of a few milliseconds per step, for tests through the command line."""

import ml_collections as mlc

from vidscenic import config as vc


def get_config(arg=''):
  arg = vc.parse_arg(arg, steps=12, accum=1)
  config = vc.base_config()
  config.steps = arg.steps
  config.batch_size = 16
  config.accum_steps = arg.accum
  config.task.factory = 'tests.train.tiny:Regression'
  config.task.kwargs = mlc.ConfigDict(
    {'width': 16, 'freeze_at': -1, 'noise': 0.1, 'threshold': 0.0}
  )
  config.data.train = vc.data_spec(
    source='tests.train.tiny:Numbers',
    source_kwargs={'size': 64, 'nan_from': -1, 'nan_to': -1},
    transform='tests.train.tiny:Jitter',
  )
  config.optim.lr = 1e-2
  config.evals.heldout = vc.eval_spec(
    factory='vidscenic.evaluation.evaluator:MeanLoss',
    every_steps=1000,
    kwargs={
      'data': vc.data_spec(
        source='tests.train.tiny:Numbers',
        source_kwargs={'size': 20},
        transform='tests.train.tiny:Jitter',
      ),
      'batch_size': 8,
    },
  )
  config.log.every_steps = 4
  config.checkpoint.every_steps = 4
  return vc.finalize(config)


def changed(**changes):
  """The config above with fields replaced: log__every_steps=2 and the like.

  SGD unless `optim__name` says otherwise: it amplifies no float noise.
  """
  config = get_config()
  with config.unlocked():
    for field, value in {'optim__name': 'sgd', **changes}.items():
      *parents, name = field.split('__')
      node = config
      for parent in parents:
        node = node[parent]
      node[name] = value
  return vc.finalize(config)
