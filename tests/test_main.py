"""The command line: helpful, and quick to refuse. Every test is a process."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.multiprocess import processes

TINY = '--config=tests/train/tiny_config.py'


def run(*arguments, code=0):
  """(stdout, stderr) of main.py, which must end with this exit status."""
  done = subprocess.run(
    [sys.executable, 'main.py', *arguments],
    cwd=processes.ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''},  # one device
    capture_output=True,
    text=True,
    timeout=processes.TIMEOUT,
    check=False,
  )
  assert done.returncode == code, done.stdout + done.stderr
  return done.stdout, done.stderr


def refusal(*arguments):
  """What main.py says about wrong arguments, which must be one line."""
  out, err = run(*arguments, code=1)
  assert not out
  lines = err.replace(
    'Pass --helpshort or --helpfull to see help on flags.', ''
  ).split('\n')
  (line,) = [line for line in lines if line]
  return line.removeprefix('FATAL Flags parsing error: ')


def test_help_names_every_flag_and_a_command_to_copy():
  out, _ = run('--help', code=1)
  source = (processes.ROOT / 'main.py').read_text()
  flags = re.findall(r"DEFINE_\w+\(\s*'(\w+)'", source)
  assert len(flags) >= 9
  for flag in flags:
    assert f'--{flag}:' in out or f'--[no]{flag}:' in out
  assert 'python main.py --config=configs/smoke.py --workdir=runs/smoke' in out


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((), '--config is missing, such as --config=configs/smoke.py'),
    ((TINY,), '--workdir is missing, such as --workdir=runs/smoke'),
    (('--config=configs/smok.py',), '--config=configs/smok.py: no such file'),
    (
      (TINY, '--workdir=x', '--weights=tapir'),
      '--weights is for --mode=evaluate and --mode=predict; to train from '
      'weights set config.init_from',
    ),
    (
      (TINY, '--config.optim.lrr=3'),
      "--config.optim.lrr=3: config field 'optim.lrr' is unknown; "
      "did you mean 'lr'?",
    ),
    (
      ('--config', 'tests/train/tiny_config.py:steps=3', '--noconfig.lgo.x'),
      "--noconfig.lgo.x: config field 'lgo' is unknown; did you mean 'log'?",
    ),
    (
      (TINY, '--config.steps.warmup=3'),
      "--config.steps.warmup=3: config field 'steps.warmup': steps=12 has no "
      'fields',
    ),
    (
      (TINY, '--config.optim.lr=fast'),
      "flag --config.optim.lr=fast: could not convert string to float: 'fast'",
    ),
    (
      (TINY, '--mode=dry_run', '--config.accum_steps=3'),
      'batch_size=16 is not a multiple of accum_steps=3',
    ),
    (
      (TINY, '--workdri=x'),
      "Unknown command line flag 'workdri'. Did you mean: workdir ?",
    ),
    ((TINY, '--mode=dry_run', 'x', 'y'), 'unexpected arguments: x y'),
    (
      (TINY, '--mode=predict', '--workdir=x'),
      'config.predict.factory is empty: this experiment does not say how to '
      "predict; want 'package.module:function'",
    ),
    (
      ('--config=configs/smoke.py', '--mode=predict', '--workdir=x')
      + ('--input=main.py', '--output=y'),
      '--input: main.py: InvalidDataError: Invalid data found when processing '
      'input; want a video file or a folder of pictures',
    ),
  ],
)
def test_mistake_is_refused_in_one_line(arguments, message):
  assert refusal(*arguments) == message


def test_mistake_inside_a_config_file_keeps_its_traceback(tmp_path):
  file = tmp_path / 'wrong.py'
  file.write_text(
    'from vidscenic import config as vc\n'
    'def get_config():\n'
    '  config = vc.base_config()\n'
    '  config.optm.lr = 3\n'
  )
  _, err = run(f'--config={file}', '--mode=dry_run', code=1)
  assert f'File "{file}", line 4' in err
  assert "Did you mean: 'optim'" in err


def test_dry_run_needs_no_data():
  out, _ = run(
    TINY,
    '--mode=dry_run',
    '--config.data.train.source=no.such:Source',
    '--config.ema.decay=0.9',
  )
  # 8 -> 16 -> 16 -> 1 with biases.
  assert f'Total: {8 * 16 + 16 + 16 * 16 + 16 + 16 + 1}' in out
  # Three products per layer, but the first needs no gradient of its input.
  flops = 2 * 16 * (3 * (16 * 16 + 16) + 2 * 8 * 16)
  assert f'matmul FLOPs          {flops:.4g} over all devices' in out
  for name in ('x ', 'y ', 'index', 'mask', 'averaged parameters'):
    assert name in out


WITH_EVALUATOR = """
from tests.train import tiny_config
from vidscenic import config as vc

def get_config():
  config = tiny_config.get_config('steps=4')
  with config.unlocked():
    config.evals.heldout = vc.eval_spec(
      factory='vidscenic.evaluation.evaluator:MeanLoss',
      kwargs={'data': config.data.train, 'batch_size': 8, 'limit': 12})
  return vc.finalize(config)
"""


def test_finished_run_is_evaluated_alone(tmp_path):
  file = tmp_path / 'config.py'
  file.write_text(WITH_EVALUATOR)
  workdir = tmp_path / 'run'
  relative = os.path.relpath(workdir, processes.ROOT)  # as one types it
  arguments = (f'--config={file}', f'--workdir={relative}')
  _, err = run(*arguments, '--mode=evaluate', code=1)
  assert f'{workdir}/config.json is missing: want the workdir of a run' in err
  _, err = run(*arguments)
  assert 'finished 4 steps' in err
  _, err = run(*arguments, '--mode=evaluate')
  assert 'step 4  heldout:' in err
  during, after = (
    json.loads(line)
    for name in ('metrics.jsonl', 'evaluation/metrics.jsonl')
    for line in (workdir / name).read_text().splitlines()
    if 'heldout/loss"' in line
  )
  assert after['heldout/loss'] == during['heldout/loss']
  assert after['step'] == 4


def test_weights_are_evaluated_by_one_command(tmp_path):
  file, weights = tmp_path / 'config.py', tmp_path / 'weights.npz'
  importer = (
    "    config.init_from.factory = 'tests.tools.test_load:fill_tiny'\n"
    "    config.init_from.kwargs = {'value': 0.5}\n"
  )
  head, tail = WITH_EVALUATOR.split('  return')
  file.write_text(f'{head}{importer}  return{tail}')
  weights.write_bytes(b'')
  workdir = tmp_path / 'run'
  _, err = run(
    *(f'--config={file}', f'--workdir={workdir}', f'--weights={weights}'),
    '--mode=evaluate',
  )
  assert 'step 0  heldout:' in err
  assert (workdir / 'DONE').exists()
