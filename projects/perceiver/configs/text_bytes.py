r"""Masked modelling of the bytes of text files with Perceiver IO.

  python main.py --workdir=runs/perceiver_text \
    --config=projects/perceiver/configs/text_bytes.py:heldout=/data/val.txt \
    --config.data.train.source_kwargs.path='/data/train/*.txt'

The published size (arXiv 2107.14795): 2048 bytes, 201 million parameters. The
paper hides whole words, 15 % of the tokens, on C4 and Wikipedia; runs of four
bytes are ours, and so are optimizer, rate, batch size and length of the run.

Expected: unknown, it depends on the text. Not run.
"""

import ml_collections as mlc

from vidscenic import config as vc


def get_config(arg=''):
  """Argument: heldout, text files to evaluate on."""
  arg = vc.parse_arg(arg, heldout='')
  config = vc.base_config()
  config.batch_size = 512
  config.steps = 500_000
  config.task.factory = 'projects.perceiver.bytes_task:MaskedBytes'
  config.task.kwargs = mlc.ConfigDict(
    {
      'mask_prob': 0.15,
      'span': 4,
      'dtype': 'bfloat16',
      'model': {'name': 'language', 'encoder': {'scan': True, 'remat': 'full'}},
    }
  )
  config.predict.factory = 'projects.perceiver.predict:fill_bytes'
  config.data.train = _texts('')
  config.optim.name = 'lamb'
  config.optim.lr = 1.25e-3
  config.optim.eps = 1e-6
  config.optim.weight_decay = 0.01
  config.optim.decay_exclude = (r'(^|/)bias$', r'_norm/')
  config.optim.clip_norm = 1.0
  config.optim.schedule = vc.schedule_spec(name='cosine', warmup_steps=1000)
  config.log.every_steps = 100
  config.checkpoint.every_steps = 5000
  if arg.heldout:
    config.evals.heldout = vc.eval_spec(
      factory='vidscenic.evaluation.evaluator:MeanLoss',
      every_steps=5000,
      kwargs={'data': _texts(arg.heldout), 'batch_size': 64},
    )
  return vc.finalize(config)


def _texts(path):
  return vc.data_spec(
    source='projects.perceiver.data.texts:TextFiles',
    source_kwargs={'path': path, 'length': 2048},
    transform='projects.perceiver.data.texts:TextTransform',
    transform_kwargs={'length': 2048},
  )
