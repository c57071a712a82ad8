r"""Published weights of RVM on one's own videos.

  python main.py --mode=predict --config=projects/rvm/configs/predict.py \
    --weights=rvm_small --input=clip.mp4 --output=predictions

Other sizes: --config=projects/rvm/configs/predict.py:size=L with
--weights=rvm_large, or with any file of that layout. A mask of the first frame,
a palette or grey picture of object numbers, is carried through the video with
--option=mask=mask.png, points (a text file, `x,y` per line) with
--option=points=points.txt. See `predict.describe` for what is
written. Models of one's own: their config with --workdir.
"""

import ml_collections as mlc

from vidscenic import config as vc


def get_config(arg=''):
  """Argument: size of the model, S, B, L or H (predict.py:size=L)."""
  arg = vc.parse_arg(arg, size='S')
  config = vc.base_config()
  config.task.factory = 'projects.rvm.task:MaskedVideo'
  config.task.kwargs = mlc.ConfigDict(
    {'model': {'size': arg.size, 'scan': False, 'dtype': 'float32'}}
  )
  config.init_from.factory = 'projects.rvm.importer:load'
  config.predict.factory = 'projects.rvm.predict:describe'
  config.predict.kwargs = mlc.ConfigDict(
    {
      'short_side': 256,  # 480 follows small things better, at four times
      'mask': '',
      'points': '',
      'features_every': 1,  # 0: write no features
    }
  )
  return vc.finalize(config)
