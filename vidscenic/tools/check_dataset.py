r"""Reads a few examples of a data set and says what is in them.

  python -m vidscenic.tools.check_dataset --name=davis --root=/data/DAVIS
  python -m vidscenic.tools.check_dataset --name=ucf101 --root=/data/ucf101 \
    --split=test --set fold=2

Prints the number of examples, the classes, and of the first, the last and a few
random examples every field and some decoded pictures. Exit status: 0; 1 if an
example cannot be read; 2 if the data set is not as expected, with one line that
names what is missing and where it comes from.
"""

import argparse
import ast
import random
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidscenic import config as vc
from vidscenic import config_checks as checks
from vidscenic.data import decode, records
from vidscenic.data.datasets import READERS

_NAMES_SHOWN = 5


def build(name: str, root: str, options: Mapping[str, Any]) -> Any:
  """Builds a reader of `READERS`.

  Args:
    name: key of READERS.
    root: folder, or file where the reader takes one.
    options: further arguments; they win over those of the table.

  Raises:
    ValueError, FileNotFoundError: what the reader says of arguments and files.
  """
  if name not in READERS:
    raise ValueError(checks.unknown(f'--name={name}', name, READERS))
  reader = READERS[name]
  return vc.build(
    reader.factory, root, field='--name', **{**reader.kwargs, **options}
  )


def describe_source(source: Any) -> list[str]:
  """Lines about a source as a whole."""
  lines = [f'{len(source):,} examples']
  names = getattr(source, 'class_names', ())
  if names:
    lines.append(f'{len(names)} classes: {_shortened(names)}')
  if getattr(source, 'num_missing', 0):
    lines.append(f'{source.num_missing:,} listed files are missing')
  if not getattr(source, 'flip_allowed', True):
    lines.append('mirrored videos are of another class: set flip=0')
  return lines


def describe_example(source: Any, index: int, rng: random.Random) -> list[str]:
  """Reads example `index`; decodes its first, its last and a random frame.

  Returns:
    Lines, one per field.

  Raises:
    VideoError: the video cannot be read.
    ValueError, FileNotFoundError: what the reader says; a label that is no
      class; a field whose frames are not those of the video.
  """
  begin = time.perf_counter()
  record = source[index]
  lines = [f'{name}: {_value(record[name])}' for name in sorted(record)]
  if 'video' in record:
    video = records.open_video(record)
    chosen = sorted({0, rng.randrange(video.length), video.length - 1})
    frames = video.read(np.array(chosen))
    seconds = time.perf_counter() - begin
    lines = [line for line in lines if not line.startswith('video: ')]
    rate = f'{video.fps:.4g} per second' if video.fps else 'rate unknown'
    lines.insert(
      0,
      f'video: {video.length} frames of {frames.shape[1]} x {frames.shape[2]}, '
      f'{rate}, {type(video).__name__}; frames '
      f'{chosen} have means {frames.mean((1, 2, 3)).round(1).tolist()} '
      f'({seconds * 1000:.0f} ms)',
    )
    labels = {k: v for k, v in record.items() if k != 'video'}
    records.take_labels(labels, np.array(chosen), length=video.length)
  name = _class_name(record.get('label'), getattr(source, 'class_names', ()))
  return [*lines, f'class: {name}'] if name else lines


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit status."""
  parser = _parser()
  args = parser.parse_args(argv)
  try:
    options = dict(_option(text) for text in args.set)
    if args.split:
      options['split'] = _literal(args.split)
    begin = time.perf_counter()
    source = build(args.name, args.root, options)
    seconds = time.perf_counter() - begin
    if not len(source):
      raise ValueError(f'--root={args.root}: no example')
  except (ValueError, FileNotFoundError) as e:
    message = str(e).replace('source_kwargs.path', '--root')
    message = message.replace('source_kwargs.', '--set ')
    print(f'{parser.prog}: {message}', file=sys.stderr)
    return 2
  print(f'{args.name} in {args.root}, listed in {seconds:.1f} s')
  for line in describe_source(source):
    print(f'  {line}')
  rng = random.Random(args.seed)
  bad = 0
  for index in _indices(len(source), args.examples, rng):
    print(f'example {index}')
    try:
      for line in describe_example(source, index, rng):
        print(f'  {line}')
    except (decode.VideoError, ValueError, FileNotFoundError) as e:
      bad += 1
      print(f'  cannot be used: {e}', file=sys.stderr)
  imported = 'was' if 'tensorflow' in sys.modules else 'was not'
  print(f'TensorFlow {imported} imported')
  if bad:
    print(f'{bad} examples cannot be used', file=sys.stderr)
  return 1 if bad else 0


# --- private ---


def _indices(count, examples, rng):
  """The first, the last and random ones, in order."""
  if examples >= count:
    return list(range(count))
  chosen = {0, count - 1} if examples > 1 else {0}
  while len(chosen) < examples:
    chosen.add(rng.randrange(count))
  return sorted(chosen)


def _value(value):
  """A field in a few words."""
  if isinstance(value, np.ndarray) and value.dtype.kind in 'biuf':
    text = f'{value.dtype}{list(value.shape)}'
    if value.dtype.kind == 'b' and value.size:
      return f'{text}, {100 * value.mean():.0f} % True'
    finite = value[np.isfinite(value)]
    if not finite.size:
      return text
    unknown = f', {value.size - finite.size} not finite'
    return f'{text} from {finite.min():.6g} to {finite.max():.6g}' + (
      unknown if finite.size < value.size else ''
    )
  if isinstance(value, (bytes, bytearray)):
    return f'{len(value):,} bytes'
  if isinstance(value, (list, tuple)):
    return f'{len(value)} x {type(value[0]).__name__}' if value else 'empty'
  if isinstance(value, np.generic):
    return f'{value.dtype} {value}'
  return repr(value)


def _class_name(label, names):
  """Of a class id or of several as a vector of 0 and 1; '' if unknown."""
  if label is None or not names:
    return ''
  if np.ndim(label):
    if len(label) != len(names):
      raise ValueError(f'{len(label)} labels, there are {len(names)} classes')
    return ', '.join(names[i] for i in np.flatnonzero(label))
  if not 0 <= int(label) < len(names):
    raise ValueError(f'label {label} is none of {len(names)} classes')
  return names[int(label)]


def _shortened(names):
  names = [str(name) for name in names]
  if len(names) <= _NAMES_SHOWN:
    return ', '.join(names)
  return ', '.join(names[: _NAMES_SHOWN - 1]) + f', ..., {names[-1]}'


def _option(text):
  name, equals, value = text.partition('=')
  if not equals:
    raise ValueError(f'--set {text}: want NAME=VALUE')
  return name, _literal(value)


def _literal(text):
  """A Python value if it is one, else the text."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def _parser():
  parser = argparse.ArgumentParser(
    prog='python -m vidscenic.tools.check_dataset',
    description=__doc__.partition('\n\n')[0],
    epilog=__doc__.partition('\n\n')[2],
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('--name', required=True, help=f'one of {", ".join(READERS)}')
  add('--root', required=True, help='folder of the data set')
  add('--split', default='', help='part of it (default: that of the reader)')
  add(
    '--set',
    action='append',
    default=[],
    metavar='NAME=VALUE',
    help='another argument of the reader; may be repeated',
  )
  add(
    '--examples',
    type=int,
    default=3,
    help='how many to read: the first, the last, others at random (default: '
    '%(default)s)',
  )
  add('--seed', type=int, default=0, help='chooses them (default: %(default)s)')
  return parser


if __name__ == '__main__':
  sys.exit(main())
