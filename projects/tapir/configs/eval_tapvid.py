r"""TAP-Vid's table for published weights, or for those of a run.

  python main.py --mode=evaluate --workdir=runs/tapir_published \
    --config=projects/tapir/configs/eval_tapvid.py:weights=bootstapir \
    --config.evals.davis_first.kwargs.data.source_kwargs.root=DATA/tapvid_davis

The workdir holds the weights: a run that was trained, or what

  python -m vidscenic.tools.weights import bootstapir \
    --config=projects/tapir/configs/eval_tapvid.py:weights=bootstapir \
    --workdir=runs/tapir_published

makes. `set` chooses one benchmark (davis_first, davis_strided, kinetics_first,
rgb_stacking_first, robotap_first, perception_test), `size` the resolution of
inference (256 or 512), both after the colon. AJ, position accuracy (delta_avg)
and occlusion accuracy (OA) in percent; the published ones stand beside.
Published AJ at 256x256:

  weights            DAVIS first  strided  Kinetics first  RoboTAP first
  tapnet                    33.0     38.4            38.5           45.1
  tapir                     58.5     63.3            50.0           59.6
  causal_tapir              56.2     58.3            51.2           59.1
  bootstapir                62.4     67.4            55.8           69.2
  causal_bootstapir         59.7     61.2            55.1           69.1

None was reproduced here: neither data nor weights can be downloaded where this
was written. The readers and the scores are tested on small files.
"""

import ml_collections as mlc

from vidscenic import config as vc
from vidscenic.importers import published

_TAPVID = 'vidscenic.data.datasets.tapvid:TapVid'
_PERCEPTION = 'vidscenic.data.datasets.perception_test:PerceptionTest'
# name: (source, split, mode)
SETS = {
  'davis_first': (_TAPVID, 'davis', 'first'),
  'davis_strided': (_TAPVID, 'davis', 'strided'),
  'kinetics_first': (_TAPVID, 'kinetics', 'first'),
  'rgb_stacking_first': (_TAPVID, 'rgb_stacking', 'first'),
  'robotap_first': (_TAPVID, 'robotap', 'first'),
  'perception_test': (_PERCEPTION, 'valid', 'first'),
}
AJ = {
  'tapnet': (33.0, 38.4, 38.5, 45.1),
  'tapir': (58.5, 63.3, 50.0, 59.6),
  'causal_tapir': (56.2, 58.3, 51.2, 59.1),
  'bootstapir': (62.4, 67.4, 55.8, 69.2),
  'causal_bootstapir': (59.7, 61.2, 55.1, 69.1),
}
_COLUMNS = ('davis_first', 'davis_strided', 'kinetics_first', 'robotap_first')


def get_config(arg=''):
  """Arguments: weights (a published name), set, size."""
  arg = vc.parse_arg(arg, weights='tapir', set='davis_first', size=256)
  if arg.set not in SETS:
    raise ValueError(f'set={arg.set!r}: choose from {", ".join(SETS)}')
  entry = published.find(arg.weights)
  config = vc.base_config()
  config.task.factory = entry.task
  config.task.kwargs = mlc.ConfigDict(
    {'model': dict(entry.task_kwargs['model']), 'query_chunk_size': 64}
  )
  source, split, mode = SETS[arg.set]
  kwargs = {'root': '', 'split': split}
  if source == _TAPVID:
    kwargs |= {'queries': mode, 'size': (arg.size, arg.size)}
  known = dict(zip(_COLUMNS, AJ.get(arg.weights, ()), strict=False))
  known = known.get(arg.set) if arg.size == 256 else None
  config.evals[arg.set] = vc.eval_spec(
    factory='projects.tapir.evaluation:TapVid',
    kwargs={
      'data': vc.data_spec(source=source, source_kwargs=kwargs),
      'mode': mode,
      'resolution': (arg.size, arg.size),
      'published': {} if known is None else {'AJ': known},
    },
  )
  return vc.finalize(config)
