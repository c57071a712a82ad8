"""What --mode=predict writes for a video, however long it is."""

import csv

import jax
import numpy as np
import pytest

from projects.moog import predict
from projects.moog import task as task_lib
from tests.data import make_odd_videos
from tests.projects import moog_small as small
from vidscenic.data import decode, stream
from vidscenic.ops import masking
from vidscenic.tasks import readout
from vidscenic.tools import loaded, outputs
from vidscenic.tools import predict as predict_lib

NUM_FRAMES = 7
WINDOW = dict(
  num_frames=4, width=8, num_heads=2, tiles=2, query_features=8, num_bases=2
)


@pytest.fixture(scope='module')
def video(tmp_path_factory):
  path = tmp_path_factory.mktemp('source') / 'clip.mp4'
  make_odd_videos.encode(
    str(path), 'libx264', num_frames=NUM_FRAMES, size=(32, 48)
  )
  return stream.VideoStream(path)


@pytest.fixture(scope='module')
def model():
  return loaded.Loaded(
    small.make_task(heads=small.HEADS), small.task_params(), {}, step=7
  )


def run(model, video, folder, **options):
  with outputs.Outputs(folder, video) as out:
    predict.show(model, video, out, **options)
  with np.load(folder / 'results.npz') as file:
    return dict(file)


def test_results_do_not_depend_on_the_chunks(model, video, tmp_path):
  options = {'tokens': (0, 3), 'grid': 2}
  results = [
    run(model, video, tmp_path / str(chunk), chunk=chunk, **options)
    for chunk in (3, 7)
  ]
  assert set(results[0]) == {'times', 'psnr', 'points', 'occluded'}
  assert results[0]['points'].shape == (NUM_FRAMES, 4, 2)
  for name, value in results[0].items():
    np.testing.assert_allclose(value, results[1][name], rtol=1e-4, atol=1e-3)
  with open(tmp_path / '7' / 'points.csv') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == NUM_FRAMES * 4
  places = [(float(row['x']), float(row['y'])) for row in rows]
  got = results[1]['points'].reshape(-1, 2)
  np.testing.assert_allclose(places, got, atol=1e-3)
  for name in ('tracks', 'frames', 'attention'):
    index = decode.index_video(tmp_path / '3' / f'{name}.mp4')
    np.testing.assert_allclose(index.times, video.times)


def test_windows_slide_as_in_one_go(video, tmp_path):
  task = task_lib.PointReadout(
    clip=(4, 16, 24),
    variant='checkpoint',
    model=small.MODEL,
    head={'num_points': 1, 'layers': WINDOW},
  )
  batch = small.make_batch(1, (4, 16, 24))
  batch['query_points'] = batch['query_points'][:, :1]
  shapes, _ = jax.eval_shape(task.init, jax.random.key(0), batch)
  model = loaded.Loaded(task, small.fill(shapes), {}, step=0)
  got = run(
    model, video, tmp_path / 'out', points=[(12.0, 8.0)], what=('tracks',),
    chunk=3,
  )  # fmt: skip
  (chunk,) = video.chunks(NUM_FRAMES, size=(16, 24))
  keys = masking.row_keys(jax.random.key(0), np.zeros(1, int))
  features = small.compiled(
    lambda frames: task.features(
      model.params, {}, task.inputs({'video': frames}), keys=keys
    )
  )(chunk.frames[None])
  head, params = task.heads['points'], model.params['heads']['points']
  track = small.compiled(
    lambda tokens, query: head.track(
      params, readout.Features(tokens, (1, 1)), query
    )
  )
  query = np.float32([[[12 / 48, 8 / 32]]])
  size = np.float32([48, 32])
  at = 0
  for start in (0, 2):  # half a window on
    tokens = features.tokens[:, start : start + 4]
    tracks = track(tokens, query)
    for t in range(2):
      np.testing.assert_allclose(
        got['points'][at, 0], tracks.values[0, t, 0] * size, rtol=1e-3
      )
      at += 1
    query = tracks.values[:, 2]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'points': [(50.0, 3.0)]}, 'outside the frame of 32x48'),
    ({'boxes': [(0, 0, 2, 1)]}, '--option=boxes: want'),
    ({'tokens': (5,)}, 'want numbers below 5'),
    ({'what': ('flow',)}, "'flow' is none of"),
    ({'size': (18, 24)}, 'multiples of 4'),
    ({'factor': 5}, 'want a number that divides'),
  ],
)
def test_wrong_options_are_refused(model, video, tmp_path, options, message):
  with outputs.Outputs(tmp_path / 'out', video) as out:
    with pytest.raises(predict_lib.UsageError, match=message):
      predict.show(model, video, out, **{'tokens': (0,), **options})
