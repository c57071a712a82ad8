r"""Readouts of labels, depth, points, boxes and camera from frozen features.

  python main.py --workdir=runs/read_layerlock \
    --config=configs/readout.py:weights=runs/layerlock_tiny,steps=400,lr=1e-3
  python main.py --workdir=runs/read_rvm \
    --config=configs/readout.py:backbone=rvm,weights=runs/rvm,steps=400,lr=1e-3
  python main.py --workdir=runs/read_random \
    --config=configs/readout.py:backbone=random,steps=400,lr=1e-3
  python -m vidscenic.tools.compare runs/read_layerlock runs/read_rvm \
    runs/read_random --figures '^heldout'

The runs that are read are those of projects/*/configs/synthetic_tiny.py, in the
first two cases; `random` is LayerLock's backbone with its first weights. All
heads train at once on synthetic clips; the last command prints a table of their
scores, with a control beside each.

With the default steps and learning rate it is the recipe of 4DS (arXiv
2412.15212) for readouts: AdamW, weight decay 1e-4, 1000 steps of warm-up, a
cosine from 3e-4 to 1e-7 and 40,000 steps. Clipping is ours.
"""

import ml_collections as mlc

from projects.layerlock.configs import synthetic_tiny as layerlock
from projects.rvm.configs import synthetic_tiny as rvm
from vidscenic import config as vc

CLIP = (8, 48, 48)
BACKBONES = ('layerlock', 'rvm', 'random')
_STACK = {'num_heads': 2, 'qkv_features': 64, 'mlp_features': 128}


def get_config(arg=''):
  """Arguments: backbone, weights (the workdir of its run), steps, lr."""
  arg = vc.parse_arg(arg, backbone='', weights='', steps=40_000, lr=3e-4)
  backbone = arg.backbone or ('layerlock' if arg.weights else 'random')
  if backbone not in BACKBONES:
    raise ValueError(f'backbone={backbone!r}: want one of {BACKBONES}')
  if bool(arg.weights) == (backbone == 'random'):
    raise ValueError(
      f'backbone={backbone!r}, weights={arg.weights!r}: want the workdir of a '
      "run as weights, and none for 'random'"
    )
  config = vc.base_config()
  config.steps = arg.steps
  config.batch_size = 16
  config.task.factory = 'vidscenic.tasks.readout:Readout'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': CLIP,
      **(_rvm() if backbone == 'rvm' else _layerlock()),
      'heads': _heads(),
      'finetune': False,
    }
  )
  # The heads are new, and pretraining's decoders are not needed.
  config.init_from.path = arg.weights
  config.init_from.rules = ((r'backbone/(.*)', r'\1'),)
  config.init_from.ignore = (
    r'^(decode_tokens|pixel_head|latent_head)',
    r'^(mask_token|embedder|delta|decoder|head)(/|$)',
  )
  config.data.train = _clips('train')
  config.optim.lr = arg.lr
  config.optim.weight_decay = 1e-4
  config.optim.clip_norm = 1.0
  config.optim.schedule = vc.schedule_spec(
    name='cosine',
    warmup_steps=min(1000, max(1, arg.steps // 20)),
    end=1e-7 / arg.lr,
  )
  config.log.every_steps = max(1, min(100, arg.steps // 10))
  config.checkpoint.every_steps = min(2_000, arg.steps)
  config.evals.heldout = vc.eval_spec(
    factory='vidscenic.evaluation.evaluator:MeanLoss',
    every_steps=max(1, min(2_000, arg.steps // 2)),
    kwargs={'data': _clips('validation'), 'batch_size': 16, 'limit': 128},
  )
  return vc.finalize(config)


def _layerlock():
  model = vc.plain(layerlock.get_config().task.kwargs.model)
  model.pop('dtype')
  grid = tuple(n // p for n, p in zip(CLIP, model['patch'], strict=True))
  return {
    'backbone': 'projects.layerlock.model:Features',
    'backbone_kwargs': {'model': model | {'grid': grid}},
  }


def _rvm():
  model = vc.plain(rvm.get_config().task.kwargs.model)
  model.pop('dtype')
  return {
    'backbone': 'vidscenic.tasks.any_backbone:Backbone',
    'backbone_kwargs': {
      'module': 'projects.rvm.model:RVM',
      'fields': model | {'decoder': False},
      'method': 'encode',
      'drop_tokens': 1,
    },
  }


def _heads():
  attentive = {'width': 64, 'num_heads': 2}
  tracks = {'features': 64, 'depth': 1, 'num_bases': 6, **_STACK}
  return {
    'action': {
      'factory': 'vidscenic.tasks.attentive_heads:Classes',
      'num_classes': 12,
      **attentive,
    },
    'depth': {
      'factory': 'vidscenic.tasks.attentive_heads:DenseDepth',
      'limits': (2.0, 13.0),
      'decode_patch': (2, 4, 4),
      **attentive,
    },
    'pose': {
      'factory': 'vidscenic.tasks.attentive_heads:CameraPose',
      **attentive,
    },
    'points': {
      'factory': 'vidscenic.tasks.track_heads:Points',
      'num_points': 16,
      'expected_dist_thresh': 24.0,
      'layers': tracks,
    },
    'boxes': {'factory': 'vidscenic.tasks.track_heads:Boxes', 'layers': tracks},
  }


def _clips(split):
  return vc.data_spec(
    source='vidscenic.data.synthetic:SyntheticVideos',
    source_kwargs={
      'split': split,
      'num_frames': CLIP[0],
      'height': CLIP[1],
      'width': CLIP[2],
      'difficulty': 'easy',
      'num_tracks': 16,
      'boxes': True,
      'depth': True,
      'pose': True,
    },
    transform_kwargs={
      'num_frames': CLIP[0],
      'size': CLIP[1:],
      'crop': 'none',
      'flip': 0.0,
      'train': False,
    },
  )
