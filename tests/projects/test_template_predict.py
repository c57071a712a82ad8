"""The template's results fit the video that they were made from."""

import csv
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from projects._template import predict
from projects._template import task as task_lib
from tests.data import make_odd_videos
from vidscenic.data import decode, stream
from vidscenic.ops import video as video_ops
from vidscenic.tools import loaded, outputs

CLIP = (4, 16, 24)
MODEL = dict(
  patch=(2, 8, 8),
  width=16,
  depth=1,
  num_heads=2,
  decoder_width=8,
  decoder_depth=1,
)
# Compiling takes longer than running here.
FAST = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}
NUM_FRAMES = 10  # the last clip is half full


@pytest.fixture(scope='module')
def model():
  task = task_lib.MaskedVideo(clip=CLIP, mask_ratio=0.5, model=MODEL)
  batch = {'video': jnp.zeros((1, *CLIP, 3), jnp.uint8)}
  shapes, _ = jax.eval_shape(task.init, jax.random.key(0), batch)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda s: jnp.asarray(0.2 * rng.standard_normal(s.shape), s.dtype), shapes
  )
  return loaded.Loaded(task, params, {}, step=7)


@pytest.fixture(scope='module')
def video(tmp_path_factory):
  path = tmp_path_factory.mktemp('source') / 'clip.mp4'
  stamps = list(itertools.accumulate(range(1, NUM_FRAMES), initial=0))
  make_odd_videos.encode(
    str(path),
    'libx264',
    num_frames=NUM_FRAMES,
    stamps=stamps,
    size=(32, 36),
  )
  return stream.VideoStream(path)


@pytest.fixture(scope='module')
def folder(model, video, tmp_path_factory):
  path = tmp_path_factory.mktemp('out')
  with outputs.Outputs(path, video) as out:
    predict.reconstruct(model, video, out, strip_frames=3)
  return path


@pytest.fixture(scope='module')
def clips(model, video):
  """What the task predicts for each clip, put together."""

  @functools.partial(jax.jit, compiler_options=FAST)
  def predict_clip(frames, row):
    batch = {'video': frames[None], 'mask': jnp.ones(1, bool)}
    return model.task.predict(model.params, {}, batch, model.context([row]))[0]

  parts = [
    (predict_clip(chunk.frames, chunk.first), chunk.count)
    for chunk in video.chunks(CLIP[0], size=CLIP[1:])
  ]
  return {
    name: np.concatenate([clip[name][0, :count] for clip, count in parts])
    for name in parts[0][0]
  }


def test_numbers_are_the_psnr_of_each_frame(folder, clips, video):
  error = np.asarray(clips['predicted'] - clips['truth'], np.float64)
  want = 10 * np.log10(4 / (error**2).mean((1, 2, 3)))
  with np.load(folder / 'results.npz') as got:
    assert set(got) == {'times', 'psnr'}
    np.testing.assert_allclose(got['psnr'], want, rtol=1e-4)
    np.testing.assert_array_equal(got['times'], video.times)
    with open(folder / 'psnr.csv', newline='') as f:
      header, *rows = csv.reader(f)
    assert header == ['frame', 'seconds', 'psnr']
    np.testing.assert_allclose(
      np.array(rows, float).T,
      [range(NUM_FRAMES), video.times, got['psnr']],
      rtol=1e-6,
    )


def test_video_shows_both_clips_and_the_truth_in_time(folder, clips, video):
  path = folder / 'reconstruction.mp4'
  index = decode.index_video(path)
  np.testing.assert_allclose(index.times, video.times)
  frames = decode.read_frames(path, range(NUM_FRAMES)).astype(float)
  columns = [frames[:, 15:, left : left + 36] for left in (0, 38, 76)]
  truth = next(video.chunks(NUM_FRAMES)).frames[:, : columns[2].shape[1]]
  # Lossy twice, and chroma is halved.
  assert np.abs(columns[2] - truth).mean() < 4
  for column, name in zip(columns, ('visible', 'predicted'), strict=False):
    small = np.asarray(video_ops.denormalize(clips[name]), float)
    assert np.abs(column.mean((1, 2)) - small.mean((1, 2))).max() < 8


def test_picture_shows_frames_from_the_first_to_the_last(folder):
  frames = decode.read_frames(folder / 'reconstruction.mp4', [0, 4, 9])
  picture = np.asarray(Image.open(folder / 'reconstruction.png'), float)
  assert picture.shape == (3 * (32 + 15) + 2 * 2, 3 * 36 + 2 * 2, 3)
  for row, frame in enumerate(frames):
    part = picture[row * 49 :][:46]
    assert np.abs(part - frame).mean() < 6
