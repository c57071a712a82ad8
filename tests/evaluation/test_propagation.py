"""Label propagation cell by cell, and its limits; stored: tests/parity."""

import math

import numpy as np
import pytest

from vidscenic.data import resize
from vidscenic.evaluation import propagation, soft_labels

SETTINGS = propagation.Settings(context=3, radius=2.5, top_k=4, temperature=0.2)


def features(frames=6, height=3, width=4, seed=0):
  rng = np.random.default_rng(seed)
  shape = (frames, height, width, 5)
  return rng.normal(size=shape).astype(np.float32)


def labels(height=3, width=4):
  soft = np.random.default_rng(1).random((height, width, 2))
  return soft.astype(np.float32)


def propagate(maps, soft, settings=SETTINGS):
  return np.stack(list(propagation.propagate(maps, soft, settings=settings)))


def slowly(maps, soft, settings):
  """The protocol cell by cell, with every copy of the first frame."""
  maps = maps / np.linalg.norm(maps, axis=-1, keepdims=True)
  queue = [(maps[0], soft)] * settings.context
  predictions = []
  for current in maps:
    prediction = np.zeros_like(soft)
    for y, x in np.ndindex(soft.shape[:2]):
      votes = []
      for number, (keys, values) in enumerate([(maps[0], soft), *queue]):
        for cell in np.ndindex(soft.shape[:2]):
          near = math.dist((y, x), cell) < settings.radius
          if number == 0 or near:
            votes.append((current[y, x] @ keys[cell], values[cell]))
      votes = sorted(votes, key=lambda vote: -vote[0])[: settings.top_k]
      weights = np.exp([vote[0] / settings.temperature for vote in votes])
      prediction[y, x] = np.average(
        [vote[1] for vote in votes], axis=0, weights=weights
      )
    predictions.append(prediction)
    queue = [*queue[1:], (current, prediction)]
  return np.stack(predictions)


@pytest.mark.parametrize('radius', [2.5, math.inf])
def test_labels_are_those_of_the_slow_protocol(radius):
  settings = SETTINGS._replace(radius=radius)
  got = propagate(features(), labels(), settings)
  want = slowly(features(), labels(), settings)
  np.testing.assert_allclose(got, want, atol=1e-5)
  np.testing.assert_allclose(got[0], labels(), atol=1e-6)


@pytest.fixture
def video():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (6, 30, 44, 3)).astype(np.uint8)


def test_masks_of_a_video(video):
  """Resized frames go in; labels come back at the size of the video."""
  mask = np.zeros((30, 44), np.uint8)
  mask[8:20, 10:30], mask[20:, :12] = 3, 9
  seen = []

  def see(frames):
    seen.append(frames)
    yield from features()

  got = np.stack(
    list(
      propagation.segment(video, mask, see, size=(24, 32), settings=SETTINGS)
    )
  )
  want = resize.resize_frames(video, (24, 32), method='lanczos')
  np.testing.assert_array_equal(seen[0], want)
  soft, numbers = soft_labels.from_mask(mask, size=(24, 32), grid=(3, 4))
  for t, carried in enumerate(propagate(features(), soft)):
    want = soft_labels.to_mask(
      carried, numbers, size=(24, 32), original=(30, 44)
    )
    np.testing.assert_array_equal(got[t], want)
  assert set(np.unique(got)) == {0, 3, 9}


def test_joints_of_a_video(video):
  joints = np.array([[10.0, 12.0], [30.0, 20.0]])
  got = list(
    propagation.follow(
      video,
      joints,
      lambda frames: features(),
      size=(24, 32),
      settings=SETTINGS,
    )
  )
  soft = soft_labels.from_keypoints(joints, original=(30, 44), grid=(3, 4))
  carried = propagate(features(), soft)
  for (points, found), each in zip(got, carried, strict=True):
    want = soft_labels.to_keypoints(each, original=(30, 44))
    np.testing.assert_array_equal(points, want[0])
    np.testing.assert_array_equal(found, want[1])


def one_hot(height=3, width=4, frames=3):
  """Cells that differ from each other and stay where they are."""
  cells = np.eye(height * width, dtype=np.float32)
  return np.stack([cells.reshape(height, width, -1)] * frames)


def test_labels_stay_with_cells_that_stay():
  settings = SETTINGS._replace(top_k=1)
  got = propagate(one_hot(), labels(), settings)
  np.testing.assert_allclose(got, np.stack([labels()] * 3), atol=1e-6)


def test_labels_move_with_the_features_within_the_radius():
  maps = one_hot(height=1, width=6, frames=4)
  maps = np.stack([np.roll(f, t, axis=1) for t, f in enumerate(maps)])
  soft = np.eye(6, dtype=np.float32)[None]
  got = propagate(maps, soft, SETTINGS._replace(top_k=1, radius=2))
  for t in range(4):
    np.testing.assert_allclose(got[t], np.roll(soft, t, axis=1), atol=1e-6)


def test_length_of_features_does_not_matter():
  scale = 1 + np.arange(6)[:, None, None, None]
  got = propagate(features() * scale, labels())
  np.testing.assert_allclose(got, propagate(features(), labels()), atol=1e-5)


def test_features_are_read_as_they_come():
  read = []

  def stream():
    for number, maps in enumerate(features()):
      read.append(number)
      yield maps

  predictions = propagation.propagate(stream(), labels(), settings=SETTINGS)
  for t in range(3):
    next(predictions)
    assert len(read) == t + 1


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'context': 0}, 'context=0'),
    ({'top_k': 0}, 'top_k=0'),
    ({'radius': 0}, 'radius=0'),
    ({'temperature': 0.0}, 'temperature=0.0'),
    ({'context': 4, 'top_k': 6}, 'top_k=6 above context'),
  ],
)
def test_unusable_settings_are_named(changes, words):
  with pytest.raises(ValueError, match=words):
    propagate(features(), labels(), propagation.Settings(**changes))


def test_shapes_that_do_not_fit_are_named():
  with pytest.raises(ValueError, match='do not fit labels'):
    propagate(features(), labels(height=4))
  with pytest.raises(ValueError, match='mask'):
    next(
      propagation.segment(
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((8, 9), np.uint8),
        lambda frames: features(),
        size=(16, 16),
      )
    )


@pytest.mark.parametrize('count', [0, 5])
def test_every_frame_needs_features(video, count):
  joints = propagation.follow(
    video,
    np.zeros((2, 2)),
    lambda frames: features()[:count],
    size=(24, 32),
    settings=SETTINGS,
  )
  with pytest.raises(ValueError, match=f'gave {count} maps for 6 frames'):
    list(joints)
