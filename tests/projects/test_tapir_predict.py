"""Results on one's own video, whole and frame by frame."""

import csv
import logging
import types

import numpy as np
import pytest

from projects.tapir import offline, predict
from projects.tapir import task as task_lib
from tests.projects import tapir_models
from vidscenic.data import decode, stream, writer
from vidscenic.tools import loaded, outputs
from vidscenic.tools import predict as predict_tool
from vidscenic.train import inspect

NUM_FRAMES = 20
SIZE = (48, 64)


@pytest.fixture(scope='module')
def model():
  task = task_lib.PointTracking(tapir_models.SMALL | {'use_causal_conv': True})
  _, params = tapir_models.make_params(causal=True)
  return loaded.Loaded(task, params, {}, step=0)


@pytest.fixture(scope='module')
def video(tmp_path_factory):
  path = tmp_path_factory.mktemp('source') / 'clip.mp4'
  frames = tapir_models.make_video(NUM_FRAMES, SIZE)
  writer.write_video(path, frames, 10.0)
  return stream.VideoStream(path)


@pytest.fixture(scope='module')
def points_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('points') / 'points.csv'
  path.write_text('frame,x,y\n0,10,20\n7,33.5,12\n0,50,40\n')
  return str(path)


def run(model, video, folder, **options):
  with outputs.Outputs(folder, video) as out:
    predict.track(model, video, out, **options)
  with np.load(folder / 'results.npz') as file:
    return dict(file)


@pytest.fixture(scope='module')
def whole(model, video, points_file, tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole')
  return folder, run(model, video, folder, points_from=points_file)


@pytest.fixture(scope='module')
def live(model, video, points_file, tmp_path_factory):
  folder = tmp_path_factory.mktemp('live')
  return folder, run(model, video, folder, points_from=points_file, online=True)


def test_arrays_fit_the_video(whole, video):
  _, results = whole
  np.testing.assert_array_equal(
    results['queries'], [[0, 20, 10], [7, 12, 33.5], [0, 40, 50]]
  )
  assert results['points'].shape == (NUM_FRAMES, 3, 2)
  assert results['visible'].shape == (NUM_FRAMES, 3)
  assert results['visible'].dtype == bool
  np.testing.assert_array_equal(results['times'], video.times)


@pytest.mark.parametrize('kind', ['whole', 'live'])
def test_the_table_holds_the_same_numbers(kind, request):
  folder, results = request.getfixturevalue(kind)
  with open(folder / 'tracks.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  known = np.isfinite(results['points']).all(-1)
  assert len(rows) == known.sum()
  for row in rows:
    at = int(row['frame']), int(row['point'])
    np.testing.assert_allclose(
      [float(row['x']), float(row['y'])], results['points'][at], atol=6e-4
    )
    assert bool(int(row['visible'])) == results['visible'][at]


@pytest.mark.parametrize('kind', ['whole', 'live'])
def test_both_views_have_the_frames_of_the_video(kind, request, video):
  folder, _ = request.getfixturevalue(kind)
  for name in ('tracks', 'rainbow'):
    index = decode.index_video(folder / f'{name}.mp4')
    assert (index.num_frames, index.height, index.width) == (NUM_FRAMES, *SIZE)
    np.testing.assert_allclose(index.times, video.times)


def test_online_points_are_unknown_before_their_frame(live):
  _, results = live
  known = np.isfinite(results['points']).all(-1)
  assert known[:, [0, 2]].all()
  assert not known[:7, 1].any() and known[7:, 1].all()
  assert not results['visible'][:7, 1].any()


def test_a_causal_model_gives_the_same_online_and_whole(whole, live):
  """But for queries, which only whole clips hold on to."""
  a, b = whole[1]['points'], live[1]['points']
  near = np.abs(a - b)[10:].max()  # some frames behind the queries
  assert near < 1.0


def test_windows_agree_with_the_whole_but_near_cuts(model, tmp_path, caplog):
  frames = tapir_models.make_video(100, tapir_models.SIZE)
  writer.write_video(tmp_path / 'long.mp4', frames, 10.0)
  video = stream.VideoStream(tmp_path / 'long.mp4')
  queries = tapir_models.make_queries(3, 60)
  net, params = model.task.model, model.params
  whole = offline.Windows(net, params, tapir_models.SIZE, window=100)
  cut = offline.Windows(net, params, tapir_models.SIZE, window=64)
  want, _ = whole.track(video, queries)
  with caplog.at_level(logging.WARNING):
    got, _ = cut.track(video, queries)
  assert 'window=64: tracking in 3 windows of 64 frames' in caplog.text
  # Beyond the reach of the small mixer, cuts do not show.
  np.testing.assert_allclose(got, want, atol=1e-2)


def test_long_videos_are_cut_to_the_memory_with_a_message(
  model, video, monkeypatch, caplog
):
  windows = offline.Windows(model.task.model, model.params, tapir_models.SIZE)
  frame = offline.bytes_per_frame(model.task.model, tapir_models.SIZE)
  long = types.SimpleNamespace(path='long.mp4', num_frames=1000)
  monkeypatch.setattr(offline, '_free_bytes', lambda: 2 * 300 * frame)
  assert windows._length(long) == (256, 32)
  assert 'its 1000 frames at once would need about' in caplog.text
  assert 'tracking in 5 windows of 256 frames that overlap by 32' in caplog.text
  long.num_frames = 256
  assert windows._length(long) == (256, 0)


def test_free_memory_is_known_here():
  assert offline._free_bytes() > 2**20


def test_other_numbers_of_points_and_frames_compile_nothing(model):
  windows = offline.Windows(model.task.model, model.params, tapir_models.SIZE)
  video = tapir_models.make_video(16)
  windows.clip(video, tapir_models.make_queries(3, 10), num_frames=12)
  counter = inspect.CompileCounter()
  points, _ = windows.clip(video, tapir_models.make_queries(9, 10))
  assert points.shape == (9, 16, 2)
  windows.clip(video, tapir_models.make_queries(16, 10), num_frames=13)
  counter.close()
  assert counter.count == 0


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'frame': NUM_FRAMES}, f'frame={NUM_FRAMES}: the video has the frames'),
    ({'points_from': 'all'}, "points_from='all': want 'grid'"),
    ({'points_from': 3}, "points_from=3: want 'grid'"),
    ({'resolution': (50, 64)}, r'resolution=\(50, 64\): want'),
    ({'resolution': 64}, r'resolution=64: want \(height, width\)'),
    ({'trail': 'long'}, "trail='long': want a whole number"),
    ({'online': 'yes'}, "online='yes': want True or False"),
    ({'window': 3}, 'window=3: want at least 64 frames'),
    ({'window': 64, 'online': True}, 'window=64 is for whole videos'),
  ],
)
def test_wrong_arguments_end_in_one_line(
  model, video, tmp_path, options, message
):
  with pytest.raises(predict_tool.UsageError, match=message):
    run(model, video, tmp_path / 'out', **options)
  assert not (tmp_path / 'out').exists()


