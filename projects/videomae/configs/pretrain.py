r"""VideoMAE, VideoMAE v2, MAE-ST and MaskFeat's target on one's own videos.

  python main.py --config=projects/videomae/configs/pretrain.py:size=B \
    --config.data.train.source_kwargs.path=VIDEOS --workdir=runs/videomae

`recipe` is videomae, videomae_v2, mae_st or hog. VIDEOS is a folder, a list of
files or a manifest, see `vidscenic.data.sources.VideoFolder`.

Published, after fine-tuning on Kinetics-400: VideoMAE B 81.5, L 85.2; MAE-ST B
81.3, L 84.8. Not run here: VideoMAE-B was trained for 800 epochs in batches of
2048 on 64 GPUs. Length, batch and learning rate are set for that batch; with
another one scale optim.lr linearly.
"""

import ml_collections as mlc

from vidscenic import config as vc

RECIPES = {
  'videomae': {'masker': 'tube', 'target_norm': 'patch_channel'},
  'videomae_v2': {
    'masker': 'tube',
    'target_norm': 'patch_channel',
    'decode_ratio': 0.5,
  },
  'mae_st': {
    'masker': 'random',
    'target': 'strided_pixels',
    'target_norm': 'patch',
    'normalize': 'signed',
  },
  # The encoder does not see hidden tokens, unlike MaskFeat's.
  'hog': {'masker': 'cube', 'mask_ratio': 0.4, 'target': 'hog'},
}


def get_config(arg=''):
  """Arguments: recipe, size (pretrain.py:recipe=mae_st,size=L)."""
  arg = vc.parse_arg(arg, recipe='videomae', size='B')
  if arg.recipe not in RECIPES:
    raise ValueError(f'recipe={arg.recipe!r}: want one of {tuple(RECIPES)}')
  is_mae_st = arg.recipe == 'mae_st'
  config = vc.base_config()
  config.batch_size = 2048
  config.steps = 94_000  # 800 epochs of 240,000 clips
  config.task.factory = 'projects.videomae.task:MaskedVideo'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': (16, 224, 224),
      **RECIPES[arg.recipe],
      'model': {
        'variant': 'mae_st' if is_mae_st else 'videomae',
        'size': arg.size,
        'scan': True,
        'remat': 'none',
        'dtype': 'bfloat16',
      },
    }
  )
  config.data.train = vc.data_spec(
    source='vidscenic.data.sources:VideoFolder',
    source_kwargs={'path': '', 'split': '', 'labels': 'none'},
    transform_kwargs={
      'num_frames': 16,
      'stride': 4,
      'size': (224, 224),
      'crop': 'random_resized' if is_mae_st else 'multi_scale',
      'area': (0.5, 1.0),
      'aspect': (0.75, 1.3333),
      'flip': 0.5 if is_mae_st else 0.0,
      'train': True,
    },
    repeats=4 if is_mae_st else 1,
    num_workers=8,
  )
  # Of batches of 256: 1.5e-4 for VideoMAE, 1.6e-3 for MAE-ST's batches of 512.
  config.optim.lr = 1.6e-3 if is_mae_st else 1.2e-3
  config.optim.b2 = 0.95
  config.optim.weight_decay = 0.05
  config.optim.decay_exclude = (
    r'(^|/)(bias|scale)$',
    r'(^|/)(mask_token|class_token|table|temporal|spatial)$',
  )
  config.optim.clip_norm = 0.02 if is_mae_st else 0.0
  config.optim.schedule = vc.schedule_spec(
    name='cosine',
    warmup_steps=4_700,  # 40 epochs
    end=0.0 if is_mae_st else 1e-5 / 1.5e-4,
  )
  config.sharding = ((r'.*', 'fsdp'),)
  return vc.finalize(config)
