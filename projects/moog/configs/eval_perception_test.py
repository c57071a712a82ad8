r"""Average Jaccard on the first 16 frames of Perception Test's points.

  python main.py --workdir=runs/moog_movi --mode=evaluate \
    --config=projects/moog/configs/eval_perception_test.py:root=DATA

DATA is the folder with the annotations and videos/ (see
vidscenic/data/datasets/perception_test.py). Expected, of a readout on frozen
features: 0.760. The published point head, which reads 16 frames at once:

  python -m vidscenic.tools.weights download moog_backbone
  python -m vidscenic.tools.weights import moog_point_head --workdir=runs/point
  python main.py --workdir=runs/point --mode=evaluate \
    --config=projects/moog/configs/eval_perception_test.py:root=DATA,published=1

Not reached: neither weights nor data were at hand, and which 16 frames are
meant is not published.
"""

import ml_collections as mlc

from projects.moog.configs import released
from vidscenic import config as vc


def get_config(arg=''):
  """Arguments: root; size in pixels; published, the published head."""
  arg = vc.parse_arg(arg, root='', size=128, published=False)
  config = released.get_config(f'size={arg.size}')
  config.unlock()
  if arg.published:
    config.task.factory = 'projects.moog.task:PointReadout'
    config.task.kwargs = mlc.ConfigDict({'clip': (16, arg.size, arg.size)})
  config.evals = mlc.ConfigDict()
  config.evals.perception_test = vc.eval_spec(
    factory='projects.moog.evaluation:Tracks',
    kwargs={
      'source': 'vidscenic.data.datasets.perception_test:PerceptionTest',
      'source_kwargs': {'root': arg.root, 'split': 'valid'},
      'num_frames': 16,
    },
  )
  return vc.finalize(config)