def test_points_behind_the_end_of_a_damaged_video_are_told(
  model, video, monkeypatch, tmp_path, caplog
):
  """Online, nobody knows before it is there."""
  short = stream.VideoStream(video.path)
  chunks = short.chunks

  def until_damage(length, **options):
    for chunk in chunks(length, **options):
      if chunk.first == 5:
        short.num_frames, short.damage = 5, 'damaged'
        return
      yield chunk

  monkeypatch.setattr(short, 'chunks', until_damage)
  queries = np.array([[0, 20, 10], [7, 12, 33.5]], np.float32)
  steps = list(
    predict._online(
      model.task.model, model.params, short, queries, tapir_models.SIZE, 0
    )
  )
  assert len(steps) == 5
  assert 'ends at frame 5 (damaged): 1 of 2 points' in caplog.text


def test_models_that_see_neighbour_frames_track_clips_only(video):
  net = task_lib.make_model({'extra_convs': True, 'extra_conv_shift': True})
  with pytest.raises(ValueError, match='extra_conv_shift=True'):
    offline.Windows(net, {}, tapir_models.SIZE).track(video, np.zeros((1, 3)))


def test_online_refuses_a_model_that_is_not_causal(video, tmp_path):
  task = task_lib.PointTracking(tapir_models.SMALL)
  _, params = tapir_models.make_params()
  model = loaded.Loaded(task, params, {}, step=0)
  with pytest.raises(predict_tool.UsageError, match='use_causal_conv=False'):
    run(model, video, tmp_path / 'out', online=True)
