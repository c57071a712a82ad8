r"""Published Perceivers on one's own images, videos and texts.

  python main.py --mode=predict --weights=perceiver_imagenet_fourier \
    --config=projects/perceiver/configs/predict.py:task=classify \
    --input=photo.jpg --output=predictions
  python main.py --mode=predict --weights=perceiver_optical_flow \
    --config=projects/perceiver/configs/predict.py:task=flow \
    --input=clip.mp4 --output=predictions
  python main.py --mode=predict --weights=perceiver_video_autoencoding \
    --config=projects/perceiver/configs/predict.py:task=reconstruct \
    --input=clip.mp4 --output=predictions
  python main.py --mode=predict --weights=perceiver_language \
    --config=projects/perceiver/configs/predict.py:task=fill \
    --input=text.txt --output=predictions

`--option=NAME=VALUE` sets an argument of the prediction function in
`projects/perceiver/predict.py`:

  --option=classes=ucf101     (names of the classes: classify, reconstruct)
  --option=k=10               (so many best: classify, reconstruct, fill)
  --option=files=False        (flow: no .flo files)
  --option=blank=#            (fill: the character of a blank)

With other weights than these, name their model: task=classify,model=... With a
run of one's own, use the config of the run: each names its prediction function.
Checked on our own runs only, no published weights were at hand.
"""

import ml_collections as mlc

from vidscenic import config as vc

# task: (prediction function, task's class, published model)
TASKS = {
  'classify': (
    'classify',
    'classification_task:Classification',
    'imagenet_fourier',
  ),
  'flow': ('optical_flow', 'flow_task:OpticalFlow', 'optical_flow'),
  'reconstruct': (
    'reconstruct',
    'autoencoding_task:AudioVideo',
    'video_autoencoding',
  ),
  'fill': ('fill_bytes', 'bytes_task:MaskedBytes', 'language'),
}


def get_config(arg=''):
  """Arguments: task, a key of TASKS; model, another one of `configurations`."""
  arg = vc.parse_arg(arg, task='classify', model='')
  if arg.task not in TASKS:
    raise ValueError(
      f'config argument task={arg.task!r}: want one of {tuple(TASKS)}'
    )
  function, task, model = TASKS[arg.task]
  config = vc.base_config()
  config.task.factory = f'projects.perceiver.{task}'
  config.task.kwargs = mlc.ConfigDict(
    {
      'dtype': 'float32',
      'model': {'name': arg.model or model, 'encoder': {'scan': True}},
    }
  )
  config.predict.factory = f'projects.perceiver.predict:{function}'
  return vc.finalize(config)
