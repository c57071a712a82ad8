"""TAP-Vid's scores of a model, and of trackers that did not learn."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from projects.tapir import baselines, evaluation
from projects.tapir import task as task_lib
from projects.tapir.configs import eval_tapvid
from tests.projects import tapir_models
from vidscenic import config as vc
from vidscenic.data import decode, sources, writer
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


def run(root, table='', model=None, **options):
  config = eval_tapvid.get_config(f'davis_first,root={root}')
  spec = config.evals.davis_first
  kwargs = vc.plain(spec.kwargs)
  kwargs['data']['source_kwargs'] |= {'size': tapir_models.SIZE}
  kwargs['resolution'] = tapir_models.SIZE
  mesh = sharding.make_mesh({'data': -1, 'fsdp': 1, 'model': 1})
  task, params, model_state = model or make_tapir()
  evaluator = evaluation.TapVid(task, mesh, **kwargs | options, table=table)
  zero = jnp.int32(0)
  state = state_lib.TrainState(zero, zero, params, (), model_state, None, zero)
  return evaluator.run(state, 0)[0]


def make_tapir():
  """(task, parameters, model state)."""
  _, params = tapir_models.make_params()
  return task_lib.PointTracking(tapir_models.SMALL), params, {}


@functools.cache
def make_tapnet():
  task = task_lib.PointTracking(
    {
      'name': 'tapnet',
      'stem_channels': 8,
      'channels_per_group': (8, 8, 16),
      'blocks_per_group': (1, 1, 1),
    }
  )
  init = jax.jit(task.init, compiler_options=tapir_models.FAST)
  return task, *init(jax.random.key(0), {})


def test_a_benchmark_gives_one_line_per_video_and_few_programs(davis, tmp_path):
  table = str(tmp_path / 'table.txt')
  figures = run(davis, table=table)
  assert {'AJ', 'delta_avg', 'OA', 'published_AJ'} < set(figures)
  assert figures['published_AJ'] == 58.5
  text = open(table).read()
  for name in ('davis/bear', 'davis/cow', 'mean', 'published: AJ 58.5'):
    assert name in text
  counter = inspect.CompileCounter()
  again = run(davis)
  counter.close()
  assert counter.count == 0  # another evaluator, the same programs
  assert again == figures


def test_tapnet_compiles_one_program_for_videos_of_several_lengths(davis):
  tapnet = make_tapnet()
  run(davis, model=tapnet, limit=1)
  counter = inspect.CompileCounter()
  run(davis, model=tapnet)
  counter.close()
  assert counter.count == 0


def test_padded_frames_change_no_number_of_tapnet():
  task, params, state = make_tapnet()
  variables = {'params': params, **state}
  video = tapir_models.make_video(5, tapir_models.SIZE)[None]
  queries = tapir_models.make_queries(3, 5)[None]
  padded = np.concatenate([video, 255 - video[:, :3]], axis=1)
  match = jax.jit(
    functools.partial(evaluation._match.__wrapped__, task.model),
    compiler_options=tapir_models.FAST,
  )
  want = match(variables, video, queries, 5)
  got = match(variables, padded, queries, 5)
  np.testing.assert_allclose(got[0][:, :5], want[0], atol=1e-3)


def test_long_files_are_read_in_parts(tmp_path, monkeypatch):
  """As Perception Test has them: files of any size, tracks of their frames."""
  path = str(tmp_path / 'a.mp4')
  writer.write_video(path, tapir_models.make_video(7, (40, 56)), 10.0)
  monkeypatch.setattr(evaluation, '_BLOCK', 3)
  parts, size = evaluation._frames(
    sources.VideoFile(path), 7, tapir_models.SIZE
  )
  assert size == (40, 56)
  video = decode.read_frames(path, np.arange(7))
  whole, _ = evaluation._frames(video, 7, tapir_models.SIZE)
  np.testing.assert_array_equal(parts, whole)


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


def published(argument):
  evals = eval_tapvid.get_config(argument).evals
  return {name: spec.kwargs.published.to_dict() for name, spec in evals.items()}


def test_every_benchmark_has_a_config():
  for name in eval_tapvid.SETS:
    assert list(published(f'{name},weights=bootstapir')) == [name]
  found = published('table,weights=bootstapir_pt')
  assert {k: v['AJ'] for k, v in found.items()} == {
    'davis_first': 62.4,
    'davis_strided': 67.4,
    'kinetics_first': 55.8,
    'robotap_first': 69.2,
  }
  assert published('rgb_stacking_first,weights=tapnet') == {
    'rgb_stacking_first': {
      'AJ_paper': 53.5,
      'delta_avg_paper': 68.1,
      'OA_paper': 86.3,
    }
  }
  # Published figures are those of one resolution.
  assert published('davis_first,size=512') == {'davis_first': {}}
  with pytest.raises(ValueError, match='davis_frist'):
    eval_tapvid.get_config('davis_frist')
