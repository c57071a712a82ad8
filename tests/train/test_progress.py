"""The progress display: plain lines elsewhere, a bar on a terminal."""

import io
import os
import pathlib
import pty
import subprocess
import sys
import termios
import textwrap

import pytest

from vidscenic.train import progress

_ROOT = pathlib.Path(__file__).resolve().parents[2]


class _Clock:
  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


@pytest.fixture
def lines(monkeypatch):
  got = []
  monkeypatch.setattr(
    progress.logging, 'info', lambda form, *args: got.append(form % args)
  )
  return got


def test_log_file_gets_one_line_a_log_step(lines):
  clock = _Clock()
  with progress.Progress(600, is_tty=False, clock=clock) as display:
    for step in range(1, 121):
      clock.now += 40.0 if step == 1 else 0.25  # the first one compiles
      display.advance(step)
    display.log(120, loss=0.0312, clips_per_second=41.23, data_wait=0.0131)
  assert lines == [
    'step 120/600  loss 0.0312  clips/s 41.2  data wait 1.3 %  left 0:02:00'
  ]


def test_time_left_is_unknown_at_first_and_has_hours(lines):
  clock = _Clock()
  display = progress.Progress(100_000, 500, is_tty=False, clock=clock)
  display.log(501)
  clock.now += 3.0
  display.log(502)
  assert lines == [
    'step 501/100000  left -:--:--',
    'step 502/100000  left 82:54:54',
  ]


def test_disabled_display_is_silent(lines, monkeypatch):
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  for is_tty in (True, False):
    with progress.Progress(9, is_tty=is_tty, enabled=False) as display:
      display.advance(1)
      display.log(2, loss=1.0)
  assert not lines and not stream.getvalue()


def test_a_terminal_without_a_size_gets_lines(lines, monkeypatch):
  leader, follower = pty.openpty()  # 0 rows of 0 columns
  with os.fdopen(follower, 'w') as stream, os.fdopen(leader):
    monkeypatch.setattr(sys, 'stderr', stream)
    with progress.Progress(9) as display:
      display.log(1, loss=0.5)
  assert lines == ['step 1/9  loss 0.5  left -:--:--']


_PROGRAM = textwrap.dedent("""
  import time
  from absl import app, logging
  from vidscenic.train import progress

  def main(unused_argv):
    logging.set_verbosity(logging.INFO)
    with progress.Progress(60, 0) as display:
      for step in range(1, 61):
        time.sleep(0.005)
        display.advance(step)
        if not step % 10:
          display.log(step, loss=1 / step, clips_per_second=8.0, data_wait=0.5)
        if not step % 7:
          logging.info('message %d', step)
    logging.info('the end')

  app.run(main)
""")


def _screen(output: str) -> list[str]:
  """What a terminal shows, for carriage returns, newlines and cursor up."""
  rows, row, column = [''], 0, 0
  index = 0
  while index < len(output):
    if output.startswith('\x1b[A', index):
      row, index = max(0, row - 1), index + 3
      continue
    char = output[index]
    index += 1
    if char == '\r':
      column = 0
    elif char == '\n':
      row += 1
      rows += [''] * (row + 1 - len(rows))
    else:
      line = rows[row].ljust(column)
      rows[row] = line[:column] + char + line[column + 1 :]
      column += 1
  return [line.rstrip() for line in rows if line.strip()]


def test_bar_and_log_lines_share_a_terminal(tmp_path):
  program = tmp_path / 'program.py'
  program.write_text(_PROGRAM)
  leader, follower = pty.openpty()
  termios.tcsetwinsize(follower, (24, 100))
  environment = {**os.environ, 'PYTHONPATH': str(_ROOT)}
  with subprocess.Popen(
    [sys.executable, str(program)],
    stdin=follower,
    stderr=follower,
    stdout=subprocess.PIPE,
    env=environment,
  ) as process:
    os.close(follower)
    output = b''
    while True:
      try:
        piece = os.read(leader, 65536)
      except OSError:  # Linux says EIO when the other end is closed
        break
      if not piece:
        break
      output += piece
    os.close(leader)
    assert process.stdout.read() == b''
  assert process.returncode == 0, output.decode()
  shown = _screen(output.decode())
  messages = [line.partition('] ')[2] for line in shown[:-2]]
  assert messages == [f'message {n}' for n in range(7, 61, 7)]
  assert shown[-2].startswith('100%|')
  assert shown[-2].endswith('clips/s 8.0  data wait 50.0 %  left 0:00:00')
  assert '60/60, loss 0.01667' in shown[-2]
  assert shown[-1].endswith('] the end')
