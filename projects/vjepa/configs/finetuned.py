r"""A published V-JEPA 2 with its attentive classifier (arXiv 2506.09985).

  python main.py --config=projects/vjepa/configs/finetuned.py:heldout=ROOT \
    --weights=model.safetensors --workdir=runs/vjepa --mode=evaluate

The file is one of transformers' `VJEPA2ForVideoClassification`, by default
facebook/vjepa2-vitl-fpc16-256-ssv2. ROOT is the folder of
Something-Something v2, see `vidscenic.data.datasets.something_something`, whose
classes have the order of the file. Published for this size, with 64 frames:
73.7. Not measured here.
"""

import ml_collections as mlc

from vidscenic import config as vc

_SIDE = 256


def get_config(arg=''):
  """Arguments: size, frames, classes, heldout (finetuned.py:size=L)."""
  arg = vc.parse_arg(arg, size='L', frames=16, classes=174, heldout='')
  config = vc.base_config()
  config.steps = 10_000
  config.batch_size = 32
  config.task.factory = 'vidscenic.tasks.classification:Classification'
  encoder = vc.build('vidscenic.layers.vit:vit_config', name=arg.size)
  config.task.kwargs = mlc.ConfigDict(
    {
      'clip': (arg.frames, _SIDE, _SIDE),
      'num_classes': arg.classes,
      'normalize': 'imagenet',
      'backbone': 'projects.vjepa.model:PooledEncoder',
      'backbone_kwargs': {'encoder_fields': encoder},
      'dtype': 'bfloat16',
    }
  )
  config.init_from.factory = 'projects.vjepa.importer:load'
  config.data.train = _videos('', 'train', arg.frames)
  config.optim.lr = 1e-4
  # As published, the encoder stays as it is.
  config.optim.frozen = (r'^backbone/encoder/',)
  config.optim.schedule = vc.schedule_spec(name='cosine', warmup_steps=500)
  if arg.heldout:
    config.evals.heldout = vc.eval_spec(
      factory='vidscenic.evaluation.classification:TopK',
      every_steps=1_000,
      kwargs={
        'data': _videos(arg.heldout, 'validation', arg.frames),
        'batch_size': 16,
        'k': (1, 5),
        'average': 'probabilities',
      },
    )
  return vc.finalize(config)


def _videos(root, split, num_frames):
  train = split == 'train'
  return vc.data_spec(
    source='vidscenic.data.datasets.something_something:SomethingSomething',
    source_kwargs={'root': root, 'split': split},
    transform_kwargs={
      'num_frames': num_frames,
      'fps': 4.0,
      'size': (_SIDE, _SIDE),
      # Published for evaluation: this short side, then its middle.
      'short_side': 0 if train else _SIDE * 256 // 224,
      'flip': 0.0,
      'train': train,
    },
  )
