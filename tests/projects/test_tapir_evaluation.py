"""TAP-Vid's scores of a model, and of trackers that did not learn."""

import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from projects.tapir import baselines, evaluation
from projects.tapir import task as task_lib
from projects.tapir.configs import eval_tapvid
from tests.projects import tapir_models
from vidscenic import config as vc
from vidscenic.ops import grids
from vidscenic.train import inspect, sharding
from vidscenic.train import state as state_lib


@pytest.fixture
def davis(tmp_path):
  """Two tiny videos in the published layout."""
  rng = np.random.default_rng(0)
  videos = {}
  for name, count, length in (('bear', 4, 5), ('cow', 2, 7)):
    videos[name] = {
      'video': tapir_models.make_video(length, (40, 56)),
      'points': np.float32(rng.random((count, length, 2))),
      'occluded': rng.random((count, length)) < 0.3,
    }
  with open(tmp_path / 'tapvid_davis.pkl', 'wb') as file:
    pickle.dump(videos, file, protocol=4)
  return str(tmp_path)


def run(root, table='', **options):
  config = eval_tapvid.get_config()
  spec = config.evals.davis_first
  kwargs = vc.plain(spec.kwargs)
  kwargs['data']['source_kwargs'] |= {'root': root, 'size': tapir_models.SIZE}
  kwargs['resolution'] = tapir_models.SIZE
  mesh = sharding.make_mesh({'data': -1, 'fsdp': 1, 'model': 1})
  task = task_lib.PointTracking(tapir_models.SMALL)
  _, params = tapir_models.make_params()
  evaluator = evaluation.TapVid(task, mesh, **kwargs | options, table=table)
  zero = jnp.int32(0)
  state = state_lib.TrainState(zero, zero, params, (), {}, None, zero)
  return evaluator.run(state, 0)[0]


def test_a_benchmark_gives_one_line_per_video_and_few_programs(davis, tmp_path):
  table = str(tmp_path / 'table.txt')
  figures = run(davis, table=table)
  assert set(figures) == {'AJ', 'delta_avg', 'OA', 'published_AJ'}
  assert figures['published_AJ'] == 58.5
  text = open(table).read()
  for name in ('davis/bear', 'davis/cow', 'mean'):
    assert name in text
  counter = inspect.CompileCounter()
  again = run(davis)
  counter.close()
  assert counter.count == 0  # another evaluator, the same programs
  assert again == figures


def test_limit_takes_the_first_videos(davis, tmp_path):
  table = str(tmp_path / 'table.txt')
  run(davis, table=table, limit=1)
  text = open(table).read()
  assert 'davis/bear' in text and 'davis/cow' not in text


def test_wrong_modes_are_refused(davis):
  with pytest.raises(ValueError, match="mode must be one of .* got 'all'"):
    run(davis, mode='all')


def test_patch_correlation_follows_a_moving_picture():
  """The texture moves one pixel to the left in every frame."""
  video = tapir_models.make_video(5, (32, 48))[None].astype(np.float32)
  queries = np.array([[[0, 10.5, 30.25], [2, 20, 25]]], np.float32)
  points, occluded = baselines.patch_correlation(video, queries)
  t = np.arange(5)
  for found, (frame, y, x) in zip(points[0], queries[0], strict=True):
    np.testing.assert_allclose(found[:, 0], x - (t - frame), atol=1e-4)
    np.testing.assert_allclose(found[:, 1], y, atol=1e-4)
  assert not np.any(occluded)


def test_points_at_rest_stay():
  queries = np.array([[[0, 10.5, 30.25]]], np.float32)
  points, occluded = baselines.at_rest(np.zeros((1, 3, 32, 48, 3)), queries)
  want = grids.swap_xy(queries[0, 0, 1:])
  np.testing.assert_array_equal(points[0, 0], np.tile(want, (3, 1)))
  assert not np.any(occluded)


def test_every_benchmark_has_a_config():
  for name in eval_tapvid.SETS:
    config = eval_tapvid.get_config(f'set={name},weights=bootstapir')
    assert list(config.evals) == [name]
  known = eval_tapvid.get_config('weights=bootstapir').evals.davis_first
  assert known.kwargs.published.AJ == 62.4
  with pytest.raises(ValueError, match="set='davis': choose from"):
    eval_tapvid.get_config('set=davis')
