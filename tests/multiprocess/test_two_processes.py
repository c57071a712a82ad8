"""Two processes equal one, and a run moves between them."""

import signal

import numpy as np

from tests.multiprocess import processes

COMMON = (
  '--config.steps=12',
  '--config.log.every_steps=2',
  '--config.optim.name=sgd',
  '--config.mesh.fsdp=2',
  "--config.sharding=(('kernel', 'fsdp'), ('.*', 'replicate'))",
)


def assert_close(a, b):
  assert a.keys() == b.keys()
  for step in a:
    # The sum of index * row is exact: same rows in the same order.
    assert a[step]['train/index'] == b[step]['train/index'], step
    np.testing.assert_allclose(
      a[step]['train/loss'], b[step]['train/loss'], rtol=1e-5
    )


def test_two_processes_equal_one_and_the_run_moves_between_them(tmp_path):
  one, two, moved = (tmp_path / name for name in ('one', 'two', 'moved'))
  processes.finish(processes.start(f'--workdir={one}', *COMMON, devices=4))
  processes.finish(
    processes.start_several(2, f'--workdir={two}', *COMMON, devices=2)
  )
  assert_close(processes.rows(one), processes.rows(two))
  heldout = [processes.rows(w, 'heldout/')[12] for w in (one, two)]
  for name, value in heldout[0].items():
    np.testing.assert_allclose(heldout[1][name], value, rtol=1e-5)

  # Evaluated alone by two processes, the same figures.
  processes.finish(
    processes.start_several(
      2, f'--workdir={two}', *COMMON, '--mode=evaluate', devices=2
    )
  )
  alone = processes.rows(two / 'evaluation', 'heldout/')[12]
  assert alone == heldout[1]

  # Half of it on two processes, the rest on one with another mesh.
  half = (*COMMON, '--config.steps=8')
  processes.finish(
    processes.start_several(2, f'--workdir={moved}', *half, devices=2)
  )
  rest = (*COMMON, '--config.mesh.fsdp=1')
  processes.finish(processes.start(f'--workdir={moved}', *rest, devices=2))
  assert_close(processes.rows(one), processes.rows(moved))


def test_two_processes_fall_back_from_a_damaged_checkpoint(tmp_path):
  args = (f'--workdir={tmp_path}', *COMMON)
  processes.finish(processes.start_several(2, *args))
  for file in (tmp_path / 'checkpoints' / '12').rglob('*'):
    if file.is_file() and file.parent.name == 'd':
      file.write_bytes(file.read_bytes()[:10])
  (tmp_path / 'DONE').unlink()
  before = processes.rows(tmp_path)
  outputs = processes.finish(processes.start_several(2, *args))
  assert all('trying the one before' in output for output in outputs)
  assert processes.rows(tmp_path) == before
  assert (tmp_path / 'DONE').exists()


def test_sigterm_to_one_process_stops_and_saves_both(tmp_path):
  args = (
    f'--workdir={tmp_path}',
    '--config.steps=100000',
    '--config.log.every_steps=1',
    '--config.checkpoint.every_steps=100000',
    '--config.preempted_exit_code=7',
  )
  both = processes.start_several(2, *args)
  processes.read_until(both[0], 'step 3/')
  both[1].send_signal(signal.SIGTERM)
  processes.finish(both, code=7)
  (saved,) = (tmp_path / 'checkpoints').iterdir()
  last = max(processes.rows(tmp_path))
  assert int(saved.name) == last
  again = (args[0], f'--config.steps={last + 5}', *args[2:])
  processes.finish(processes.start_several(2, *again))
  assert sorted(processes.rows(tmp_path)) == list(range(1, last + 6))
