r"""SimpleMAE and LayerLock on one's own videos, in the sizes of the papers.

  python main.py --workdir=runs/layerlock \
    --config=projects/layerlock/configs/pretrain.py:preset=layerlock_small \
    --config.data.train.source_kwargs.path=VIDEOS

The presets:
  layerlock_vitg_paper  ViT-G, 160,000 updates on pixels, then a block more is
                        frozen every 10,000, up to 32 of 48 (arXiv 2509.10156)
  layerlock_vitg_36     the same up to 36 of 48, the three quarters of the
                        general description, one every 9,000
  layerlock_small       ViT-B at 16x112x112, 8 of 12 blocks; sizes are ours
  mae_baseline          layerlock_small without freezing and without features
  mae_freeze            with freezing, pixels all the time: cheaper, not better
  mae_plus_latent       with features and pixels and nothing frozen: the control
                        that is reported to collapse
  simplemae             4DS (2412.15212): pixels, learned positions, any `size`

VIDEOS is a folder, a list of files or a manifest, see
`vidscenic.data.sources.VideoFolder`. With `heldout`, another one, the loss and
the diagnostics of collapse are logged for its first clips.

Reported for ViT-G, frozen features: Something-Something v2 66.1 (63.1 without
LayerLock), Kinetics-700 56.3 (52.1). Neither was run here: 256 TPUs were used.

Batch, learning rate, its schedule, the mini warm-up and what the targets are
made of are not published; see README.md for what is.
"""

import ml_collections as mlc

from vidscenic import config as vc

# freeze, latent_targets
PRESETS = {
  'layerlock_vitg_paper': (True, True),
  'layerlock_vitg_36': (True, True),
  'layerlock_small': (True, True),
  'mae_baseline': (False, False),
  'mae_freeze': (True, False),
  'mae_plus_latent': (False, True),
  'simplemae': (False, False),
}


def get_config(arg=''):
  """Arguments: preset; size, of simplemae; heldout (pretrain.py:size=L)."""
  arg = vc.parse_arg(arg, preset='layerlock_small', size='B', heldout='')
  if arg.preset not in PRESETS:
    raise ValueError(f'preset={arg.preset!r}: want one of {tuple(PRESETS)}')
  freeze, latent = PRESETS[arg.preset]
  is_vitg = arg.preset.startswith('layerlock_vitg')
  large = is_vitg or arg.preset == 'simplemae'
  size = arg.size if arg.preset == 'simplemae' else 'G' if is_vitg else 'B'
  side = 224 if large else 112
  interval, last = (10_000, 32) if large else (3_250, 8)
  if arg.preset == 'layerlock_vitg_36':
    interval, last = 9_000, 36
  config = vc.base_config()
  config.batch_size = 2048 if large else 256
  config.steps = 488_281 if large else 40_000  # 1e9 clips
  config.task.factory = 'projects.layerlock.task:MaskedVideo'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': (16, side, side),
      'mask_ratio': 0.95,
      'model': {
        'size': size,
        'posenc': 'learned' if arg.preset == 'simplemae' else 'rope3d',
        # A quarter of a shallow model is enough.
        'num_decoder_layers': 4 if large else 2,
        'scan': False,  # with scan the loop is cut where blocks freeze
        'remat': 'full' if large else 'none',
        'dtype': 'bfloat16',
      },
      'layerlock': {
        'freeze': freeze,
        'latent_targets': latent,
        'freeze_start_step': 160_000 if large else 13_000,
        'freeze_interval': interval,
        'freeze_jump': 1,
        'max_frozen_layers': last,
        'mini_warmup': {'steps': 1000 if large else 300, 'init': 0.0},
      },
    }
  )
  if arg.preset == 'simplemae':  # nothing is ever frozen
    config.task.kwargs.layerlock = mlc.ConfigDict(
      {'freeze': False, 'latent_targets': False}
    )
  config.predict.factory = 'projects.layerlock.predict:features'
  config.data.train = _videos('', side, train=True)
  if arg.heldout:
    held = {
      'data': _videos(arg.heldout, side, train=False),
      'batch_size': 32,
      'limit': 256,
    }
    for name, factory in (
      ('heldout', 'vidscenic.evaluation.evaluator:MeanLoss'),
      ('health', 'projects.layerlock.diagnostics:Diagnostics'),
    ):
      config.evals[name] = vc.eval_spec(
        factory=factory, every_steps=500, kwargs=dict(held)
      )
  config.optim.lr = 3e-4
  config.optim.b2 = 0.95
  config.optim.weight_decay = 0.05
  config.optim.decay_exclude = (
    r'(^|/)(bias|scale)$',
    r'(^|/)(decode_tokens|table)$',
  )
  config.optim.schedule = vc.schedule_spec(
    name='cosine', warmup_steps=10_000 if large else 1_000
  )
  config.log.every_steps = 100
  config.checkpoint.every_steps = 5_000
  # A program takes minutes to compile; it does so while the old one trains.
  config.compile_ahead_steps = 2_000 if large else 500
  config.sharding = ((r'.*', 'fsdp'),)
  return vc.finalize(config)


def _videos(path, side, *, train):
  return vc.data_spec(
    source='vidscenic.data.sources:VideoFolder',
    source_kwargs={'path': path, 'split': '', 'labels': 'none'},
    transform_kwargs={
      'num_frames': 16,
      'stride': 4,
      'size': (side, side),
      'train': train,
    },
    num_workers=8,
  )
