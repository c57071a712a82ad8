"""Files damaged at random; see fuzz_formats for what must not happen."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.importers import fuzz_formats

ROOT = pathlib.Path(__file__).resolve().parents[2]
COUNT = 300


@pytest.mark.skipif(sys.platform != 'linux', reason='bounds memory by /proc')
@pytest.mark.parametrize('kind', fuzz_formats.KINDS)
def test_damaged_files_are_read_or_refused(kind):
  # A process of its own, because a crash or a hang must not end the tests.
  process = subprocess.run(
    [
      sys.executable,
      '-m',
      'tests.importers.fuzz_formats',
      kind,
      '0',
      f'{COUNT}',
    ],
    cwd=ROOT,
    env={**os.environ, 'OPENBLAS_NUM_THREADS': '1'},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert process.returncode == 0, process.stderr
  read, refused = map(int, process.stdout.split())
  assert read + refused == COUNT
  # Neither is the damage always fatal nor are all checks asleep.
  assert read > 0 and refused > COUNT // 2


@pytest.mark.parametrize('kind', fuzz_formats.KINDS)
def test_the_files_are_sound_before_they_are_damaged(kind, monkeypatch):
  monkeypatch.setattr(fuzz_formats, 'damage', lambda rng, data: data)
  assert fuzz_formats.fuzz(kind, seed=0, count=3) == (3, 0)
