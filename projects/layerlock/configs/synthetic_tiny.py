r"""LayerLock on synthetic clips of 32x32 pixels: two to three minutes, 2 cores.

  python main.py --config=projects/layerlock/configs/synthetic_tiny.py \
    --workdir=runs/layerlock_tiny

Three stages pass: pixels; features of block 2, with 2 of 6 blocks frozen;
features of block 4, with 4 frozen. `arm` makes the other runs of the experiment
in the project's README: mae, freeze, control. `clips` is a folder of clips that
were drawn beforehand (`python -m projects.layerlock.data`), which makes longer
runs fast. `decode=quarter` predicts the means of 2x2 patches, which leaves more
to be saved by freezing. `size` S, B or L (12 blocks: 4, then 8 frozen) and the
`frames` and `pixels` of a clip are for an accelerator, see experiment.py.
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
TINY = {'width': 96, 'depth': 6, 'num_heads': 3, 'mlp_features': 384}


def get_config(arg=''):
  """Arguments: those of `parse_arg` below (arm=mae,seed=1)."""
  arg = vc.parse_arg(
    arg,
    arm='layerlock',
    steps=240,
    seed=0,
    clips='',
    batch=16,
    decode='full',
    size='tiny',
    frames=8,
    pixels=32,
  )
  if arg.arm not in ARMS:
    raise ValueError(f'arm={arg.arm!r}: want one of {tuple(ARMS)}')
  if arg.decode not in ('full', 'quarter'):
    raise ValueError(f"decode={arg.decode!r}: want 'full' or 'quarter'")
  clip = (arg.frames, arg.pixels, arg.pixels)
  model = dict(TINY) if arg.size == 'tiny' else {'size': arg.size}
  side = 8 if arg.size == 'tiny' else 16
  if arg.decode == 'quarter':
    rows = arg.pixels // side // 2
    model['decode_grid'] = (arg.frames // 2, rows, rows)
  # A third of the run each: pixels, half of what will be frozen, all of it.
  last = {'tiny': 4, 'L': 16}.get(arg.size, 8)
  freeze, latent = ARMS[arg.arm]
  config = vc.base_config()
  config.seed = arg.seed
  config.steps = arg.steps
  config.batch_size = arg.batch
  config.task.factory = 'projects.layerlock.task:MaskedVideo'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': clip,
      'mask_ratio': 0.9,  # tiny: 6 of 64 patches are visible
      'model': {
        **model,
        'patch': (2, side, side),
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
        'freeze_jump': last // 2,
        'max_frozen_layers': last,
        'mini_warmup': {'steps': arg.steps // 30, 'init': 0.0},
      },
    }
  )
  config.predict.factory = 'projects.layerlock.predict:features'
  config.data.train = _clips('train', arg.clips, clip)
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
  held = {'data': _clips('validation', arg.clips, clip), 'batch_size': 32}
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
        'data': _clips('test', arg.clips, clip),
        'train_data': _clips(
          'train' if arg.clips else 'validation', arg.clips, clip
        ),
        'train_limit': 1024,
        'batch_size': 64,
        'k': (10,),
        'label': label,
      },
    )
  return vc.finalize(config)


def _clips(split, stored, clip):
  """Clips without flips, which would change the action."""
  frames, height, width = clip
  if stored:
    source, kwargs = 'projects.layerlock.data:StoredClips', {'path': stored}
  else:
    source = 'vidscenic.data.synthetic:SyntheticVideos'
    kwargs = {'num_frames': frames, 'height': height, 'width': width}
    kwargs['difficulty'] = 'easy'
  return vc.data_spec(
    source=source,
    source_kwargs={'split': split, **kwargs},
    transform_kwargs={
      'num_frames': frames,
      'size': (height, width),
      'crop': 'none',
      'flip': 0.0,
      'train': False,
    },
  )
