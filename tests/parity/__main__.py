"""Compares our models with stored reference results.

  python -m tests.parity FILE.npz ...

Prints a table per file and ends with status 1 if anything is off.
"""

import argparse
import sys
import traceback

import tqdm

from tests.parity import harness


def main() -> int:
  """Returns the exit status."""
  parser = argparse.ArgumentParser(
    prog='python -m tests.parity',
    description='Compares our models with stored reference results: largest '
    'errors, tolerance and verdict of every output. Ends with status 1 if '
    'anything is off.',
  )
  parser.add_argument(
    'files', nargs='+', metavar='FILE', help='NAME.npz, or a JSON without one'
  )
  files = parser.parse_args().files
  missed = []
  for file in tqdm.tqdm(files, disable=not sys.stderr.isatty(), leave=False):
    try:
      golden = harness.load(file)
      rows = harness.check(golden)
    except (OSError, ValueError) as error:
      print(f'{file}: {error}\n')
      missed.append(file)
      continue
    except Exception:  # of a model or an adapter: the other files still count
      print(f'{file}: {traceback.format_exc()}')
      missed.append(file)
      continue
    good = sum(row.passed for row in rows)
    print(f'{file} ({golden.kind})\n{harness.table(rows)}')
    print(f'{good} of {len(rows)} ok\n')
    if good < len(rows):
      missed.append(file)
  if missed:
    print(f'{len(missed)} of {len(files)} files are off: {", ".join(missed)}')
  return 1 if missed else 0


if __name__ == '__main__':
  sys.exit(main())
