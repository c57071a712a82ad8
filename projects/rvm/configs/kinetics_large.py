r"""RVM-L on Kinetics with the published recipe, as far as it is known.

  python main.py --config=projects/rvm/configs/kinetics_large.py \
    --config.data.train.source_kwargs.root=/data/kinetics700 \
    --workdir=runs/rvm_large

Not run. What is known of the recipe and what is ours: kinetics_small.py, from
which this one differs in the size of the model and in rematerialisation,
which saves memory.

Frozen features of the published weights: SSv2 66.7, Kinetics-700 57.3; DAVIS
J&F 66.0, JHMDB PCK@0.1 48.4, VIP mIoU 38.0.
"""

from projects.rvm.configs import kinetics_small


def get_config(arg=''):
  """Argument: steps, as in kinetics_small.py."""
  return kinetics_small.recipe('L', arg, remat='dots')
