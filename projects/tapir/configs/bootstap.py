r"""BootsTAPIR: labelled Kubric clips and one's own videos without labels.

  python main.py --config=projects/tapir/configs/bootstap.py \
    --config.data.train.streams.labelled.source_kwargs.root=MOVI \
    --config.data.train.streams.unlabelled.source_kwargs.path=VIDEOS \
    --config.init_from.path=runs/tapir --workdir=runs/bootstap

MOVI is a folder such as movi_e/256x256/1.0.0, VIDEOS one of any videos.

It starts from a TAPIR with extra convolutions that was trained on Kubric
(`kubric.py` with --config.task.kwargs.model.extra_convs=True and
softmax_temperature=10), a run's workdir or a file. The synthetic variant needs
no files: `bootstap.py:synthetic` trains a small model on synthetic clips, half
of them without their labels.

After arXiv 2402.00847, whose code is not public: numbers marked (memory) are
from memory of the paper, (ours) are guesses. The authors trained for about 2
weeks on 256 A100 with 15 million clips. Not run here beyond the synthetic
variant, which prints AJ of the teacher on held-out clips; score runs on real
videos with `eval_tapvid.py`. Expected of the published weights, DAVIS first: AJ
62.4, causal 59.7.
"""

import ml_collections as mlc

from vidscenic import config as vc

_KEPT = ('video', 'query_points', 'target_points', 'occluded')


def get_config(arg=''):
  """Arguments: synthetic (a small model and data without files), steps."""
  arg = vc.parse_arg(arg, synthetic=False, steps=200_000)
  small = arg.synthetic
  config = vc.base_config()
  config.steps = arg.steps  # (ours)
  clip = (8, 64, 64) if small else (24, 256, 256)
  queries = 32 if small else 256
  config.task.factory = 'projects.tapir.bootstap:SelfTraining'
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': clip,
      'num_queries': queries,
      'query_chunk_size': 32,
      'grad_chunks': 1,
      'colors': {'probability': 0.8, 'gray_probability': 0.2},
      'unlabelled_clip': clip,
      'unlabelled_queries': 32,  # (ours)
      'unlabelled_weight': 1.0,  # (ours)
      'scale': (0.5, 1.0),  # (ours)
      'jpeg_quality': (10.0, 95.0),  # (ours)
      'same_query': 0.5,  # (memory)
      'cycle_distance': 4.0,  # (memory)
      'model': {
        'pyramid_level': 1,
        'extra_convs': True,
        'softmax_temperature': 10.0,
        'feature_extractor_chunk_size': 8,
        **(_SMALL if small else {}),
      },
    }
  )
  rows = 2 if small else 32  # (ours)
  config.batch_size = 2 * rows
  for name in ('labelled', 'unlabelled'):
    config.data.train.streams[name] = (
      _synthetic(name) if small else _files(name)
    )
    config.data.train.streams[name].batch_size = rows
  config.ema.decay = 0.99  # (memory); the teacher
  config.optim.lr = 2e-4  # (memory)
  config.optim.b2 = 0.95
  config.optim.weight_decay = 0.1
  config.optim.decay_exclude = (
    r'^(?!backbone/).*/bias$',
    r'^(mixer|extra_convs)/.*norm/',
  )
  config.optim.schedule = vc.schedule_spec(
    name='cosine', warmup_steps=min(1000, arg.steps // 4)
  )
  config.checkpoint.every_steps = 1000
  if small:
    spec = _synthetic('heldout')
    spec.source_kwargs.split = 'validation'
    config.evals.heldout = vc.eval_spec(
      factory='projects.tapir.evaluation:TapVid',
      params='ema',
      every_steps=max(arg.steps // 4, 1),
      kwargs={'data': spec, 'resolution': clip[1:], 'limit': 16},
    )
  config.predict.factory = 'projects.tapir.predict:track'
  config.predict.params = 'ema'
  return vc.finalize(config)


_SMALL = {
  'stem_channels': 16,
  'channels_per_group': (16, 32, 48, 64),
  'mixer_hidden_dim': 64,
  'num_mixer_blocks': 2,
  'num_pips_iter': 2,
  'extra_conv_layers': 1,
  'extra_conv_multiplier': 2,
  'initial_resolution': (64, 64),
}


def _files(name):
  if name == 'labelled':
    return vc.data_spec(
      source='vidscenic.data.datasets.kubric:scenes',
      source_kwargs={'root': '', 'split': 'train'},
      transform='vidscenic.data.datasets.point_tracks:KubricTracks',
      transform_kwargs={
        'num_frames': 24,
        'size': (256, 256),
        'num_tracks': 256,
        'keep': _KEPT,
      },
    )
  return vc.data_spec(
    source='vidscenic.data.sources:VideoFolder',
    source_kwargs={'path': '', 'split': '', 'labels': 'none'},
    transform_kwargs={'num_frames': 24, 'size': (256, 256), 'keep': ('video',)},
  )


def _synthetic(name):
  labelled = name != 'unlabelled'
  return vc.data_spec(
    source='vidscenic.data.synthetic:SyntheticVideos',
    source_kwargs={
      'num_frames': 8,
      'height': 64,
      'width': 64,
      'num_tracks': 32 if labelled else 0,
      'queries': 'first' if name == 'heldout' else 'any',
      'seed': 0 if labelled else 1,
    },
    transform_kwargs={
      'num_frames': 8,
      'size': (64, 64),
      'crop': 'none',
      'keep': _KEPT if labelled else ('video',),
    },
  )
