"""Progress of tools: plain lines without a terminal, a bar on one."""

import pytest

from vidscenic.tools import progress


class _Clock:
  def __init__(self):
    self.now = 5.0

  def __call__(self):
    return self.now


def test_lines_without_a_terminal(capsys):
  clock = _Clock()
  with progress.Progress(
    100, 'videos', done=10, every=30.0, clock=clock
  ) as display:
    for i in range(40):
      clock.now += 1
      display.advance(note='1 failed' if i > 20 else '')
  assert capsys.readouterr().err.splitlines() == [
    '10/100 videos, continues from there',
    '40/100 videos, 1/s, 1 min left, 1 failed',
    '50/100 videos, 40 s',
  ]


@pytest.mark.parametrize(
  ('total', 'lines'),
  [
    (240_000_000, ['10.0/240.0 MB, 1 MB/s, 4 min left', '10.0/240.0 MB, 10 s']),
    (None, ['10.0/? MB, 1 MB/s', '10.0/? MB, 10 s']),
  ],
)
def test_bytes_are_shown_as_megabytes(capsys, total, lines):
  clock = _Clock()
  with progress.Progress(total, 'B', name='w.npz', clock=clock) as display:
    clock.now += 10
    display.advance(10_000_000)
  assert display.done == 10_000_000
  want = [f'w.npz: {line}' for line in lines]
  assert capsys.readouterr().err.splitlines() == want


def test_a_bar_on_a_terminal(capsys):
  with progress.Progress(8, 'shards', done=2, is_tty=True) as display:
    display.advance(5, '1 failed')
    display.advance(1, '2 failed')
  shown = capsys.readouterr().err
  assert '25%' in shown  # where it began
  assert '100%' in shown and '8/8' in shown and '2 failed' in shown
  assert 'continues' not in shown
