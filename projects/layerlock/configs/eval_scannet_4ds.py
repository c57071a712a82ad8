r"""The published depth readout of 4DS on ScanNet (arXiv 2412.15212).

  python main.py --config=projects/layerlock/configs/eval_scannet_4ds.py \
    --config.evals.depth.kwargs.data.source_kwargs.root=SCANNET \
    --weights=scaling4d_base_depth --workdir=runs/4ds --mode=evaluate

ScanNet needs its terms signed, see `vidscenic.data.datasets.dense.ScanNet`.
Published for a ViT-B trained for itself: AbsRel 0.162 (frozen); for this file,
which is distilled from a larger model, none. Not run here: there were neither
weights nor data. In which unit the readout answers is not published; figures
are of its numbers as metres.
"""

import ml_collections as mlc

from vidscenic import config as vc
from vidscenic.importers import published


def get_config(arg=''):
  """No arguments."""
  vc.parse_arg(arg)
  entry = published.find('scaling4d_base_depth')
  config = vc.base_config()
  config.steps = 1
  config.batch_size = 8
  config.task.factory = entry.task
  config.task.kwargs = mlc.ConfigDict(dict(entry.task_kwargs))
  config.data.train = _clips('train')
  config.evals.depth = vc.eval_spec(
    factory='vidscenic.evaluation.dense:Depth',
    every_steps=1,
    kwargs={'data': _clips('val'), 'batch_size': 4},
  )
  return vc.finalize(config)


def _clips(split):
  return vc.data_spec(
    source='vidscenic.data.datasets.dense:ScanNet',
    source_kwargs={'root': '', 'split': split},
    transform_kwargs={
      'num_frames': 16,
      'size': (224, 224),
      'crop': 'none',
      'flip': 0.0,
      'train': False,
    },
  )
