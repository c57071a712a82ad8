"""What a conversion of weights says: its report, and its error.

Key lists of models have hundreds of names, so both show the first few and
count the rest.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

_SHOWN = 8  # names per kind of problem in an error


class Report(NamedTuple):
  """What a conversion did; `str` gives a few readable lines.

  Attributes:
    sources: number of source keys that were used.
    targets: number of leaves of the result.
    parameters: number of values of the result.
    ignored: source keys that `ignore` names.
    kept: target leaves that `keep` names and no source gives.
    cast: {target: 'float64 -> float32'}.
    lossy: targets that lost digits in a cast.
    resized: {target: (shape of the source, shape of the target)}.
  """

  sources: int
  targets: int
  parameters: int
  ignored: tuple[str, ...]
  kept: tuple[str, ...]
  cast: dict[str, str]
  lossy: tuple[str, ...]
  resized: dict[str, tuple]

  def __str__(self):
    lines = [
      f'{self.sources} arrays -> {self.targets} leaves, '
      f'{self.parameters:,} parameters'
    ]
    if self.ignored:
      lines.append(f'ignored {some(self.ignored)}')
    if self.kept:
      lines.append(f'not in the source, kept as they are: {some(self.kept)}')
    for kind in sorted(set(self.cast.values())):
      names = [name for name, cast in self.cast.items() if cast == kind]
      loss = len(set(names) & set(self.lossy))
      note = f', {loss} of them lost digits' if loss else ''
      lines.append(f'cast {kind}{note}: {some(names)}')
    for name, (old, new) in self.resized.items():
      lines.append(f'resized {name} from {list(old)} to {list(new)}')
    return '\n'.join(lines)


def explain(problems: Mapping[str, Sequence], wanted: Mapping[str, Any]) -> str:
  """One text about everything that is wrong with a conversion.

  Args:
    problems: any of
      unmatched: (source key, shape) that no rule matches.
      unknown: (path, source key) of targets that the model lacks.
      missing: target paths without source.
      unfit: sentences about targets of another shape or type.
      failed: (source key, shape, error) of transforms.
    wanted: {target path: thing with a shape}.
  """
  unmatched, unknown, missing, unfit, failed = (
    list(problems.get(kind, ()))
    for kind in ('unmatched', 'unknown', 'missing', 'unfit', 'failed')
  )
  # What a model lacks is often what the rules misspell, and the reverse.
  spare = [name for name, _ in unknown] + [key for key, _ in unmatched]
  sections = (
    _section(
      'source keys match no rule; name what is not needed in ignore',
      unmatched,
      lambda entry: f'{entry[0]} {list(entry[1])}',
    ),
    _section(
      'have no place in the model; name their source keys in ignore',
      unknown,
      lambda entry: (
        f'{entry[0]} (from {entry[1]})' + _nearest(entry[0], missing or wanted)
      ),
    ),
    _section(
      'leaves of the model have no source; name what may stay new in keep',
      missing,
      lambda name: f'{name} {list(wanted[name].shape)}' + _nearest(name, spare),
    ),
    _section('do not fit', unfit, str),
    _section(
      'cannot be transformed',
      failed,
      lambda entry: f'{entry[0]} {list(entry[1])}: {entry[2]}',
    ),
  )
  return 'the weights do not fit the model:\n' + ''.join(sections).rstrip()


def _section(title, entries, describe):
  """A count and the first entries, one a line; '' without entries."""
  if not entries:
    return ''
  lines = [f'    {describe(entry)}' for entry in entries[:_SHOWN]]
  if len(entries) > _SHOWN:
    lines.append(f'    ... and {len(entries) - _SHOWN} more')
  return '\n'.join([f'  {len(entries)} {title}:', *lines, ''])


def _nearest(name, candidates):
  found = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
  return f', nearest is {found[0]}' if found else ''


def some(names: Iterable[str]) -> str:
  """The number of names and the first of them."""
  names = list(names)
  shown = ', '.join(names[:4]) + (', ...' if len(names) > 4 else '')
  return f'{len(names)} ({shown})'
