"""Every benchmark runs from end to end; its figures are not judged here."""

import importlib
import json

import pytest

import benchmarks.__main__ as all_benchmarks
from benchmarks import attention, data, loop_overhead, report, train_step

TINY_STEP = (
  '--config=benchmarks/tiny.py --repeats=2 --batch_size 8 16 '
  '--loop --loop_steps=60 --run_steps=9'
)
TINY_DATA = (
  '--repeats=1 --sides 16 --frames=4 --tracks=4 --examples=1 --files=2 '
  '--file_frames=12 --file_size 32 48 --clip_frames=3 --crop=16 '
  '--batch_size=2 --batches=2'
)
TINY_ATTENTION = (
  '--lengths 16 32 --query_chunks 16 --heads=2 --head_dim=8 --repeats=1'
)


def run(main, flags, path, capsys):
  """Returns {table: rows} of the JSON and what was printed."""
  main([*flags.split(), f'--json={path}'])
  document = json.loads(path.read_text())
  assert document['environment']['cores'] >= 1
  assert document['environment']['jax']
  tables = {k: v['rows'] for k, v in document['tables'].items()}
  for rows in tables.values():
    for row in rows:
      assert all(
        v is None or isinstance(v, (int, float, str)) for v in row.values()
      )
  return tables, capsys.readouterr().out


def test_train_step_with_its_loop(tmp_path, capsys):
  tables, text = run(train_step.main, TINY_STEP, tmp_path / 'a.json', capsys)
  step, (loop,), (own_run,) = tables['step'], tables['loop'], tables['run']
  assert [row['batch_size'] for row in step] == [8, 16]
  for row in step:
    # x [B, 8] @ kernel [8], forward and for the gradient.
    assert row['gflop_per_step'] * 1e9 == pytest.approx(
      2 * 2 * 8 * row['batch_size']
    )
    assert 0 < row['fraction_of_matmul']
    assert row['peak_process_mib'] > row['program_mib'] > 0
  assert loop['loop_step_ms'] > 0
  assert 0 <= own_run['data_wait_percent'] <= 100
  assert 'overhead_ms' in text


def test_data_sources_decoder_and_loader(tmp_path, capsys):
  tables, text = run(data.main, TINY_DATA, tmp_path / 'a.json', capsys)
  assert [row['flow'] for row in tables['synthetic']] == ['none', 'both']
  assert [row['frames'] for row in tables['decoder']] == [3, 12] * 2
  loaders = [row['loader'] for row in tables['loader']]
  assert loaders == ['plain pool', 'pipeline'] * 2
  assert tables['loader'][0]['ratio_to_pool'] == 1
  assert 'clips_per_s' in text


def test_attention(tmp_path, capsys):
  path = tmp_path / 'a.json'
  tables, text = run(attention.main, TINY_ATTENTION, path, capsys)
  rows = tables['attention']
  names = [(r['tokens'], r['implementation']) for r in rows[::2]]
  assert names == [(16, 'xla'), (32, 'xla'), (32, 'xla, 16 queries')]
  assert [r['pass'] for r in rows] == ['forward', 'both'] * 3
  assert all(row['ms'] > 0 for row in rows)
  assert 'fraction_of_matmul' in text


def test_all_benchmarks_run_in_processes_of_their_own(tmp_path, monkeypatch):
  monkeypatch.setattr(all_benchmarks, 'SHORT', {'attention': TINY_ATTENTION})
  all_benchmarks.main([f'--json={tmp_path / "all.json"}'])
  (result,) = json.loads((tmp_path / 'all.json').read_text())['benchmarks']
  assert result['benchmark'] == 'attention'


def test_an_unknown_benchmark_or_flag_is_refused():
  with pytest.raises(SystemExit):
    all_benchmarks.main(['no_such_benchmark'])
  with pytest.raises(Exception, match='no_such_flag'):
    train_step.main(['--no_such_flag=1'])


def test_short_runs_are_refused_rather_than_misread():
  with pytest.raises(ValueError, match='loop_steps=10'):
    loop_overhead.measure_overhead(10)


def test_table_aligns_numbers_and_leaves_gaps():
  table = report.Table(
    'x',
    'title',
    [{'name': 'a', 'ms': 1234.5}, {'name': 'bb', 'n': 3}],
    ('note',),
  )
  assert report.format_table(table).splitlines() == [
    'title',
    'name    ms  n',
    '----  ----  -',
    'a     1234',
    'bb          3',
    'note',
  ]


def test_few_wide_rows_stand_side_by_side():
  rows = [{f'a_long_name_{i}': 1.5 * i for i in range(10)}] * 2
  lines = report.format_table(report.Table('x', 'title', rows)).splitlines()
  assert len(lines) == 11
  assert lines[-1] == 'a_long_name_9  13.5  13.5'


@pytest.mark.parametrize('name', all_benchmarks.SHORT)
def test_short_settings_are_flags_of_the_benchmark(name):
  command = importlib.import_module(f'benchmarks.{name}').parser()
  settings = all_benchmarks.SHORT[name].split()
  short = command.parse_args(settings)
  assert (short != command.parse_args([])) == bool(settings)
