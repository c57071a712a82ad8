"""RVM's results fit the video that they were made from."""

import csv

import numpy as np
import pytest
from PIL import Image

from projects.rvm import predict, streaming
from tests.data import make_odd_videos
from tests.projects import rvm_small as small
from vidscenic.data import decode, stream
from vidscenic.tools import loaded, outputs
from vidscenic.tools import predict as predict_lib

FRAMES = 13  # the last chunk is half full
SIZE = (32, 48)  # of the video
SEEN = (48, 72)  # by the model, 12 x 9 patches
OPTIONS = dict(short_side=48, chunk=4, gaps=(2, 6), moments=2, features_every=3)


@pytest.fixture(scope='module')
def model():
  return loaded.Loaded(small.make_task(), small.make_params(), {}, step=7)


@pytest.fixture(scope='module')
def video(tmp_path_factory):
  path = tmp_path_factory.mktemp('source') / 'clip.mp4'
  make_odd_videos.encode(
    str(path), 'libx264', num_frames=FRAMES, size=SIZE, stamps=[*range(FRAMES)]
  )
  return stream.VideoStream(path)


@pytest.fixture(scope='module')
def given(tmp_path_factory):
  """A mask of three numbers, and two points."""
  folder = tmp_path_factory.mktemp('given')
  mask = np.zeros(SIZE, np.uint8)
  mask[4:20, 8:30], mask[24:, 30:] = 3, 7
  picture = Image.fromarray(mask, 'P')
  picture.putpalette([0, 0, 0] + [9 * i % 256 for i in range(3, 768)])
  picture.save(folder / 'mask.png')
  (folder / 'points.txt').write_text('12.5, 7\n40,25\n')
  return folder


@pytest.fixture(scope='module')
def folder(model, video, given, tmp_path_factory):
  path = tmp_path_factory.mktemp('out')
  with outputs.Outputs(path, video) as out:
    predict.describe(
      model,
      video,
      out,
      mask=str(given / 'mask.png'),
      points=str(given / 'points.txt'),
      **OPTIONS,
    )
  return path


def test_features_are_those_of_the_whole_video(folder, model, video):
  chunk = next(video.chunks(FRAMES, size=SEEN, method='lanczos'))
  features, _ = streaming.encode_video(
    model.task.model, model.params, chunk.frames[None]
  )
  want = streaming.feature_map(model.task.model, features[0], SEEN)
  with np.load(folder / 'results.npz') as got:
    np.testing.assert_array_equal(got['feature_frames'], [0, 3, 6, 9, 12])
    np.testing.assert_allclose(got['features'], want[::3], atol=5e-3)
    np.testing.assert_array_equal(got['times'], video.times)
    assert got['explained'].shape == (3,)
    # Of the first frame the mask comes back, about.
    assert got['masks'].shape == (FRAMES, *SIZE)
    assert set(np.unique(got['masks'])) <= {0, 3, 7}
    assert got['masks'][0, 12, 20] == 3 and got['masks'][0, 2, 40] == 0


def test_videos_have_the_frames_of_the_source(folder, video):
  source = next(video.chunks(FRAMES)).frames.astype(float)
  for name, width in (('features', 98), ('masks', 48), ('points', 48)):
    frames = decode.read_frames(folder / f'{name}.mp4', range(FRAMES))
    assert frames.shape == (FRAMES, SIZE[0], width, 3)
    if name == 'features':
      # Lossy twice, and chroma is halved.
      assert np.abs(frames[:, :, :48] - source).mean() < 6


def test_points_start_where_they_were_given(folder):
  with open(folder / 'points.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 2 * FRAMES
  assert [row['point'] for row in rows[:2]] == ['0', '1']
  first = np.array([[float(row['x']), float(row['y'])] for row in rows[:2]])
  # As exact as cells of 5.3 x 2.7 pixels allow.
  assert np.all(np.abs(first - [[12.5, 7], [40, 25]]) <= [5.4, 2.7])


def test_reconstructions_show_targets_behind_sources(folder):
  with open(folder / 'reconstruction.csv', newline='') as file:
    rows = np.array(list(csv.reader(file))[1:], float)
  # Three sources, targets 2 and 6 frames behind: the first and last moment.
  np.testing.assert_array_equal(rows[:, :2], [[2, 4], [2, 8], [6, 8], [6, 12]])
  assert np.all(rows[:, 2:] > 0)
  with Image.open(folder / 'reconstruction.png') as picture:
    assert picture.width == 2 * small.SIZE[1] + 2


def test_weights_without_a_decoder_show_features_alone(video, tmp_path):
  task = small.make_task(model={'decoder': False})
  model = loaded.Loaded(task, small.make_params(decoder=False), {}, step=0)
  with outputs.Outputs(tmp_path / 'out', video) as out:
    predict.describe(model, video, out, short_side=16, features_every=0)
  names = {path.name for path in (tmp_path / 'out').iterdir()}
  assert names == {'features.mp4', 'results.npz'}
  with np.load(tmp_path / 'out/results.npz') as got:
    assert set(got) == {'times', 'explained'}


@pytest.mark.parametrize(
  ('name', 'text', 'message'),
  [
    ('points', '1,2\n3\n', 'points=.*points.txt: want a line `x,y`'),
    ('points', '1,2,3\n', 'want a line `x,y`'),
    ('points', '1,2\n48,3\n', 'within 48x32 pixels'),
    ('mask', None, r'mask=.* is uint8\[8, 8, 3\]: want .* of 48x32 pixels'),
  ],
)
def test_unusable_labels_are_named(model, video, tmp_path, name, text, message):
  path = tmp_path / f'{name}.txt'
  if text is None:
    path = tmp_path / 'mask.png'
    Image.new('RGB', (8, 8)).save(path)
  else:
    path.write_text(text)
  with outputs.Outputs(tmp_path / 'out', video) as out:
    with pytest.raises(predict_lib.UsageError, match=message):
      predict.describe(model, video, out, **{name: str(path)})


def test_unusable_settings_are_named(model, video, given, tmp_path):
  points = str(given / 'points.txt')
  with outputs.Outputs(tmp_path / 'out', video) as out:
    with pytest.raises(predict_lib.UsageError, match='top_k=22 above context'):
      predict.describe(model, video, out, points=points, top_k=22)
