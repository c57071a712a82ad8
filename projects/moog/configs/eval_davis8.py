r"""Average Jaccard on the first 8 frames of TAP-Vid DAVIS.

  python main.py --config=projects/moog/configs/eval_davis8.py:root=DATA \
    --workdir=runs/moog_movi --mode=evaluate

DATA is the folder with tapvid_davis.pkl; the run, one of released.py on MOVi.
Expected, of a recurrent readout on frozen features trained on MOVi-E: 0.687.
Not reached: no such weights are published, and MOVi was not at hand.
"""

import ml_collections as mlc

from projects.moog.configs import released
from vidscenic import config as vc


def get_config(arg=''):
  """Arguments: root; size in pixels; sweep, compares numbers of tokens."""
  arg = vc.parse_arg(arg, root='', size=128, sweep=False)
  config = released.get_config(f'size={arg.size}')
  config.unlock()
  config.evals = mlc.ConfigDict()
  config.evals.davis8 = vc.eval_spec(
    factory='projects.moog.evaluation:Tracks',
    kwargs={
      'source': 'vidscenic.data.datasets.tapvid:TapVid',
      'source_kwargs': {
        'root': arg.root,
        'split': 'davis',
        'queries': 'first',
        'size': (arg.size, arg.size),
      },
      'num_frames': 8,
      'num_tokens': (256, 512, 1024) if arg.sweep else (),
    },
  )
  return vc.finalize(config)
