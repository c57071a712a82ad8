r"""V-JEPA, with LayerLock's freezing or without it, on one's own videos.

  python main.py --config=projects/layerlock/configs/vjepa.py:freeze=true \
    --config.data.train.source_kwargs.path=VIDEOS --workdir=runs/vjepa_layerlock

ViT-L with a predictor of 12 blocks and an averaged teacher. With `freeze` (the
preset vjepa_layerlock) the teacher's first block is predicted at first, then
the newest frozen one; without it, its last layer: V-JEPA itself.

With `heldout`, a second folder of videos, the diagnostics of collapse are
logged for its first clips.

Reported for ViT-L, frozen features (arXiv 2509.10156): Something-Something v2
57.0 with, 52.1 without; Kinetics-700 43.5 and 42.5. Not run here. When blocks
freeze there is not published for this variant; here it is the same share of the
run as for pixels.
"""

import ml_collections as mlc

from vidscenic import config as vc


def get_config(arg=''):
  """Arguments: freeze, size, steps, heldout (vjepa.py:freeze=false,size=H)."""
  arg = vc.parse_arg(arg, freeze=True, size='L', steps=90_000, heldout='')
  depth = vc.build('vidscenic.layers.vit:vit_config', name=arg.size)['depth']
  frozen = depth * 2 // 3  # of L: 16
  config = vc.base_config()
  config.batch_size = 3072
  config.steps = arg.steps  # further lengths are shares of it
  config.task.factory = 'projects.layerlock.vjepa:MaskedLatents'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': (16, 224, 224),
      'model': {
        'size': arg.size,
        'mask_index': 0,
        'scan': False,
        'remat': 'none',
        'dtype': 'bfloat16',
      },
      'masks': (
        {'num_blocks': 8, 'area': 0.15},
        {'num_blocks': 2, 'area': 0.7},
      ),
    }
  )
  if arg.freeze:
    config.task.kwargs.layerlock = mlc.ConfigDict(
      {
        'freeze_start_step': arg.steps // 3,
        'freeze_interval': max(1, int(0.64 * arg.steps / frozen)),
        'max_frozen_layers': frozen,
        'mini_warmup': {'steps': arg.steps // 250, 'init': 0.0},
      }
    )
  config.ema.decay = 0.999
  config.ema.schedule = vc.schedule_spec(
    name='linear', value=0.998 / 0.999, end=1.0 / 0.999
  )
  config.data.train = _videos('', train=True)
  if arg.heldout:
    config.evals.health = vc.eval_spec(
      factory='projects.layerlock.diagnostics:Diagnostics',
      every_steps=500,
      kwargs={
        'data': _videos(arg.heldout, train=False),
        'batch_size': 32,
        'limit': 256,
      },
    )
  config.optim.lr = 6.25e-4
  config.optim.weight_decay = 0.4
  config.optim.weight_decay_schedule = vc.schedule_spec(
    name='cosine', value=0.1, end=1.0
  )
  config.optim.clip_norm = 10.0
  # The cosine is a quarter longer than the run, which so ends above its end.
  config.optim.schedule = vc.schedule_spec(
    name='cosine',
    warmup_steps=arg.steps * 2 // 15,  # 12,000
    warmup_init=2e-4 / 6.25e-4,
    end=1e-6 / 6.25e-4,
    decay_steps=arg.steps * 5 // 4,
  )
  config.log.every_steps = 100
  config.checkpoint.every_steps = 5_000
  config.compile_ahead_steps = arg.steps // 90
  config.sharding = ((r'.*', 'fsdp'),)
  return vc.finalize(config)


def _videos(path, *, train):
  return vc.data_spec(
    source='vidscenic.data.sources:VideoFolder',
    source_kwargs={'path': path, 'split': '', 'labels': 'none'},
    transform_kwargs={
      'num_frames': 16,
      'stride': 4,
      'size': (224, 224),
      'area': (0.3, 1.0),
      'aspect': (0.75, 1.35),
      'train': train,
    },
    num_workers=8,
  )
