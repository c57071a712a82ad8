r"""Re-encodes a collection of videos once, so that training reads it fast.

  python -m vidscenic.tools.prepare_videos --input=/videos --output=/data/mine

The input is what `VideoFolder` reads: a folder (subfolders are classes), a list
with lines `path label`, or a manifest. The output is a folder of mp4 files with
a keyframe every 32 frames and a manifest.jsonl, which `VideoFolder` reads in
turn: labels, splits and the frames with their times are those of the input.

A run that was interrupted goes on where it was when it is started again; videos
that were added or changed in the meantime are done, too. Videos that cannot be
read are left out, listed in failed.txt and tried again the next time.

With --array_record everything is also packed into shards, for disks that
dislike many files (the mp4 files may be deleted afterwards):

  source='vidscenic.data.array_records:ArrayRecords',
  source_kwargs={
    'path': '/data/mine/array_record/videos/1.0.0', 'split': 'train'}

Exit status: 0, 1 if some videos could not be read, 2 if it could not go
on, for example because the disk is full.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from vidscenic.data import (
  containers,
  sources,
  transcode,
  video_index,
  video_lists,
)
from vidscenic.tools import preparation, progress, workers

FAILED = 'failed.txt'
ARRAY_RECORD = 'array_record'

_SPLIT_NAMES = ('train', 'training', 'val', 'valid', 'validation', 'test')


class Video(NamedTuple):
  """One video to prepare.

  Attributes:
    source: absolute path.
    path: of the result, relative to the output.
    label: class id, None without labels.
    split: '' without splits.
  """

  source: str
  path: str
  label: int | None
  split: str


def list_videos(
  path: str,
  *,
  list_file: str = '',
  prefix: str = '',
  splits: Sequence[str] = (),
  labels: str = 'auto',
) -> tuple[list[Video], tuple[str, ...]]:
  """Lists the input; arguments are those of `sources.VideoFolder`.

  Args:
    path, list_file, prefix, labels: see there.
    splits: subfolders, or splits of a manifest; () takes all splits that a
      manifest names, else none.

  Returns:
    (videos by path, class names or ()).

  Raises:
    ValueError, FileNotFoundError: as VideoFolder; or the splits are in doubt.
  """
  splits = splits or _find_splits(path, list_file, prefix, labels)
  found, names = [], None
  for split in splits:
    source = sources.VideoFolder(
      path, list_file, prefix=prefix, split=split, labels=labels
    )
    if names not in (None, source.class_names):
      odd = sorted(set(names) ^ set(source.class_names))
      raise ValueError(
        f'the splits {", ".join(splits)} need the same class folders, empty '
        f'ones if need be; not all have {", ".join(odd[:5])}'
      )
    names = source.class_names
    for record in source:
      label = record.get('label')
      label = None if label is None else int(label)
      found.append((os.path.abspath(record['video'].path), label, split))
  paths = _target_paths({source for source, _, _ in found}, path)
  videos = [Video(source, paths[source], *rest) for source, *rest in found]
  return sorted(videos, key=lambda v: (v.path, v.split)), names


def prepare(
  videos: Sequence[Video],
  class_names: Sequence[str],
  output: str,
  settings: transcode.Settings,
  *,
  num_processes: int = 0,
) -> dict[str, str]:
  """Re-encodes what is not done yet and writes the manifest.

  Args:
    videos: from `list_videos`.
    class_names: in the order of their ids.
    output: folder; made if it does not exist.
    settings: of `transcode`.
    num_processes: 0: one per core, 1: this one.

  Returns:
    {source: reason} of what could not be read.

  Raises:
    ValueError: `output` holds other files, was made with other settings, or
      another run is at work there; or `settings` are out of range.
    OSError: `output` cannot be written, for example a full disk.
  """
  transcode.check_settings(settings)
  by_path = {video.path: video for video in videos}
  with preparation.Journal(output, settings._asdict()) as journal:
    todo = [v for v in by_path.values() if not journal.has(v.path, v.source)]
    jobs = [(v.source, v.path, output, settings) for v in todo]
    failed = {}
    with progress.Progress(
      len(by_path), 'videos', done=len(by_path) - len(jobs), every=30.0
    ) as display:
      results = workers.run(_prepare, jobs, num_processes=num_processes)
      for (source, path, _, _), result in results:
        if isinstance(result, dict):
          journal.add(path, source, result)
        else:
          failed[source] = str(result)
        display.advance(note=f'{len(failed)} failed' if failed else '')
    for source, path, _, _ in jobs:
      if not journal.has(path, source):
        failed.setdefault(source, 'no process answered; try again')
    lines = [f'{source}\t{reason}\n' for source, reason in failed.items()]
    preparation.write(os.path.join(output, FAILED), lines)
    rows = [
      preparation.Row(v.path, v.label, v.split, journal.facts(v.path))
      for v in videos
      if v.source not in failed
    ]
    if rows:
      preparation.write_manifest(
        output, rows, class_names=class_names, settings=settings._asdict()
      )
  return failed


def pack(output: str) -> str:
  """Packs a prepared folder into ArrayRecord shards unless that is done.

  Args:
    output: of `prepare`.

  Returns:
    The folder for `ArrayRecords`: OUTPUT/array_record/videos/1.0.0.

  Raises:
    OSError: a file cannot be read or written.
  """
  from vidscenic.data.builders import videos as builder  # 1 s

  manifest = os.path.join(output, sources.MANIFEST)
  entries, _ = video_lists.read_manifest(manifest, with_labels=False)
  folders = {
    split or 'train': sources.VideoFolder(output, split=split)
    for split in sorted({entry.split for entry in entries})
  }
  return builder.prepare(
    folders,
    os.path.join(output, ARRAY_RECORD),
    content=preparation.content_hash(manifest),
  )


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit status."""
  parser = _parser()
  args = parser.parse_args(argv)
  try:
    _check_apart(args.input, args.output)
    videos, class_names = list_videos(
      args.input,
      list_file=args.list_file,
      prefix=args.prefix,
      splits=['' if s == '.' else s for s in args.splits.split(',')]
      if args.splits
      else (),
      labels=args.labels,
    )
    settings = transcode.Settings(
      short_side=args.short_side,
      fps=args.fps,
      crf=args.crf,
      sound=not args.no_sound,
      only_if_needed=args.only_if_needed,
    )
    failed = prepare(
      videos,
      class_names,
      args.output,
      settings,
      num_processes=args.num_processes,
    )
    done = len({v.source for v in videos}) - len(failed)
    print(f'{done} videos are in {args.output}')
    if failed:
      listed = os.path.join(args.output, FAILED)
      print(f'{len(failed)} could not be read, see {listed}', file=sys.stderr)
    if args.array_record and done:
      print(f'shards are in {pack(args.output)}')
  except (ValueError, FileNotFoundError) as e:
    message = str(e).replace('source_kwargs.path', '--input')
    print(f'{parser.prog}: {message}', file=sys.stderr)
    return 2
  except OSError as e:
    print(f'{e}; the same command goes on from here', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('\nstopped; the same command goes on from here', file=sys.stderr)
    return 130
  return 1 if failed else 0


# --- private ---


def _find_splits(path, list_file, prefix, labels):
  """The splits that a manifest names; [''] if there are none."""
  if os.path.isfile(path):
    listing = path
  else:
    listing = os.path.join(path, list_file or sources.MANIFEST)
  if listing.endswith('.jsonl') and os.path.isfile(listing):
    entries, _ = video_lists.read_manifest(listing, with_labels=False)
    splits = sorted({entry.split for entry in entries})
    if '' in splits and len(splits) > 1:
      raise ValueError(f'{listing}: only some videos have a split')
    return splits or ['']
  root = os.path.join(path, prefix)
  if not list_file and labels == 'auto' and os.path.isdir(root):
    names = sorted(
      entry.name
      for entry in os.scandir(root)
      if entry.is_dir() and not entry.name.startswith('.')
    )
    if names and all(name.lower() in _SPLIT_NAMES for name in names):
      raise ValueError(
        f'the subfolders of {root} look like splits: pass --splits='
        f'{",".join(names)}, or --splits=. if they are classes'
      )
  return ['']


def _target_paths(files, path):
  """{source: path of the result}, shaped like the input."""
  path = os.path.abspath(path)
  root = path if os.path.isdir(path) else os.path.dirname(path)
  relative = {file: os.path.relpath(file, root) for file in files}
  if any(name.startswith(os.pardir) for name in relative.values()):
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    relative = {file: os.path.relpath(file, root) for file in files}
  targets, taken = {}, set()
  # Of a.avi and a.mp4 the first becomes a.avi.mp4.
  is_mp4 = lambda item: item[1].endswith('.mp4')
  for file, name in sorted(sorted(relative.items()), key=is_mp4, reverse=True):
    target = os.path.splitext(name)[0] + '.mp4'
    while target in taken:
      target = name = name + '.mp4'
    taken.add(target)
    targets[file] = target.replace(os.sep, '/')
  return targets


def _prepare(job):
  """Runs in a worker: facts about the result, or why there is none."""
  source, path, output, settings = job
  target = os.path.join(output, path)
  folder, name = os.path.split(target)
  os.makedirs(folder, exist_ok=True)
  # Complete or not there at all; what a killed run left is written over.
  part = os.path.join(folder, f'.{name}.part')
  try:
    transcode.transcode(source, part, settings)
    facts = transcode.describe(part)
    expected = video_index.index_video(source).num_frames
    if not settings.fps and facts['num_frames'] != expected:
      raise containers.VideoError(
        source, f'{facts["num_frames"]} frames came out of {expected}'
      )
  except containers.VideoError as e:
    if os.path.exists(part):
      os.remove(part)
    return e.reason
  with open(part, 'rb') as f:
    facts['sha256'] = hashlib.file_digest(f, 'sha256').hexdigest()
  os.replace(part, target)
  return facts


def _check_apart(source, output):
  """The output would be taken for input the next time."""
  if not output:
    raise ValueError("--output='' is empty: name a folder")
  inner, outer = os.path.realpath(output), os.path.realpath(source)
  if os.path.isdir(outer) and os.path.commonpath([inner, outer]) == outer:
    raise ValueError(f'--output={output} lies in --input={source}')


def _parser():
  parser = argparse.ArgumentParser(
    prog='python -m vidscenic.tools.prepare_videos',
    description=__doc__.partition('\n\n')[0],
    epilog=__doc__.partition('\n\n')[2],
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('--input', required=True, help='folder, list or manifest of videos')
  add('--output', required=True, help='folder for the results, outside --input')
  add('--list_file', default='', help='list or manifest within --input')
  add('--prefix', default='', help='folder that paths in a list begin at')
  add(
    '--splits',
    default='',
    metavar='A,B',
    help='subfolders of --input that are splits, such as train,val; "." if the '
    'subfolders are classes (default: the splits of a manifest)',
  )
  add(
    '--labels',
    choices=('auto', 'none'),
    default='auto',
    help='none: drop labels; lists then hold a path per line (default: auto)',
  )
  defaults = transcode.Settings()
  add(
    '--short_side',
    type=int,
    default=defaults.short_side,
    help='pixels; smaller videos keep their size (default: %(default)s)',
  )
  add(
    '--fps',
    type=float,
    default=defaults.fps,
    help='constant frame rate (default: frames and times as they are)',
  )
  add(
    '--crf',
    type=int,
    default=defaults.crf,
    help='quality of x264, 0 is lossless (default: %(default)s)',
  )
  add('--no_sound', action='store_true', help='drop the sound')
  add(
    '--only_if_needed',
    action='store_true',
    help='copy files that are H.264 in mp4, not larger, upright and have a '
    'keyframe every 32 frames already',
  )
  add(
    '--array_record',
    action='store_true',
    help=f'also pack the results into OUTPUT/{ARRAY_RECORD}',
  )
  add(
    '--num_processes',
    type=int,
    default=0,
    help='videos at a time (default: one per core)',
  )
  return parser


if __name__ == '__main__':
  sys.exit(main())
