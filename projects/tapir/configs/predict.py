r"""Tracks points through one's own video.

  python main.py --mode=predict --config=projects/tapir/configs/predict.py \
    --input=clip.mp4 --output=tracks

Without further words the small weights of this project are used, which need no
download. Published ones track far better and go by their name (downloaded
once):

  --config=projects/tapir/configs/predict.py:weights=bootstapir

Files do as well, weights=FILE; those that say neither by their name nor by
themselves whether they are causal and at which temperature they were trained
also need both, as in weights=FILE,causal=1,temperature=20. What can be chosen
is explained at `projects.tapir.predict.track`, for example

  --option=points_from=points.csv     (or grid, random, mask.png)
  --option=online=True                (frame by frame)
"""

import ml_collections as mlc

from projects.tapir import importer
from vidscenic import config as vc


def get_config(arg=''):
  """Arguments: weights (name or file), causal (0 or 1) and temperature."""
  arg = vc.parse_arg(arg, weights='', causal=-1, temperature=0.0)
  config = vc.base_config()
  config.task.factory = 'projects.tapir.task:PointTracking'
  weights = arg.weights or importer.OWN_WEIGHTS
  model = importer.known_options(
    weights,
    use_causal_conv=None if arg.causal < 0 else bool(arg.causal),
    softmax_temperature=arg.temperature or None,
  )
  # Frames of long videos go through the backbone a few at a time.
  if model.get('name') != 'tapnet' and not model.get('extra_conv_shift'):
    model['feature_extractor_chunk_size'] = 16
  config.task.kwargs = mlc.ConfigDict({'model': model, 'query_chunk_size': 64})
  config.init_from.path = weights
  config.init_from.factory = 'projects.tapir.importer:load'
  config.predict.factory = 'projects.tapir.predict:track'
  config.predict.kwargs = mlc.ConfigDict(
    {
      'points_from': 'grid',
      'num_points': 256,
      'frame': 0,
      'online': False,
      'resolution': (),
      'window': 0,
      'trail': 12,
    }
  )
  return vc.finalize(config)
