"""Packages that must not be imported, so that importing one is an error.

Whether the real ones are installed then makes no difference.
"""

import os
import pathlib
import subprocess
import sys

from tests.multiprocess import processes


def run_without(
  names: tuple[str, ...], folder: pathlib.Path, program: str, *arguments: str
) -> str:
  """Standard output of a Python program that cannot import some packages."""
  for name in names:
    package = folder / 'forbidden' / name
    package.mkdir(parents=True)
    (package / '__init__.py').write_text(
      f'raise RuntimeError("{name} was imported")\n'
    )
  got = subprocess.run(
    [sys.executable, '-c', program, *arguments],
    capture_output=True,
    text=True,
    timeout=processes.TIMEOUT,
    cwd=processes.ROOT,
    env={**os.environ, 'PYTHONPATH': str(folder / 'forbidden')},
    check=False,
  )
  assert got.returncode == 0, got.stderr
  return got.stdout
