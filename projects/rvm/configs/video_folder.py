r"""RVM on a folder of one's own videos.

  python main.py --config=projects/rvm/configs/video_folder.py \
    --config.data.train.source_kwargs.path=VIDEOS --workdir=runs/rvm_videos

VIDEOS is a folder, a list of files or a manifest; see `VideoFolder`. The small
model of 64x64 pixels is for a first look on any machine. On a GPU train a
published size at 256x256 pixels, here with videos to watch the figures on:

  --config=projects/rvm/configs/video_folder.py:size=S,heldout=OTHER_VIDEOS

Videos need 28 frames, 4 sources and a gap of up to 24, or 52 for the gaps of
the published sizes, up to 48; --config.data.train.transform_kwargs.gaps="(4,9)"
takes shorter ones. Figures are those of synthetic_tiny.py; what to expect
depends on the videos.
"""

import ml_collections as mlc

from vidscenic import config as vc

_SMALL = {
  'width': 128,
  'depth': 4,
  'num_heads': 4,
  'mlp_features': 512,
  'core_depth': 2,
  'core_heads': 4,
  'core_mlp_features': 512,
  'decoder_width': 96,
  'decoder_depth': 3,
  'decoder_heads': 3,
  'decoder_mlp_features': 384,
  'patch': (8, 8),
  'base_grid': (8, 8),
}


def get_config(arg=''):
  """Arguments: size, S, B, L or H; heldout, a path like VIDEOS; steps."""
  arg = vc.parse_arg(arg, size='', heldout='', steps=5000)
  pixels = (256, 256) if arg.size else (64, 64)
  config = vc.base_config()
  config.steps = arg.steps
  config.batch_size = 16
  config.task.factory = 'projects.rvm.task:MaskedVideo'
  config.task.kwargs = mlc.ConfigDict(
    {
      'size': pixels,
      'num_sources': 4,
      'num_targets': 4,
      'mask_ratio': 0.95 if arg.size else 0.9,
      'loss': 'all',
      'delta_origin': 'first',
      'model': {
        **({'size': arg.size} if arg.size else _SMALL),
        'scan': False,
        'remat': 'none',
        'implementation': 'xla',
        'dtype': 'bfloat16' if arg.size else 'float32',
      },
    }
  )
  config.predict.factory = 'projects.rvm.predict:describe'
  config.predict.kwargs = mlc.ConfigDict(
    {'short_side': 2 * pixels[0], 'gaps': (4, 48 if arg.size else 24)}
  )
  config.data.train = _clips('', pixels, train=True)
  config.optim.lr = 3e-4 if arg.size else 1e-3
  config.optim.b2 = 0.95
  config.optim.weight_decay = 0.05
  config.optim.clip_norm = 1.0
  config.optim.schedule = vc.schedule_spec(
    name='cosine', warmup_steps=arg.steps // 12
  )
  config.log.every_steps = 20
  config.checkpoint.every_steps = 500
  if arg.heldout:
    config.evals.heldout = vc.eval_spec(
      factory='vidscenic.evaluation.evaluator:MeanLoss',
      every_steps=500,
      kwargs={
        'data': _clips(arg.heldout, pixels, train=False),
        'batch_size': 16,
      },
    )
    config.evals.pictures = vc.eval_spec(
      factory='vidscenic.evaluation.videos:Clips',
      every_steps=500,
      kwargs={
        'data': _clips(arg.heldout, pixels, train=False),
        'fields': ('copy_last', 'visible', 'reconstructed', 'truth'),
        'count': 4,
        'value_range': 'unit',
      },
    )
  return vc.finalize(config)


def _clips(path, pixels, *, train):
  longest = 48 if pixels == (256, 256) else 24
  return vc.data_spec(
    source='vidscenic.data.sources:VideoFolder',
    source_kwargs={'path': path, 'split': '', 'labels': 'none'},
    transform='projects.rvm.data:SourcesAndTargets',
    transform_kwargs={
      'num_sources': 4,
      'num_targets': 4,
      'gaps': (4, longest),
      'size': pixels,
      'train': train,  # random place, size and flip; else the middle
    },
    repeats=2 if train else 1,  # crops of one decoded clip
  )
