r"""Autoencoding of synthetic clips with sound: a few minutes on 2 cores.

  python main.py --workdir=runs/perceiver_autoencoding \
    --config=projects/perceiver/configs/synthetic_autoencoding.py

Video, sound and a label of clips of 4 frames of 24x24 pixels go through 48
latents. The controls are constants: `l1_image_median`, the median colour of
each clip, and `l1_audio_silence`. The smallest set of labels, how the nearest
object moves, is there to be a label; 4 frames hardly tell it.

Measured, 142 s on 2 shared cores: l1_image 0.0788, the median colour 0.0825;
l1_audio 0.0986, silence 0.2046.
"""

import ml_collections as mlc

from vidscenic import config as vc

_FRAMES, _SIDE = 4, 24
# Samples per frame: 16 kHz at 12 frames per second are not whole ones.
_SAMPLES = _FRAMES * 16_000 // 12 // 64 * 64


def get_config(arg=''):
  """Argument: steps, the length of the run."""
  arg = vc.parse_arg(arg, steps=800)
  config = vc.base_config()
  config.steps = arg.steps
  config.batch_size = 16
  config.task.factory = 'projects.perceiver.autoencoding_task:AudioVideo'
  config.task.kwargs = mlc.ConfigDict(
    {
      'queries': {'image': 256, 'audio': 32},
      'scales': {'image': 1.0, 'audio': 1.0, 'label': 1e-4},
      'label_mask_prob': 0.5,
      'dtype': 'float32',
      'model': {
        'num_frames': _FRAMES,
        'image_size': (_SIDE, _SIDE),
        'num_samples': _SAMPLES,
        'num_classes': 12,
        'samples_per_patch': 64,
        'spatial_downsample': 4,
        'video_bands': 8,
        'video_max_resolution': (_FRAMES, _SIDE, _SIDE),
        'audio_bands': 16,
        'audio_max_resolution': _SAMPLES // 64,
        'label_channels': 64,
        'output_channels': 96,
        'encoder': {
          'num_self_attends_per_block': 2,
          'num_blocks': 1,
          'z_index_dim': 48,
          'num_z_channels': 96,
          'num_self_attend_heads': 4,
          'num_cross_attend_heads': 1,
        },
      },
    }
  )
  config.predict.factory = 'projects.perceiver.predict:reconstruct'
  config.data.train = _clips('train')
  config.optim.lr = 1e-3
  config.optim.b2 = 0.95
  config.optim.clip_norm = 1.0
  config.optim.schedule = vc.schedule_spec(
    name='cosine', warmup_steps=arg.steps // 16 + 1
  )
  config.log.every_steps = 50
  config.checkpoint.every_steps = arg.steps
  config.evals.heldout = vc.eval_spec(
    factory='vidscenic.evaluation.evaluator:MeanLoss',
    every_steps=200,
    kwargs={'data': _clips('validation'), 'batch_size': 16, 'limit': 128},
  )
  return vc.finalize(config)


def _clips(split):
  return vc.data_spec(
    source='vidscenic.data.synthetic:SyntheticVideos',
    source_kwargs={
      'split': split,
      'num_frames': _FRAMES,
      'height': _SIDE,
      'width': _SIDE,
      'difficulty': 'easy',
      'audio': True,
    },
    transform='projects.perceiver.data.audio_video:AudioVideoClips',
    transform_kwargs={
      'num_frames': _FRAMES,
      'fps': 0.0,
      'audio_rate': 16_000,
      'audio_samples': _SAMPLES,
      'size': (_SIDE, _SIDE),
      'crop': 'none',
      'train': split == 'train',
      'flip': 0.0,  # labels tell left from right
    },
  )
