r"""TAP-Vid's table for published weights, or for those of a run.

  python main.py --mode=evaluate --weights=bootstapir --workdir=runs/boots \
    --config=projects/tapir/configs/eval_tapvid.py:weights=bootstapir \
    --config.evals.davis_first.kwargs.data.source_kwargs.root=DATA/tapvid_davis

In place of the name, here and there, does a file such as that of
`projects.tapir.ship`; without --weights the workdir is that of a run of one's
own. What stands after the colon chooses benchmarks, such as
davis_first (the default), davis_strided or perception_test (`SETS` names all),
or `table`, the columns of the table below; with root=DATA all of them look for
their files in DATA. size=512 is the resolution of inference, 256 if not said:

  eval_tapvid.py:table,weights=bootstapir,root=DATA

Figures are AJ, position accuracy (delta_avg) and occlusion accuracy (OA) in
percent; at 256x256 the published ones stand beside: `published_AJ` of the
released files, and with `_paper` those of the papers' tables, which older files
reached. Published AJ:

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

from projects.tapir import importer
from vidscenic import config as vc

_TAPVID = 'vidscenic.data.datasets.tapvid:TapVid'
_PERCEPTION = 'vidscenic.data.datasets.perception_test:PerceptionTest'
# name: (source, split, mode)
SETS = {
  **{
    f'{split}_{mode}': (_TAPVID, split, mode)
    for split in ('davis', 'kinetics', 'rgb_stacking', 'robotap')
    for mode in ('first', 'strided')
  },
  'perception_test': (_PERCEPTION, 'valid', 'first'),
}
TABLE = ('davis_first', 'davis_strided', 'kinetics_first', 'robotap_first')
# Of the released files, in the columns of TABLE.
AJ = {
  'tapnet': (33.0, 38.4, 38.5, 45.1),
  'tapir': (58.5, 63.3, 50.0, 59.6),
  'causal_tapir': (56.2, 58.3, 51.2, 59.1),
  'bootstapir': (62.4, 67.4, 55.8, 69.2),
  'causal_bootstapir': (59.7, 61.2, 55.1, 69.1),
}
# AJ, delta_avg and OA in papers; strided ones of TAP-Net and TAPIR from memory.
PAPERS = {
  'tapnet': {
    'kinetics_first': (38.5, 54.4, 80.6),
    'davis_first': (33.0, 48.6, 78.8),
    'rgb_stacking_first': (53.5, 68.1, 86.3),
    'robotap_first': (45.1, 62.1, 82.9),
    'kinetics_strided': (46.6, 60.9, 85.0),
    'davis_strided': (38.4, 53.1, 82.3),
    'rgb_stacking_strided': (59.9, 72.8, 90.4),
  },
  'tapir': {
    'kinetics_first': (49.6, 64.2, 85.0),
    'davis_first': (56.2, 70.0, 86.5),
    'rgb_stacking_first': (55.5, 69.7, 88.0),
    'robotap_first': (59.6, 73.4, 87.0),
    'kinetics_strided': (57.2, 70.1, 87.8),
    'davis_strided': (61.3, 73.6, 88.8),
    'rgb_stacking_strided': (62.7, 74.6, 91.6),
  },
  'bootstapir': {
    'kinetics_first': (54.6, 68.4, 86.5),
    'davis_first': (61.4, 73.6, 88.7),
    'rgb_stacking_first': (70.8, 83.0, 89.9),
    'robotap_first': (64.9, 80.1, 86.3),
    'kinetics_strided': (62.5,),
    'davis_strided': (67.4,),
  },
}


def get_config(arg=''):
  """Arguments: weights (name or file), size, root, table, names of SETS."""
  arg = vc.parse_arg(
    arg,
    weights='tapir',
    size=256,
    root='',
    table=False,
    **dict.fromkeys(SETS, False),
  )
  config = vc.base_config()
  config.task.factory = 'projects.tapir.task:PointTracking'
  model = importer.known_options(arg.weights)
  if model.get('name') != 'tapnet':
    model['feature_extractor_chunk_size'] = 16  # less memory, no other numbers
  config.task.kwargs = mlc.ConfigDict({'model': model, 'query_chunk_size': 64})
  chosen = TABLE if arg.table else ()
  chosen += tuple(n for n in SETS if arg[n] and n not in chosen)
  for name in chosen or ('davis_first',):
    source, split, mode = SETS[name]
    kwargs = {'root': arg.root, 'split': split}
    if source == _TAPVID:
      kwargs |= {'queries': mode, 'size': (arg.size, arg.size)}
    config.evals[name] = vc.eval_spec(
      factory='projects.tapir.evaluation:TapVid',
      kwargs={
        'data': vc.data_spec(source=source, source_kwargs=kwargs),
        'mode': mode,
        'resolution': (arg.size, arg.size),
        'published': _published(arg.weights, name) if arg.size == 256 else {},
      },
    )
  return vc.finalize(config)


def _published(weights, benchmark):
  """{score: percent} of weights on a benchmark."""
  weights = weights.removesuffix('_pt')  # the same values in another format
  known = {}
  if benchmark in TABLE and weights in AJ:
    known['AJ'] = AJ[weights][TABLE.index(benchmark)]
  of_paper = PAPERS.get(weights, {}).get(benchmark, ())
  names = ('AJ_paper', 'delta_avg_paper', 'OA_paper')
  return known | dict(zip(names, of_paper, strict=False))
