"""One evaluator: what it finds is logged and written."""

import jax
import numpy as np

from vidscenic.train import evaluator_runs, report, sharding

MESH = {'data': 1, 'fsdp': 1, 'model': 1}


class Finding:
  """Finds one figure and one picture."""

  mesh = sharding.make_mesh(MESH, jax.devices()[:1])

  def protocol(self):
    return 'all of them'

  def run(self, state, step):
    # Evaluators compile for the mesh that surrounds them.
    assert jax.sharding.get_abstract_mesh().axis_names == tuple(MESH)
    assert state == 'weights'
    return {'psnr': step / 3}, {'frames': np.zeros((8, 8, 3), np.uint8)}


def test_figures_are_logged_with_the_protocol_at_first(caplog):
  with caplog.at_level('INFO', logger='absl'):
    for first in (True, False):
      evaluator_runs.run('heldout', Finding(), 'weights', 40, first=first)
  protocol, *lines = caplog.messages
  assert protocol == 'heldout: all of them'
  assert len(lines) == 2
  for line in lines:
    assert line.startswith('step 40  heldout: psnr 13.333  wrote frames  (')


def test_figures_and_pictures_reach_the_workdir(tmp_path):
  scalars, media = evaluator_runs.run(
    'heldout', Finding(), 'weights', 3, first=False
  )
  with report.Report(tmp_path, is_writer=True, tensorboard=False) as writers:
    evaluator_runs.write(writers, 3, 'heldout', scalars, media)
  rows = (tmp_path / 'metrics.jsonl').read_text()
  assert rows == '{"step": 3, "heldout/psnr": 1.0}\n'
  assert [p.name for p in (tmp_path / 'media').iterdir()] == [
    'heldout_frames_00000003.png'
  ]
