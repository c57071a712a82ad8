r"""End-point error of published weights on the training part of MPI Sintel.

  python main.py --workdir=runs/perceiver_sintel --mode=evaluate \
    --weights=perceiver_optical_flow \
    --config=projects/perceiver/configs/eval_sintel.py \
    --config.evals.clean.kwargs.data.source_kwargs.root=/data/sintel \
    --config.evals.final.kwargs.data.source_kwargs.root=/data/sintel

Published: 1.81 on the clean pass, 2.42 on the final one, over all pixels. Six
patches with overlap for each pair, as the demonstration has them; the paper
says six evenly spaced ones. Not run: neither weights nor data were at hand.
"""

import ml_collections as mlc

from vidscenic import config as vc


def get_config(arg=''):
  """No arguments."""
  vc.parse_arg(arg)
  config = vc.base_config()
  config.task.factory = 'projects.perceiver.flow_task:OpticalFlow'
  config.task.kwargs = mlc.ConfigDict(
    {
      'dtype': 'float32',
      'model': {'name': 'optical_flow', 'encoder': {'scan': True}},
    }
  )
  config.predict.factory = 'projects.perceiver.predict:optical_flow'
  for render in ('clean', 'final'):
    config.evals[render] = vc.eval_spec(
      factory='projects.perceiver.flow_evaluation:TiledFlow',
      kwargs={
        'data': vc.data_spec(
          source='vidscenic.data.datasets.flow:Sintel',
          source_kwargs={'root': '', 'render': render},
          transform_kwargs={
            'num_frames': 2,
            'size': (),
            'crop': 'none',
            'train': False,
            'keep': ('video', 'forward_flow', 'flow_mask', 'flow_known'),
          },
        ),
        'mask': 'flow_known',
        'batch_size': 1,
      },
    )
  return vc.finalize(config)
