"""Published weights: what there is, downloading it, making runs of it.

python -m vidscenic.tools.weights list
python -m vidscenic.tools.weights info rvm_small
python -m vidscenic.tools.weights download rvm_small
python -m vidscenic.tools.weights import rvm_small --workdir=runs/rvm_small
python -m vidscenic.tools.weights import FILE --config=FILE.py --workdir=DIR
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from vidscenic.importers import published
from vidscenic.tools import download

_CACHE_HELP = (
  'folder of the files (default: $VIDSCENIC_CACHE or '
  '~/.cache/vidscenic/weights)'
)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line."""
  args = _parser().parse_args(argv)
  try:
    args.run(args)
  except (OSError, ValueError) as e:
    sys.exit(str(e) or type(e).__name__)


def _parser():
  parser = argparse.ArgumentParser(
    prog='python -m vidscenic.tools.weights',
    description='Lists, downloads and imports published weights.',
  )
  commands = parser.add_subparsers(required=True, metavar='COMMAND')

  def command(name, run, text):
    sub = commands.add_parser(
      name, help=text, description=f'{text[0].upper()}{text[1:]}.'
    )
    sub.set_defaults(run=run)
    return sub

  sub = command('list', _list, 'all published weights, one a line')
  sub.add_argument(
    '--markdown', action='store_true', help='as the table of README.md'
  )
  _add_cache(sub)
  sub = command('info', _info, 'all that is known about one file')
  sub.add_argument('name', metavar='NAME', help='see list')
  _add_cache(sub)
  sub = command(
    'download', _download, 'fetch one file, or go on with it, and check it'
  )
  sub.add_argument('name', metavar='NAME', help='see list')
  _add_cache(sub)
  sub = command(
    'import',
    _import,
    'make a run of a file: a workdir with config.json, a checkpoint at step 0 '
    'and DONE, which everything that takes a workdir takes (--mode=evaluate, '
    'init_from.path, load); training in it starts from these weights',
  )
  sub.add_argument(
    'source', metavar='NAME|FILE', help='published weights, or a file of yours'
  )
  sub.add_argument(
    '--config',
    metavar='FILE.py[:ARGUMENT]',
    help='config of the run; needed unless the weights are published',
  )
  sub.add_argument(
    '--importer',
    default='',
    metavar='MODULE:FUNCTION',
    help="reads the file (default: the config's init_from.factory, or that of "
    'the published weights)',
  )
  sub.add_argument(
    '--workdir', metavar='DIR', help='the new run (default: runs/NAME)'
  )
  _add_cache(sub)
  return parser


def _add_cache(parser):
  parser.add_argument('--cache', metavar='DIR', help=_CACHE_HELP)


def _cache(args):
  if args.cache is not None:
    # Also what `load` looks at, further down.
    os.environ['VIDSCENIC_CACHE'] = args.cache
  return download.cache_folder()


def _list(args):
  if args.markdown:
    print(published.markdown(), end='')
    return
  cache = _cache(args)
  width = max(len(entry.name) for entry in published.WEIGHTS)
  for e in published.WEIGHTS:
    remarks = ['downloaded'] if (cache / e.file).exists() else []
    if not published.has_importer(e):
      remarks.append(published.NO_IMPORTER)
    size = published.size_text(e.size)
    count = '?' if e.parameters is None else f'{e.parameters / 1e6:.1f}M'
    columns = f'{e.name:{width}} {e.project:10} {size:>7} {count:>8}'
    print(f'{columns}  arXiv {e.paper}  {", ".join(remarks)}'.rstrip())


def _info(args):
  entry = published.find(args.name)
  path = _cache(args) / entry.file
  missing = 'not downloaded, would be'
  ready = published.has_importer(entry)
  count = '?' if entry.parameters is None else f'{entry.parameters:,}'
  facts = {
    'project': f'projects/{entry.project}',
    'paper': f'https://arxiv.org/abs/{entry.paper}',
    'licence': entry.licence,
    'address': entry.url,
    'file': path if path.exists() else f'{missing} {path}',
    'size': published.size_text(entry.size),
    'parameters': count,
    'importer': entry.importer if ready else published.NO_IMPORTER,
    'task': f'{entry.task} {dict(entry.task_kwargs)}',
    'notes': entry.notes,
  }
  if ready:
    facts['use'] = (
      f'from vidscenic.tools.load import load; load({entry.name!r})'
    )
  print(entry.name)
  for name, value in facts.items():
    print(f'  {name:10} {value}')


def _download(args):
  entry = published.find(args.name)
  path = _cache(args) / entry.file
  if path.exists():
    recorded = download.recorded_hash(path)
    if recorded is None:
      print(f'{path} is there already; nothing to compare it with')
      return
    if download.file_hash(path) != recorded:
      raise ValueError(
        f'{path} changed since its download; remove it and download again'
      )
    print(f'{path} is there already and unchanged (sha256 {recorded})')
    return
  download.fetch(entry)
  print(f'{path} (sha256 {download.recorded_hash(path)})')


def _import(args):
  # jax comes with it, which lists and downloads do without.
  from vidscenic.tools import load

  _cache(args)
  workdir = args.workdir or f'runs/{pathlib.Path(args.source).stem}'
  print(
    load.make_run(
      args.source, workdir, config=args.config, importer=args.importer
    )
  )


if __name__ == '__main__':
  main()
