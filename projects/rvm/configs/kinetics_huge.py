r"""RVM-H on Kinetics with the published recipe, as far as it is known.

  python main.py --config=projects/rvm/configs/kinetics_huge.py \
    --config.data.train.source_kwargs.root=/data/kinetics700 \
    --workdir=runs/rvm_huge

Not run. What is known of the recipe and what is ours: kinetics_small.py, from
which this one differs in the size of the model and in rematerialisation. To
cut the state over devices: --config.mesh.fsdp=8
--config.sharding="((r'.*', 'fsdp'),)".

Frozen features of the published weights: SSv2 68.7; DAVIS J&F 65.6, VIP mIoU
37.3.
"""

from projects.rvm.configs import kinetics_small


def get_config(arg=''):
  """Argument: steps, as in kinetics_small.py."""
  return kinetics_small.recipe('H', arg, remat='full')
