r"""A vision transformer on one's own labelled clips, or on synthetic motion.

Own videos, one folder per class:

  python main.py --workdir=runs/mine \
    --config=configs/video_classifier.py:classes=12,heldout=/videos/val \
    --config.data.train.source_kwargs.path=/videos/train

A path may also be a list with lines `path label`, or a manifest written by
tools/prepare_videos. `classes` is the number of classes: a label outside
stops the run. The held-out folder needs the same class
folders, empty ones if need be, because ids are places in the sorted names.

Start from an encoder that was pretrained here (a ViT needs some 10^5 clips to
learn from nothing) with --config.init_from.path=runs/pretrained; the rules
below take whatever a run keeps under `encoder/`, such as one of
projects/_template; give `backbone_kwargs` the fields it was pretrained with.

The recipe is VideoMAE's fine-tuning as released (arXiv 2203.12602): AdamW with
layer-wise decay 0.75, mixup 0.8 or CutMix 1.0 in every batch, label smoothing
0.1, stochastic depth 0.1. Unlike there, weights are averaged, gradients clipped
and RandAugment and erasing replaced by changes of colour. Reported: top-1
and top-5 of one view of every held-out clip during training and of 4 x 3 views
at the end, beside those of guessing the most frequent class. Nothing was run on
real videos so far.

Without any data, the 12 motions of the synthetic source:

  python main.py --workdir=runs/motion \
    --config=configs/video_classifier.py:synthetic

One frame does not tell the class: what is above chance was read from motion.
Reached in 800 steps, five minutes of CPU time: top-1 34 % and top-5 75 % of
1024 test clips, where always guessing the most frequent classes gets 9 % and
45 %, chance 8 % and 42 % (32 % and 73 % of the 512 validation clips that the
run itself reports). Most of that time goes into rendering the clips.
"""

from vidscenic import config as vc


def get_config(arg=''):
  """Arguments after the colon, all optional.

  synthetic: synthetic motion and a tiny model, instead of one's own videos.
  heldout: folder, list or manifest of videos to evaluate on.
  classes: their number.
  size: of the model, one of `layers.vit.SIZES`.
  frames, stride, resolution: of a clip.
  batch, steps: clips per update, and updates.
  """
  if 'synthetic' in (arg or '').split(','):
    return _synthetic(arg)
  arg = vc.parse_arg(
    arg,
    heldout='',
    classes=10,
    size='S',
    frames=16,
    stride=4,
    resolution=224,
    batch=64,
    steps=10_000,
  )
  config = _recipe(arg)
  kwargs = config.task.kwargs
  kwargs.num_classes = arg.classes
  kwargs.backbone_kwargs = {
    'size': arg.size,
    'patch': (2, 16, 16),
    'positions': 'none',
    'rotary': {'fractions': (0.25, 0.375, 0.375)},  # time, rows, columns
    'drop_path': 0.1,
    'remat': 'full',  # a third more time, a tenth of the memory
  }
  kwargs.augment = {'color': 0.8, 'gray': 0.1}
  kwargs.mixing = {'mixup': 0.8, 'cutmix': 1.0}
  kwargs.label_smoothing = 0.1
  kwargs.dtype = 'bfloat16'
  config.optim.lr = 5e-4 * arg.batch / 256
  config.optim.layer_decay = 0.75
  config.ema.decay = 0.999
  config.init_from.rules = ((r'backbone/(.*)', r'encoder/\1'),)
  config.init_from.ignore = (r'^(?!encoder/)',)

  def videos(path, **transform):
    return vc.data_spec(
      source='vidscenic.data.sources:VideoFolder',
      source_kwargs={'path': path},
      transform_kwargs={
        'num_frames': arg.frames,
        'stride': arg.stride,
        'size': (arg.resolution, arg.resolution),
        **transform,
      },
    )

  config.data.train = videos(
    '',
    area=(0.5, 1.0),
    flip=0.5,  # 0 where classes tell left from right (Something-Something)
  )
  if arg.heldout:
    one = videos(arg.heldout, train=False)
    config.evals.heldout = _top_k(one, arg)
    twelve = videos(arg.heldout, train=False, num_views=4, crop='three')
    config.evals.multiview = _top_k(twelve, arg, every_steps=arg.steps)
  return vc.finalize(config)


def _synthetic(arg):
  arg = vc.parse_arg(
    arg, synthetic=True, frames=8, resolution=32, batch=64, steps=800
  )
  config = _recipe(arg)
  kwargs = config.task.kwargs
  kwargs.num_classes = 12
  kwargs.backbone_kwargs = {
    'width': 128,
    'depth': 3,
    'num_heads': 4,
    'mlp_features': 512,
    'positions': 'sincos_3d',
    # All frames in one patch, so that the first layer can see motion.
    'patch': (arg.frames, 8, 8),
  }
  # No mixing and smoothing: no clip comes up a third time, and with mixing in
  # one batch of ten 600 steps reached 26 % and not 30 % (one run each).
  # Nothing is learned until motion is found. With width 64, Muon had found it
  # after 200 steps and was at 34 % after 1000, AdamW (lr 2e-3) at 12 %.
  config.optim.name = 'muon'
  config.optim.momentum = 0.95
  config.optim.nesterov = True
  config.optim.lr = 5e-3
  config.ema.decay = 0.98

  def motions(split, repeats=1, **transform):
    return vc.data_spec(
      source='vidscenic.data.synthetic:SyntheticVideos',
      source_kwargs={
        'split': split,
        'num_frames': arg.frames,
        'height': arg.resolution + 4,
        'width': arg.resolution + 4,
        'difficulty': 'easy',
      },
      transform_kwargs={
        'num_frames': arg.frames,
        'size': (arg.resolution, arg.resolution),
        'short_side': arg.resolution + 4,
        'keep': ('video', 'label'),
        **transform,
      },
      repeats=repeats,
    )

  # Rendering costs more than training, so every clip is cropped twice. No
  # mirror: it turns right into left.
  config.data.train = motions('train', repeats=2, crop='random', flip=0.0)
  heldout = motions('validation', train=False)
  heldout.source_kwargs.size = 512
  config.evals.heldout = _top_k(heldout, arg)
  return vc.finalize(config)


def _recipe(arg):
  """What both have in common."""
  config = vc.base_config()
  config.steps = arg.steps
  config.batch_size = arg.batch
  config.task.factory = 'vidscenic.tasks.classification:Classification'
  config.task.kwargs.clip = (arg.frames, arg.resolution, arg.resolution)
  config.task.kwargs.backbone = 'vidscenic.layers.vit:VisionTransformer'
  optim = config.optim
  optim.schedule = vc.schedule_spec(name='cosine', warmup_steps=arg.steps // 20)
  optim.weight_decay = 0.05
  optim.layer_stem = r'^backbone/(embedding|position|class_token)'
  optim.clip_norm = 1.0
  config.log.every_steps = 50
  config.checkpoint.every_steps = max(arg.steps // 5, 1)
  return config


def _top_k(data, arg, every_steps=0):
  """Accuracy of the averaged weights on held-out clips."""
  return vc.eval_spec(
    factory='vidscenic.evaluation.classification:TopK',
    every_steps=every_steps or max(arg.steps // 5, 1),
    params='ema',
    kwargs={
      'data': data,
      'batch_size': 64,
      'k': (1, 5),
      'average': 'probabilities',
    },
  )
