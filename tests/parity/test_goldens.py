"""Every stored reference result that lies in tests/golden is met."""

import json
import pathlib

import pytest

from tests.parity import harness

FOLDER = pathlib.Path(__file__).parents[1] / 'golden'


def goldens():
  """JSON files that say what is stored; others only serve single tests."""
  files = sorted(FOLDER.glob('*.json'))
  return [f for f in files if 'kind' in json.loads(f.read_text())]


@pytest.mark.parametrize('path', goldens(), ids=lambda path: path.stem)
def test_reference_is_met(path):
  rows = harness.check(harness.load(path))
  assert all(row.passed for row in rows), '\n' + harness.table(rows)
