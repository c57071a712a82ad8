"""Configs of tiny runs, and what such a run leaves in its workdir."""

import jax

from tests.multiprocess import processes
from tests.train import tiny_config
from vidscenic import config as vc
from vidscenic.train import checkpoints
from vidscenic.train import run as run_lib


def make_config(**changes):
  return tiny_config.changed(**{'evals': {}, **changes})


def heldout(**changes):
  return vc.eval_spec(
    factory='vidscenic.evaluation.evaluator:MeanLoss',
    kwargs={
      'data': vc.data_spec(
        source='tests.train.tiny:Numbers',
        source_kwargs={'size': 20},
        transform='tests.train.tiny:Jitter',
      ),
      'batch_size': 8,
    },
    **changes,
  )


def restored(workdir, config, step=None):
  run = run_lib.Run(config)
  reader = checkpoints.Checkpoints(workdir, read_only=True)
  state, meta = reader.restore(run.state_shapes, step)
  reader.close()
  return jax.device_get(state), meta


def rows(workdir, prefix='train/'):
  return processes.rows(workdir, prefix)
