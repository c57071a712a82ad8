r"""Trains, evaluates, inspects or uses an experiment.

  python main.py --config=configs/smoke.py --workdir=runs/smoke
  python main.py --config=configs/smoke.py --workdir=runs/smoke --mode=evaluate
  python main.py --config=projects/rvm/configs/eval_davis.py:size=L \
    --weights=rvm_large --workdir=runs/rvm_l --mode=evaluate
  python main.py --config=configs/smoke.py --mode=dry_run
  python main.py --mode=predict --workdir=runs/smoke --input=clip.mp4 \
    --output=predictions

Any field of the config can be set on the command line, for example
--config.optim.lr=3e-4, and a config file may take an argument after a colon:
--config=configs/smoke.py:steps=50.
"""

import os
import re
import runpy
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from vidscenic import config as vc
from vidscenic import config_checks

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file of the experiment.', lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  'workdir', '', 'Folder of the run: a local path or gs://bucket/path.'
)
_MODE = flags.DEFINE_enum(
  'mode',
  'train',
  ['train', 'evaluate', 'predict', 'dry_run'],
  'train: train, continuing what the workdir holds. evaluate: run the '
  "config's evaluators on the newest checkpoint, or --weights. predict: run "
  'the newest checkpoint, or --weights, on --input. dry_run: print shapes, '
  'parameters, shardings, memory and FLOPs without any data.',
)
_ALLOW = flags.DEFINE_bool(
  'allow_config_change',
  False,
  'Continue a run although its model, data, batch size or seed changed.',
)
_STEP = flags.DEFINE_integer(
  'step',
  None,
  'evaluate, predict: the checkpoint of this step, not the newest.',
)
_FOLLOW = flags.DEFINE_bool(
  'follow', False, 'evaluate: wait for new checkpoints until the run is done.'
)
_INPUT = flags.DEFINE_string(
  'input',
  '',
  'predict: video files, folders of pictures (one video each) or patterns such '
  "as 'videos/*.mp4', separated by commas.",
)
_OUTPUT = flags.DEFINE_string(
  'output', '', 'predict: folder; each input gets a subfolder of its name.'
)
_WEIGHTS = flags.DEFINE_string(
  'weights',
  '',
  'Name of published weights, or a file. predict: instead of --workdir. '
  'evaluate: made a run at --workdir first, if there is none.',
)
_OPTION = flags.DEFINE_multi_string(
  'option',
  [],
  'for predict: NAME=VALUE, an argument of the prediction function, over '
  '--config.predict.kwargs; can be repeated',
)
_OVERWRITE = flags.DEFINE_bool(
  'overwrite', False, 'predict: replace files that are in --output already.'
)
_FPS = flags.DEFINE_float(
  'fps', 25.0, 'predict: frames per second of a folder of pictures.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  '',
  "Several processes: 'auto' on SLURM, GKE, TPU pods and MPI, or host:port of "
  'process 0.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', 0, 'Number of processes, with --coordinator=host:port.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', -1, 'Number of this process, with --coordinator=host:port.'
)


def main(argv):
  """Dispatches on --mode."""
  if len(argv) > 1:
    sys.exit(f'unexpected arguments: {" ".join(argv[1:])}')
  if _MODE.value == 'predict' and _CONFIG.value is None:
    _predict(None)  # runs and published weights have configs of their own
    return
  if _CONFIG.value is None:
    sys.exit('--config is missing, such as --config=configs/smoke.py')
  if _MODE.value in ('train', 'evaluate') and not _WORKDIR.value:
    sys.exit('--workdir is missing, such as --workdir=runs/smoke')
  if _MODE.value in ('train', 'dry_run') and _WEIGHTS.value:
    sys.exit(
      '--weights is for --mode=evaluate and --mode=predict; to train from '
      'weights set config.init_from'
    )
  try:
    config = vc.finalize(_CONFIG.value)
  except ValueError as e:
    sys.exit(str(e))

  if _MODE.value == 'predict':
    _predict(config)
    return
  # jax and what needs it is imported here: --help and refusals stay fast.
  from vidscenic.train import distributed

  distributed.initialize(
    _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
  )
  if _MODE.value == 'dry_run':
    from vidscenic.train import dry_run

    print(dry_run.describe(config))
  elif _MODE.value == 'evaluate':
    from vidscenic.train import evaluate

    if _WEIGHTS.value:
      _import_weights(config)
    evaluate.evaluate(
      config, _WORKDIR.value, step=_STEP.value, follow=_FOLLOW.value
    )
  else:
    from vidscenic.train import loop

    finished = loop.train(
      config, _WORKDIR.value, allow_config_change=_ALLOW.value
    )
    if not finished:
      sys.exit(config.preempted_exit_code)


def _import_weights(config):
  from vidscenic.tools import load

  try:
    load.ensure_run(_WEIGHTS.value, _WORKDIR.value, config)
  except (OSError, ValueError) as e:
    sys.exit(str(e))


def _predict(config):
  """Prints what was written; mistakes of the user end in one line."""
  from vidscenic.tools import predict

  try:
    written = predict.predict(
      config,
      _WORKDIR.value,
      _INPUT.value,
      _OUTPUT.value,
      weights=_WEIGHTS.value,
      step=_STEP.value,
      overwrite=_OVERWRITE.value,
      fps=_FPS.value,
      options=predict.parse_options(_OPTION.value),
    )
  except predict.ERRORS as e:
    sys.exit(str(e))
  for path in written:
    print(path)


def _parse_flags(argv):
  """Parses the flags; a wrong config file or field is named in one line."""
  joined = '\0'.join(argv)
  given = re.search(r'\0--?config[=\0]([^\0:]*)(?::([^\0]*))?', joined)
  if given and not os.path.isfile(given[1]):
    sys.exit(f'--config={given[1]}: no such file')
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError):
    # An override of a field that does not exist, unless the file has a mistake
    # of its own, which running it again shows.
    if given:
      arguments = () if given[2] is None else (given[2],)
      config = runpy.run_path(given[1])['get_config'](*arguments)
      _check_overrides(config, argv[1:])
    raise


def _check_overrides(config, arguments):
  for argument in arguments:
    override = re.match(r'--?(?:no)?config\.([\w.]+)', argument)
    try:
      if override:
        config_checks.get_field(config, override[1])
    except ValueError as e:
      sys.exit(f'{argument}: {e}')


if __name__ == '__main__':
  logging.set_verbosity(logging.INFO)
  app.run(main, flags_parser=_parse_flags)
