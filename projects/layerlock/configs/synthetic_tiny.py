r"""LayerLock on synthetic clips of 32x32 pixels: two to three minutes, 2 cores.

  python main.py --config=projects/layerlock/configs/synthetic_tiny.py \
    --workdir=runs/layerlock_tiny

Three stages pass: pixels; features of block 2, with 2 of 6 blocks frozen;
features of block 4, with 4 frozen. `arm` makes the other runs of the experiment
in the project's README: mae, freeze, control. `clips` is a folder of clips that
were drawn beforehand (`python -m projects.layerlock.data`), which makes longer
runs fast.
"""

import ml_collections as mlc

from vidscenic import config as vc

# freeze, latent_targets
ARMS = {
  'layerlock': (True, True),
  'mae': (False, False),
  'freeze': (True, False),
  'control': (False, True),  # features and pixels, nothing frozen
}


def get_config(arg=''):
  """Arguments: arm, steps, seed, clips, batch (arm=mae,seed=1)."""
  arg = vc.parse_arg(
    arg, arm='layerlock', steps=240, seed=0, clips='', batch=16
  )
  if arg.arm not in ARMS:
    raise ValueError(f'arm={arg.arm!r}: want one of {tuple(ARMS)}')
  freeze, latent = ARMS[arg.arm]
  config = vc.base_config()
  config.seed = arg.seed
  config.steps = arg.steps
  config.batch_size = arg.batch
  config.task.factory = 'projects.layerlock.task:MaskedVideo'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': (8, 32, 32),
      'mask_ratio': 0.9,  # 6 of 64 patches are visible
      'model': {
        'width': 96,
        'depth': 6,
        'num_heads': 3,
        'mlp_features': 384,
        'patch': (2, 8, 8),
        'num_decoder_layers': 2,
        'scan': False,
        'remat': 'none',
        'dtype': 'float32',
      },
      'layerlock': {
        'freeze': freeze,
        'latent_targets': latent,
        'freeze_start_step': arg.steps // 3,
        'freeze_interval': max(1, arg.steps // 3),
        'freeze_jump': 2,
        'max_frozen_layers': 4,
        'mini_warmup': {'steps': arg.steps // 30, 'init': 0.0},
      },
    }
  )
  config.predict.factory = 'projects.layerlock.predict:features'
  config.data.train = _clips('train', arg.clips)
  config.optim.lr = 1e-3
  config.optim.b2 = 0.95
  config.optim.weight_decay = 0.05
  config.optim.decay_exclude = (
    r'(^|/)(bias|scale)$',
    r'(^|/)decode_tokens$',
  )
  config.optim.schedule = vc.schedule_spec(
    name='cosine', warmup_steps=max(1, arg.steps // 12)
  )
  config.log.every_steps = max(1, arg.steps // 12)
  config.checkpoint.every_steps = max(1, arg.steps // 3)
  config.compile_ahead_steps = arg.steps // 6
  held = {'data': _clips('validation', arg.clips), 'batch_size': 32}
  config.evals.heldout = vc.eval_spec(
    factory='vidscenic.evaluation.evaluator:MeanLoss',
    every_steps=max(1, arg.steps // 3),
    kwargs={**held, 'limit': 64},
  )
  config.evals.health = vc.eval_spec(
    factory='projects.layerlock.diagnostics:Diagnostics',
    every_steps=max(1, arg.steps // 6),
    kwargs={**held, 'limit': 64},
  )
  for name, label in (('actions', 'label'), ('shapes', 'shape_label')):
    config.evals[name] = vc.eval_spec(
      factory='vidscenic.evaluation.representation:Probe',
      every_steps=arg.steps,
      kwargs={
        'data': _clips('test', arg.clips),
        'train_data': _clips('train' if arg.clips else 'validation', arg.clips),
        'train_limit': 1024,
        'batch_size': 64,
        'k': (10,),
        'label': label,
      },
    )
  return vc.finalize(config)


def _clips(split, stored):
  """Clips without flips, which would change the action."""
  if stored:
    source, kwargs = 'projects.layerlock.data:StoredClips', {'path': stored}
  else:
    source = 'vidscenic.data.synthetic:SyntheticVideos'
    kwargs = {'num_frames': 8, 'height': 32, 'width': 32, 'difficulty': 'easy'}
  return vc.data_spec(
    source=source,
    source_kwargs={'split': split, **kwargs},
    transform_kwargs={
      'num_frames': 8,
      'size': (32, 32),
      'crop': 'none',
      'flip': 0.0,
      'train': False,
    },
  )
