r"""RVM-B on Kinetics with the published recipe, as far as it is known.

  python main.py --config=projects/rvm/configs/kinetics_base.py \
    --config.data.train.source_kwargs.root=/data/kinetics700 \
    --workdir=runs/rvm_base

Not run. What is known of the recipe and what is ours: kinetics_small.py, from
which this one differs in the size of the model only.
"""

from projects.rvm.configs import kinetics_small


def get_config(arg=''):
  """Argument: steps, as in kinetics_small.py."""
  return kinetics_small.recipe('B', arg)
