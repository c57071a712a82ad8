"""The memory benchmark runs from end to end; its figures are not judged."""

import json

from benchmarks import predict
from vidscenic.data import decode

CONFIG = """
from tests.tools import test_predict

def get_config():
  return test_predict.make_config('twice')
"""


def test_one_row_for_each_length(tmp_path, capsys):
  (tmp_path / 'config.py').write_text(CONFIG)
  flags = f'--config={tmp_path}/config.py --seconds 2 1 --size 32 48 --fps 8'
  flags += ' --samples 2'
  predict.main([*flags.split(), f'--json={tmp_path}/a.json'])
  tables = json.loads((tmp_path / 'a.json').read_text())['tables']
  rows = tables['predict']['rows']
  assert [(r['video_s'], r['frames']) for r in rows] == [(1, 8), (2, 16)]
  assert all(r['peak_mib'] > 50 and r['frames_per_s'] > 0 for r in rows)
  memory = tables['memory']['rows']
  assert {(r['video_s'], r['pass']) for r in memory} >= {(1, 1), (2, 1)}
  assert memory[-1]['frame'] == 16
  assert all(r['resident_mib'] > 50 for r in memory)
  assert 'peak of the last row over the first: ' in capsys.readouterr().out


def test_videos_have_the_length_and_sound_that_are_measured(tmp_path):
  predict.write_video(tmp_path / 'a.mp4', 2, 10, (32, 48))
  index = decode.index_video(tmp_path / 'a.mp4')
  assert (index.num_frames, index.fps) == (20, 10)
  assert (index.height, index.width) == (32, 48)
  assert index.has_audio
