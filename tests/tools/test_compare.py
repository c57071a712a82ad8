"""Figures of several runs side by side."""

import json

import pytest

from vidscenic.tools import compare


def write(folder, name, *rows):
  path = folder / name
  path.mkdir()
  lines = [json.dumps(row) for row in rows]
  (path / 'metrics.jsonl').write_text('\n'.join(lines) + '\n')
  return str(path)


def test_newest_figures_are_shown_with_their_spread(tmp_path, capsys):
  a = write(
    tmp_path, 'a', {'step': 1, 'x/loss': 9.0}, {'step': 2, 'x/loss': 1.0}
  )
  b = write(tmp_path, 'b', {'step': 2, 'x/loss': 3.0, 'y/top1': 0.25})
  compare.main([f'both={a},{b}', b])
  assert capsys.readouterr().out.splitlines() == [
    '| figure | both | b |',
    '|---|---|---|',
    '| x/loss | 2 ± 1 | 3 |',
    '| y/top1 | 0.25 | 0.25 |',
  ]
  compare.main([b, '--figures', '^y'])
  assert 'x/loss' not in capsys.readouterr().out


def test_folder_without_figures_is_one_clear_line(tmp_path):
  with pytest.raises(SystemExit, match='want the workdir of a run'):
    compare.main([str(tmp_path)])
