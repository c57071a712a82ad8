"""Looks things up in the table of published weights, and prints it.

`python -m vidscenic.tools.weights list` shows the table and downloads from it.
"""

import difflib
import importlib.util
import pathlib
from collections.abc import Sequence

from vidscenic.importers import published_table

Weights = published_table.Weights
WEIGHTS = published_table.WEIGHTS
NO_IMPORTER = 'no importer yet'


def find(name: str, table: Sequence[Weights] | None = None) -> Weights:
  """The entry of a name.

  Raises:
    ValueError: unknown name; the nearest ones are shown.
  """
  table = WEIGHTS if table is None else table
  for entry in table:
    if entry.name == name:
      return entry
  raise ValueError(f'{name!r} is no name{hint(name, table)}')


def hint(name: str, table: Sequence[Weights] | None = None) -> str:
  """Ends errors such as "'x' is no name": ' of published weights; nearest'."""
  names = [entry.name for entry in (WEIGHTS if table is None else table)]
  near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
  nearest = f'; nearest: {", ".join(near)}' if near else ''
  return f' of published weights{nearest}'


def find_file(
  path: str, table: Sequence[Weights] | None = None
) -> Weights | None:
  """The entry whose file has the name of this path, if any."""
  table = WEIGHTS if table is None else table
  name = pathlib.PurePath(path).name
  return next((entry for entry in table if entry.file == name), None)


def has_importer(entry: Weights) -> bool:
  """Whether the module of its importer exists.

  True where the whole package is absent (outside the repository), since nothing
  is known then.
  """
  module = entry.importer.partition(':')[0]
  try:
    return importlib.util.find_spec(module) is not None
  except ModuleNotFoundError as e:
    if e.name is None or not f'{module}.'.startswith(f'{e.name}.'):
      raise  # the package exists but one of its own imports is missing
    return '.' not in e.name


def check(table: Sequence[Weights]) -> None:
  """Checks what the rest relies on.

  Raises:
    ValueError: names or files that two entries share, names that look like
      paths, addresses without https, malformed factories.
  """
  for field in ('name', 'file'):
    values = [getattr(entry, field) for entry in table]
    twice = sorted({v for v in values if values.count(v) > 1})
    if twice:
      raise ValueError(f'{field} is not unique: {", ".join(twice)}')
  for entry in table:
    if not entry.name.isidentifier():
      raise ValueError(f'{entry.name!r}: want letters, digits and underscores')
    if not entry.url.startswith('https://'):
      raise ValueError(f'{entry.name}: {entry.url!r} is no https address')
    if pathlib.PurePath(entry.file).name != entry.file:
      raise ValueError(f'{entry.name}: {entry.file!r} is no file name')
    for factory in (entry.importer, entry.task):
      if len(factory.split(':')) != 2:
        raise ValueError(f"{entry.name}: {factory!r}, want 'package.module:x'")


def size_text(size: int | None) -> str:
  """'334 MB', '1.64 GB' or '?'."""
  if size is None:
    return '?'
  unit, power = ('GB', 9) if size >= 10**9 else ('MB', 6)
  return f'{size / 10**power:.3g} {unit}'


def markdown(table: Sequence[Weights] | None = None) -> str:
  """The table in Markdown, one line per file."""
  lines = [
    '| name | project | size | parameters | paper | licence | notes |',
    '|---|---|---|---|---|---|---|',
  ]
  for e in WEIGHTS if table is None else table:
    count = '?' if e.parameters is None else f'{e.parameters:,}'
    paper = f'[{e.paper}](https://arxiv.org/abs/{e.paper})'
    notes = [] if has_importer(e) else [NO_IMPORTER]
    cells = (
      f'[`{e.name}`]({e.url})',
      e.project,
      size_text(e.size),
      count,
      paper,
      e.licence,
      '; '.join(filter(None, (*notes, e.notes))),
    )
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines) + '\n'
