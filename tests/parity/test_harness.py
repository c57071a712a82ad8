"""The comparison itself: what passes, what does not, and what it says."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.multiprocess import processes
from tests.parity import harness

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


@pytest.fixture
def write(tmp_path):
  def write_golden(arrays, tol=(('', {'atol': 0.1}),), **meta):
    path = tmp_path / 'golden.npz'
    np.savez(path, **arrays)
    meta = {'kind': 'test', 'tol': tol, **meta}
    path.with_suffix('.json').write_text(json.dumps(meta))
    return path

  return write_golden


def verdicts(monkeypatch, path, outputs):
  monkeypatch.setattr(harness, 'known', lambda: {'test': lambda _: outputs})
  return {r.name: r.verdict for r in harness.check(harness.load(path))}


def test_every_stored_output_and_gradient_is_wanted(write, monkeypatch):
  path = write(
    {
      'params/w': np.ones(2),
      'inputs/x': np.ones(2),
      'outputs/y': np.ones(2),
      'outputs_bf16/y': np.ones(2),
      'grads/w': np.ones(2),
      'grads_chunk4/w': np.ones(2),
    },
    skip=[['bf16', 'only if implemented']],
  )
  got = verdicts(monkeypatch, path, {'outputs/y': np.full(2, 1.05)})
  assert got == {
    'outputs/y': 'ok',
    'outputs_bf16/y': 'skipped',
    'grads/w': 'MISSING',
    'grads_chunk4/w': 'MISSING',
  }


def test_first_matching_tolerance_counts(write, monkeypatch):
  tol = [['/a$', {'atol': 1.0}], ['', {'atol': 0.0, 'rtol': 0.1}]]
  path = write({'outputs/a': np.ones(1), 'outputs/b': np.ones(1)}, tol)
  got = verdicts(
    monkeypatch,
    path,
    {'outputs/a': np.full(1, 1.9), 'outputs/b': np.full(1, 1.2)},
  )
  assert got == {'outputs/a': 'ok', 'outputs/b': 'OFF in 1 of 1'}


@pytest.mark.parametrize(
  ('tolerance', 'error', 'ok'),
  [
    ({'relmax': 0.01}, 0.09, True),  # of the largest entry, 10
    ({'relmax': 0.01}, 0.11, False),
    ({'allow': 0.25}, 5.0, True),  # one of four may be off
    ({'allow': 0.24}, 5.0, False),
    ({'atol': 0.1, 'relmax': 0.01, 'rtol': 0.5}, 0.69, True),
    ({}, 1e-12, False),
    ({'atol': 1.0}, np.nan, False),
    ({'atol': 1.0}, np.inf, False),
  ],
)
def test_bounds_add_up(write, monkeypatch, tolerance, error, ok):
  want = np.array([1.0, 10.0, -3.0, 0.0])
  got = want + np.array([error, 0.0, 0.0, 0.0])
  path = write({'outputs/a': want}, [['', tolerance]])
  verdict = verdicts(monkeypatch, path, {'outputs/a': got})['outputs/a']
  assert (verdict == 'ok') == ok


def test_equal_nan_and_infinities_agree(write, monkeypatch):
  odd = np.array([np.nan, np.inf, -np.inf, 1.0])
  path = write({'outputs/a': odd}, [['', {}]])
  assert verdicts(monkeypatch, path, {'outputs/a': odd}) == {'outputs/a': 'ok'}


def test_shapes_must_be_equal(write, monkeypatch):
  path = write({'outputs/a': np.ones((2, 1))})
  got = verdicts(monkeypatch, path, {'outputs/a': np.ones((1, 2))})
  assert got == {'outputs/a': 'SHAPE [1, 2], want [2, 1]'}


def test_a_json_alone_is_compared_by_paths_inside_it(tmp_path, monkeypatch):
  path = tmp_path / 'schedule.json'
  table = [{'lr': 0.1, 'target': 'h1', 'since': None}, {'lr': 0.2}]
  tol = [['/lr$', {'atol': 1e-6}], ['', {}]]
  path.write_text(json.dumps({'kind': 'test', 'tol': tol, 'table': table}))
  monkeypatch.setattr(harness, 'required', lambda: {'test': '^table/'})
  got = verdicts(
    monkeypatch,
    path,
    {
      'table/0/lr': 0.1 + 1e-7,
      'table/0/target': 'h2',
      'table/0/since': 'null',
      'table/1/lr': 0.3,
    },
  )
  assert got == {
    'table/0/lr': 'ok',
    'table/0/target': 'DIFFERS',
    'table/0/since': 'ok',
    'table/1/lr': 'OFF in 1 of 1',
  }


def test_of_a_json_alone_all_that_is_required_must_be_returned(
  tmp_path, monkeypatch
):
  path = tmp_path / 'schedule.json'
  stored = {
    'kind': 'test',
    'tol': [['', {}]],
    'skip': [['/since$', 'not kept']],
    'table': [{'lr': 1, 'since': 0}, {'lr': 2, 'since': 1}],
    'notes': {'lr': 3},
  }
  path.write_text(json.dumps(stored))
  monkeypatch.setattr(harness, 'required', lambda: {'test': r'^table/\d+/'})
  assert verdicts(monkeypatch, path, {'table/0/lr': 1}) == {
    'table/0/lr': 'ok',
    'table/0/since': 'skipped',
    'table/1/lr': 'MISSING',
    'table/1/since': 'skipped',
  }
  for expression in ({}, {'test': '^tabel/'}):
    monkeypatch.setattr(harness, 'required', lambda e=expression: e)
    with pytest.raises(ValueError, match='REQUIRED'):
      verdicts(monkeypatch, path, {'table/0/lr': 1})


def test_of_a_json_alone_nothing_else_may_be_returned(tmp_path, monkeypatch):
  path = tmp_path / 'schedule.json'
  stored = {'kind': 'test', 'tol': [['', {}]], 'target': ['h2']}
  path.write_text(json.dumps(stored))
  monkeypatch.setattr(harness, 'required', lambda: {'test': '^target/'})
  with pytest.raises(ValueError, match='not stored.*target/1'):
    verdicts(monkeypatch, path, {'target/0': 'h2', 'target/1': 'h4'})


def test_schedule_must_be_met_at_every_step():
  golden = harness.load(GOLDEN / 'layerlock_schedule.json')
  wanted = set(golden.wanted)
  for name in golden.meta['configs']:
    for part in ('events', 'table'):
      place = f'configs/{name}/{part}/'
      assert set(golden.below(place)) == {
        n.removeprefix(place) for n in wanted if n.startswith(place)
      }
  for i in range(len(golden.meta['flops']['rows'])):
    assert f'flops/rows/{i}/total' in wanted
    assert f'flops/rows/{i}/width' not in wanted


def test_unknown_kind_and_unknown_names_alone_are_errors(write, monkeypatch):
  path = write({'outputs/a': np.ones(1)}, kind='tset')
  with pytest.raises(ValueError, match="'tset' is unknown.*'test'"):
    verdicts(monkeypatch, path, {})
  path = write({'outputs/a': np.ones(1)})
  with pytest.raises(ValueError, match='not stored.*outputs/b'):
    verdicts(monkeypatch, path, {'outputs/b': np.ones(1)})


def test_what_is_not_stored_is_left_out(write, monkeypatch):
  path = write({'outputs/a': np.ones(1)})
  given = {'outputs/a': np.ones(1), 'outputs/b': np.ones(1)}
  assert verdicts(monkeypatch, path, given) == {'outputs/a': 'ok'}


def test_command_line_fails_on_what_it_cannot_compare(write):
  path = write({'outputs/a': np.ones(1)}, kind='no such kind')
  done = subprocess.run(
    [sys.executable, '-m', 'tests.parity', path, '/no/such.npz'],
    cwd=processes.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert "kind 'no such kind' is unknown" in done.stdout
  assert '2 of 2 files are off' in done.stdout
