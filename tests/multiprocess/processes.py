"""Starts `main.py` in processes of its own, for tests."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
TIMEOUT = 240  # seconds for any process


def free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


def start(*args, devices=1, config='tests/train/tiny_config.py'):
  """A running main.py; stdout and stderr arrive together as text lines."""
  env = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    'PYTHONPATH': str(ROOT),
  }
  return subprocess.Popen(
    [sys.executable, 'main.py', f'--config={config}', *map(str, args)],
    cwd=ROOT,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def start_several(count, *args, **kwargs):
  """Processes of one run, which find each other on this machine."""
  port = free_port()
  return [
    start(
      *args,
      f'--coordinator=127.0.0.1:{port}',
      f'--num_processes={count}',
      f'--process_id={i}',
      **kwargs,
    )
    for i in range(count)
  ]


def finish(processes, code=0):
  """Waits for all; returns their outputs and checks their exit status."""
  if not isinstance(processes, list):
    processes = [processes]
  outputs = []
  for process in processes:
    try:
      output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
      for p in processes:
        p.kill()
      raise
    outputs.append(output)
  for process, output in zip(processes, outputs, strict=True):
    assert process.returncode == code, output[-4000:]
  return outputs


def read_until(process, text):
  """Reads lines up to the first one that contains text."""
  for line in process.stdout:
    if text in line:
      return
  raise AssertionError(f'{text!r} did not appear')


def rows(workdir, prefix='train/'):
  """{step: {name: value}} of metrics.jsonl."""
  result = {}
  for line in (pathlib.Path(workdir) / 'metrics.jsonl').read_text().split('\n'):
    row = json.loads(line) if line else {'step': -1}
    values = {k: v for k, v in row.items() if k.startswith(prefix)}
    if values:
      assert row['step'] not in result, 'a step was logged twice'
      result[row['step']] = values
  return result
